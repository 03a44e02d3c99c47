"""What every potential offers to the loop."""

from __future__ import annotations

from typing import Protocol

from allegro_sim.neighbors import NeighborList
from allegro_sim.system import System


class Potential(Protocol):
    """Energies, forces and virials of a system, from its positions alone."""

    device: str  # "cpu"
    precision: str  # "double", "single" or "mixed"

    @property
    def description(self) -> str:
        """For the banner: how products are made, threads, chunk size."""
        ...

    def prepare(self) -> None:
        """Compile or load the kernels; afterwards `compute` does not compile."""
        ...

    def compute(
        self, system: System, neighbors: NeighborList, *, want_virial: bool = False, want_atom_virials: bool = False
    ) -> None:
        """Evaluate all owned centres (overwrites).

        Sets `system.energies` (owned), `system.forces` (owned and ghosts; integers, to be added up by the halo),
        `system.virial_words` if wanted, `system.atom_virials` if wanted, and `system.bad_centres` (normally empty).
        """
        ...
