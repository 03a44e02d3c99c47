"""`allegro-tools evaluate`: data sets, units and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import pytest
from support.random_models import random_model, random_structure

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.weight_file import save_model
from allegro_sim.tools.main import main


@pytest.fixture(scope="module")
def model():
    return random_model(8, zbl=True)


@pytest.fixture
def files(model, tmp_path: Path) -> tuple[str, str, Path]:
    """A weight file, a structure file of two frames, and a name for the output."""
    save_model(tmp_path / "model.h5", model, {}, [])
    positions, cell, pbc, types = random_structure(4, model, num_atoms=8)
    atoms = ase.Atoms(numbers=model.atomic_numbers[types], positions=positions, cell=cell, pbc=pbc)
    moved = atoms.copy()
    moved.positions[0] += 0.05
    ase.io.write(tmp_path / "atoms.traj", [atoms, moved])
    return str(tmp_path / "model.h5"), str(tmp_path / "atoms.traj"), tmp_path / "out.h5"


def expected(model, path: str, index: int):
    atoms = ase.io.read(path, index=index)
    types = np.searchsorted(model.atomic_numbers, atoms.numbers)
    evaluator = Evaluator(model, device="cpu")
    return evaluator.evaluate(types, atoms.positions, Cell(np.array(atoms.cell), atoms.pbc), want_atom_virials=True)


def test_data_sets_of_the_output(model, files, capsys) -> None:
    weights, structure, output = files
    assert main(["evaluate", weights, structure, "--per-atom-virial", "-o", str(output)]) == 0
    result = expected(model, structure, -1)
    with h5py.File(output) as file:
        assert set(file) == {"energy", "energies", "forces", "virial", "stress", "virials"}
        assert file["energy"].shape == ()
        assert file["energy"][()] == result.energy
        assert (file["energies"][()] == result.energies).all()
        assert (file["forces"][()] == result.forces).all()
        assert (file["virial"][()] == result.virial).all()
        assert (file["stress"][()] == result.stress).all()
        assert (file["virials"][()] == result.atom_virials).all()
        assert {name: data.attrs["unit"] for name, data in file.items()}["stress"] == "eV/Å^3"
        assert all(data.dtype == np.float64 for data in file.values())
    assert f"{result.energy:.6f}" in capsys.readouterr().out


def test_json_holds_the_same_numbers(model, files, capsys) -> None:
    weights, structure, _ = files
    assert main(["evaluate", weights, structure, "--json", "--index", "0"]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = expected(model, structure, 0)
    assert set(printed) == {"energy", "energies", "forces", "virial", "stress"}
    assert printed["energy"] == result.energy
    assert (np.array(printed["forces"]) == result.forces).all()


def test_no_stress_without_a_periodic_cell(files, tmp_path, capsys) -> None:
    weights, _, output = files
    ase.io.write(tmp_path / "dimer.xyz", ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]]))
    assert main(["evaluate", weights, str(tmp_path / "dimer.xyz"), "-o", str(output)]) == 0
    with h5py.File(output) as file:
        assert set(file) == {"energy", "energies", "forces", "virial"}


def test_existing_output_is_not_replaced(files, capsys) -> None:
    weights, structure, output = files
    output.write_text("mine")
    assert main(["evaluate", weights, structure, "-o", str(output)]) == 2
    assert output.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert main(["evaluate", weights, structure, "-o", str(output), "--overwrite"]) == 0
    assert h5py.is_hdf5(output)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--index", "7"], "7"),
        (["--types", "O:Ow"], "SYMBOL=TYPE"),
        (["--types", "O=Ow"], "Ow"),
        (["-o", "/no/such/place/out.h5"], "/no/such/place"),
    ],
)
def test_bad_arguments_give_one_message_and_exit_code_2(arguments, word, files, capsys) -> None:
    weights, structure, _ = files
    assert main(["evaluate", weights, structure, *arguments]) == 2
    errors = capsys.readouterr().err
    assert word in errors
    assert len(errors.strip().splitlines()) == 1
