"""The golden files of the legacy generation: small models of allegro 0.2 and 0.3 with upstream's float64 results.

They are made by tools/make_legacy_golden.py, which says what each of them has.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from allegro_sim.model.description import AllegroModel, Mlp
from allegro_sim.tools.importing.legacy import read_legacy_model
from allegro_sim.tools.importing.legacy_source import LegacySource
from allegro_sim.tools.make_legacy_golden import large_weights

FOLDER = Path(__file__).resolve().parent.parent / "data" / "golden_legacy"
MODELS = tuple(sorted(path.stem for path in FOLDER.glob("*.npz") if path.stem != "sc23_shape"))
STRUCTURES = ("triclinic", "cluster", "pair", "small_cell", "isolated")


class StoredArray:
    """An array in the place of a tensor in a file (`tools.importing.unpickle.Tensor`)."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype.str[1:]

    def numpy(self, dtype: type[np.floating] | None = None) -> np.ndarray:
        return np.array(self._array, dtype if self.dtype.startswith("f") else None)


def legacy_source(name: str) -> LegacySource:
    """A model's tensors and configuration, as the importer's readers give them."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        tensors = {key.removeprefix("tensors/"): arrays[key] for key in arrays if key.startswith("tensors/")}
        shapes = {key.removeprefix("shapes/"): tuple(arrays[key]) for key in arrays if key.startswith("shapes/")}
        tensors |= large_weights(shapes)
        metadata = {"type_names": str(arrays["type_names"])}
        stored = {key: StoredArray(array) for key, array in tensors.items()}
        return LegacySource(stored, json.loads(str(arrays["config"])), metadata, "golden file", Path(f"{name}.npz"))


@cache
def legacy_model(name: str) -> AllegroModel:
    """The imported model."""
    return read_legacy_model(legacy_source(name), {}, [], mend_lennard_jones=name == "lj_fancy")[0]


@cache
def resized_model(name: str, *, channels: int, scalars: int = 16, hidden: int = 16, seed: int = 0) -> AllegroModel:
    """The options of a golden model with other widths and random weights; every MLP has one hidden layer."""
    model, rng = legacy_model(name), np.random.default_rng(seed)
    degrees, slots = model.l_max + 1, model.environment_weight_irreps

    def linear(size_in: int, size_out: int, gain: float = 1.0) -> np.ndarray:
        return gain * rng.standard_normal((size_in, size_out)) / np.sqrt(size_in)

    def mlp(size_in: int, size_out: int) -> Mlp:
        return Mlp((linear(size_in, hidden), linear(hidden, size_out, np.sqrt(2.0))), "silu")

    def mixing(wanted: np.ndarray | None, count: int) -> np.ndarray | None:
        scale = np.sqrt(channels)
        return None if wanted is None else rng.standard_normal((count, channels, channels)) / scale

    layers = []
    for k, layer in enumerate(model.layers):
        paths = len(layer.paths)
        weights = np.ones((channels, paths)) if layer.separate_paths else rng.standard_normal((channels, paths))
        taken = len(model.latent_inputs[k]) * scalars
        layers.append(
            replace(
                layer,
                path_weights=weights,
                latent=mlp(taken + channels * layer.num_invariants, scalars),
                environment_mlp=mlp(scalars, channels * slots * (2 if k == 0 else 1)),
                environment_mix=mixing(layer.environment_mix, degrees),
                mix_in=mixing(layer.mix_in, paths),
                mix_out=mixing(layer.mix_out, paths),
            )
        )
    return replace(
        model,
        num_tensor_features=channels,
        num_scalar_features=scalars,
        embed_mlp=mlp(model.embed_mlp.weights[0].shape[0], scalars),
        tensor_linear=np.zeros((scalars, 0)),
        first_projection=np.zeros((scalars, 0)),
        layers=tuple(layers),
        readout=mlp(scalars, 1),
    )


def legacy_results(name: str, structure: str) -> dict[str, np.ndarray]:
    """A structure (positions, pbc, types, cell where there is one) and upstream's energies, forces, virial."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{structure}/")}


def legacy_structure(name: str, structure: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """positions (N, 3), cell (3, 3) or None, pbc (3,), types (N,)"""
    values = legacy_results(name, structure)
    return values["positions"], values.get("cell"), values["pbc"], values["types"]
