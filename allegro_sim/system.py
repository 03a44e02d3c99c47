"""The arrays of one rank: rows [0, num_owned) are owned atoms, [num_owned, num_local) are ghosts; capacity beyond that.

Positions are never wrapped: an atom's position is one continuous path, the same three numbers on every rank. A ghost
holds a bitwise copy of its owner's position, and `images` says which periodic copy a row stands for: the copy sits at
`positions + images @ cell`. The vector of an edge is

    r_ij = (x_j - x_i) + (images_j - images_i) @ cell

which depends on positions alone, not on ranks, on the age of the list, or on where the cell's origin is.
"""

from __future__ import annotations

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.kernels.cpu.fixed_point import forces_to_float


class System:
    """Atoms of one rank.

    Attributes (dtype, shape; C = capacity >= num_local)
    ----------------------------------------------------
    cell : Cell
    ids : int64 (C,)            global index of the atom in the input, from 0; ghosts carry their owner's
    types : int32 (C,)          index into the model's types
    positions : float64 (C, 3)  Å, unwrapped
    images : int32 (C, 3)       whole cell vectors to add; fixed between two rebuilds of the neighbour list
    forces : int64 (C, 3)       fixed point, kernels.cpu.fixed_point; ghost rows hold what is owed to their owners
    velocities : float64 (C, 3) Å/fs; owned rows only
    energies : float64 (C,)     eV, atomic energies; owned rows only
    virial_words : int64 (9, 2) two-word sum over this rank's centres of W = -dE/dstrain, eV, row-major 3x3
    atom_virials : int64 (C, 9) or None; fixed point, eV; ghost rows hold what is owed to their owners
    masses : float64 (num_types,) Da, by type
    num_owned, num_ghosts, num_global : int
    bad_centres : int64 (n,)    rows whose energy or forces were not finite or out of range at the last compute
    """

    def __init__(self, cell: Cell, masses: np.ndarray, num_global: int) -> None:
        self.cell = cell
        self.masses = np.ascontiguousarray(masses, dtype=np.float64)
        self.num_global = num_global
        self.num_owned = 0
        self.num_ghosts = 0
        self.ids = np.empty(0, np.int64)
        self.types = np.empty(0, np.int32)
        self.positions = np.empty((0, 3))
        self.images = np.empty((0, 3), np.int32)
        self.forces = np.empty((0, 3), np.int64)
        self.velocities = np.empty((0, 3))
        self.energies = np.empty(0)
        self.virial_words = np.zeros((9, 2), np.int64)
        self.atom_virials: np.ndarray | None = None
        self.bad_centres = np.empty(0, np.int64)

    @property
    def num_local(self) -> int:
        return self.num_owned + self.num_ghosts

    @property
    def capacity(self) -> int:
        return len(self.ids)

    def reserve(self, rows: int) -> None:
        """Grow every array to at least `rows` rows, with room to spare; the contents of all rows are kept."""
        if rows <= self.capacity:
            return
        rows = rows + rows // 8 + 64
        for name in ("ids", "types", "positions", "images", "forces", "velocities", "energies"):
            old = getattr(self, name)
            new = np.zeros((rows, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        if self.atom_virials is not None:
            self.atom_virials = np.zeros((rows, 9), np.int64)

    def set_owned(self, ids, types, positions, velocities) -> None:
        """Replace the owned atoms (copies); drops all ghosts. `images` become zero until the next rebuild."""
        count = len(ids)
        self.num_owned, self.num_ghosts = 0, 0
        self.reserve(count)
        self.ids[:count] = ids
        self.types[:count] = types
        self.positions[:count] = positions
        self.velocities[:count] = velocities
        self.images[:count] = 0
        self.num_owned = count

    def owned_forces(self) -> np.ndarray:
        """Forces on owned atoms, eV/Å, float64 (num_owned, 3); complete after `halo.add_forces`."""
        return forces_to_float(self.forces[: self.num_owned])
