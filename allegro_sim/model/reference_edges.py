"""All edges of a structure by brute force: every pair of atoms and every periodic copy in reach is tried."""

from __future__ import annotations

from itertools import product

import numpy as np


def brute_force_edges(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray, types: np.ndarray, cutoffs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Directed edges with |r_ij| < cutoffs[t_i, t_j], in canonical order: by centre, then neighbour, then shift.

    Parameters: positions (N, 3) Å, not necessarily inside the cell; cell (3, 3) Å, rows are lattice vectors, or None
    where nothing is periodic (rows of directions that are not periodic are not used); pbc (3,) bool; types (N,);
    cutoffs (nt, nt) Å.

    Returns centers (Z,), neighbors (Z,), shifts (Z, 3) (int64) and vectors r_ij = (x_j - x_i) + shift @ cell (Z, 3), Å,
    with the sums in the order every code path of the project uses. Copies of the centre itself are included, the centre
    is not. Any cell: smaller than the cutoff, triclinic, any mix of periodic directions.
    """
    positions = np.asarray(positions, np.float64).reshape(-1, 3)
    types = np.asarray(types, np.int64)
    count = len(positions)
    periodic = np.flatnonzero(np.asarray(pbc, bool))
    lattice = np.zeros((3, 3)) if cell is None else np.asarray(cell, np.float64)
    if cell is None and len(periodic):
        raise ValueError("periodic directions need a cell")
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int64), np.empty((0, 3))

    # Component of a vector along a periodic lattice vector, in units of it: r . dual. As |r . dual| <= |r| |dual|, all
    # copies in reach lie within cutoff * |dual| of the nearest one.
    dual = np.zeros((3, 3))
    dual[:, periodic] = np.linalg.pinv(lattice[periodic])
    reach = np.zeros(3, np.int64)
    reach[periodic] = np.ceil(np.max(cutoffs) * np.linalg.norm(dual[:, periodic], axis=0) + 0.5)
    difference = positions[None, :, :] - positions[:, None, :]
    nearest = -np.rint(difference @ dual).astype(np.int64)
    pair_cutoffs_squared = np.asarray(cutoffs, np.float64)[types[:, None], types[None, :]] ** 2

    found = []
    for offset in product(*(range(-reach[c], reach[c] + 1) for c in range(3))):
        shift = nearest + np.array(offset)
        n = shift.astype(np.float64)
        copy = (n[..., 0:1] * lattice[0] + n[..., 1:2] * lattice[1]) + n[..., 2:3] * lattice[2]
        vector = difference + copy
        squared = (vector[..., 0] ** 2 + vector[..., 1] ** 2) + vector[..., 2] ** 2
        inside = squared < pair_cutoffs_squared
        if not any(offset):
            inside[np.arange(count), np.arange(count)] = False
        i, j = np.nonzero(inside)
        found.append((i, j, shift[inside], vector[inside]))
    centers, neighbors, shifts, vectors = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], neighbors, centers))
    return centers[order], neighbors[order], shifts[order], vectors[order]
