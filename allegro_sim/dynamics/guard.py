"""The guard: a run whose forces are not finite, or whose atoms jump, stops on all ranks at the same step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.kernels.cpu.integrate import count_far_moves
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System

_NAMED = 10
"""Atoms that a message names, at most."""


@dataclass(frozen=True)
class Offenders:
    """All atoms in input order, at the last positions that forces were computed for, and what went wrong with which."""

    ids: np.ndarray  # (N,)
    types: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å
    displacements: np.ndarray  # (N,) Å, in the step after
    bad: np.ndarray  # (N,) bool: energy or forces not finite or out of range
    far: np.ndarray  # (N,) bool: moved too far

    @property
    def marked(self) -> np.ndarray:
        """Atoms at fault: those with bad forces if there are any, else those that moved too far. bool (N,)."""
        return self.bad if self.bad.any() else self.far

    def describe(self, step: int, limit: float) -> str:
        """What happened at `step`, to which atoms, and what to do."""
        atoms = np.flatnonzero(self.marked)
        named = ", ".join(str(self.ids[atom]) for atom in atoms[:_NAMED])
        named += f" and {len(atoms) - _NAMED} more" if len(atoms) > _NAMED else ""
        if self.bad.any():
            happened = f"energy or forces are not finite or out of range at atoms {named}"
        elif self.far.any():
            farthest = np.nanmax(np.where(np.isfinite(self.displacements), self.displacements, np.inf))
            happened = f"more than {limit:g} Å in one step (up to {farthest:.3g} Å) would be moved by atoms {named}"
        else:
            happened = "the sum of energies, virials or velocities is not finite or out of range"
        return (
            f"stopped at step {step}: {happened} (counted from 0). The start may be too far from equilibrium, the time "
            "step too long, or the atoms where the model was not trained."
        )


class Guard:
    """Watches the owned atoms of one rank.

    `remember` keeps the positions at which the last forces were computed; `fault` compares the next ones with them. The
    caller reduces the answer over ranks (with the neighbour list's own reduction), and asks `offenders` if any is true.
    """

    def __init__(self, max_displacement_A: float) -> None:
        self.max_displacement_A = max_displacement_A
        self._before = np.empty((0, 3))

    def remember(self, system: System) -> None:
        """Keep the positions of the owned atoms: call before they are moved."""
        if len(self._before) < system.num_owned:
            self._before = np.empty((system.capacity, 3))
        self._before[: system.num_owned] = system.positions[: system.num_owned]

    def fault(self, system: System) -> bool:
        """Whether an owned atom has moved too far since `remember`, or the last forces on one were bad."""
        far = count_far_moves(self._before, system.positions, self.max_displacement_A, system.num_owned)
        return far > 0 or len(system.bad_centres) > 0

    def offenders(self, system: System, comm: Comm) -> Offenders | None:
        """Who is at fault, gathered on rank 0 (None elsewhere). Collective; between `remember` and a migration."""
        n = system.num_owned
        with np.errstate(all="ignore"):
            moved = np.linalg.norm(system.positions[:n] - self._before[:n], axis=1)
        # A bad row may be a ghost's: what counts is the atom.
        bad = comm.gather_rows(system.ids[system.bad_centres])
        rows = [system.ids[:n], system.types[:n], self._before[:n], moved]
        gathered = [comm.gather_rows(row) for row in rows]
        if gathered[0] is None or bad is None:
            return None
        order = np.argsort(gathered[0])
        ids, types, positions, moved = (row[order] for row in gathered if row is not None)
        return Offenders(ids, types, positions, moved, np.isin(ids, bad), ~(moved <= self.max_displacement_A))
