"""What carries the atoms of a rank from step to step, and the way of it on a CPU.

A motion owns the atoms while a run goes on: `HostMotion` here, `gpu.motion.DeviceMotion` with everything on a GPU. The
loop asks it to advance, and looks at the atoms only where output is due or something is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.descent import Descent, HostDescent
from allegro_sim.dynamics.guard import WATCHED, Guard
from allegro_sim.dynamics.observables import Integrator, RankSums, rank_sums
from allegro_sim.loads import RankLoad, load_of_run
from allegro_sim.neighbors import NeighborList, check_overlaps
from allegro_sim.output.snapshot import HostSnapshot, Snapshot
from allegro_sim.parallel.comm import Comm
from allegro_sim.parallel.decomposition import Decomposition
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential.interface import Potential
from allegro_sim.system import System
from allegro_sim.timers import Timers


def _nothing_broken() -> np.ndarray:
    return np.zeros(len(WATCHED))


@dataclass(frozen=True)
class Advance:
    """How far the atoms have come; the same on all ranks.

    step : whole steps that are done
    between : the atoms stand in the middle of the step after that, moved and before any migration, as the guards need
        them: there is a fault, or a limit is broken. The next call of `advance` goes on from there
    fault : energy, forces or positions are not finite or out of range: the run must end
    broken : float64, 0 or 1 for each of `guard.WATCHED`: limits that atoms have broken
    request : the largest of what the ranks were asked for from outside (`stops`)
    """

    step: int
    between: bool = False
    fault: bool = False
    broken: np.ndarray = field(default_factory=_nothing_broken)
    request: float = 0.0


@dataclass(frozen=True)
class Parts:
    """What every motion is made of.

    system : the atoms of this rank, on the host; reaches : float64 (nt, nt), Å, of the model's edges; skin : Å, see
    `NeighborList`
    """

    comm: Comm
    system: System
    cell: Cell
    reaches: np.ndarray
    skin: float
    potential: Potential
    integrator: Integrator
    guard: Guard
    timers: Timers


class Motion(Protocol):
    """See the head of the module. All methods are collective, except where they say so."""

    decomposition: Decomposition
    step: int
    """Whole steps that are done."""

    def place(self) -> None:
        """From the owned atoms of `system` to bricks, ghosts and neighbour list; rows of `system` are then new."""
        ...

    def check_overlaps(self) -> None:
        """Raise StructureError where two atoms are at one place."""
        ...

    def load(self) -> RankLoad:
        """The largest numbers of atoms, ghosts and pairs on a rank."""
        ...

    def totals(self) -> tuple[int, int, int]:
        """Edges within the cutoffs, listed pairs and ghosts of all ranks together."""
        ...

    def array_bytes(self) -> int:
        """Memory of atoms, ghosts and list on this rank (not collective)."""
        ...

    def facts(self) -> list[tuple[str, str]]:
        """Label and value of what the banner says beyond that."""
        ...

    def start(self, step: int) -> None:
        """Take the velocities of `system`, and compute the forces of step `step`, with the virial."""
        ...

    def advance(self, most: int, *, measure: bool, asked: Callable[[], float]) -> Advance:
        """Go on for at least one step and at most `most`, or until something is wrong.

        measure: the last of `most` steps is observed; asked: what this rank is asked for from outside.
        """
        ...

    def descent(self) -> Descent:
        """What takes the atoms downhill before the first step, once their forces are there (not collective)."""
        ...

    def sums(self) -> RankSums:
        """Energies, virial and momentum of this rank at the last step (not collective)."""
        ...

    def atoms(self) -> System:
        """Everything about this rank's atoms, on the host (not collective)."""
        ...

    def snapshot(self, names: Sequence[str]) -> Snapshot:
        """This rank's atoms as they are now, kept while the run goes on; see `snapshot.Take` (not collective)."""
        ...

    def pairs(self) -> NeighborList:
        """This rank's neighbour list, on the host, for the rows of `atoms` (not collective)."""
        ...


class HostMotion:
    """A step at a time, with arrays of the host; the potential may compute where it likes."""

    def __init__(self, parts: Parts) -> None:
        self.comm, self.system, self.potential = parts.comm, parts.system, parts.potential
        self.neighbors = NeighborList(parts.reaches, parts.skin)
        self.domain = Domain(parts.comm, parts.cell, self.neighbors)
        self.decomposition = self.domain.decomposition
        self.integrator, self.guard, self.timers = parts.integrator, parts.guard, parts.timers
        self.step = 0
        self._must_rebuild = self._is_between = False

    def place(self) -> None:
        self.domain.rebuild(self.system)

    def check_overlaps(self) -> None:
        check_overlaps(self.system, self.neighbors, self.comm)

    def load(self) -> RankLoad:
        return load_of_run(self.system, self.neighbors, self.domain, self.comm)

    def totals(self) -> tuple[int, int, int]:
        within = self.neighbors.count_within_cutoffs(self.system)
        own = np.array([within, self.neighbors.num_edges, self.system.num_ghosts], np.int64)
        edges, listed, ghosts = (int(n) for n in self.comm.allreduce_sum(own))
        return edges, listed, ghosts

    def array_bytes(self) -> int:
        parts = [*vars(self.system).values(), *vars(self.neighbors).values()]
        return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))

    def facts(self) -> list[tuple[str, str]]:
        return []

    def start(self, step: int) -> None:
        self.step = step
        self._compute(want_virial=True)

    def advance(self, most: int, *, measure: bool, asked: Callable[[], float]) -> Advance:
        system, neighbors, guard, timers = self.system, self.neighbors, self.guard, self.timers
        measured = measure and most == 1
        if not self._is_between:
            with timers("integrate"):
                guard.remember(system)
                self.integrator.first_half(system, self.step, measure=measured)
            with timers("neighbors"):
                self._must_rebuild = neighbors.must_rebuild(
                    system, self.comm, flags=guard.fault(system), request=asked(), watched=guard.broken(system)
                )
            self._is_between = True
            if neighbors.reduced_flags or neighbors.reduced_watched.any():
                fault, broken = bool(neighbors.reduced_flags), neighbors.reduced_watched
                return Advance(self.step, True, fault, broken, neighbors.reduced_request)
        with timers("neighbors"):
            if self._must_rebuild:
                self.domain.rebuild(system)
            else:
                self.domain.update_positions(system)
        self._compute(want_virial=measured)
        with timers("integrate"):
            self.integrator.second_half(system)
        self._is_between = False
        self.step += 1
        return Advance(self.step, request=neighbors.reduced_request)

    def _compute(self, *, want_virial: bool) -> None:
        """Complete forces where the atoms are now, compared with the guards' limits."""
        with self.timers("forces"):
            self.potential.compute(self.system, self.neighbors, want_virial=want_virial)
        with self.timers("return forces"):
            self.domain.add_forces(self.system)
        with self.timers("integrate"):
            self.guard.look(self.system, self.neighbors)

    def descent(self) -> Descent:
        return HostDescent(self.comm, self.system, self.neighbors, self.domain, self.potential)

    def sums(self) -> RankSums:
        return rank_sums(self.system, self.integrator.kinetic_sums(self.system))

    def atoms(self) -> System:
        return self.system

    def snapshot(self, names: Sequence[str]) -> Snapshot:
        return HostSnapshot(self.system, names)

    def pairs(self) -> NeighborList:
        return self.neighbors
