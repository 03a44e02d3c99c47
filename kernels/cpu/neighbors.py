"""Neighbour search by cell lists, without a grid: bins are sorted numbers, so memory and time follow the atoms.

Letters: i centre row, j neighbour row, b occupied bin, s place in the sorted order of rows.
"""

from __future__ import annotations

import numpy as np

from .compilation import kernel
from .inner import inner_kernel
from .integrate import moved_squared

_moved_squared = inner_kernel(moved_squared)

BIN_BITS = 21
"""Bits of a bin key for each axis."""

MAX_BINS = 2**BIN_BITS - 4
"""Most bins along an axis (one empty bin of padding on both sides)."""


@kernel
def place_rows(placed, positions, images, cell, count):
    """placed[row] = position + images @ cell (overwrites): where the copy a row stands for sits.

    placed: float64 (N, 3) OUTPUT; positions: float64 (N, 3); images: int32 (N, 3); cell: float64 (3, 3).
    """
    for row in range(count):
        for c in range(3):
            shift = (images[row, 0] * cell[0, c] + images[row, 1] * cell[1, c]) + images[row, 2] * cell[2, c]
            placed[row, c] = positions[row, c] + shift


@kernel
def bin_keys(keys, placed, lower, width, count):
    """Key of each row's bin (overwrites): three bin numbers side by side, z lowest; -1 where not finite.

    keys: int64 (N,) OUTPUT; placed: float64 (N, 3); lower: float64 (3,); width: float, edge of a bin.
    """
    for row in range(count):
        x = np.floor((placed[row, 0] - lower[0]) / width)
        y = np.floor((placed[row, 1] - lower[1]) / width)
        z = np.floor((placed[row, 2] - lower[2]) / width)
        if np.isfinite(x + y + z):
            keys[row] = ((np.int64(x) + 1) << (2 * BIN_BITS)) | ((np.int64(y) + 1) << BIN_BITS) | (np.int64(z) + 1)
        else:
            keys[row] = -1


@kernel
def find_runs(bin_of_row, runs, sorted_keys, sorted_rows, begin):
    """For each occupied bin, where the rows of its 27 neighbouring bins stand in the sorted order (overwrites).

    bin_of_row: int32 (N,) OUTPUT; runs: int32 (B, 9, 2) OUTPUT, [first, last) of each column of three bins along z;
    sorted_keys: int64 (N,) ascending; sorted_rows: (N,) the rows in that order; begin: first place with a key >= 0.
    B is at least the number of different keys. Bins come in ascending order and so do their neighbours in a fixed
    direction: nine pairs of cursors move forward only.
    """
    count = sorted_keys.shape[0]
    first = np.full(9, begin, np.int64)
    last = np.full(9, begin, np.int64)
    b = -1
    for s in range(begin, count):
        key = sorted_keys[s]
        if s == begin or key != sorted_keys[s - 1]:
            b += 1
            for column in range(9):
                x_step = column // 3 - 1
                y_step = column % 3 - 1
                middle = key + x_step * (1 << (2 * BIN_BITS)) + y_step * (1 << BIN_BITS)
                while first[column] < count and sorted_keys[first[column]] < middle - 1:
                    first[column] += 1
                while last[column] < count and sorted_keys[last[column]] <= middle + 1:
                    last[column] += 1
                runs[b, column, 0] = first[column]
                runs[b, column, 1] = last[column]
        bin_of_row[sorted_rows[s]] = b


@kernel
def fill_rows(
    row_offsets,
    indices,
    num_owned,
    types,
    positions,
    images,
    cell,
    cutoffs_squared,
    reach_squared,
    placed,
    keys,
    bin_of_row,
    runs,
    sorted_rows,
    sorted_placed,
    canonical_rank,
    canonical_order,
):
    """Neighbours of each owned row within the pair's cutoff, in canonical order. Returns the number of edges.

    row_offsets: int64 (num_owned+1,) OUTPUT, always complete; indices: int32 (capacity,) OUTPUT, complete only if the
    number returned is at most the capacity. cutoffs_squared: float64 (nt, nt) by types of i and j; reach_squared: at
    least the largest of them; sorted_placed: float64 (N, 3) `placed` in sorted order; canonical_rank, canonical_order:
    int32 (N,), place of each row in the order by (id, images), and the rows in that order.
    """
    capacity = indices.shape[0]
    total = 0
    row_offsets[0] = 0
    for i in range(num_owned):
        start = total
        if keys[i] >= 0:
            b = bin_of_row[i]
            for column in range(9):
                for s in range(runs[b, column, 0], runs[b, column, 1]):
                    dx = sorted_placed[s, 0] - placed[i, 0]
                    dy = sorted_placed[s, 1] - placed[i, 1]
                    dz = sorted_placed[s, 2] - placed[i, 2]
                    if dx * dx + dy * dy + dz * dz > reach_squared:
                        continue
                    j = sorted_rows[s]
                    if j == i:
                        continue
                    if distance_squared(positions, images, cell, i, j) >= cutoffs_squared[types[i], types[j]]:
                        continue
                    if total < capacity:
                        indices[total] = canonical_rank[j]
                    total += 1
        if total <= capacity:
            indices[start:total].sort()
            for z in range(start, total):
                indices[z] = canonical_order[indices[z]]
        row_offsets[i + 1] = total
    return total


@kernel(inline="always")
def distance_squared(positions, images, cell, i, j):
    """Square of |r_ij| with r_ij = (x_j - x_i) + (images_j - images_i) @ cell, Å²."""
    n0 = images[j, 0] - images[i, 0]
    n1 = images[j, 1] - images[i, 1]
    n2 = images[j, 2] - images[i, 2]
    total = 0.0
    for c in range(3):
        shift = (n0 * cell[0, c] + n1 * cell[1, c]) + n2 * cell[2, c]
        r = (positions[j, c] - positions[i, c]) + shift
        total += r * r
    return total


@kernel
def closest_pair(row_offsets, indices, num_owned, ids, positions, images, cell):
    """Smallest squared distance in a list, and its rows: (d², i, j); (inf, -1, -1) for an empty list.

    Among equal distances the one with the smallest ids.
    """
    best = np.inf
    best_i = -1
    best_j = -1
    for i in range(num_owned):
        for z in range(row_offsets[i], row_offsets[i + 1]):
            j = indices[z]
            d2 = distance_squared(positions, images, cell, i, j)
            if d2 < best or (d2 == best and (ids[i] < ids[best_i] or (ids[i] == ids[best_i] and ids[j] < ids[best_j]))):
                best = d2
                best_i = i
                best_j = j
    return best, best_i, best_j


@kernel
def count_within(row_offsets, indices, num_owned, types, positions, images, cell, cutoffs):
    """Number of pairs of a list that are within their cutoffs now. cutoffs: float64 (nt, nt), Å."""
    count = 0
    for i in range(num_owned):
        for z in range(row_offsets[i], row_offsets[i + 1]):
            j = indices[z]
            cutoff = cutoffs[types[i], types[j]]
            if distance_squared(positions, images, cell, i, j) < cutoff * cutoff:
                count += 1
    return count


@kernel
def largest_displacement_squared(positions, reference, count):
    """Largest |x - reference|² over the first `count` rows, Å²; infinity where one is not finite.

    positions, reference: float64 (N, 3).
    """
    largest = 0.0
    for row in range(count):
        moved = _moved_squared(reference, positions, row)
        if not np.isfinite(moved):
            return np.inf
        largest = max(largest, moved)
    return largest
