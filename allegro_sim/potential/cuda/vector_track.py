"""The current generation's tensor track on a GPU: vectors of the centres of a chunk (kernels/cuda/centers.cu)."""

from __future__ import annotations

from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cuda import center_header
from allegro_sim.potential.cuda.contractions import contraction_code
from allegro_sim.potential.cuda.mlp_shapes import Rounding
from allegro_sim.potential.cuda.tracks import Shapes


class VectorTrack:
    """Kernels, buffers and order of the track; see `tracks.Track`."""

    def __init__(self, model: AllegroModel, rounding: Rounding) -> None:
        self.model = model
        self.specs = center_header.center_specs(model, rounding)

    @property
    def source(self) -> tuple[str, ...]:
        """Parts of the module's text."""
        return ("channel.cuh", contraction_code(self.model), "centers.cu")

    def buffers(self, capacity: int, max_centers: int) -> tuple[Shapes, Shapes]:
        """Arrays over the edges and over the centres of a chunk: shapes in REAL numbers."""
        model = self.model
        components, channels = model.harmonic_components, center_header.padded(model.num_tensor_features)
        return {}, {
            "A": (model.num_layers, max_centers, components, channels),
            "dA": (max(center_header.environment_gradient_size(model, max_centers), 1),),
            "chain": (max(center_header.chain_size(model, max_centers), 1),),
        }

    def forward(self, k: int) -> tuple[str, ...]:
        """The stage of layer k."""
        return (f"center_forward_{k}",)

    def backward(self, k: int) -> tuple[str, ...]:
        """The reverse."""
        return (f"center_backward_{k}",)
