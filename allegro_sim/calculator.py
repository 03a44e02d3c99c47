"""An Allegro model as an ASE calculator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from allegro_sim.evaluation import Evaluator
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.weight_file import load_model
from allegro_sim.structure import structure_of_atoms


class AllegroCalculator(Calculator):
    """ASE calculator over the potential that the program runs; one process, any number of threads, no MPI.

    Parameters
    ----------
    model : path of a weight file (`allegro-tools import` makes it), or an AllegroModel
    device : "auto", "cpu" or "cuda"
    precision : "double", "single" or "mixed"
    threads : int or None; None: as many as the cores this process may use
    types : chemical symbol -> model type, for symbols that are not the model's own names, `{"O": "Ow"}`

    Properties, in ASE's units and signs: energy, energies and free_energy (eV), forces (eV/Å), stress (eV/Å³, Voigt
    order xx yy zz yz xz xy, positive when tensile) and stresses, (N, 6): per-atom virials divided by minus the cell's
    volume, so that they add up to the stress. Stresses need a cell that is periodic in all three directions.

    Raises
    ------
    ModelFileError : the weight file is missing, damaged, of another format or of a newer version
    DeviceError : the device is not there
    StructureError : (at evaluation) an element that is not in the model, a bad cell, positions that are not finite,
        atoms at one place
    """

    implemented_properties = ["energy", "energies", "free_energy", "forces", "stress", "stresses"]  # noqa: RUF012 (as ASE)

    def __init__(
        self,
        model: str | Path | AllegroModel,
        *,
        device: str = "auto",
        precision: str = "double",
        threads: int | None = None,
        types: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        loaded = model if isinstance(model, AllegroModel) else load_model(model)
        self._types = dict(types or {})
        self._evaluator = Evaluator(loaded, device=device, precision=precision, threads=threads)

    @property
    def model(self) -> AllegroModel:
        """The model that is evaluated."""
        return self._evaluator.model

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results` for `atoms`; per-atom stresses only where `properties` asks for them."""
        super().calculate(atoms, properties, system_changes)
        wanted = set(properties or ())
        structure = structure_of_atoms(self.atoms, self.model, self._types)
        if not structure.cell.fully_periodic and (needs_cell := sorted(wanted & {"stress", "stresses"})):
            raise PropertyNotImplementedError(
                f"{needs_cell[0]} is a derivative by the strain of a periodic cell, and these atoms have "
                f"pbc={structure.cell.pbc.tolist()}: ask for energies and forces only, or set a cell and pbc=True"
            )
        result = self._evaluator.evaluate(
            structure.types, structure.positions, structure.cell, want_atom_virials="stresses" in wanted
        )
        self.results = {
            "energy": result.energy,
            "free_energy": result.energy,
            "energies": result.energies,
            "forces": result.forces,
        }
        if result.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(result.stress)
        if result.stress is not None and result.atom_virials is not None:
            stresses = -result.atom_virials / structure.cell.volume
            self.results["stresses"] = np.array([full_3x3_to_voigt_6_stress(stress) for stress in stresses]).reshape(
                -1, 6
            )
