"""Migration: every owned atom to the rank of its brick, over any distance."""

from __future__ import annotations

import numpy as np

from allegro_sim.parallel.decomposition import Decomposition
from allegro_sim.system import System

_CURVE_LEVELS = 20


def migrate(system: System, decomposition: Decomposition) -> None:
    """Send every owned atom to the rank of its brick, set owned images, and sort the atoms in space (collective).

    Fits the bounds of the decomposition first. Afterwards ghosts are gone, and `images` of owned rows carry each atom
    into the cell: minus the floor of its fractional coordinate in periodic directions, 0 in others. Positions are not
    touched. The order of atoms is that of a Z-order curve (Morton, 1966), so that neighbours lie close in memory; no
    result depends on it.
    """
    decomposition.update_bounds(system)
    comm, cell, count = decomposition.comm, decomposition.cell, system.num_owned
    positions = system.positions[:count]
    ranks = decomposition.rank_of(cell.fractional(positions) + cell.wrapping_images(positions))
    order = np.argsort(ranks, kind="stable")
    # One row of 64-bit words an atom, so that one exchange carries everything: floats travel as their bits.
    rows = np.empty((count, 8), np.int64)
    rows[:, 0] = system.ids[:count]
    rows[:, 1] = system.types[:count]
    rows[:, 2:5] = positions.view(np.int64)
    rows[:, 5:8] = system.velocities[:count].view(np.int64)
    rows = comm.alltoallv(rows[order], np.bincount(ranks, minlength=comm.size))

    positions = np.ascontiguousarray(rows[:, 2:5]).view(np.float64)
    velocities = np.ascontiguousarray(rows[:, 5:8]).view(np.float64)
    images = cell.wrapping_images(positions)
    order = spatial_order(cell.fractional(positions) + images, cell.heights, decomposition.reach)
    system.set_owned(rows[order, 0], rows[order, 1], positions[order], velocities[order])
    system.images[: system.num_owned] = images[order]


def spatial_order(fractional: np.ndarray, heights: np.ndarray, reach: float) -> np.ndarray:
    """Permutation (N,) that sorts wrapped fractional coordinates (N, 3) along a Z-order curve."""
    if len(fractional) == 0:
        return np.empty(0, np.int64)
    place = np.where(np.isfinite(fractional), fractional, 0.0) * heights
    place -= place.min(axis=0)
    step = max(0.5 * reach, float(place.max()) / (2**_CURVE_LEVELS - 1))
    cells = (place / step).astype(np.int64) if step > 0.0 else np.zeros(place.shape, np.int64)
    code = (_spread(cells[:, 0]) << 2) | (_spread(cells[:, 1]) << 1) | _spread(cells[:, 2])
    return np.argsort(code, kind="stable")


def _spread(values: np.ndarray) -> np.ndarray:
    """Put two zero bits after each of the lowest 21 bits (int64)."""
    values = (values | (values << 32)) & 0x1F00000000FFFF
    values = (values | (values << 16)) & 0x1F0000FF0000FF
    values = (values | (values << 8)) & 0x100F00F00F00F00F
    values = (values | (values << 4)) & 0x10C30C30C30C30C3
    return (values | (values << 2)) & 0x1249249249249249
