"""Pair distribution functions of a trajectory, with the neighbour list that a run uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.errors import InputError
from allegro_sim.neighbors import NeighborList
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.domain import Domain
from allegro_sim.system import System

DEFAULT_REACH = 10.0
"""Å; where the cell is smaller, half its least height."""


@dataclass(frozen=True)
class PairDistributions:
    """g(r) of pairs of types, averaged over frames.

    Attributes
    ----------
    centres : float64 (B,), Å, middles of the bins
    functions : (type name, type name) -> float64 (B,), 1 where pairs are as in a gas of the same density
    num_frames : int
    """

    centres: np.ndarray
    functions: dict[tuple[str, str], np.ndarray]
    num_frames: int


def pair_distributions(
    trajectory: TrajectoryReader, frames: range, *, reach: float | None = None, width: float = 0.05
) -> PairDistributions:
    """g_ab(r) = V n_ab(r) / (N_a (N_b - delta_ab) 4/3 pi (r_2^3 - r_1^3)), n_ab(r) the ordered pairs in a bin (Allen &
    Tildesley, Computer Simulation of Liquids, 2nd ed., section 8.2).

    frames: which to average over, not empty; reach: Å, default `DEFAULT_REACH`; width: Å, of a bin. Pairs of types of
    which there is only one atom are left out.

    Raises
    ------
    InputError : without a cell periodic in all directions, or with a reach of more than half its least height
    """
    first = trajectory.frame(frames[0])
    if first.cell is None or not trajectory.pbc.all():
        raise InputError(f"{trajectory.path}: pair distribution functions need a cell periodic in all directions")
    half = 0.5 * float(Cell(first.cell, True).heights.min())
    if reach is None:
        reach = min(DEFAULT_REACH, half)
    elif not 0.0 < reach <= half:
        raise InputError(
            f"--r-max {reach:g}: must be above 0 and at most half the least height of the cell, {half:g} Å"
        )
    num_bins = max(int(reach / width), 1)
    num_types, types = len(trajectory.type_names), trajectory.species
    counts = np.zeros((num_types, num_types, num_bins))
    volume = 0.0
    for index in frames:
        frame = trajectory.frame(index)
        assert frame.cell is not None
        cell = Cell(frame.cell, True)
        volume += cell.volume / len(frames)
        _count_pairs(counts, types, frame.positions, cell, num_bins * width, width)
    edges = np.arange(num_bins + 1) * width
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    number = np.bincount(types, minlength=num_types)
    functions = {}
    for a in range(num_types):
        for b in range(a, num_types):
            pairs = number[a] * (number[b] - (a == b))
            if pairs > 0:
                names = trajectory.type_names[a], trajectory.type_names[b]
                functions[names] = counts[a, b] / len(frames) * volume / (pairs * shells)
    return PairDistributions(0.5 * (edges[1:] + edges[:-1]), functions, len(frames))


def _count_pairs(
    counts: np.ndarray, types: np.ndarray, positions: np.ndarray, cell: Cell, reach: float, width: float
) -> None:
    """Add the ordered pairs of one frame to counts (types, types, bins)."""
    num_types, _, num_bins = counts.shape
    count = len(types)
    comm = SerialComm()
    system = System(cell, np.ones(num_types), count)
    system.set_owned(np.arange(count), types, positions, np.zeros((count, 3)))
    neighbors = NeighborList(np.full((num_types, num_types), reach), skin=0.0)
    Domain(comm, cell, neighbors).rebuild(system)
    offsets, rows = neighbors.row_offsets, neighbors.indices
    placed = system.positions[: system.num_local] + system.images[: system.num_local] @ cell.vectors
    # By blocks of centres: the vectors of all pairs at once would be many times the list.
    for start in range(0, count, 4096):
        end = min(start + 4096, count)
        centres = np.repeat(np.arange(start, end), np.diff(offsets[start : end + 1]))
        others = rows[offsets[start] : offsets[end]]
        distances = np.linalg.norm(placed[others] - placed[centres], axis=1)
        bins = (distances / width).astype(np.int64)
        kept = bins < num_bins
        pairs = system.types[centres[kept]].astype(np.int64) * num_types + system.types[others[kept]]
        flat = np.bincount(pairs * num_bins + bins[kept], minlength=counts.size)
        counts += flat.reshape(counts.shape)
