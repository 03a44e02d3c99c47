"""A tiny system, taken through all that a run does: compiles the kernels, and fills their cache on the disk.

In two parts: the neighbour list is ready in seconds, and lets a bad structure be refused before the rest compiles.
"""

from __future__ import annotations

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.dynamics.guard import Guard, Limits
from allegro_sim.dynamics.langevin import Langevin
from allegro_sim.dynamics.observables import measure, rank_sums
from allegro_sim.dynamics.velocities import draw_velocities
from allegro_sim.dynamics.velocity_verlet import VelocityVerlet
from allegro_sim.kernels.cpu.descent import descend
from allegro_sim.model.description import AllegroModel
from allegro_sim.neighbors import NeighborList, check_overlaps
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential.interface import Potential
from allegro_sim.system import System


class Rehearsal:
    """Two atoms in a periodic cell; nothing outside is changed."""

    def __init__(self, model: AllegroModel) -> None:
        edge = 0.9 * float(model.reaches.max())
        positions = np.array([[0.0, 0.0, 0.0], [0.4 * edge, 0.5 * edge, 0.5 * edge]])
        self._masses = model.masses
        self._comm = SerialComm()
        self._system = System(Cell(np.eye(3) * edge, True), model.masses, 2)
        self._system.set_owned(np.arange(2), np.zeros(2), positions, np.zeros((2, 3)))
        self._neighbors = NeighborList(model.reaches, skin=1.0)
        self._domain = Domain(self._comm, self._system.cell, self._neighbors)

    def rehearse_neighbors(self) -> None:
        """Everything up to the neighbour list."""
        self._domain.rebuild(self._system)
        check_overlaps(self._system, self._neighbors, self._comm)
        self._neighbors.count_within_cutoffs(self._system)
        self._neighbors.must_rebuild(self._system, self._comm)
        self._domain.update_positions(self._system)

    def rehearse_step(self, potential: Potential) -> None:
        """The rest of a step; after `rehearse_neighbors`."""
        system, comm = self._system, self._comm
        potential.prepare()
        integrators = (VelocityVerlet(0.1, self._masses), Langevin(0.1, self._masses, 300.0, 1.0, seed=0))
        guard = Guard(Limits(displacement=1.0))
        draw_velocities(system, comm, 300.0, 0, True)
        potential.compute(system, self._neighbors, want_virial=True)
        self._domain.add_forces(system)
        guard.remember(system)
        descend(system.positions, system.velocities, system.forces, 0.0, 0.0, 1.0, 0.0, 1.0, system.num_owned)
        for integrator in integrators:
            integrator.first_half(system, 0, measure=True)
            guard.broken(system)
            integrator.second_half(system)
            measure(rank_sums(system, integrator.kinetic_sums(system)), system.cell, comm, 3)
