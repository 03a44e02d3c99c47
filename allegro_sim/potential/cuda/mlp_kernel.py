"""A kernel of the MLPs: its text and its launch in one."""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = ("chunk", "capacity", "first_row")
"""Arguments that are int32 numbers; all others are buffers."""

_TYPES = {
    "edge_energies": "double",
    "radial_slope": "double",
    "energy_weights": "double",
    "latent_slope": "double",
    "vectors": "double",
    "pairs": "int",
    "first": "int",
    "chunk_centers": "int",
}


@dataclass(frozen=True)
class MlpKernel:
    """A kernel over the rows of a chunk: blocks of `threads`, each for `tile` rows, `each` of an edge or of a centre.

    outputs, inputs: names of buffers written and read (and `capacity`; and `first_row`, of a kernel that is launched
    for some rows, from this one on). body: what it does, after a block without edges has returned. blocks_together:
    blocks a multiprocessor should have registers for.
    """

    name: str
    threads: int
    tile: int
    shared_bytes: int
    blocks_together: int
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    body: str
    over: str = "edges"
    each: int = 1

    def grid(self, capacity: int, max_centers: int) -> int:
        """Blocks for chunks of at most `capacity` edges and `max_centers` centres."""
        return max(1, -(-self.each * (capacity if self.over == "edges" else max_centers) // self.tile))

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of all arguments, in the order of the parameters."""
        first = ("first",) if self.over == "edges" else ()
        return (*self.outputs, *self.inputs, *first, "chunk_centers", "chunk")

    def text(self) -> str:
        """The entry point."""
        parameters = ", ".join(self._parameter(name) for name in self.arguments)
        counted = "edge_count(first, chunk_centers, chunk)"
        if self.over == "centers":
            counted = "chunk_size(chunk_centers, chunk)"
        if self.each > 1:
            counted = f"{self.each} * {counted}"
        first = "first_row + " if "first_row" in self.inputs else ""
        return (
            f'extern "C" __global__ void __launch_bounds__({self.threads}, {self.blocks_together}) '
            f"{self.name}({parameters}) {{\n"
            f"  if ({first}(int)blockIdx.x * {self.tile} >= {counted}) return;\n"
            f"{self.body}}}\n"
        )

    def _parameter(self, name: str) -> str:
        if name in NUMBERS:
            return f"int {name}"
        kind = _TYPES.get(name, "REAL")
        return f"{kind}* {name}" if name in self.outputs else f"const {kind}* {name}"
