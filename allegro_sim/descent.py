"""How a motion takes its atoms downhill: what a minimisation asks of it, and the way of it on a CPU.

`gpu.descent.DeviceDescent` does the same with everything on a GPU.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Protocol

import numpy as np

from allegro_sim.dynamics.fire import Move, Slope, scales_of, slope_of
from allegro_sim.kernels.cpu.descent import descend
from allegro_sim.kernels.cpu.fixed_point import sum_columns
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import Comm
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential.interface import Potential
from allegro_sim.system import System


class Descent(Protocol):
    """A step is `measure`, `move`, `settle`, `compute`, in this order; the first `measure` finds the forces of
    `Motion.start`. All methods are collective, except where they say so.

    The velocities of the motion's atoms are those of `dynamics.fire` meanwhile.
    """

    def rest(self) -> None:
        """Velocities to zero (not collective)."""
        ...

    def measure(self) -> Slope:
        """Of the whole system where it is."""
        ...

    def move(self, move: Move) -> None:
        """Every atom (not collective)."""
        ...

    def settle(self, request: float) -> float:
        """Ghosts, and where it is needed bricks and neighbour list, to where the atoms are now.

        request: what this rank is asked for from outside. Returns the largest of all ranks.
        """
        ...

    def compute(self) -> None:
        """Complete forces there."""
        ...


class HostDescent:
    """`Descent` with arrays of the host; parameters are parts of a `HostMotion`."""

    def __init__(
        self, comm: Comm, system: System, neighbors: NeighborList, domain: Domain, potential: Potential
    ) -> None:
        self._comm, self._system, self._potential = comm, system, potential
        self._neighbors, self._domain = neighbors, domain

    def rest(self) -> None:
        self._system.velocities[: self._system.num_owned] = 0.0

    def measure(self) -> Slope:
        system, comm = self._system, self._comm
        n = system.num_owned
        forces, velocities = system.owned_forces(), system.velocities[:n]
        own = [_dot(vectors, vectors).max() if n else 0.0 for vectors in (forces, velocities)]
        largest = comm.allreduce_max(np.array(own))
        force_scale, velocity_scale = scales_of(largest)
        forces, velocities = forces * force_scale, velocities * velocity_scale
        words = np.zeros((5, 2), np.int64)
        good = sum_columns(
            words[1:],
            np.stack(
                [system.energies[:n], _dot(forces, velocities), _dot(forces, forces), _dot(velocities, velocities)],
                axis=1,
            ),
        )
        words[0, 0] = len(system.bad_centres) + (not good)
        return slope_of(largest, comm.allreduce_sum(words))

    def move(self, move: Move) -> None:
        system = self._system
        descend(system.positions, system.velocities, system.forces, *astuple(move), system.num_owned)

    def settle(self, request: float) -> float:
        if self._neighbors.must_rebuild(self._system, self._comm, request=request):
            self._domain.rebuild(self._system)
        else:
            self._domain.update_positions(self._system)
        return self._neighbors.reduced_request

    def compute(self) -> None:
        self._potential.compute(self._system, self._neighbors)
        self._domain.add_forces(self._system)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Products (n,) of rows (n, 3), each from its own numbers alone."""
    return (first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]) + first[:, 2] * second[:, 2]
