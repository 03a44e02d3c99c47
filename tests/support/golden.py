"""The golden files: small models of upstream with upstream's float64 results (made by tools/make_golden.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from allegro_sim.model.description import AllegroModel
from allegro_sim.tools.golden_models import LENNARD_JONES
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.source import open_source

FOLDER = Path(__file__).resolve().parent.parent / "data" / "golden"
MODELS = tuple(sorted(path.stem for path in FOLDER.glob("*.ckpt")))
STRUCTURES = ("triclinic", "small_cell", "cluster", "pair", "isolated")


@dataclass(frozen=True)
class GoldenStructure:
    """A structure (Å) and upstream's results (eV, eV/Å); virial = -dE/dstrain."""

    positions: np.ndarray
    cell: np.ndarray | None
    pbc: np.ndarray
    types: np.ndarray
    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


@cache
def golden_model(name: str) -> AllegroModel:
    """The model, imported from its checkpoint."""
    return build_model(open_source(FOLDER / f"{name}.ckpt"), mend_lennard_jones=name in LENNARD_JONES).model


def golden_structure(name: str, structure: str) -> GoldenStructure:
    """One of the five structures of a model."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        fields = ("positions", "pbc", "types", "energies", "forces", "virial")
        values = {field: arrays[f"{structure}/{field}"] for field in fields}
        cell = arrays.get(f"{structure}/cell")
        return GoldenStructure(cell=cell, energy=float(arrays[f"{structure}/energy"]), **values)


def assert_agrees(expected: Mapping[str, np.ndarray] | GoldenStructure, *, energies, forces, virial) -> None:
    """Hold results to the project's bounds against upstream in float64, relative to the largest value or to one."""
    for name, found, bound in (("energies", energies, 1e-10), ("forces", forces, 1e-9), ("virial", virial, 1e-9)):
        wanted = expected[name] if isinstance(expected, Mapping) else getattr(expected, name)
        assert found.shape == wanted.shape, name
        assert np.abs(found - wanted).max() <= bound * max(1.0, np.abs(wanted).max()), name
