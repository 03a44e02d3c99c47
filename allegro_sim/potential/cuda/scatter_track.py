"""The tensor track of models with `scatter_features` on a GPU: sums of the centres (kernels/cuda/scatter.cu)."""

from __future__ import annotations

from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cuda.center_header import KernelSpec, lanes_of_center, padded
from allegro_sim.potential.cuda.mlp_shapes import Rounding
from allegro_sim.potential.cuda.scatter_products import scatter_code, sum_dims
from allegro_sim.potential.cuda.tracks import Shapes, flag

_INPUTS = ("path_weights", "environment_norms", "types", "first", "chunk_centers", "chunk", "capacity", "max_centers")


class ScatterTrack:
    """Kernels, buffers and order of the track; see `tracks.Track`."""

    def __init__(self, model: AllegroModel, rounding: Rounding) -> None:
        self.model, self._lanes = model, lanes_of_center(model.num_tensor_features)
        specs = []
        for k in range(model.num_layers):
            specs.append(self._forward(k, rounding.invariants[k]))
            specs.append(self._backward(k, rounding.environments[k], rounding.tensor))
        self.specs = {spec.name: spec for spec in specs}

    @property
    def source(self) -> tuple[str, ...]:
        """Parts of the module's text."""
        rows = f"#define DB_ROWS {max(sum_dims(self.model))}\n"
        return ("channel.cuh", rows, scatter_code(self.model), "scatter.cu")

    def buffers(self, capacity: int, max_centers: int) -> tuple[Shapes, Shapes]:
        """Arrays over the edges and over the centres of a chunk: shapes in REAL numbers."""
        model, dims = self.model, sum_dims(self.model)
        layers, channels = model.num_layers, padded(model.num_tensor_features)
        environment = (max_centers, model.harmonic_components, channels)
        return {}, {
            "A": (max(layers - 1, 1), *environment),
            "B": (sum(dims) * max_centers, channels),
            "dA": (min(max(layers - 1, 1), 2), *environment),
            "dB": (max_centers, max(dims), channels),
        }

    def forward(self, k: int) -> tuple[str, ...]:
        """The stage of layer k."""
        return (f"scatter_forward_{k}",)

    def backward(self, k: int) -> tuple[str, ...]:
        """The reverse."""
        return (f"scatter_backward_{k}",)

    def _forward(self, k: int, round_scal: bool) -> KernelSpec:
        return KernelSpec(
            f"scatter_forward_{k}", f"scatter_forward_of_center<{k}, {flag(round_scal)}>",
            ("x", "A", "B"), ("env", "w", "harmonics", *_INPUTS), "channel", self._lanes,
        )  # fmt: skip

    def _backward(self, k: int, round_denv: bool, round_dw: bool) -> KernelSpec:
        return KernelSpec(
            f"scatter_backward_{k}", f"scatter_backward_of_center<{k}, {flag(round_denv)}, {flag(round_dw)}>",
            ("denv", "dw", "harmonic_gradient", "dA", "dB", "dx"),
            ("env", "w", "harmonics", "A", "B", *_INPUTS), "channel", self._lanes,
        )  # fmt: skip
