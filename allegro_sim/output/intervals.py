"""At which steps what is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Due:
    """What is written at a step."""

    trajectory: bool
    thermo: bool
    checkpoint: bool

    @property
    def observables(self) -> bool:
        """Energies, temperature and pressure are needed: for the thermo row, or beside the frame."""
        return self.thermo or self.trajectory

    def with_checkpoint(self) -> Due:
        """The same, and a checkpoint."""
        return Due(self.trajectory, self.thermo, True)

    def __bool__(self) -> bool:
        return self.trajectory or self.thermo or self.checkpoint


@dataclass(frozen=True)
class Intervals:
    """Intervals in steps, from step 0; everything is written at the last step of the run, whatever they are.

    With 0: no trajectory at all; thermodynamics or a checkpoint of step 0 and the last step only.
    """

    last_step: int
    trajectory: int
    thermo: int
    checkpoint: int

    @property
    def _all(self) -> tuple[int, int, int]:
        return self.trajectory, self.thermo, self.checkpoint

    def due(self, step: int) -> Due:
        """What is written at this step."""
        trajectory, thermo, checkpoint = (
            step == self.last_step or (every > 0 and step % every == 0) for every in self._all
        )
        return Due(trajectory and self.trajectory > 0, thermo or step == 0, checkpoint or step == 0)

    def next_due(self, step: int) -> int:
        """The first step after `step` at which something is written; at the latest the last of the run."""
        return min([self.last_step, *((step // every + 1) * every for every in self._all if every > 0)])
