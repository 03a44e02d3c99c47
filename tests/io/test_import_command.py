"""`allegro-tools import`, `info` and `check`: what they write, print and refuse."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.golden import FOLDER, golden_model

from allegro_sim.model.consistency import named_arrays
from allegro_sim.model.self_check import check_structures
from allegro_sim.model.weight_file import load_model, read_provenance, read_self_checks, save_model
from allegro_sim.tools.main import main

CHECKPOINT = FOLDER / "pair_cutoffs_trainable_bessel.ckpt"


@pytest.fixture
def weight_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "model.h5"
    assert main(["import", str(CHECKPOINT), "-o", str(path), "--licence", "CC0, ours"]) == 0
    capsys.readouterr()
    return path


def test_import_stores_the_model_its_origin_and_self_checks(weight_file: Path) -> None:
    model, expected = load_model(weight_file), golden_model(CHECKPOINT.stem)
    for (name, array, _), (_, wanted, _) in zip(named_arrays(model), named_arrays(expected), strict=True):
        np.testing.assert_array_equal(array, wanted, err_msg=name)
    provenance = read_provenance(weight_file)
    assert provenance["source_file"] == CHECKPOINT.name and len(provenance["source_sha256"]) == 64
    assert json.loads(provenance["upstream_versions"])["nequip"] and provenance["licence"] == "CC0, ours"
    assert all(word in provenance["summary"] for word in ("types", "cutoffs", "weights", "training units", "shifts"))
    checks = read_self_checks(weight_file)
    assert len(checks) >= 2 and all(check.source.startswith("reference") for check in checks)
    assert len(checks) == len(check_structures(model))


def test_import_prints_what_a_chemist_can_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(CHECKPOINT), "-o", str(tmp_path / "m.h5")]) == 0
    printed = capsys.readouterr().out
    for fact in ("H, C, O", "H 2.4, C 2, O 4", "l_max 2, 2 layers, 8 scalar", "multiply-adds", "2 structures", "m.h5"):
        assert fact in printed, fact


def test_info_names_what_is_summed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("scatter_so3", True), ("so3", False)):
        save_model(tmp_path / "model.h5", golden_model(name), {}, [])
        assert main(["info", str(tmp_path / "model.h5")]) == 0
        found = "environment       sum of the tensor features (scatter_features)" in capsys.readouterr().out
        assert found == said


def test_info_names_repeated_irreps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.h5"
    save_model(path, golden_model("repeated_everywhere"), {}, [])
    assert main(["info", str(path)]) == 0
    assert "further irreps    1o (harmonics), 0e 1o 1e 1e (tensors)" in capsys.readouterr().out


def test_import_overwrites_only_when_told(weight_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = weight_file.read_bytes()
    assert main(["import", str(CHECKPOINT), "-o", str(weight_file)]) == 2
    assert "--overwrite" in capsys.readouterr().err and weight_file.read_bytes() == before
    assert main(["import", str(CHECKPOINT), "-o", str(weight_file), "--overwrite"]) == 0


def test_import_of_a_bad_file_is_one_message_and_writes_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(CHECKPOINT.read_bytes()[:5000])
    command = [sys.executable, "-m", "allegro_sim.tools.main", "import", str(bad), "-o", str(tmp_path / "model.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert str(bad) in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [bad]


def test_an_upstream_interpreter_that_cannot_start_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "model.h5"
    arguments = ["import", str(CHECKPOINT), "-o", str(output)]
    assert main([*arguments, "--upstream-python", str(tmp_path / "python")]) == 2
    assert "--upstream-python" in capsys.readouterr().err and not output.exists()
    without = [*arguments, "--upstream-python", sys.executable]
    if subprocess.run([sys.executable, "-c", "import nequip"], capture_output=True).returncode:
        assert main(without) == 2
        assert "No module named" in capsys.readouterr().err and not output.exists()


def test_import_loads_neither_torch_nor_mpi(tmp_path: Path) -> None:
    script = (
        "import sys; from allegro_sim.tools.main import main; "
        f"code = main(['import', {str(CHECKPOINT)!r}, '-o', {str(tmp_path / 'm.h5')!r}]); "
        "assert code == 0 and not {'torch', 'nequip', 'mpi4py.MPI', 'allegro_sim.tools.convert'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_info_as_json_has_the_stable_keys(weight_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(weight_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["type_names"] == ["H", "C", "O"] and found["generation"] == "current"
    assert found["cutoffs"] == [[2.4, 2.0, 4.0], [4.0, 4.0, 4.0], [3.1, 3.1, 3.1]]
    assert found["num_weights"] == int(read_provenance(weight_file)["num_weights_upstream"])
    assert found["provenance"]["licence"] == "CC0, ours" and found["warnings"] == []


def test_info_warns_of_activations_that_jump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.h5"
    assert main(["import", str(FOLDER / "sigmoid_softplus.ckpt"), "-o", str(path)]) == 0
    assert "warning: the activation sigmoid" in capsys.readouterr().out
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "warning: the activation sigmoid" in printed and "warning: the activation softplus" in printed


def test_a_run_warns_of_activations_that_jump(tmp_path: Path, repository: Path) -> None:
    model, settings = tmp_path / "model.h5", tmp_path / "input.toml"
    assert main(["import", str(FOLDER / "sigmoid_softplus.ckpt"), "-o", str(model)]) == 0
    settings.write_text(
        f"""
        [structure]
        file = "{repository / "tests" / "data" / "water24.xyz"}"
        [model]
        file = "{model}"
        [dynamics]
        ensemble = "nve"
        temperature_K = 10.0
        [run]
        steps = 1
        timestep_fs = 0.1
        [output]
        directory = "{tmp_path / "results"}"
        """
    )
    command = [sys.executable, "-m", "allegro_sim", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "the activation sigmoid is not 0 at 0" in done.stdout


def test_check_passes_for_a_sound_model(weight_file: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(weight_file), "--precision", precision]) == 0
    assert "all within bounds" in capsys.readouterr().out
    assert main(["check", str(weight_file), "--precision", precision, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and {row["quantity"] for row in found["deviations"]} >= {"energy", "virial"}


def test_check_exits_with_1_when_a_bound_is_broken(weight_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, checks = load_model(weight_file), read_self_checks(weight_file)
    wrong = dataclasses.replace(checks[1], forces=checks[1].forces + 1e-6)
    save_model(weight_file, model, {}, [checks[0], wrong])
    assert main(["check", str(weight_file)]) == 1
    assert "BROKEN" in capsys.readouterr().out
    save_model(weight_file, model, {}, [])
    assert main(["check", str(weight_file)]) == 2
    assert "no self-checks" in capsys.readouterr().err


def test_bundled_models_pass_their_self_checks(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("water/water.h5", "dhfr/bio.h5"):
        assert main(["check", str(inputs / path)]) == 0
        assert "upstream (allegro" in capsys.readouterr().out
        assert "licence" in read_provenance(inputs / path)
