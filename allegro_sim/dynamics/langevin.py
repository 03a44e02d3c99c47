"""Langevin dynamics by BAOAB: Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)."""

from __future__ import annotations

import math

import numpy as np

from allegro_sim.dynamics.observables import KineticSums, kinetic_sums
from allegro_sim.dynamics.velocity_verlet import half_kick_factors
from allegro_sim.kernels.cpu.integrate import kick, langevin_drift
from allegro_sim.system import System
from allegro_sim.units import ACCELERATION, BOLTZMANN


class Langevin:
    """Constant temperature: half a kick (B), half a drift (A), friction and noise (O), half a drift (A), half a kick.

    The noise of an atom at a step is a function of (seed, step, atom id) alone. Total momentum is not conserved.
    For a stiff mode of frequency w BAOAB samples the momenta between B and O exactly, and those at whole steps cold by
    (w dt)²/4, so the kinetic energy is taken between B and O of the step that led here; at the start, from whole steps.
    """

    conserves_momentum = False

    def __init__(
        self, timestep_fs: float, masses: np.ndarray, temperature_K: float, friction_per_ps: float, seed: int
    ) -> None:
        self.timestep_fs = timestep_fs
        self.seed = seed
        self._factors = half_kick_factors(timestep_fs, masses)
        exponent = friction_per_ps * 1.0e-3 * timestep_fs
        self._decay = math.exp(-exponent)
        # 1 - exp(-2 x) without cancellation where friction is small.
        self._noises = np.sqrt(-math.expm1(-2.0 * exponent) * BOLTZMANN * temperature_K * ACCELERATION / masses)
        self._measured: KineticSums | None = None

    def first_half(self, system: System, step: int, *, measure: bool = False) -> None:
        """B A O A of step `step` (accumulates). `measure`: keep the kinetic energy between B and O."""
        kick(system.velocities, system.forces, system.types, self._factors, system.num_owned)
        self._measured = kinetic_sums(system) if measure else None
        langevin_drift(
            system.positions,
            system.velocities,
            system.types,
            system.ids,
            0.5 * self.timestep_fs,
            self._decay,
            self._noises,
            self.seed,
            step,
            system.num_owned,
        )

    def second_half(self, system: System) -> None:
        """B with the new forces (accumulates)."""
        kick(system.velocities, system.forces, system.types, self._factors, system.num_owned)

    def kinetic_sums(self, system: System) -> KineticSums:
        """Kinetic energy and momentum of this rank's atoms, between B and O where the last step measured them."""
        return kinetic_sums(system) if self._measured is None else self._measured
