"""Minimisation by FIRE 2.0: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), with the changes of Guénolé et al.,
Comput. Mater. Sci. 175, 109584 (2020): mixing before the move, and half a move back when it went uphill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allegro_sim.kernels.cpu.fixed_point import words_to_float

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


def scales_of(largest: Sequence[float] | np.ndarray) -> list[float]:
    """Powers of two that bring lengths, given squared, near 1, where fixed-point sums are good to 13 digits; the bits
    stay. As `scale_of` in kernels/cuda/sums.cu."""
    return [math.ldexp(1.0, -math.frexp(math.sqrt(value))[1]) for value in largest]


def slope_of(largest: Sequence[float] | np.ndarray, words: np.ndarray) -> Slope:
    """What the sums of all ranks say.

    largest : of all atoms |F|² and |v|²
    words : int64 (5, 2); words[0, 0] the number of faults, then two-word sums of the energies, eV, and of F · v, F · F
        and v · v, with F and v times their `scales_of`
    """
    force_scale, velocity_scale = scales_of(largest)
    energy, power, forces_squared, velocities_squared = (float(value) for value in words_to_float(words[1:]))
    return Slope(
        energy=energy,
        largest_force=math.sqrt(largest[0]),
        power=power / (force_scale * velocity_scale),
        forces_squared=forces_squared / force_scale**2,
        velocities_squared=velocities_squared / velocity_scale**2,
        faulty=bool(words[0, 0]),
    )


@dataclass(frozen=True)
class Move:
    """What is done to every atom in one step: the numbers of `kernels.cpu.descent.descend_atom`, in its order."""

    back: float  # sqrt(Å²/eV), how much of the way here it goes back, and then stands still; 0: not at all
    step: float  # sqrt(Å²/eV)
    kept: float  # of the velocity
    along: float  # sqrt(Å²/eV), of the force, beside the step
    longest: float  # Å


class Fire:
    """Fast inertial relaxation of the positions: what to do next. The velocities are those of a fictitious motion, in
    which all atoms have mass 1; whoever moves the atoms keeps them, and they migrate with the atoms.

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

    def next_move(self, slope: Slope) -> Move:
        """The step to take from where the slope was measured; it counts as taken."""
        power, squared, back = slope.power, slope.velocities_squared, 0.0
        if power > 0.0:
            self._downhill += 1
            if self._downhill > _STEPS_BEFORE_LONGER:
                self._step = min(self._step * _LONGER, _LONGEST_STEP)
                self._mixing *= _MIXING_DECAY
        elif squared > 0.0:  # uphill; not at rest, as at the start
            self._downhill = 0
            self._step = max(self._step * _SHORTER, _SHORTEST_STEP)
            self._mixing = _MIXING
            back = 0.5 * self._step
            power = squared = 0.0
        # |v + F dt|² of the whole system, of what is known already.
        step = self._step
        pushed = max((squared + 2.0 * step * power) + step * step * slope.forces_squared, 0.0)
        along = self._mixing * math.sqrt(pushed / slope.forces_squared) if slope.forces_squared > 0.0 else 0.0
        return Move(back, step, 1.0 - self._mixing, along, self.max_move)
