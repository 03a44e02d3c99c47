"""What a tensor track is to the rest of the potential: kernels with a part of the text, buffers, and their order.

`vector_track` is that of the current generation, vectors of the centre, `scatter_track` that of its models with
`scatter_features`, sums of the centre; `direct_track` that of the legacy generation, tensors of the edges.
"""

from __future__ import annotations

from typing import Protocol

from allegro_sim.potential.cuda.center_header import KernelSpec

Shapes = dict[str, tuple[int, ...]]


class Track(Protocol):
    """specs: its kernels by name."""

    specs: dict[str, KernelSpec]

    @property
    def source(self) -> tuple[str, ...]:
        """Parts of the module's text, in order."""
        ...

    def buffers(self, capacity: int, max_centers: int) -> tuple[Shapes, Shapes]:
        """Shapes in REAL numbers of its arrays over the edges of a chunk, and over the centres."""
        ...

    def forward(self, k: int) -> tuple[str, ...]:
        """Stages of layer k, from the environment's weights to the invariants."""
        ...

    def backward(self, k: int) -> tuple[str, ...]:
        """Stages of layer k, from the invariants' gradients to those of the environment's weights."""
        ...


def flag(value: bool) -> str:
    return "true" if value else "false"
