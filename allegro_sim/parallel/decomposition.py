"""Division of the cell into bricks, one a rank.

Bricks are equal boxes in fractional coordinates. Along a periodic direction they divide [0, 1); along a direction that
is not periodic they divide the interval that holds all atoms, and the bricks at its two ends reach to infinity. Which
atom lies in which brick decides where its forces are computed, never what they are.
"""

from __future__ import annotations

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System

HALO_MARGIN = 1.0e-5
"""Å added to the width of the halo, above the reach of the neighbour list: rounding cannot lose a neighbour."""

NO_EXTREMES = np.concatenate([np.full(6, -np.inf), np.zeros(3)])


class Decomposition:
    """Grid of bricks over the ranks.

    Parameters
    ----------
    comm : Comm
    cell : Cell
    reach : float, Å; distance up to which the neighbour list looks (`NeighborList.reach`)

    Attributes (set by `update_bounds`)
    -----------------------------------
    grid : (3,) int, bricks along each direction; their product is the number of ranks
    coordinates : (3,) int, this rank's place in the grid (rank = (a * grid[1] + b) * grid[2] + c)
    lower, upper : float64 (3,), fractional; the interval divided into bricks
    halo_fraction : float64 (3,), width of the halo in fractional units
    num_fits : int, how often any of these has changed
    """

    def __init__(self, comm: Comm, cell: Cell, reach: float) -> None:
        self.comm = comm
        self.cell = cell
        self.reach = reach
        self.grid: np.ndarray | None = None
        self.coordinates = np.zeros(3, np.int64)
        self.lower = np.zeros(3)
        self.upper = np.ones(3)
        self.halo_fraction = np.zeros(3)
        self.num_fits = 0
        self._fitted = np.zeros(0)

    def update_bounds(self, system: System) -> None:
        """Fit the bricks to where all atoms are now (collective). The grid itself is chosen at the first call."""
        positions = system.positions[: system.num_owned]
        finite = np.isfinite(positions).all(axis=1)
        positions = positions if finite.all() else positions[finite]
        fractional = self.cell.fractional(positions)
        extremes = NO_EXTREMES
        if len(positions):
            extremes = np.concatenate([-fractional.min(axis=0), fractional.max(axis=0), np.abs(positions).max(axis=0)])
        self.fit(extremes)

    def fit(self, extremes: np.ndarray) -> bool:
        """As `update_bounds`, from extremes of this rank's finite positions (collective); whether anything changed.

        extremes: float64 (9,), minus the smallest and the largest fractional coordinates, the largest |position| (Å);
        NO_EXTREMES where there are no atoms.
        """
        extremes = self.comm.allreduce_max(extremes)
        # Only what a bound follows from, distances to a power of two: so little changes while atoms but move.
        free = ~self.cell.pbc
        extremes = np.where(np.concatenate([free, free, np.ones(3, bool)]), extremes, 0.0)
        extremes[6:9] = 2.0 ** np.ceil(np.log2(np.maximum(extremes[6:9], 1.0)))
        if np.array_equal(extremes, self._fitted):
            return False
        self._fitted = extremes
        self.num_fits += 1
        anywhere = np.isfinite(extremes[:3])
        self.lower = np.where(free, np.where(anywhere, -extremes[:3], 0.0), 0.0)
        self.upper = np.where(free, np.where(anywhere, extremes[3:6], 0.0), 1.0)
        # A sum of three products x_c * inverse[c, k] is off by less than 4 units in the last place of its largest
        # term; the width covers that for the furthest atom, at both ends of an edge.
        rounding = 16.0 * np.finfo(np.float64).eps * (extremes[6:9] @ np.abs(self.cell.inverse) + 1.0)
        self.halo_fraction = (self.reach + HALO_MARGIN) / self.cell.heights + rounding
        if self.grid is None:
            extents = (self.upper - self.lower) * self.cell.heights
            grid = choose_grid(self.comm.size, extents, self.cell.pbc, self.reach)
            self.grid = np.array(self.comm.bcast(grid), np.int64)
            self.coordinates = np.array(np.unravel_index(self.comm.rank, tuple(self.grid)), np.int64)
        return True

    def _grid(self) -> np.ndarray:
        if self.grid is None:
            raise RuntimeError("Decomposition.update_bounds must be called before bricks are asked for")
        return self.grid

    def brick_of(self, fractional: np.ndarray) -> np.ndarray:
        """Grid coordinates (N, 3) int64 of the bricks of wrapped fractional coordinates (N, 3). NaN goes to brick 0."""
        grid = self._grid()
        extent = self.upper - self.lower
        scaled = (fractional - self.lower) * (grid / np.where(extent > 0.0, extent, 1.0))
        return np.clip(np.where(np.isnan(scaled), 0.0, np.floor(scaled)), 0, grid - 1).astype(np.int64)

    def rank_of(self, fractional: np.ndarray) -> np.ndarray:
        """Ranks (N,) int64 that own wrapped fractional coordinates (N, 3)."""
        grid, brick = self._grid(), self.brick_of(fractional)
        return (brick[:, 0] * grid[1] + brick[:, 1]) * grid[2] + brick[:, 2]

    def brick(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (3,) of this rank's brick, fractional (end bricks: their nominal faces)."""
        step = (self.upper - self.lower) / self._grid()
        return self.lower + self.coordinates * step, self.lower + (self.coordinates + 1) * step

    def hops(self, direction: int) -> int:
        """Number of bricks the halo spans along `direction`: how often atoms are passed on from brick to brick."""
        bricks = int(self._grid()[direction])
        extent = self.upper[direction] - self.lower[direction]
        if self.cell.pbc[direction]:
            return int(np.ceil(self.halo_fraction[direction] * bricks / extent))
        if self.halo_fraction[direction] * bricks >= (bricks - 1) * extent:
            return bricks - 1
        return int(np.ceil(self.halo_fraction[direction] * bricks / extent))

    def neighbor(self, direction: int, step: int) -> tuple[int | None, int]:
        """Rank one brick up (`step` = 1) or down (-1), and the image shift of what is sent there.

        The rank is None at the end of a direction that is not periodic. Sent upwards through the top face of the cell,
        atoms appear below the receiver's bottom face: shift -1 there, +1 downwards, 0 inside the cell.
        """
        grid = self._grid()
        place = self.coordinates.copy()
        place[direction] += step
        crossed = not 0 <= place[direction] < grid[direction]
        if crossed and not self.cell.pbc[direction]:
            return None, 0
        place[direction] %= grid[direction]
        return int((place[0] * grid[1] + place[1]) * grid[2] + place[2]), -step if crossed else 0

    def describe(self) -> str:
        """One line for banner and dry run."""
        grid = self._grid()
        edges = (self.upper - self.lower) * self.cell.heights / grid
        size = " x ".join(f"{edge:.1f}" for edge in edges)
        return f"{grid[0]} x {grid[1]} x {grid[2]} bricks of {size} Å, halo {self.reach:.2f} Å"


def choose_grid(size: int, extents: np.ndarray, periodic: np.ndarray, width: float) -> tuple[int, int, int]:
    """Grid of `size` bricks with the least volume of a brick and its halo.

    extents: (3,) Å, perpendicular to the faces; periodic: (3,) bool; width: Å, of the halo. Any size is possible,
    primes too. A direction that is not periodic and not divided has no halo. Equal volumes: the fewest exchanges
    decide.
    """
    best: tuple[float, int, tuple[int, int, int]] | None = None
    for first in _divisors(size):
        for second in _divisors(size // first):
            grid = (first, second, size // (first * second))
            volume, exchanges = 1.0, 0
            for bricks, extent, wraps in zip(grid, extents, periodic, strict=True):
                halo = 2.0 * width if wraps or bricks > 1 else 0.0
                # At least a little length, so that flat and linear systems are told apart along their other directions.
                volume *= max(float(extent) / bricks, 0.01 * width, 1.0e-3) + halo
                exchanges += bricks > 1
            candidate = (round(volume, 6), exchanges, grid)
            if best is None or candidate < best:
                best = candidate
    assert best is not None  # 1 x 1 x size is always tried
    return best[2]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
