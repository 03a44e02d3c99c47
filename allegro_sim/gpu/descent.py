"""Downhill on a GPU: positions, velocities, forces, lists and sums stay there, and the host waits once a step for the
slope, a hundred bytes, which it needs to say what comes next.

Forces are launched before the host knows whether the neighbour list and the potential's chunks still do: where the list
does not, the kernels return at once, and where a chunk does not, the forces are not counted. The slope says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np

from allegro_sim.dynamics.fire import Move, Slope, slope_of
from allegro_sim.gpu.arrays import to_device
from allegro_sim.gpu.bricks import DeviceBricks
from allegro_sim.parallel.comm import Comm
from allegro_sim.potential.cuda.engine import Engine

_ROWS, _LARGEST, _FLAGS = 7, 5, 6  # of the slope, see kernels/cuda/sums.cu


class DeviceDescent:
    """`descent.Descent` on a GPU.

    Parameters
    ----------
    comm : Comm
    bricks : DeviceBricks, with the atoms, the control words and the potential's status
    engine : Engine, bound to these atoms
    skin : Å, of the neighbour list
    rebuild : all that a new neighbour list takes, control words included (collective)
    """

    def __init__(
        self, comm: Comm, bricks: DeviceBricks, engine: Engine, skin: float, rebuild: Callable[[], None]
    ) -> None:
        self._comm, self._bricks, self._engine, self._rebuild = comm, bricks, engine, rebuild
        self._rows, self._executor = bricks.atoms, bricks.atoms.executor
        self._half_skin = -1.0 if skin == 0.0 else (0.5 * skin) ** 2
        self._slope = to_device(self._executor, np.zeros(2 * _ROWS, np.int64), "sums of a minimisation")

    def rest(self) -> None:
        with self._executor.working():
            self._rows.owned("velocities")[...] = 0.0

    def measure(self) -> Slope:
        while True:
            found = self._sums()
            must_rebuild, overflow = found[_FLAGS]  # of all ranks
            if must_rebuild:
                self._rebuild()
            elif overflow:
                if self._engine.overflow(self._executor.download(self._bricks.status)):  # here, and not elsewhere alone
                    self._engine.recover()
            else:
                return slope_of(found[_LARGEST].view(np.float64), self._comm.allreduce_sum(found[:_LARGEST]))
            self.compute()

    def _sums(self) -> np.ndarray:
        """The rows of the slope: sums of this rank, largest values and flags of all; the host waits."""
        rows, status = self._rows, self._bricks.status
        with self._executor.working():
            self._slope[...] = 0
        self._launch("slope_maxima", self._slope, self._bricks.control, status, rows.forces, rows.velocities)
        self._agree(self._slope)
        self._launch("slope_sums", self._slope, status, rows.energies, rows.forces, rows.velocities)
        return self._executor.download(self._slope).reshape(_ROWS, 2)

    def move(self, move: Move) -> None:
        rows = self._rows
        moved = (rows.positions, rows.velocities, rows.forces, rows.built)
        numbers = [np.float64(number) for number in (self._half_skin, *astuple(move))]
        self._launch("descend", self._bricks.control, *moved, *numbers)

    def settle(self, request: float) -> float:
        self._agree(self._bricks.control)
        self._bricks.update_positions()
        return float(self._comm.allreduce_max(np.array([request]))[0])

    def compute(self) -> None:
        self._engine.launch()
        self._bricks.add_forces()

    def _agree(self, words: Any) -> None:
        if self._comm.size > 1:
            self._bricks.transport.take_maximum(words)

    def _launch(self, kernel: str, *arguments: Any) -> None:
        owned = self._rows.num_owned
        self._executor.launch(kernel, owned, *arguments, np.int32(owned))
