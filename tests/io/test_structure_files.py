"""Forms of structure files: what each keeps, in which units, and how two types of one element are told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from support.random_models import random_model
from support.water import write_input

from allegro_sim.config import load_settings
from allegro_sim.errors import InputError, StructureError
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.weight_file import load_model
from allegro_sim.output.checkpoint import Checkpoint, write_checkpoint
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.simulation import Simulation
from allegro_sim.structure import Structure, read_structure, replicated_atoms, replicated_cell

CELL = np.diag([4.0, 4.2, 4.4])
POSITIONS = np.array([[0.0, 0.0, 0.1], [0.8, 0.6, 0.1], [-0.8, 0.6, -7.0]])
VELOCITIES = np.arange(9.0).reshape(3, 3) * 1e-3  # Å/fs


@pytest.fixture(scope="module")
def model() -> AllegroModel:
    names = {"type_names": ("O", "H"), "atomic_numbers": np.array([8, 1]), "masses": np.array([15.999, 1.008])}
    return replace(random_model(0, num_types=2, num_layers=1, l_max=1), **names)


@pytest.fixture(scope="module")
def two_hydrogens(model: AllegroModel) -> AllegroModel:
    """A model with two types of the same element."""
    return replace(model, type_names=("Ha", "Hb"), atomic_numbers=np.array([1, 1]))


PDB = """\
CRYST1    4.000    4.200    4.400  90.00  90.00  90.00 P 1           1
MODEL        1
ATOM      1  OW  HOH A   1       0.000   0.000   0.100  1.00  0.00           O
ATOM      2  HW1 HOH A   1       0.800   0.600   0.100  1.00  0.00           H
ATOM      3  HW2 HOH A   1      -0.800   0.600  -7.000  1.00  0.00           H
ENDMDL
MODEL        2
ATOM      1  OW  HOH A   1       1.000   1.000   1.100  1.00  0.00           O
ATOM      2  HW1 HOH A   1       1.800   1.600   1.100  1.00  0.00           H
ATOM      3  HW2 HOH A   1       0.200   1.600  -6.000  1.00  0.00           H
ENDMDL
END
"""

LAMMPS = """\
water

3 atoms
2 atom types
0.0 4.0 xlo xhi
0.0 4.2 ylo yhi
0.0 4.4 zlo zhi

Masses

1 15.999
2 1.008

Atoms # atomic

3 2 3.2 0.6 1.8 -1 0 -2
1 1 0.0 0.0 0.1 0 0 0
2 2 0.8 0.6 0.1 0 0 0

Velocities

1 0.0 1.0 2.0
2 3.0 4.0 5.0
3 6.0 7.0 8.0
"""


def test_models_of_a_pdb_file_share_its_cell(tmp_path: Path, model: AllegroModel) -> None:
    (tmp_path / "two.pdb").write_text(PDB)
    for frame, shift in ((0, 0.0), (1, 1.0), (-1, 1.0)):
        structure = read_structure(tmp_path / "two.pdb", frame, model=model)
        assert np.abs(structure.positions - POSITIONS - shift).max() < 1e-9
        assert np.abs(structure.cell.vectors - CELL).max() < 1e-9 and structure.cell.fully_periodic
        assert structure.symbols == ("O", "H", "H") and structure.notes == ()
    with pytest.raises(StructureError, match="no frame 2"):
        read_structure(tmp_path / "two.pdb", 2, model=model)


def test_unit_cell_of_one_angstrom_is_no_cell_in_a_pdb_file(tmp_path: Path, model: AllegroModel) -> None:
    (tmp_path / "nmr.pdb").write_text(PDB.replace("4.000    4.200    4.400", "1.000    1.000    1.000"))
    structure = read_structure(tmp_path / "nmr.pdb", model=model)
    assert not structure.cell.pbc.any() and "CRYST1" in structure.notes[0]


def test_protein_with_the_water_model_names_every_missing_element_and_its_atoms(inputs: Path) -> None:
    atoms = ase.io.read(inputs / "dhfr" / "dhfr.pdb.gz")
    with pytest.raises(StructureError) as caught:
        read_structure(inputs / "dhfr" / "dhfr.pdb.gz", model=load_model(inputs / "water" / "water.h5"))
    message = str(caught.value)
    missing = {str(s) for s in atoms.symbols} - {"O", "H"}
    assert len(missing) >= 3 and "dhfr.pdb.gz" in message
    for symbol in missing:
        assert f"{symbol} ({sum(s == symbol for s in atoms.symbols)} atom" in message


@pytest.mark.parametrize("name", ["velocity_A_fs", "momenta"])
def test_velocities_of_extended_xyz_have_the_unit_of_their_column(
    tmp_path: Path, model: AllegroModel, name: str
) -> None:
    atoms = ase.Atoms("OH2", POSITIONS, cell=CELL, pbc=True)
    if name == "momenta":
        atoms.set_velocities(VELOCITIES / ase.units.fs)
    else:
        atoms.set_array(name, VELOCITIES)
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    structure = read_structure(tmp_path / "a.xyz", model=model)
    assert structure.velocities is not None and structure.notes == ()
    assert structure.velocities == pytest.approx(VELOCITIES, rel=1e-6, abs=1e-8)  # eight digits; CODATA of 2014


@pytest.mark.parametrize("name", ["velocities", "velo", "vel"])
def test_velocities_without_a_unit_are_not_guessed_at(tmp_path: Path, model: AllegroModel, name: str) -> None:
    atoms = ase.Atoms("OH2", POSITIONS, cell=CELL, pbc=True)
    atoms.set_array(name, VELOCITIES)
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    structure = read_structure(tmp_path / "a.xyz", model=model)
    assert structure.velocities is None
    assert name in structure.notes[0] and "velocity_A_fs" in structure.notes[0]


@pytest.mark.parametrize(("units", "factor"), [("metal", 1e-3), ("real", 1.0)])
def test_lammps_data_with_named_types(tmp_path: Path, model: AllegroModel, units: str, factor: float) -> None:
    """In the order of the ids, with image flags and velocities."""
    (tmp_path / "water.data").write_text(LAMMPS)
    structure = read_structure(
        tmp_path / "water.data", model=model, lammps_types=["O", "H"], lammps_units=units, lammps_style="atomic"
    )
    assert structure.types.tolist() == [0, 1, 1]
    expected = POSITIONS.copy()
    expected[2] = [3.2 - 4.0, 0.6, 1.8 - 2 * 4.4]
    assert np.abs(structure.positions - expected).max() < 1e-12
    assert structure.velocities == pytest.approx(np.arange(9.0).reshape(3, 3) * factor, rel=1e-6)
    assert np.abs(structure.cell.vectors - CELL).max() < 1e-12 and structure.cell.fully_periodic


def test_lammps_types_may_be_types_of_the_model_and_mapped_names(
    tmp_path: Path, model: AllegroModel, two_hydrogens: AllegroModel
) -> None:
    (tmp_path / "water.data").write_text(LAMMPS)
    read = lambda m, *names, **options: read_structure(  # noqa: E731
        tmp_path / "water.data", model=m, lammps_types=names, **options
    )
    assert read(two_hydrogens, "Hb", "Ha").types.tolist() == [1, 0, 0]
    assert read(model, "OW", "HW", type_map={"OW": "O", "HW": "H"}).types.tolist() == [0, 1, 1]
    with pytest.raises(InputError, match=r"lammps_types: 'OW'"):
        read(model, "OW", "H")
    with pytest.raises(InputError, match=r"3 names.*2 atom types"):
        read(model, "O", "H", "H")
    with pytest.raises(StructureError, match=r"LAMMPS data.*2 atom types.*lammps_types"):
        read_structure(tmp_path / "water.data", model=model)


def test_two_types_of_one_element_by_a_column(tmp_path: Path, two_hydrogens: AllegroModel) -> None:
    atoms = ase.Atoms("H3", POSITIONS, cell=CELL, pbc=True, tags=[2, 1, 2])
    atoms.set_array("site", np.array(["Hb", "Ha", "Ha"]))
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    read = lambda column, types=None: read_structure(  # noqa: E731
        tmp_path / "a.xyz", model=two_hydrogens, type_column=column, type_map=types
    )
    assert read("site").types.tolist() == [1, 0, 0]
    assert read("tags", {"1": "Ha", "2": "Hb"}).types.tolist() == [1, 0, 1]
    with pytest.raises(StructureError, match="several types of the element"):
        read("tags", {"1": "Ha"})
    with pytest.raises(InputError, match=r"no column 'sites'.*site, tags"):
        read("sites")


def test_atom_names_of_a_pdb_file_as_types(tmp_path: Path, model: AllegroModel) -> None:
    """What is not mapped is found by its element."""
    (tmp_path / "a.pdb").write_text(PDB)
    options = {"type_column": "atomtypes", "type_map": {"HW2": "O"}}
    assert read_structure(tmp_path / "a.pdb", model=model, **options).types.tolist() == [0, 1, 0]


@pytest.mark.parametrize("frame", [-1, 0])
def test_checkpoint_gives_back_every_bit(tmp_path: Path, model: AllegroModel, frame: int) -> None:
    path = write_own_checkpoint(tmp_path)
    structure = read_structure(path, frame, model=model)
    assert (structure.positions == POSITIONS).all()  # outside the cell they stay
    assert structure.velocities is not None and (structure.velocities == VELOCITIES).all()
    assert structure.types.tolist() == [0, 1, 1] and (structure.cell.vectors == CELL).all()
    assert structure.symbols == ("O", "H", "H")
    with pytest.raises(StructureError, match="no frame 1"):
        read_structure(path, 1, model=model)
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StructureError, match="damaged"):
        read_structure(path, model=model)


def write_own_checkpoint(folder: Path) -> Path:
    return write_checkpoint(
        folder,
        Checkpoint(
            step=12,
            time_fs=6.0,
            positions=POSITIONS,
            velocities=VELOCITIES,
            types=np.array([0, 1, 1], np.int32),
            type_names=("O", "H"),
            type_masses=np.array([15.999, 2.014]),
            cell=CELL,
            pbc=np.array([True, True, True]),
            settings={},
        ),
    )


def write_own_trajectory(folder: Path) -> Path:
    path = folder / "run.h5md"
    writer = TrajectoryWriter.create(
        path,
        species=np.array([0, 1, 1], np.int32),
        type_names=("O", "H"),
        type_symbols=("O", "H"),
        masses=np.array([15.999, 1.008, 1.008]),
        cell=CELL,
        pbc=[True, True, True],
        precision="double",
        with_velocities=True,
    )
    for step in range(3):
        writer.append(step, 0.5 * step, POSITIONS + step, velocities=VELOCITIES, cell=CELL)
    writer.close()
    return path


def read_form(form: str, folder: Path, model: AllegroModel) -> tuple[Structure, np.ndarray]:
    """A structure of the same three atoms in a form, and the positions it must have."""
    atoms = ase.Atoms("OH2", POSITIONS, cell=CELL, pbc=True)
    if form == "lammps":
        (folder / "a.data").write_text(LAMMPS)
        found = read_structure(folder / "a.data", model=model, lammps_types=["O", "H"])
        return found, np.array([[0.0, 0.0, 0.1], [0.8, 0.6, 0.1], [3.2 - 4.0, 0.6, 1.8 - 8.8]])
    if form == "checkpoint":
        return read_structure(write_own_checkpoint(folder), model=model), POSITIONS
    if form == "trajectory":
        return read_structure(write_own_trajectory(folder), -2, model=model), POSITIONS + 1
    if form == "pdb":
        (folder / "a.pdb").write_text(PDB)
        return read_structure(folder / "a.pdb", 0, model=model), POSITIONS
    ase.io.write(folder / f"a.{form}", atoms)
    return read_structure(folder / f"a.{form}", model=model), POSITIONS


FORMS = ["xyz", "traj", "cif", "vasp", "pdb", "lammps", "trajectory", "checkpoint"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_replicated_alike(tmp_path: Path, model: AllegroModel, form: str) -> None:
    structure, expected = read_form(form, tmp_path, model)
    if form in ("cif", "vasp"):  # these wrap atoms into the cell
        images = np.round((structure.positions - expected) @ np.linalg.inv(CELL))
        expected = expected + images @ CELL
    counts = (2, 1, 3)
    ids, types, positions, velocities = replicated_atoms(structure, counts)
    assert ids.tolist() == list(range(18)) and types.tolist() == [0, 1, 1] * 6
    places = [a * CELL[0] + c * CELL[2] for a in range(2) for c in range(3)]
    for replica, shift in enumerate(places):
        rows = slice(3 * replica, 3 * replica + 3)
        assert np.abs(positions[rows] - expected - shift).max() < 1e-6  # CIF has six digits
        if structure.velocities is not None:
            assert (velocities[rows] == structure.velocities).all()
    assert (structure.velocities is not None) == (form in ("lammps", "trajectory", "checkpoint"))
    assert np.abs(replicated_cell(structure.cell, counts).vectors - CELL * [[2], [1], [3]]).max() < 1e-6


@pytest.mark.parametrize("kind", ["checkpoint", "trajectory"])
def test_run_from_the_end_of_another_goes_on_with_the_same_bits(
    inputs: Path, tmp_path: Path, monkeypatch, kind: str
) -> None:
    """Positions, velocities and the place of each atom are those that the first run ended with."""
    monkeypatch.chdir(tmp_path)
    everything = {"trajectory_every": 1, "thermo_every": 1, "checkpoint_every": 3}
    start = {"velocities": {"temperature_K": 300}, "output": everything}
    model, water = inputs / "water" / "water.h5", Path(__file__).parent.parent / "data" / "water24.xyz"
    for name, source, steps, more in (
        ("whole", water, 6, start),
        ("first", water, 3, start),
        ("second", tmp_path / "first" / f"{kind}-000000003.h5", 3, {"output": everything}),
    ):
        if kind == "trajectory" and name == "second":
            source = tmp_path / "first" / "trajectory.h5md"
        path = write_input(tmp_path / f"{name}.toml", model, source, tmp_path / name, run={"steps": steps}, **more)
        Simulation(load_settings(path, ["run.device=cpu", "run.threads=1"]), SerialComm()).run()
    with TrajectoryReader("whole/trajectory.h5md") as whole, TrajectoryReader("second/trajectory.h5md") as second:
        assert len(second) == 4
        for index in range(4):
            a, b = whole.frame(index + 3), second.frame(index)
            assert a.velocities is not None and b.velocities is not None
            assert (a.positions == b.positions).all() and (a.velocities == b.velocities).all()
            assert a.observables == b.observables
