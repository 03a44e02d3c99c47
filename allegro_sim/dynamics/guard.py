"""The guards: what a rank watches of its own atoms at every step, and which atoms are at fault.

Two kinds of trouble. A fault, forces or positions that are not finite or out of range, ends a run in any case. A limit
of the user, on force, displacement in one step, or distance by types, is compared where the numbers lie anyway; whether
one is broken anywhere travels in the reduction that decides about the neighbour list, so no rank waits once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.kernels.cpu.integrate import count_far_moves
from allegro_sim.kernels.cpu.neighbors import count_within
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System

WATCHED = ("displacement", "force", "distance")
"""What is compared with a limit at every step, in the order of `Guard.broken`."""

_NAMED = 10
"""Atoms that a message names, at most."""


def name_atoms(ids: np.ndarray) -> str:
    """Atoms as a message names them: some of the ids, and how many more there are."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(str(atom) for atom in ids[:_NAMED]) + more


@dataclass(frozen=True)
class Limits:
    """What the guards allow; None: anything."""

    displacement: float  # Å in one step
    force: float | None = None  # eV/Å, length of the vector
    distances: np.ndarray | None = None  # (nt, nt) Å, symmetric, by types; 0 where anything is allowed


@dataclass(frozen=True)
class Offenders:
    """All atoms in input order, at the last positions that forces were computed for, and what went wrong with which."""

    ids: np.ndarray  # (N,)
    types: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å
    displacements: np.ndarray  # (N,) Å, in the step after
    bad: np.ndarray  # (N,) bool: energy or forces not finite or out of range

    @property
    def marked(self) -> np.ndarray:
        """Atoms at fault: those with bad forces if there are any, else those that would go to no finite place."""
        return self.bad if self.bad.any() else ~np.isfinite(self.displacements)

    def describe(self, step: int) -> str:
        """What happened at `step`, to which atoms, and what to do."""
        named = name_atoms(self.ids[self.marked])
        if self.bad.any():
            happened = f"energy or forces are not finite or out of range at atoms {named}"
        elif self.marked.any():
            happened = f"positions would no longer be finite at atoms {named}"
        else:
            happened = "the sum of energies, virials or velocities is not finite or out of range"
        return f"stopped at step {step}: {happened} (counted from 0). {ADVICE}"


ADVICE = (
    "The start may be too far from equilibrium, the time step too long, or the atoms where the model was not trained."
)


@dataclass(frozen=True)
class Excerpt:
    """Atoms that broke a limit, and all that the neighbour list has near them, by ascending id; on rank 0."""

    ids: np.ndarray  # (n,)
    types: np.ndarray  # (n,)
    positions: np.ndarray  # (n, 3) Å, unwrapped
    velocities: np.ndarray  # (n, 3) Å/fs
    forces: np.ndarray  # (n, 3) eV/Å
    values: np.ndarray  # (n,) what was compared with the limit
    at_fault: np.ndarray  # (n,) bool

    @property
    def worst(self) -> int:
        """Place of the atom at fault whose value is the largest."""
        return int(np.argmax(np.where(self.at_fault, self.values, -np.inf)))


class Guard:
    """Watches the owned atoms of one rank.

    `remember` keeps the positions at which the last forces were computed, `look` compares forces and distances there,
    and `broken` compares the next positions with them. The caller reduces `fault` and `broken` over ranks (with the
    neighbour list's own reduction), and asks `offenders` or `excerpt` if any is true.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._before = np.empty((0, 3))
        self._broken = np.zeros(len(WATCHED))

    def remember(self, system: System) -> None:
        """Keep the positions of the owned atoms: call before they are moved."""
        if len(self._before) < system.num_owned:
            self._before = np.empty((system.capacity, 3))
        self._before[: system.num_owned] = system.positions[: system.num_owned]

    def recall(self, positions: np.ndarray) -> None:
        """As `remember`, with positions (num_owned, 3) from elsewhere."""
        self._before = positions

    def look(self, system: System, neighbors: NeighborList) -> None:
        """Compare forces, once they are complete, and the distances they belong to; what has no limit costs nothing."""
        if self.limits.force is not None:
            self._broken[WATCHED.index("force")] = not (_lengths(system.owned_forces()) <= self.limits.force).all()
        if self.limits.distances is not None:
            close = count_within(
                neighbors.row_offsets,
                neighbors.indices,
                system.num_owned,
                system.types,
                system.positions,
                system.images,
                system.cell.vectors,
                self.limits.distances,
            )
            self._broken[WATCHED.index("distance")] = close > 0

    def fault(self, system: System) -> bool:
        """Whether energy or forces of an atom were bad at the last compute, on this rank."""
        return len(system.bad_centres) > 0

    def broken(self, system: System) -> np.ndarray:
        """Which limits an owned atom has broken: float64 (3,), 0 or 1, as WATCHED. After the atoms have moved."""
        far = count_far_moves(self._before, system.positions, self.limits.displacement, system.num_owned)
        self._broken[WATCHED.index("displacement")] = far > 0
        return self._broken

    def offenders(self, system: System, comm: Comm) -> Offenders | None:
        """Who is at fault, gathered on rank 0 (None elsewhere). Collective; between `remember` and a migration."""
        n = system.num_owned
        # A bad row may be a ghost's: what counts is the atom.
        bad = comm.gather_rows(system.ids[system.bad_centres])
        rows: list[np.ndarray] = [system.ids[:n], system.types[:n], self._before[:n], self._displacements(system)]
        gathered = [comm.gather_rows(row) for row in rows]
        if gathered[0] is None or bad is None:
            return None
        order = np.argsort(gathered[0])
        ids, types, positions, moved = (row[order] for row in gathered if row is not None)
        return Offenders(ids, types, positions, moved, np.isin(ids, bad))

    def values(self, what: str, system: System, neighbors: NeighborList) -> tuple[np.ndarray, np.ndarray]:
        """What was compared with the limit for each owned atom, float64 (n,), and whether it broke it, bool (n,).

        For a distance: how much the closest pair of the atom is below the limit, Å. Between `remember` and a migration.
        """
        if what == "displacement":
            moved = self._displacements(system)
            return moved, ~(moved <= self.limits.displacement)
        if what == "force":
            assert self.limits.force is not None
            force = _lengths(system.owned_forces())
            return force, ~(force <= self.limits.force)
        missing = self._missing_distances(system, neighbors)
        return missing, missing > 0.0

    def _displacements(self, system: System) -> np.ndarray:
        with np.errstate(all="ignore"):
            return _lengths(system.positions[: system.num_owned] - self._before[: system.num_owned])

    def _missing_distances(self, system: System, neighbors: NeighborList) -> np.ndarray:
        """The largest limit minus distance over the pairs of each owned atom, Å, (n,); negative where all is well."""
        assert self.limits.distances is not None
        n = system.num_owned
        positions = system.positions[: system.num_local].copy()
        positions[:n] = self._before[:n]  # ghosts have not moved yet
        i = np.repeat(np.arange(n), np.diff(neighbors.row_offsets))
        j = neighbors.indices
        r = positions[j] - positions[i] + (system.images[j] - system.images[i]) @ system.cell.vectors
        missing = np.full(n, -np.inf)
        np.maximum.at(missing, i, self.limits.distances[system.types[i], system.types[j]] - _lengths(r))
        return missing

    def excerpt(
        self, system: System, neighbors: NeighborList, comm: Comm, values: np.ndarray, at_fault: np.ndarray
    ) -> Excerpt | None:
        """The atoms at fault and their neighbourhood, gathered on rank 0 (None elsewhere). Collective.

        values, at_fault: (n,) of the owned atoms. Between `remember` and a migration.
        """
        n = system.num_owned
        offenders = np.concatenate(comm.allgather(system.ids[:n][at_fault]))
        listed = np.isin(system.ids[neighbors.indices], offenders)
        near = at_fault.copy()
        near[np.repeat(np.arange(n), np.diff(neighbors.row_offsets))[listed]] = True
        rows = np.flatnonzero(near)
        arrays: tuple[np.ndarray, ...] = (
            system.ids[rows],
            system.types[rows],
            self._before[rows],
            system.velocities[rows],
            system.owned_forces()[rows],
            values[rows],
            at_fault[rows],
        )
        gathered = [comm.gather_rows(array) for array in arrays]
        if gathered[0] is None:
            return None
        order = np.argsort(gathered[0])
        return Excerpt(*(array[order] for array in gathered if array is not None))


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Lengths (n,) of vectors (n, 3), each from its own components alone."""
    return np.sqrt((vectors[:, 0] ** 2 + vectors[:, 1] ** 2) + vectors[:, 2] ** 2)
