"""Langevin dynamics by BAOAB: Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)."""

from __future__ import annotations

import math

import numpy as np

from allegro_sim.dynamics.observables import KineticSums, kinetic_sums, with_bath
from allegro_sim.dynamics.velocity_verlet import half_kick_factors
from allegro_sim.kernels.cpu.fixed_point import words_to_integer
from allegro_sim.kernels.cpu.integrate import kick, langevin_drift
from allegro_sim.system import System
from allegro_sim.units import ACCELERATION, BOLTZMANN, KINETIC


class Langevin:
    """Constant temperature: half a kick (B), half a drift (A), friction and noise (O), half a drift (A), half a kick.

    The noise of an atom at a step is a function of (seed, step, atom id) alone. Total momentum is not conserved.
    For a stiff mode of frequency w BAOAB samples the momenta between B and O exactly, and those at whole steps cold by
    (w dt)²/4, so the kinetic energy is taken between B and O of the step that led here; at the start, from whole steps.

    What O changed the kinetic energy by is the heat of the bath. The energy at whole steps less all heat so far is
    conserved as far as velocity Verlet conserves energy: it drifts where the time step is too long (Bussi and
    Parrinello, Phys. Rev. E 75, 056707, 2007; Sivak, Chodera and Crooks, Phys. Rev. X 3, 011007, 2013).

    Attributes
    ----------
    heat : what the bath has given to this rank's atoms so far, in units of 2^-44 eV; only the sum over ranks means
        anything
    """

    conserves_momentum = False
    has_bath = True

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
        self._masses = np.ascontiguousarray(masses, dtype=np.float64)
        self._measured: KineticSums | None = None
        self._heat_words = np.zeros(2, np.int64)
        self._heat_good = True
        self.heat = 0

    def first_half(self, system: System, step: int, *, measure: bool = False) -> None:
        """B A O A of step `step` (accumulates). `measure`: keep the kinetic energy between B and O."""
        kick(system.velocities, system.forces, system.types, self._factors, system.num_owned)
        self._measured = kinetic_sums(system) if measure else None
        good = langevin_drift(
            self._heat_words,
            system.positions,
            system.velocities,
            system.types,
            system.ids,
            0.5 * self.timestep_fs,
            self._decay,
            self._noises,
            self._masses,
            KINETIC,
            self.seed,
            step,
            system.num_owned,
        )
        self.heat += words_to_integer(self._heat_words)
        self._heat_good = self._heat_good and bool(good)

    def second_half(self, system: System) -> None:
        """B with the new forces (accumulates)."""
        kick(system.velocities, system.forces, system.types, self._factors, system.num_owned)

    def kinetic_sums(self, system: System) -> KineticSums:
        """Kinetic energy and momentum of this rank's atoms, between B and O where the last step measured them."""
        whole = kinetic_sums(system)
        taken = whole if self._measured is None else self._measured
        return with_bath(self, taken, whole, self.heat, self._heat_good)

    @property
    def device_drift(self) -> tuple[str, tuple[str | np.generic, ...]]:
        """See `Integrator`."""
        numbers = (np.float64(0.5 * self.timestep_fs), np.float64(self._decay), np.float64(KINETIC))
        arrays = ("heat", "velocities", "types", "ids", "noises", "masses")
        return "langevin_drift", (*arrays, *numbers, np.int64(self.seed))

    @property
    def tables(self) -> dict[str, np.ndarray]:
        """See `Integrator`."""
        return {"factors": self._factors, "noises": self._noises, "masses": self._masses}
