"""Minimisation by FIRE 2.0: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), with the changes of Guénolé et al.,
Comput. Mater. Sci. 175, 109584 (2020): mixing before the move, and half a move back when it went uphill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from allegro_sim.kernels.cpu.fixed_point import forces_to_float, sum_columns, words_to_float
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System

_FIRST_STEP, _LONGEST_STEP, _SHORTEST_STEP = 0.1, 1.0, 0.002  # sqrt(Å²/eV): all masses are 1
_MIXING = 0.25
_MIXING_DECAY = 0.99
_LONGER, _SHORTER = 1.1, 0.5
_STEPS_BEFORE_LONGER = 20


@dataclass(frozen=True)
class Slope:
    """The whole system where it is: what a step needs, and what is told. The same bits on any number of ranks."""

    energy: float  # eV
    largest_force: float  # eV/Å, length of the vector
    power: float  # F · v
    forces_squared: float  # F · F
    velocities_squared: float  # v · v
    faulty: bool  # an energy, a force or their sum is not finite or out of range


def _lengths_squared(vectors: np.ndarray) -> np.ndarray:
    return (vectors[:, 0] ** 2 + vectors[:, 1] ** 2) + vectors[:, 2] ** 2


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Products (n,) of rows (n, 3), each from its own numbers alone."""
    return (first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]) + first[:, 2] * second[:, 2]


class Fire:
    """Fast inertial relaxation of the positions. `system.velocities` holds the velocities of the fictitious motion, in
    which all atoms have mass 1; they migrate with the atoms.

    Parameters
    ----------
    max_move : Å, the longest move of an atom in one step. An atom that would move farther goes so far in its direction,
        and slows down; the others are not held back by it
    """

    def __init__(self, max_move: float) -> None:
        self.max_move = max_move
        self._step = _FIRST_STEP
        self._mixing = _MIXING
        self._downhill = 0

    @property
    def state(self) -> dict[str, float]:
        """What it knows beside the atoms; what JSON takes, bit for bit."""
        return {"step": self._step, "mixing": self._mixing, "downhill": self._downhill}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue as the one did that `state` is of."""
        self._step, self._mixing, self._downhill = state["step"], state["mixing"], int(state["downhill"])

    def measure(self, system: System, comm: Comm) -> Slope:
        """Energy, forces and power of the whole system: two reductions (collective). After `add_forces`."""
        n = system.num_owned
        forces, velocities = forces_to_float(system.forces[:n]), system.velocities[:n]
        largest = comm.allreduce_max(np.array([_lengths_squared(x).max() if n else 0.0 for x in (forces, velocities)]))
        # Powers of two bring both near 1, where the fixed-point sums are good to 13 digits; the bits stay.
        scales = [math.ldexp(1.0, -math.frexp(math.sqrt(value))[1]) for value in largest]
        forces, velocities = forces * scales[0], velocities * scales[1]
        words = np.zeros((5, 2), np.int64)
        good = sum_columns(
            words[:4],
            np.stack(
                [system.energies[:n], _dot(forces, velocities), _dot(forces, forces), _dot(velocities, velocities)],
                axis=1,
            ),
        )
        words[4, 0] = len(system.bad_centres) + (not good)
        words = comm.allreduce_sum(words)
        energy, power, forces_squared, velocities_squared = (float(value) for value in words_to_float(words[:4]))
        return Slope(
            energy=energy,
            largest_force=math.sqrt(largest[0]),
            power=power / (scales[0] * scales[1]),
            forces_squared=forces_squared / scales[0] ** 2,
            velocities_squared=velocities_squared / scales[1] ** 2,
            faulty=bool(words[4, 0]),
        )

    def move(self, system: System, slope: Slope) -> None:
        """One step of the owned atoms (accumulates), from the slope where they are. Not collective."""
        n = system.num_owned
        forces, velocities = forces_to_float(system.forces[:n]), system.velocities[:n]
        moves = np.zeros((n, 3))
        power, squared = slope.power, slope.velocities_squared
        if power > 0.0:
            self._downhill += 1
            if self._downhill > _STEPS_BEFORE_LONGER:
                self._step = min(self._step * _LONGER, _LONGEST_STEP)
                self._mixing *= _MIXING_DECAY
        elif squared > 0.0:  # uphill; not at rest, as at the start
            self._downhill = 0
            self._step = max(self._step * _SHORTER, _SHORTEST_STEP)
            self._mixing = _MIXING
            moves -= 0.5 * self._step * velocities
            velocities[:] = 0.0
            power = squared = 0.0
        # |v + F dt|² of the whole system, of what is known already.
        step = self._step
        pushed = max((squared + 2.0 * step * power) + step * step * slope.forces_squared, 0.0)
        along = self._mixing * math.sqrt(pushed / slope.forces_squared) if slope.forces_squared > 0.0 else 0.0
        velocities += step * forces
        velocities *= 1.0 - self._mixing
        velocities += along * forces
        moves += step * velocities
        lengths = np.sqrt(_lengths_squared(moves))
        far = lengths > self.max_move
        factors = self.max_move / lengths[far, None]
        moves[far] *= factors
        velocities[far] *= factors
        system.positions[:n] += moves
