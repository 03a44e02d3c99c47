"""Which edges a chunk holds: the pairs of the neighbour list that are within their cutoff now, in the list's order.

Same comparison as `kernels/cpu/edges.py`, same order of operations, nothing fused: both back ends, at every place, take
the same edges. Counting first and writing after needs two passes over the list but no memory over all edges beyond it.
"""

from __future__ import annotations

from numba import cuda, types

from .control import FOUND
from .exact import add, multiply

THREADS = 128
"""Threads of a block; one thread a centre."""


@cuda.jit(device=True, inline="always")
def difference(positions, i, j, axis, n0, n1, n2, cell):
    """Component `axis` of r_ij = (x_j - x_i) + ((n_0 a_0 + n_1 a_1) + n_2 a_2), Å, each operation rounded."""
    shift = add(add(multiply(n0, cell[0, axis]), multiply(n1, cell[1, axis])), multiply(n2, cell[2, axis]))
    return add(add(positions[j, axis], -positions[i, axis]), shift)


@cuda.jit(device=True, inline="always")
def is_edge(positions, images, types, cell, cutoffs, i, j):
    """Whether the pair (i, j) of the list is an edge: d² < r_c², written so that a NaN is one (and shows)."""
    n0 = float(images[j, 0] - images[i, 0])
    n1 = float(images[j, 1] - images[i, 1])
    n2 = float(images[j, 2] - images[i, 2])
    x = difference(positions, i, j, 0, n0, n1, n2, cell)
    y = difference(positions, i, j, 1, n0, n1, n2, cell)
    z = difference(positions, i, j, 2, n0, n1, n2, cell)
    squared = add(add(multiply(x, x), multiply(y, y)), multiply(z, z))
    cutoff = cutoffs[types[i], types[j]]
    return not squared >= multiply(cutoff, cutoff)


def clear_results(control, forces, virial_words, atom_virials, faults, status):
    """Zero what an evaluation adds up (overwrites), but in a step that does not go on; a thread a row.

    control: int64, see control.py; forces: int64 (rows, 3); virial_words: int64 (9, 2); atom_virials: int64 (rows, 9),
    or a single row that is not used; faults: uint8 (rows,); status: int32 (8,).
    """
    row = cuda.grid(1)
    if control[FOUND] != 0:
        return
    if row < len(faults):
        for c in range(3):
            forces[row, c] = 0
        faults[row] = 0
    if row < len(atom_virials):
        for c in range(9):
            atom_virials[row, c] = 0
    if row < 9:
        virial_words[row, 0] = 0
        virial_words[row, 1] = 0
    if row < len(status):
        status[row] = 0


def count_edges(counts, positions, images, types, cell, cutoffs, row_offsets, indices):
    """Number of edges of every centre now (overwrites); a thread per centre.

    counts: int32 (owned,) OUTPUT; positions: float64 (rows, 3), Å; images: int32 (rows, 3); types: int32 (rows,);
    cell: float64 (3, 3), Å; cutoffs: float64 (nt, nt), Å; row_offsets: int64 (owned + 1,); indices: int32, the list.
    """
    i = cuda.grid(1)
    if i >= len(counts):
        return
    number = 0
    for place in range(row_offsets[i], row_offsets[i + 1]):
        if is_edge(positions, images, types, cell, cutoffs, i, indices[place]):
            number += 1
    counts[i] = number


def fill_edges(
    edge_center,
    edge_neighbor,
    positions,
    images,
    types,
    cell,
    cutoffs,
    row_offsets,
    indices,
    first,
    chunk_centers,
    chunk,
):
    """The edges of one chunk, centre by centre (overwrites the rows in use); a thread per centre.

    edge_center, edge_neighbor: int32 (capacity,) OUTPUT: number of the centre within the chunk, local row of the
    neighbour; first: int32, first edge of each centre, cut at the capacity; chunk_centers: int32 (chunks + 1,), first
    centre of each chunk; chunk: which. Others as for `count_edges`.
    """
    number = cuda.grid(1)
    start = chunk_centers[chunk]
    if number >= chunk_centers[chunk + 1] - start:
        return
    i = start + number
    z = first[number]
    end = first[number + 1]
    for place in range(row_offsets[i], row_offsets[i + 1]):
        j = indices[place]
        if z < end and is_edge(positions, images, types, cell, cutoffs, i, j):
            edge_center[z] = number
            edge_neighbor[z] = j
            z += 1


_READ = (
    types.float64[:, ::1],  # positions
    types.int32[:, ::1],  # images
    types.int32[::1],  # types
    types.float64[:, ::1],  # cell
    types.float64[:, ::1],  # cutoffs
    types.int64[::1],  # row_offsets
    types.int32[::1],  # indices
)

KERNELS = {
    "clear_results": (
        clear_results,
        types.void(
            types.int64[::1],
            types.int64[:, ::1],
            types.int64[:, ::1],
            types.int64[:, ::1],
            types.uint8[::1],
            types.int32[::1],
        ),
    ),
    "count_edges": (count_edges, types.void(types.int32[::1], *_READ)),
    "fill_edges": (
        fill_edges,
        types.void(types.int32[::1], types.int32[::1], *_READ, types.int32[::1], types.int32[::1], types.int32),
    ),
}
"""Name -> (function, signature)."""
