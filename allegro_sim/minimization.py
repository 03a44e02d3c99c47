"""The minimisation before the dynamics: FIRE through the same domain, neighbour list and potential as the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allegro_sim.dynamics.fire import Fire, Slope
from allegro_sim.neighbors import NeighborList
from allegro_sim.output.descent import DescentWriter
from allegro_sim.output.screen import Screen
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential.interface import Potential
from allegro_sim.stops import NOTHING, ends_run
from allegro_sim.system import System
from allegro_sim.watch import Watch

_LINES_EVERY = 10  # steps; ten times as many once there are a hundred


@dataclass(frozen=True)
class Minimization:
    """Moves the atoms of a run downhill until no force is above the tolerance, or the steps are used up.

    Positions alone: the cell stays. Velocities are zero afterwards. The result is a pure function of the start, bit for
    bit, on any number of ranks.
    """

    comm: Comm
    system: System
    neighbors: NeighborList
    domain: Domain
    potential: Potential
    watch: Watch
    screen: Screen
    asked: Callable[[], float]  # the request of this rank, as `stops`
    max_steps: int
    tolerance: float  # eV/Å
    max_move: float  # Å

    def run(self, path: Path) -> float:
        """Minimise from forces that have been computed, writing the way to `path` (collective).

        Returns the request that ended it early, or NOTHING; forces are those of the last positions.

        Raises
        ------
        GuardStop : energy or forces are not finite or out of range
        StorageStop : the disk took no more
        """
        writer = None
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                writer = DescentWriter(path)
        try:
            return self._descend(writer)
        finally:
            if writer is not None:
                writer.close()

    def _descend(self, writer: DescentWriter | None) -> float:
        system, comm = self.system, self.comm
        system.velocities[: system.num_owned] = 0.0
        self.screen.message(f"minimisation to {self.tolerance:g} eV/Å, {self.max_steps} steps at most")
        self.screen.message(f"{'step':>10}{'potential_eV':>18}{'largest_force_eV_A':>22}")
        fire = Fire(self.max_move)
        for step in range(self.max_steps + 1):
            slope = fire.measure(system, comm)
            self.watch.guard.remember(system)
            if slope.faulty:
                found = f"in step {step} of the minimisation energy or forces are not finite or out of range."
                self.watch.stop(0, system, found)
            converged = slope.largest_force <= self.tolerance
            self._tell(writer, step, slope, last=converged or step == self.max_steps)
            if converged or step == self.max_steps:
                break
            fire.move(system, slope)
            if self.neighbors.must_rebuild(system, comm, request=self.asked()):
                self.domain.rebuild(system)
            else:
                self.domain.update_positions(system)
            if ends_run(self.neighbors.reduced_request):
                return self.neighbors.reduced_request
            self.potential.compute(system, self.neighbors)
            self.domain.add_forces(system)
        system.velocities[: system.num_owned] = 0.0
        if not converged:
            self.screen.warning(
                f"the minimisation is not converged: after {step} steps the largest force is "
                f"{slope.largest_force:.4g} eV/Å. The run goes on from there"
            )
        return NOTHING

    def _tell(self, writer: DescentWriter | None, step: int, slope: Slope, last: bool) -> None:
        with collective_errors(self.comm):
            if writer is not None:
                writer.write(step, slope.energy, slope.largest_force)
        if last or step % (_LINES_EVERY if step < 10 * _LINES_EVERY else 10 * _LINES_EVERY) == 0:
            self.screen.message(f"{step:>10d}{slope.energy:>18.4f}{slope.largest_force:>22.5f}")
