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
from allegro_sim.tools.importing.legacy_source import LegacySource
from allegro_sim.tools.importing.self_checks import run_script
from allegro_sim.tools.importing.source import open_any, open_source
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


def test_the_torchscript_model_of_cp2k_gives_its_published_energy(checkpoints: Path) -> None:
    folder = checkpoints / "cp2k_waterscan"
    model = load(folder / "waterscan-allegro0.8.0.nequip.pth")
    golden = np.load(folder / "waterscan_golden.npz")
    types = np.array([model.atomic_numbers.tolist().index(number) for number in golden["numbers"]])
    found = evaluate_structure(model, golden["pos"], golden["cell"], np.ones(3, bool), types)
    volume = abs(np.linalg.det(golden["cell"]))
    expected = {"energies": golden["energies"], "forces": golden["forces"], "virial": -golden["stress"] * volume}
    assert_agrees(expected, energies=found.energies, forces=found.forces, virial=found.virial)
    published = -550.634583715432086 * 27.21138386  # eV; CP2K holds its own results to 1e-7 Ha
    assert abs(found.energy - published) < 1e-7 * 27.2


def test_every_legacy_file_is_opened_and_none_as_the_current_generation(checkpoints: Path) -> None:
    files = [*(checkpoints / "legacy").glob("*.pth"), checkpoints / "legacy" / "training_folder_020"]
    assert len(files) >= 9
    for path in files:
        source = open_any(path)
        assert isinstance(source, LegacySource) and source.metadata["type_names"] and source.foreign_names == (), path
        assert {"allegro.latents.0._forward._weight_0", "scale_by"} <= set(source.tensors)
        with pytest.raises(CheckpointImportError, match="legacy"):
            open_source(path)


@pytest.fixture(scope="module")
def upstream() -> Path:
    python = os.environ.get("ALLEGRO_UPSTREAM_PYTHON")
    if not python:
        pytest.skip("needs ALLEGRO_UPSTREAM_PYTHON, an interpreter with nequip-allegro")
    return Path(python)


def test_self_checks_come_from_upstream_where_it_is_installed(upstream: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.h5"
    for name, extra in (
        ("zbl_metal", []),
        ("l1_three_layers_float32_ema", ["--raw-weights"]),
        ("lj_repulsive_only", ["--mend-lennard-jones"]),
    ):
        arguments = ["import", str(FOLDER / f"{name}.ckpt"), "-o", str(output), "--overwrite"]
        assert main([*arguments, "--upstream-python", str(upstream), *extra]) == 0
        assert all(check.source.startswith("upstream") for check in read_self_checks(output))


def test_packages_and_torchscript_of_the_installed_version_are_read(upstream: Path, tmp_path: Path) -> None:
    """The TorchScript file with upstream's code inside, as they are handed around."""
    name = "pairwise_12"
    config = open_source(FOLDER / f"{name}.ckpt").full_config()
    expected = load(FOLDER / f"{name}.ckpt")
    for verb, ending in (("package", ".nequip.zip"), ("script", ".nequip.pth")):
        path = tmp_path / f"model{ending}"
        job = {"checkpoint": str(FOLDER / f"{name}.ckpt"), "config": config, "output": str(path)}
        run_script(upstream, verb, job, tmp_path)
        for (array_name, found, _), (_, wanted, _) in zip(
            named_arrays(load(path)), named_arrays(expected), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=4e-7, err_msg=array_name)  # a float32 number of neighbours
