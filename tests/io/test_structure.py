"""Structures: what is read, how types are found, and how copies are numbered."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from support.random_models import random_model

from allegro_sim.errors import InputError, StructureError
from allegro_sim.model.description import AllegroModel
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.structure import (
    read_structure,
    replicated_atoms,
    replicated_cell,
    structure_of_atoms,
    type_masses,
)


@pytest.fixture(scope="module")
def model() -> AllegroModel:
    names = {"type_names": ("O", "H"), "atomic_numbers": np.array([8, 1]), "masses": np.array([15.999, 1.008])}
    return replace(random_model(0, num_types=2, num_layers=1, l_max=1), **names)


@pytest.fixture
def water() -> ase.Atoms:
    cell = [[4.0, 0.0, 0.0], [0.5, 4.2, 0.0], [0.3, -0.4, 4.4]]
    return ase.Atoms("OH2", [[0.0, 0.0, 0.1], [0.8, 0.6, 0.1], [-0.8, 0.6, -7.0]], cell=cell, pbc=True)


def test_extxyz_gzip_and_frames(tmp_path: Path, model: AllegroModel, water: ase.Atoms) -> None:
    later = water.copy()
    later.positions += 1.0
    ase.io.write(tmp_path / "two.xyz", [water, later], format="extxyz")
    (tmp_path / "two.xyz.gz").write_bytes(gzip.compress((tmp_path / "two.xyz").read_bytes()))
    for name in ("two.xyz", "two.xyz.gz"):
        last = read_structure(tmp_path / name, model=model)
        assert last.symbols == ("O", "H", "H") and last.types.tolist() == [0, 1, 1]
        # Eight digits in the file; positions outside the cell stay there.
        assert np.abs(last.positions - later.positions).max() < 1e-8
        assert np.abs(last.cell.vectors - water.cell).max() < 1e-12 and last.cell.fully_periodic
        assert last.velocities is None
        first = read_structure(tmp_path / name, 0, model=model)
        assert np.abs(first.positions - water.positions).max() < 1e-8


def test_velocities_of_the_file_are_in_angstrom_per_femtosecond(tmp_path: Path, model: AllegroModel, water) -> None:
    """ASE's femtosecond is that of CODATA 2014: 1e-7 from ours."""
    water.set_velocities(np.arange(9.0).reshape(3, 3) * 1e-3 / ase.units.fs)
    ase.io.write(tmp_path / "moving.traj", water)
    structure = read_structure(tmp_path / "moving.traj", model=model)
    assert structure.velocities is not None
    assert structure.velocities == pytest.approx(np.arange(9.0).reshape(3, 3) * 1e-3, rel=1e-6)


def test_own_trajectory_gives_back_positions_velocities_and_cell(tmp_path: Path, model: AllegroModel) -> None:
    rng = np.random.default_rng(0)
    cell = np.diag([5.0, 6.0, 7.0])
    writer = TrajectoryWriter.create(
        tmp_path / "run.h5md",
        species=np.array([1, 0, 1], np.int32),
        type_names=("O", "H"),
        type_symbols=("O", "H"),
        masses=np.array([1.008, 15.999, 1.008]),
        cell=cell,
        pbc=[True, True, False],
        precision="double",
        with_velocities=True,
    )
    positions, velocities = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3, 3))
    for frame in range(2):
        writer.append(frame, 0.5 * frame, positions[frame], velocities=velocities[frame], cell=cell)
    writer.close()
    for frame in (0, 1, -1):
        structure = read_structure(tmp_path / "run.h5md", frame, model=model)
        assert (structure.positions == positions[frame]).all()
        assert structure.velocities is not None and (structure.velocities == velocities[frame]).all()
        assert structure.types.tolist() == [1, 0, 1] and structure.symbols == ("H", "O", "H")
        assert (structure.cell.vectors == cell).all() and structure.cell.pbc.tolist() == [True, True, False]
    with pytest.raises(StructureError, match="no frame 2"):
        read_structure(tmp_path / "run.h5md", 2, model=model)


def test_types_by_map_by_name_and_by_element(model: AllegroModel, water: ase.Atoms) -> None:
    renamed = replace(model, type_names=("Ow", "Hw"))
    assert structure_of_atoms(water, renamed).types.tolist() == [0, 1, 1]
    assert structure_of_atoms(water, model, {"O": "H"}).types.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=r"model\.types\.O.*'Ox'.*O, H"):
        structure_of_atoms(water, model, {"O": "Ox"})
    twofold = replace(model, type_names=("H1", "H2"), atomic_numbers=np.array([1, 1]))
    with pytest.raises(StructureError, match=r"several types of the element H: H1, H2"):
        structure_of_atoms(ase.Atoms("H"), twofold)
    with pytest.raises(StructureError, match=r"Na \(1 atom\)"):
        structure_of_atoms(ase.Atoms("NaOH"), model)


def test_copies_follow_each_other_and_keep_the_order_of_the_file(model: AllegroModel, water: ase.Atoms) -> None:
    structure = structure_of_atoms(water, model)
    ids, types, positions, velocities = replicated_atoms(structure, (2, 1, 3))
    assert ids.tolist() == list(range(18)) and types.tolist() == [0, 1, 1] * 6
    assert (velocities == 0.0).all()
    places = [(a, c) for a in range(2) for c in range(3)]
    for replica, (a, c) in enumerate(places):
        shift = a * structure.cell.vectors[0] + c * structure.cell.vectors[2]
        assert np.abs(positions[3 * replica : 3 * replica + 3] - structure.positions - shift).max() < 1e-14
    cell = replicated_cell(structure.cell, (2, 1, 3))
    assert np.abs(cell.vectors - structure.cell.vectors * [[2], [1], [3]]).max() == 0.0
    share = replicated_atoms(structure, (2, 1, 3), slice(5, 11))
    assert share[0].tolist() == list(range(5, 11)) and (share[2] == positions[5:11]).all()


def test_masses_of_the_input_replace_those_of_the_model(model: AllegroModel) -> None:
    assert type_masses(model, {"H": 2.014}).tolist() == [15.999, 2.014]
    with pytest.raises(InputError, match=r"model\.masses\.D"):
        type_masses(model, {"D": 2.014})


def test_reading_gives_plain_errors(tmp_path: Path, model: AllegroModel) -> None:
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    (tmp_path / "image.png").write_bytes(bytes(100))
    for name in ("model.h5", "image.png", "none.xyz"):
        with pytest.raises(StructureError, match=name):
            read_structure(tmp_path / name, model=model)
    with pytest.raises(StructureError, match="cannot be read"):
        read_structure(tmp_path, model=model)
