"""The spatial decomposition as the loop sees it: rebuild now and then, copy positions, return forces."""

from __future__ import annotations

from allegro_sim.cell import Cell
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import Comm
from allegro_sim.parallel.decomposition import Decomposition
from allegro_sim.parallel.halo import Halo
from allegro_sim.parallel.migrate import migrate
from allegro_sim.system import System


class Domain:
    """Bricks, migration and halo of one rank, sized for one neighbour list.

    Attributes
    ----------
    decomposition : Decomposition
    halo : Halo
    neighbors : NeighborList
    """

    def __init__(self, comm: Comm, cell: Cell, neighbors: NeighborList) -> None:
        self.decomposition = Decomposition(comm, cell, neighbors.reach)
        self.halo = Halo(self.decomposition)
        self.neighbors = neighbors

    def rebuild(self, system: System) -> None:
        """Migrate atoms, make ghosts, list neighbours (collective)."""
        migrate(system, self.decomposition)
        self.halo.build(system)
        self.neighbors.build(system)

    def update_positions(self, system: System) -> None:
        """Between two rebuilds: ghosts to where their owners are now (collective)."""
        self.halo.update_positions(system)

    def add_forces(self, system: System, with_atom_virials: bool = False) -> None:
        """Forces of ghosts to their owners (collective; `Halo.add_forces`)."""
        self.halo.add_forces(system, with_atom_virials)
