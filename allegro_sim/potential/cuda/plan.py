"""What one evaluation does on the device, as plain data: buffers with their sizes, and operations on them in order.

The executor on a GPU (`executor.py`) and the tests' harness on a CPU run the same lists. An argument is the name of a
buffer, a NumPy number, or the name of a number that changes between launches (`NUMBERS`).

    before every evaluation    zero what accumulates; count the edges of every centre
    for every chunk            edges -> geometry -> embedding -> (centres, latent MLP) a layer -> read-out -> energies;
                               backward in reverse, down to forces
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from allegro_sim.kernels.numba_cuda.control import WORDS

NUMBERS = ("chunk", "want_virial", "want_atom_virials")
"""int32 numbers that change between launches of one operation."""

Argument = str | np.generic


@dataclass(frozen=True)
class Buffer:
    """Shape and dtype of an array on the device; kind: "system", "result", "index", "edge", "center" or "constant"."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    kind: str

    @property
    def nbytes(self) -> int:
        """A Python integer, which cannot overflow."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Launch:
    """One kernel of the CUDA module; sizes in blocks and threads, one dimension."""

    kernel: str
    grid: int
    block: int
    shared_bytes: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Matrix:
    """A row-major matrix in a buffer: element (r, c) stands at offset + r * stride + c."""

    buffer: str
    offset: int
    stride: int


@dataclass(frozen=True)
class Product:
    """out (rows, columns) = left (rows, inner) @ right (inner, columns), plus what was in out if `accumulate`.

    tensor_cores: both operands are TF32 numbers, and the product may use the units for them.
    """

    out: Matrix
    left: Matrix
    right: Matrix
    rows: int
    columns: int
    inner: int
    accumulate: bool
    tensor_cores: bool


Operation = Launch | Product


@dataclass(frozen=True)
class Kernel:
    """How a kernel is called: its arguments in order, and what its grid is for chunks of given sizes."""

    name: str
    arguments: tuple[str, ...]
    block: int
    shared_bytes: int
    grid: Callable[[int, int], int]  # (capacity, max_centers) -> blocks


@dataclass(frozen=True)
class Plan:
    """Operations of one evaluation with chunks of one size.

    before: once an evaluation; chunk: for every chunk. buffers: all that the operations name.
    """

    capacity: int
    max_centers: int
    buffers: Mapping[str, Buffer]
    before: tuple[Operation, ...]
    chunk: tuple[Operation, ...]

    @property
    def operations(self) -> tuple[Operation, ...]:
        return self.before + self.chunk

    def nbytes(self, *kinds: str) -> int:
        """Bytes of all buffers of these kinds."""
        return sum(buffer.nbytes for buffer in self.buffers.values() if buffer.kind in kinds)


def names_of(operation: Operation) -> tuple[str, ...]:
    """Buffers and changing numbers that an operation names, in order."""
    if isinstance(operation, Product):
        return (operation.out.buffer, operation.left.buffer, operation.right.buffer)
    return tuple(argument for argument in operation.arguments if isinstance(argument, str))


def system_buffers(rows: int, owned: int, listed: int, chunks: int, atom_virials: bool) -> dict[str, Buffer]:
    """Arrays over the atoms, ghosts included, and over the neighbour list.

    rows: atoms and ghosts; listed: pairs of the list, those of the skin included. Of these only `indices` is as long as
    the list. Without atom virials their array has a single row, which is never written.
    """
    shapes: dict[str, tuple[tuple[int, ...], Any, str]] = {
        "positions": ((rows, 3), np.float64, "system"),
        "images": ((rows, 3), np.int32, "system"),
        "types": ((rows,), np.int32, "system"),
        "cell": ((3, 3), np.float64, "system"),
        "row_offsets": ((owned + 1,), np.int64, "system"),
        "indices": ((listed,), np.int32, "system"),
        "control": ((WORDS,), np.int64, "system"),
        "energies": ((owned,), np.float64, "result"),
        "forces": ((rows, 3), np.int64, "result"),
        "virial_words": ((9, 2), np.int64, "result"),
        "atom_virials": ((max(rows, 1) if atom_virials else 1, 9), np.int64, "result"),
        "faults": ((rows,), np.uint8, "result"),
        "status": ((8,), np.int32, "result"),
        "counts": ((owned,), np.int32, "index"),
        "chunk_centers": ((chunks + 1,), np.int32, "index"),
    }
    return {name: Buffer(name, shape, np.dtype(dtype), kind) for name, (shape, dtype, kind) in shapes.items()}
