"""The neighbour list: all pairs within the cutoff plus a skin, one row an owned atom.

Which pairs a row holds beyond the cutoff depends on when it was built; a potential drops those each step. What
remains, in the order of the row, is a pure function of the positions.
"""

from __future__ import annotations

import numpy as np

from allegro_sim.errors import StructureError
from allegro_sim.kernels.cpu.neighbors import (
    MAX_BINS,
    bin_keys,
    closest_pair,
    count_within,
    fill_rows,
    find_runs,
    largest_displacement_squared,
    place_rows,
)
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System

LIST_MARGIN = 1.0e-6
"""Å beyond cutoff and skin: rounding cannot lose a pair between two builds."""


_NOTHING_WATCHED = np.empty(0)


class NeighborList:
    """Verlet list (Verlet, Phys. Rev. 159, 98, 1967) built from cell lists, in compressed rows.

    Parameters
    ----------
    cutoffs : float64 (nt, nt), Å; cutoffs[type of i, type of j], not necessarily symmetric
    skin : float >= 0, Å; with 0 the list is rebuilt at every step

    Attributes
    ----------
    row_offsets : int64 (num_owned + 1,); neighbours of i are indices[row_offsets[i] : row_offsets[i + 1]]
    indices : int32 (num_edges,), local rows of j, in each row ascending by (ids[j], images[j] lexicographically)
    reach : float, Å; the halo must hold every copy up to this distance
    reduced_flags : float, the global maximum of the flags given to the last `must_rebuild`
    reduced_request : float, the same of the requests
    reduced_watched : float64 (n,), the same of each of those watched
    num_builds : int
    """

    def __init__(self, cutoffs: np.ndarray, skin: float) -> None:
        self.cutoffs = np.ascontiguousarray(cutoffs, dtype=np.float64)
        self.skin = float(skin)
        if not (self.skin >= 0.0 and np.isfinite(self.skin)):
            raise ValueError(f"the skin must be zero or a positive length in Å, found {skin}")
        self.reach = float(self.cutoffs.max()) + self.skin + LIST_MARGIN
        self.row_offsets = np.zeros(1, np.int64)
        self.indices = np.empty(0, np.int32)
        self.reduced_flags = 0.0
        self.reduced_request = 0.0
        self.reduced_watched = _NOTHING_WATCHED
        self.num_builds = 0
        self._storage = np.empty(0, np.int32)
        self._built_positions = np.empty((0, 3))

    @property
    def num_edges(self) -> int:
        """Pairs in the list of this rank, those of the skin included."""
        return len(self.indices)

    def count_within_cutoffs(self, system: System) -> int:
        """Pairs of this rank's list within their cutoffs at the present positions: the edges a potential computes."""
        return count_within(
            self.row_offsets,
            self.indices,
            system.num_owned,
            system.types,
            system.positions,
            system.images,
            system.cell.vectors,
            self.cutoffs,
        )

    def must_rebuild(
        self,
        system: System,
        comm: Comm,
        flags: float = 0.0,
        request: float = 0.0,
        watched: np.ndarray = _NOTHING_WATCHED,
    ) -> bool:
        """Whether any pair could have come within its cutoff unseen (collective: one global maximum).

        True on all ranks when on any rank an owned atom has moved more than half the skin since the build; always with
        skin 0 and before the first build. The maximum of `flags` over ranks travels along and is left in
        `reduced_flags`; a position that is not finite counts as a flag of at least 1. So does the maximum of `request`,
        a number that means nothing here, left in `reduced_request`, and that of each of `watched`, float64 (n,)
        without NaN, left in `reduced_watched`.
        """
        count = system.num_owned
        flags = float(flags)
        if self.num_builds == 0 or len(self._built_positions) != count:
            rebuild = True
        else:
            moved = largest_displacement_squared(system.positions, self._built_positions, count)
            rebuild = self.skin == 0.0 or moved > (0.5 * self.skin) ** 2
            if not np.isfinite(moved):
                flags = max(flags, 1.0)
        reduced = comm.allreduce_max(np.array([float(rebuild), flags, float(request), *watched]))
        self.reduced_flags, self.reduced_request = float(reduced[1]), float(reduced[2])
        self.reduced_watched = reduced[3:]
        return bool(reduced[0])

    def build(self, system: System) -> None:
        """List the neighbours of every owned row among all local rows (this rank only; after `Halo.build`).

        Rows at positions that are not finite have no neighbours and are nobody's neighbour.
        """
        local, owned = system.num_local, system.num_owned
        if local > np.iinfo(np.int32).max:
            raise StructureError(f"{local} atoms and ghosts on one rank are too many: use more ranks")
        cell = system.cell.vectors
        placed = np.empty((local, 3))
        place_rows(placed, system.positions, system.images, cell, local)
        # Rounding of positions and shifts, for the search of candidates; the distance that decides is computed on its
        # own.
        finite = np.isfinite(placed).all(axis=1)
        there = placed if finite.all() else placed[finite]
        lower = there.min(axis=0) if len(there) else np.zeros(3)
        extent = float((there.max(axis=0) - lower).max()) if len(there) else 0.0
        scale = max(
            (float(np.abs(x[finite]).max()) for x in (system.positions[:local], placed) if len(there)), default=0.0
        )
        reach = self.reach + 32.0 * np.finfo(np.float64).eps * scale

        keys = np.empty(local, np.int64)
        bin_keys(keys, placed, lower, max(reach, extent / MAX_BINS) * (1.0 + 1.0e-9), local)
        sorted_rows = np.argsort(keys).astype(np.int32)
        sorted_keys = keys[sorted_rows]
        begin = int(np.searchsorted(sorted_keys, 0))
        num_bins = int(np.count_nonzero(np.diff(sorted_keys[begin:]))) + 1
        bin_of_row = np.full(local, -1, np.int32)
        runs = np.empty((num_bins, 9, 2), np.int32)
        find_runs(bin_of_row, runs, sorted_keys, sorted_rows, begin)

        images = system.images[:local]
        canonical_order = np.lexsort((images[:, 2], images[:, 1], images[:, 0], system.ids[:local])).astype(np.int32)
        canonical_rank = np.empty(local, np.int32)
        canonical_rank[canonical_order] = np.arange(local, dtype=np.int32)

        self.row_offsets = np.empty(owned + 1, np.int64)
        arguments = (
            owned,
            system.types,
            system.positions,
            system.images,
            cell,
            (self.cutoffs + (self.skin + LIST_MARGIN)) ** 2,
            reach**2,
            placed,
            keys,
            bin_of_row,
            runs,
            sorted_rows,
            placed[sorted_rows],
            canonical_rank,
            canonical_order,
        )
        num_edges = fill_rows(self.row_offsets, self._storage, *arguments)
        if num_edges > len(self._storage):
            # The first build, or a denser system than before: now the size is known, with a little room to spare.
            self._storage = np.empty(num_edges + num_edges // 16 + 64, np.int32)
            fill_rows(self.row_offsets, self._storage, *arguments)
        self.indices = self._storage[:num_edges]
        self._built_positions = system.positions[:owned].copy()
        self.num_builds += 1


def check_overlaps(system: System, neighbors: NeighborList, comm: Comm, minimum: float = 1.0e-3) -> None:
    """Refuse a structure in which two atoms, or an atom and its own image, sit at one place (collective).

    Raises
    ------
    StructureError : on all ranks, naming the closest pair, when it is closer than `minimum` (Å)
    """
    d2, i, j = closest_pair(
        neighbors.row_offsets,
        neighbors.indices,
        system.num_owned,
        system.ids,
        system.positions,
        system.images,
        system.cell.vectors,
    )
    own = (float(d2), int(system.ids[i]), int(system.ids[j])) if i >= 0 else (np.inf, -1, -1)
    refuse_overlap(min(comm.allgather(own)), minimum)


def refuse_overlap(closest: tuple[float, int, int], minimum: float = 1.0e-3) -> None:
    """As `check_overlaps`; closest: squared distance (Å²) and ids of the closest pair of all ranks."""
    d2, first, second = closest
    if d2 >= minimum**2:
        return
    distance = float(np.sqrt(d2))
    if first == second:
        raise StructureError(
            f"atom {first} and its own periodic image are {distance:.3g} Å apart (atoms are counted from 0): "
            "the cell is too small. Correct the cell"
        )
    raise StructureError(
        f"atoms {first} and {second} are {distance:.3g} Å apart (counted from 0, in the order of the file): "
        "two atoms at one place. Remove one of them, or correct the positions or the cell"
    )
