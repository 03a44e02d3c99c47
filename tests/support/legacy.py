"""The golden files of the legacy generation: small models of allegro 0.2 and 0.3 with upstream's float64 results.

They are made by tools/make_legacy_golden.py, which says what each of them has.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from allegro_sim.model.description import AllegroModel
from allegro_sim.tools.importing.legacy import read_legacy_model
from allegro_sim.tools.importing.legacy_source import LegacySource
from allegro_sim.tools.make_legacy_golden import large_weights

FOLDER = Path(__file__).resolve().parent.parent / "data" / "golden_legacy"
MODELS = tuple(sorted(path.stem for path in FOLDER.glob("*.npz") if path.stem != "sc23_shape"))
STRUCTURES = ("triclinic", "cluster", "pair", "small_cell", "isolated")


def legacy_source(name: str) -> LegacySource:
    """A model's tensors and configuration, as the importer's readers give them."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        tensors = {key.removeprefix("tensors/"): arrays[key] for key in arrays if key.startswith("tensors/")}
        shapes = {key.removeprefix("shapes/"): tuple(arrays[key]) for key in arrays if key.startswith("shapes/")}
        tensors |= large_weights(shapes)
        metadata = {"type_names": str(arrays["type_names"])}
        return LegacySource(tensors, json.loads(str(arrays["config"])), metadata, "golden file", Path(f"{name}.npz"))


@cache
def legacy_model(name: str) -> AllegroModel:
    """The imported model."""
    return read_legacy_model(legacy_source(name), {}, [])[0]


def legacy_results(name: str, structure: str) -> dict[str, np.ndarray]:
    """A structure (positions, pbc, types, cell where there is one) and upstream's energies, forces, virial."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{structure}/")}


def legacy_structure(name: str, structure: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """positions (N, 3), cell (3, 3) or None, pbc (3,), types (N,)"""
    values = legacy_results(name, structure)
    return values["positions"], values.get("cell"), values["pbc"], values["types"]
