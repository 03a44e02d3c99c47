"""What a frame or a checkpoint needs of one rank's atoms, kept while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from allegro_sim.system import System

SNAPSHOTS = 2
"""How many are in use at a time: one that is being written, and one that waits. The next to be taken may use the memory
of the one before these two."""


class Snapshot(Protocol):
    """Arrays of the owned atoms of a rank at one step."""

    def wait(self) -> dict[str, np.ndarray]:
        """The arrays by name, (num_owned, ...), once they are there; from any thread, any number of times."""
        ...


Take = Callable[[Sequence[str]], Snapshot]
"""take(names) -> a snapshot of the atoms as they are now: "ids", and what is named of "positions", "velocities" and
"forces", all as `System` stores them."""


class HostSnapshot:
    """Copies of what a system on the host holds now: its own arrays are what the next step changes."""

    def __init__(self, system: System, names: Sequence[str]) -> None:
        self._arrays = {name: np.array(getattr(system, name)[: system.num_owned]) for name in ("ids", *names)}

    def wait(self) -> dict[str, np.ndarray]:
        return self._arrays
