"""Systems with neighbour lists, for tests of potentials."""

from __future__ import annotations

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.model.description import AllegroModel
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.domain import Domain
from allegro_sim.system import System

Geometry = tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]
"""positions (N, 3), cell (3, 3) or None, pbc (3,), types (N,)"""


def make_system(model: AllegroModel, geometry: Geometry, skin: float) -> tuple[System, NeighborList]:
    """One rank's system with ghosts and neighbour list, as in a run."""
    positions, vectors, pbc, types = geometry
    cell = Cell(vectors, pbc)
    system = System(cell, model.masses, len(types))
    system.set_owned(np.arange(len(types)), types, positions, np.zeros((len(types), 3)))
    neighbors = NeighborList(model.reaches, skin)
    Domain(SerialComm(), cell, neighbors).rebuild(system)
    return system, neighbors


def pair_model_structure(neighbors: int) -> Geometry:
    """A cluster of two types so dense that its centres have about `neighbors` edges within 4 Å."""
    rng = np.random.default_rng(0)
    count = neighbors + 1
    side = int(np.ceil(count ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)[:count]
    positions = grid * (2.2 / side) + rng.uniform(-0.05, 0.05, (count, 3))
    return positions, None, np.zeros(3, bool), np.arange(count) % 2
