"""Maxwell-Boltzmann velocities, the same for an atom on any number of ranks."""

from __future__ import annotations

import math

import numpy as np

from allegro_sim.dynamics.observables import (
    atoms_by_type,
    degrees_of_freedom,
    measure_rotation,
    reduce_kinetic,
    temperature_of,
)
from allegro_sim.kernels.cpu.philox import PURPOSE_VELOCITIES, fill_normals
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System
from allegro_sim.units import ACCELERATION, BOLTZMANN


def draw_velocities(system: System, comm: Comm, temperature_K: float, seed: int, conserves_momentum: bool) -> None:
    """Draw the owned atoms' velocities (overwrites) by (seed, atom id).

    Total momentum is removed (of two atoms or more), of a cluster, periodic in no direction, the angular momentum too;
    then all are scaled so that the temperature is exactly the one given, counted with the degrees of freedom of the
    ensemble that follows.
    """
    n = system.num_owned
    velocities = system.velocities[:n]
    fill_normals(velocities, system.ids[:n], seed, 0, PURPOSE_VELOCITIES)
    velocities *= np.sqrt(BOLTZMANN * temperature_K * ACCELERATION / system.masses)[system.types[:n], None]
    if system.num_global > 1:
        _, momentum = reduce_kinetic(system, comm)
        velocities -= momentum / float(atoms_by_type(system, comm) @ system.masses)
        rotation = measure_rotation(system, comm)
        if rotation is not None:
            # Written out, and not by a matrix product, so that an atom's numbers do not depend on its place.
            (x, y, z), (a, b, c) = (system.positions[:n] - rotation.centre).T, rotation.velocity()
            velocities -= np.stack([b * z - c * y, c * x - a * z, a * y - b * x], axis=1)
    kinetic, _ = reduce_kinetic(system, comm)
    found = temperature_of(float(kinetic.sum()), degrees_of_freedom(system, comm, conserves_momentum))
    if found > 0.0:
        velocities *= math.sqrt(temperature_K / found)
