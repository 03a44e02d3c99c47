"""Energy, forces and virials of one structure: one rank through the whole machinery that a run uses.

The same decomposition, halo, neighbour list and potential as in `simulation.py`, so the numbers are bit for bit those
of a run on any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.errors import StructureError
from allegro_sim.kernels.cpu.fixed_point import forces_to_float, sum_columns, words_to_float
from allegro_sim.model.description import AllegroModel
from allegro_sim.neighbors import NeighborList, check_overlaps
from allegro_sim.parallel.collect import gather_by_id
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential import create_potential
from allegro_sim.system import System

if TYPE_CHECKING:
    from allegro_sim.structure import Structure


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure of N atoms, in the order they were given.

    Attributes
    ----------
    energy : float, eV
    energies : float64 (N,), eV, atomic energies
    forces : float64 (N, 3), eV/Å
    virial : float64 (3, 3), eV, symmetric: W = -dE/dstrain
    stress : float64 (3, 3), eV/Å³: +dE/dstrain / volume; None without a cell periodic in all directions
    atom_virials : float64 (N, 3, 3), eV, or None if not asked for: W_j = -sum_i r_ij (x) dE_i/dr_ij, given to the
        neighbour j (Fan et al., Phys. Rev. B 92, 094301, 2015); not symmetric one by one
    num_edges : int, pairs (centre, neighbour) within their cutoffs
    """

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    stress: np.ndarray | None
    atom_virials: np.ndarray | None
    num_edges: int


class Evaluator:
    """A model made ready for repeated evaluations; potential and buffers are kept between calls.

    Parameters
    ----------
    model : AllegroModel
    device : "auto", "cpu" or "cuda"
    precision : "double", "single" or "mixed"
    threads : int or None; None: as many as the cores this process may use

    Raises
    ------
    DeviceError : the device is not there
    """

    def __init__(
        self, model: AllegroModel, *, device: str = "auto", precision: str = "double", threads: int | None = None
    ) -> None:
        self.model = model
        self.potential = create_potential(model, device=device, precision=precision, threads=threads)
        self.potential.prepare()
        self._comm = SerialComm()
        # Positions may be anything at the next call: a skin would buy nothing.
        self._neighbors = NeighborList(model.reaches, skin=0.0)

    def evaluate(
        self, types: np.ndarray, positions: np.ndarray, cell: Cell, *, want_atom_virials: bool = False
    ) -> Evaluation:
        """Evaluate one structure.

        types: int (N,), indices into the model's types; positions: (N, 3), Å, anywhere, also outside the cell.

        Raises
        ------
        StructureError : positions that are not finite, atoms at one place, or forces out of range
        """
        positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
        count = len(positions)
        if not np.isfinite(positions).all():
            atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
            raise StructureError(
                f"the position of atom {atom} (counted from 0) is not finite: {positions[atom].tolist()}; correct it"
            )
        system = System(cell, self.model.masses, count)
        system.set_owned(np.arange(count), types, positions, np.zeros((count, 3)))
        domain = Domain(self._comm, cell, self._neighbors)
        domain.rebuild(system)
        check_overlaps(system, self._neighbors, self._comm)
        self.potential.compute(system, self._neighbors, want_virial=True, want_atom_virials=want_atom_virials)
        domain.add_forces(system, with_atom_virials=want_atom_virials)
        if len(system.bad_centres):
            atoms = np.sort(system.ids[system.bad_centres])[:5].tolist()
            raise StructureError(
                f"energy or forces at atoms {atoms} (counted from 0) are not finite or beyond the range of 4e6 eV/Å: "
                "atoms are far too close, or the model's weights are damaged (see `allegro-tools check`)"
            )
        return self._collect(system, want_atom_virials)

    def _collect(self, system: System, want_atom_virials: bool) -> Evaluation:
        names = ["energies", "forces", *(["atom_virials"] if want_atom_virials else [])]
        arrays = gather_by_id(self._comm, system, names)
        assert arrays is not None  # one rank, which is the root
        energies = arrays["energies"]
        words = np.zeros((1, 2), np.int64)
        sum_columns(words, energies[:, None])
        virial = words_to_float(system.virial_words).reshape(3, 3)
        virial = 0.5 * (virial + virial.T)
        cell = system.cell
        atom_virials = forces_to_float(arrays["atom_virials"]).reshape(-1, 3, 3) if want_atom_virials else None
        return Evaluation(
            energy=float(words_to_float(words)[0]),
            energies=energies,
            forces=forces_to_float(arrays["forces"]),
            virial=virial,
            stress=-virial / cell.volume if cell.fully_periodic else None,
            atom_virials=atom_virials,
            num_edges=self._neighbors.count_within_cutoffs(system),
        )


def evaluate(
    model: AllegroModel,
    structure: Structure,
    *,
    device: str = "auto",
    precision: str = "double",
    threads: int | None = None,
    want_atom_virials: bool = False,
) -> Evaluation:
    """Evaluate one structure once; parameters and errors as for `Evaluator`."""
    evaluator = Evaluator(model, device=device, precision=precision, threads=threads)
    return evaluator.evaluate(structure.types, structure.positions, structure.cell, want_atom_virials=want_atom_virials)
