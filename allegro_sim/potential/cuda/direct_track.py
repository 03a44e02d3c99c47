"""The legacy generation's tensor track on a GPU: tensors of the edges of a chunk (kernels/cuda/tensors.cu)."""

from __future__ import annotations

from allegro_sim.model.description import AllegroModel
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.cuda.center_header import KernelSpec, lanes_of_center
from allegro_sim.potential.cuda.couplings import coupling_code, left_rows, product_rows
from allegro_sim.potential.cuda.mlp_shapes import Dimensions, Rounding
from allegro_sim.potential.cuda.tracks import Shapes, flag

_CHUNK = ("first", "chunk_centers", "chunk")
_EDGE = ("environment_norms", "types", "edge_center", *_CHUNK, "capacity")

CENTER_ROWS = 128
"""Centres that an array over centres is longer than a chunk's: tiles of the mixing products end beyond them."""


class DirectTrack:
    """Kernels, buffers and order of the track; see `tracks.Track`.

    linears: names of the mixing products (`mlp_legacy.mixing_chains`).
    """

    def __init__(
        self, model: AllegroModel, dimensions: Dimensions, rounding: Rounding, linears: tuple[str, ...]
    ) -> None:
        self.model, self._d, self._linears = model, dimensions, linears
        self._lanes = lanes_of_center(model.num_tensor_features)
        specs = [self._first_tensors(), self._first_gradients(rounding.tensor), self._gradient_sum()]
        for k in range(model.num_layers):
            specs += [
                self._environment(k),
                self._tensors(k, rounding.invariants[k]),
                self._tensor_gradients(k),
                self._environment_gradients(k, rounding.environments[k]),
            ]
        self.specs = {spec.name: spec for spec in specs}

    @property
    def source(self) -> tuple[str, ...]:
        """Parts of the module's text."""
        return ("channel.cuh", coupling_code(self.model), "tensors.cu")

    def buffers(self, capacity: int, max_centers: int) -> tuple[Shapes, Shapes]:
        """Arrays over the edges and over the centres of a chunk: shapes in REAL numbers."""
        model, up, components = self.model, self._d.UP, self.model.harmonic_components
        layers = model.layers
        tensors = {f"tensors_{k}": total_dim(layer.irreps_in) for k, layer in enumerate(layers)}
        gradients = {
            f"dtensors_{turn}": max(total_dim(layer.irreps_in) for layer in layers[turn::2])
            for turn in range(min(2, len(layers)))
        }
        mixed = [layer for layer in layers if layer.mix_in is not None]
        left = max(map(left_rows, mixed), default=0)
        products = max((product_rows(layer) for layer in layers[:-1] if layer.mix_out is not None), default=0)
        rows = {**tensors, **gradients, "products": products, "dseen": components}
        rows |= {"left": left, "dleft": left} if mixed else {}
        size = (max_centers + CENTER_ROWS, components, up)
        names = [*(f"A_{k}" for k in range(len(layers))), "dA"]
        if any(layer.environment_mix is not None for layer in layers):
            names += ["environment", "denvironment"]
        # A kernel still takes the name of an array that no layer needs.
        edge: Shapes = {name: (capacity, count * up) if count else (1,) for name, count in rows.items()}
        return edge, dict.fromkeys(names, size)

    def forward(self, k: int) -> tuple[str, ...]:
        """Stages of layer k, from the environment's weights to the invariants."""
        first = ("first_tensors",) * (k == 0)
        environment = (f"environment_sum_{k}", *self._mixing("environment", k))
        return (*first, *environment, *self._mixing("in", k), f"tensor_products_{k}", *self._mixing("out", k))

    def backward(self, k: int) -> tuple[str, ...]:
        """The reverse; X is made anew."""
        last = ("first_gradients",) * (k == 0)
        return (
            *self._mixing("out", k, backward=True),
            *self._mixing("in", k),
            f"tensor_gradients_{k}",
            *self._mixing("in", k, backward=True),
            "environment_gradient_sum",
            *self._mixing("environment", k, backward=True),
            f"environment_gradients_{k}",
            *last,
        )

    def _mixing(self, kind: str, k: int, backward: bool = False) -> tuple[str, ...]:
        names = (name for name in self._linears if name.startswith(f"mix_{kind}_{k}_"))
        return tuple(f"{name}_{'backward' if backward else 'forward'}" for name in names)

    # --- kernels ------------------------------------------------------------------------------------------------------

    def _spec(self, name: str, body: str, outputs: tuple[str, ...], inputs: tuple[str, ...], over: str) -> KernelSpec:
        return KernelSpec(name, body, outputs, inputs, over, self._lanes)

    def _first_tensors(self) -> KernelSpec:
        inputs = ("w", "harmonics", "edge_center", *_CHUNK)
        return self._spec("first_tensors", "first_tensors_of_edge", ("tensors_0",), inputs, "edge channel")

    def _first_gradients(self, round_dw: bool) -> KernelSpec:
        return self._spec(
            "first_gradients", f"first_gradients_of_edge<{flag(round_dw)}>", ("dw", "harmonic_gradient"),
            ("w", "dtensors_0", "harmonics", "edge_center", *_CHUNK, "capacity"), "edge channel",
        )  # fmt: skip

    def _gradient_sum(self) -> KernelSpec:
        return self._spec(
            "environment_gradient_sum", "environment_gradient_of_center", ("dA",), ("dseen", *_CHUNK), "channel"
        )

    def _environment(self, k: int) -> KernelSpec:
        mixed = self.model.layers[k].environment_mix is not None
        return self._spec(
            f"environment_sum_{k}", f"environment_of_center<{k}>", ("environment" if mixed else f"A_{k}",),
            ("env", "harmonics", "environment_norms", "types", *_CHUNK, "capacity"), "channel",
        )  # fmt: skip

    def _left(self, k: int) -> str:
        return f"tensors_{k}" if self.model.layers[k].mix_in is None else "left"

    def _given(self, k: int, plain: str) -> str:
        """Where T of layer k goes to, or its gradient comes from; of the last layer it goes nowhere."""
        last = k == self.model.num_layers - 1
        return "products" if last or self.model.layers[k].mix_out is not None else plain

    def _tensors(self, k: int, round_scal: bool) -> KernelSpec:
        outputs = ("x", self._given(k, f"tensors_{k + 1}"))
        return self._spec(
            f"tensor_products_{k}", f"tensors_of_edge<{k}, {flag(round_scal)}>", outputs,
            (self._left(k), f"A_{k}", "env", "harmonics", "path_weights", *_EDGE), "edge channel",
        )  # fmt: skip

    def _tensor_gradients(self, k: int) -> KernelSpec:
        target = f"dtensors_{k % 2}" if self.model.layers[k].mix_in is None else "dleft"
        given = self._given(k, f"dtensors_{(k + 1) % 2}")
        return self._spec(
            f"tensor_gradients_{k}", f"tensor_gradients_of_edge<{k}>", (target, "dseen"),
            ("dx", given, self._left(k), f"A_{k}", "env", "harmonics", "path_weights", *_EDGE), "edge channel",
        )  # fmt: skip

    def _environment_gradients(self, k: int, round_denv: bool) -> KernelSpec:
        mixed = self.model.layers[k].environment_mix is not None
        return self._spec(
            f"environment_gradients_{k}", f"environment_gradients_of_edge<{k}, {flag(round_denv)}>",
            ("denv", "harmonic_gradient"),
            ("env", "denvironment" if mixed else "dA", "dseen", "harmonics", *_EDGE), "edge channel",
        )  # fmt: skip
