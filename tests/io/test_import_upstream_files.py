"""Extra: real and random-weight checkpoints of upstream in ../shared reproduce upstream's results."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.golden import FOLDER, assert_agrees

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.consistency import named_arrays
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.model.weight_file import read_self_checks
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.source import open_source
from allegro_sim.tools.main import main

TRAINED = {
    "water_pbe0ts/water.ckpt": "water_pbe0ts/golden.npz",
    "water_pbe0ts/water_short_cutoffs.ckpt": "water_pbe0ts/water_short_cutoffs_golden.npz",
    "bio_gfn2/bio.ckpt": "bio_gfn2/golden.npz",
}


@pytest.fixture(scope="module")
def checkpoints(shared: Path) -> Path:
    folder = shared / "checkpoints"
    if not folder.is_dir():
        pytest.skip("needs ../shared/checkpoints")
    return folder


def load(path: Path) -> AllegroModel:
    return build_model(open_source(path)).model


@pytest.mark.parametrize("name", ["m00", "m10", "m18", "m26", "m29", "m33", "m45", "m48"])
def test_random_models_agree_with_upstream(name: str, checkpoints: Path) -> None:
    model = load(checkpoints / "zoo" / name / "model.ckpt")
    golden = np.load(checkpoints / "zoo" / name / "golden.npz")
    for kind in sorted({key.split("/")[0] for key in golden}):
        expected = {key.split("/")[1]: golden[key] for key in golden if key.startswith(kind + "/")}
        found = evaluate_structure(model, expected["pos"], expected.get("cell"), expected["pbc"], expected["types"])
        if model.trained_dtype == "float32":  # upstream's results are of float32 there: six digits
            assert np.abs(found.forces - expected["forces"]).max() < 2e-6 * max(1, np.abs(expected["forces"]).max())
        else:
            assert_agrees(expected, energies=found.energies, forces=found.forces, virial=found.virial)


@pytest.mark.parametrize("checkpoint", TRAINED)
def test_trained_models_agree_with_upstream(checkpoint: str, checkpoints: Path) -> None:
    model = load(checkpoints / checkpoint)
    golden = np.load(checkpoints / TRAINED[checkpoint])
    types = np.array([model.atomic_numbers.tolist().index(number) for number in golden["0/numbers"]])
    cell = golden.get("0/cell")
    found = evaluate_structure(model, golden["0/pos"], cell, np.full(3, cell is not None), types)
    expected = {name: golden[f"0/f64/{name}"] for name in ("forces", "virial")}
    expected["energies"] = golden["0/f64/atomic_energy"]
    assert_agrees(expected, energies=found.energies, forces=found.forces, virial=found.virial)


@pytest.mark.parametrize("stem", ["water_pbe0ts/water", "zoo/m00/model"])
def test_package_and_checkpoint_give_the_same_model(stem: str, checkpoints: Path) -> None:
    package, checkpoint = (load(checkpoints / f"{stem}{ending}") for ending in (".nequip.zip", ".ckpt"))
    for (name, found, _), (_, expected, _) in zip(named_arrays(package), named_arrays(checkpoint), strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert package.hyperparameters == checkpoint.hyperparameters
    assert package.type_names == checkpoint.type_names and package.parity == checkpoint.parity


def test_files_of_other_generations_and_kinds_are_named(checkpoints: Path) -> None:
    files = {path: "legacy" for path in (checkpoints / "legacy").rglob("*.pth")}
    files |= {path: "TorchScript" for path in (checkpoints / "cp2k_waterscan").glob("*.pth")}
    assert files
    for path, word in files.items():
        with pytest.raises(CheckpointImportError, match=word):
            open_source(path)


def test_self_checks_come_from_upstream_where_it_is_installed(tmp_path: Path) -> None:
    python = os.environ.get("ALLEGRO_UPSTREAM_PYTHON")
    if not python:
        pytest.skip("needs ALLEGRO_UPSTREAM_PYTHON, an interpreter with nequip-allegro")
    output = tmp_path / "model.h5"
    for name, extra in (("zbl_metal", []), ("l1_three_layers_float32_ema", ["--raw-weights"])):
        arguments = [
            "import",
            str(FOLDER / f"{name}.ckpt"),
            "-o",
            str(output),
            "--overwrite",
            "--upstream-python",
            python,
        ]
        assert main([*arguments, *extra]) == 0
        assert all(check.source.startswith("upstream") for check in read_self_checks(output))
