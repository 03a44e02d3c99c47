"""The minimisation before the dynamics: FIRE through the same motion as the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allegro_sim.descent import Descent
from allegro_sim.dynamics.fire import Fire, Slope
from allegro_sim.motion import Motion
from allegro_sim.output.descent import DescentWriter
from allegro_sim.output.screen import Screen
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.stops import NOTHING, ends_run
from allegro_sim.watch import Watch

_LINES_EVERY = 10  # steps; ten times as many once there are a hundred


@dataclass(frozen=True)
class Minimization:
    """Moves the atoms of a run downhill until no force is above the tolerance, or the steps are used up.

    Positions alone: the cell stays. Velocities are zero afterwards. The result is a pure function of the start, bit for
    bit, on any number of ranks, and through a restart: beside the positions and FIRE's velocities, `save` is given all
    that goes on from there.
    """

    comm: Comm
    motion: Motion
    watch: Watch
    screen: Screen
    asked: Callable[[], float]  # the request of this rank, as `stops`
    save: Callable[[dict[str, Any]], None]  # write a checkpoint with this state (collective)
    save_every: int  # steps; 0: when asked alone
    max_steps: int
    tolerance: float  # eV/Å
    max_move: float  # Å

    def run(self, path: Path, state: Mapping[str, Any] | None = None) -> float:
        """Minimise from forces that have been computed, writing the way to `path` (collective).

        state : what `save` was given, to go on from there; the motion holds that checkpoint's atoms

        Returns the request that ended it early, after a checkpoint, or NOTHING; forces are those of the last positions.

        Raises
        ------
        GuardStop : energy or forces are not finite or out of range
        OutputError : the file at `path` is not that of the minimisation to be continued
        StorageStop : the disk took no more
        """
        writer = None
        fire, first, descent = Fire(self.max_move), 0, self.motion.descent()
        if state is not None:
            fire.restore(state["fire"])
            first = int(state["step"])
        else:
            descent.rest()
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                writer = DescentWriter(path, first)
        try:
            return self._descend(descent, fire, first, writer)
        finally:
            if writer is not None:
                writer.close()

    def _descend(self, descent: Descent, fire: Fire, first: int, writer: DescentWriter | None) -> float:
        self.screen.message(f"minimisation to {self.tolerance:g} eV/Å, {self.max_steps} steps at most")
        self.screen.message(f"{'step':>10}{'potential_eV':>18}{'largest_force_eV_A':>22}")
        last = max(first, self.max_steps)
        for step in range(first, last + 1):
            slope = descent.measure()
            if slope.faulty:
                atoms = self.motion.atoms()
                self.watch.guard.remember(atoms)
                found = f"in step {step} of the minimisation energy or forces are not finite or out of range."
                self.watch.stop(0, atoms, found)
            converged = slope.largest_force <= self.tolerance
            self._tell(writer, step, slope, last=converged or step == last)
            if converged or step == last:
                break
            descent.move(fire.next_move(slope))
            request = descent.settle(self.asked())
            if request != NOTHING or (self.save_every > 0 and (step + 1) % self.save_every == 0):
                self._save(fire, step + 1, writer)
            if ends_run(request):
                return request
            descent.compute()
        descent.rest()
        if not converged:
            self.screen.warning(
                f"the minimisation is not converged: after {step} steps the largest force is "
                f"{slope.largest_force:.4g} eV/Å. The run goes on from there"
            )
        return NOTHING

    def _save(self, fire: Fire, step: int, writer: DescentWriter | None) -> None:
        """A checkpoint before the forces of `step`, once all rows before it are on the disk."""
        with collective_errors(self.comm):
            if writer is not None:
                writer.sync()
        self.save({"step": step, "fire": fire.state})

    def _tell(self, writer: DescentWriter | None, step: int, slope: Slope, last: bool) -> None:
        with collective_errors(self.comm):
            if writer is not None:
                writer.write(step, slope.energy, slope.largest_force)
        if last or step % (_LINES_EVERY if step < 10 * _LINES_EVERY else 10 * _LINES_EVERY) == 0:
            self.screen.message(f"{step:>10d}{slope.energy:>18.4f}{slope.largest_force:>22.5f}")
