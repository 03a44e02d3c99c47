"""Velocity Verlet: Newton's equations, time-reversible and symplectic (Swope et al., J. Chem. Phys. 76, 637, 1982)."""

from __future__ import annotations

import numpy as np

from allegro_sim.dynamics.observables import KineticSums, kinetic_sums
from allegro_sim.kernels.cpu.fixed_point import FORCE_SCALE
from allegro_sim.kernels.cpu.integrate import drift, kick
from allegro_sim.system import System
from allegro_sim.units import ACCELERATION


def half_kick_factors(timestep_fs: float, masses: np.ndarray) -> np.ndarray:
    """Change of velocity in half a step per fixed-point unit of force, by type: float64 (nt,), Å/fs."""
    return 0.5 * timestep_fs * ACCELERATION / FORCE_SCALE / masses


class VelocityVerlet:
    """Constant energy: v += a dt/2, x += v dt, forces, v += a dt/2. Conserves total momentum."""

    conserves_momentum = True
    has_bath = False
    heat = 0
    """There is no bath."""

    def __init__(self, timestep_fs: float, masses: np.ndarray) -> None:
        self.timestep_fs = timestep_fs
        self._factors = half_kick_factors(timestep_fs, masses)

    def first_half(self, system: System, step: int, *, measure: bool = False) -> None:
        """Half a kick and a whole drift of the owned atoms (accumulates); `measure` is of no use here."""
        kick(system.velocities, system.forces, system.types, self._factors, system.num_owned)
        drift(system.positions, system.velocities, self.timestep_fs, system.num_owned)

    def second_half(self, system: System) -> None:
        """Half a kick with the new forces (accumulates)."""
        kick(system.velocities, system.forces, system.types, self._factors, system.num_owned)

    def kinetic_sums(self, system: System) -> KineticSums:
        """Kinetic energy and momentum of this rank's atoms, from the velocities at whole steps."""
        return kinetic_sums(system)

    @property
    def device_drift(self) -> tuple[str, tuple[str | np.generic, ...]]:
        """See `Integrator`."""
        return "verlet_first_half", ("velocities", "forces", "types", "factors", np.float64(self.timestep_fs))

    @property
    def tables(self) -> dict[str, np.ndarray]:
        """See `Integrator`."""
        return {"factors": self._factors}
