"""The H5MD trajectory: MDAnalysis reads what was written, and a restart continues it."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from support import trajectories

from allegro_sim.errors import OutputError
from allegro_sim.output.thermo import THERMO_COLUMNS
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader

SINGLE = 2.0**-23  # relative spacing of float32, in which MDAnalysis holds its arrays


def universe(path: Path, topology: Path | None = None):
    mda = pytest.importorskip("MDAnalysis")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guesses of masses and types are announced
        if topology is not None:
            return mda.Universe(str(topology), str(path))
        made = mda.Universe.empty(trajectories.NUM_ATOMS, trajectory=True)
        made.load_new(str(path))
        return made


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize(
    ("cell", "dimensions"),
    [
        (trajectories.ORTHOGONAL, [7, 8, 9, 90, 90, 90]),
        (trajectories.TRICLINIC, None),
        (None, None),
    ],
    ids=["orthogonal", "triclinic", "absent"],
)
def test_mdanalysis_opens_it_as_it_is(tmp_path: Path, cell, dimensions, precision: str) -> None:
    """Frames and thermodynamics at intervals that do not divide each other, with velocities and forces."""
    path = tmp_path / "run.h5md"
    writer = trajectories.create(
        path, cell=cell, pbc=cell is not None, precision=precision, with_velocities=True, with_forces=True
    )
    for step in range(31):
        if step % 5 == 0:
            trajectories.append(writer, step, cell)
        if step % 3 == 0:
            writer.append_thermo(trajectories.thermo_row(step))
    writer.close()

    read = universe(path)
    assert len(read.trajectory) == 7
    core = pytest.importorskip("MDAnalysis.lib.mdamath")
    steps = []
    for ts in read.trajectory:
        step = int(ts.data["step"])
        steps.append(step)
        assert ts.time == pytest.approx(0.5e-3 * step, rel=1e-6)  # ps
        np.testing.assert_allclose(ts.positions, trajectories.positions_at(step), rtol=2 * SINGLE)
        np.testing.assert_allclose(ts.velocities, trajectories.velocities_at(step) * 1e3, rtol=4 * SINGLE)  # Å/ps
        # 96.48533212 kJ/mol per eV, from CODATA 2018: 1.602176634e-19 * 6.02214076e23 / 1000
        np.testing.assert_allclose(ts.forces, trajectories.forces_at(step) * 96.48533212, rtol=4 * SINGLE, atol=1e-9)
        assert ts.data["potential_energy"] == -step
        assert ts.data["temperature"] == 300.0 + step
        assert np.isnan(ts.data["pressure"])
        if cell is None:
            assert ts.dimensions is None
        elif dimensions is not None:
            np.testing.assert_allclose(ts.dimensions, dimensions)
        else:
            np.testing.assert_allclose(ts.dimensions, core.triclinic_box(*cell), rtol=4 * SINGLE)
    assert steps == list(range(0, 31, 5))
    with h5py.File(path) as file:
        assert file["thermo/step"][:].tolist() == list(range(0, 31, 3))
        for name in THERMO_COLUMNS:
            expected = [trajectories.thermo_row(step)[name] for step in range(0, 31, 3)]
            assert file[f"thermo/{name}"][:].tolist() == expected


def test_datasets_follow_the_h5md_specification(tmp_path: Path) -> None:
    path = tmp_path / "run.h5md"
    writer = trajectories.create(path, input_text="[run]\nsteps = 1\n", provenance={"model": {"licence": "MIT"}})
    trajectories.append(writer, 0)
    writer.close()
    with h5py.File(path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/creator"].attrs["name"] == "allegro-sim"
        assert {"name"} <= set(file["h5md/author"].attrs)
        box = file["particles/all/box"]
        assert box.attrs["dimension"] == 3
        assert list(box.attrs["boundary"]) == ["periodic"] * 3
        np.testing.assert_array_equal(box["edges/value"][0], trajectories.ORTHOGONAL)
        position = file["particles/all/position"]
        assert position["value"].dtype == np.float32
        assert position["value"].attrs["unit"] == "Angstrom"
        assert position["time"].attrs["unit"] == "fs"
        assert box["edges/step"] == position["step"]  # one dataset under several names
        assert set(file["particles/all"]) == {"box", "position", "species", "mass", "id"}
        assert file["particles/all/id"][:].tolist() == list(range(trajectories.NUM_ATOMS))
        assert h5py.check_enum_dtype(file["particles/all/species"].dtype) == {"Ow": 0, "Hw": 1}
        assert all(group["value"].shape == (1,) for group in file["observables"].values())
    with TrajectoryReader(path) as reader:
        assert reader.symbols == ("O", "H")
        assert reader.type_names == ("Ow", "Hw")
        assert reader.input_text == "[run]\nsteps = 1\n"
        assert reader.provenance == {"model": {"licence": "MIT"}}


@pytest.mark.parametrize("pbc", [[True, True, False], [False, False, False]])
def test_boundary_tells_the_periodic_directions(tmp_path: Path, pbc: list[bool]) -> None:
    path = tmp_path / "run.h5md"
    TrajectoryWriter.create(
        path, species=[0], type_names=["O"], type_symbols=["O"], masses=[16.0], cell=np.eye(3), pbc=pbc
    ).close()
    with TrajectoryReader(path) as reader:
        assert reader.pbc.tolist() == pbc


def test_double_precision_keeps_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "run.h5md"
    writer = trajectories.create(path, precision="double", with_velocities=True)
    exact = np.random.default_rng(1).normal(size=(trajectories.NUM_ATOMS, 3))
    writer.append(0, 0.0, exact, cell=trajectories.TRICLINIC, velocities=exact / 3)
    writer.close()
    with TrajectoryReader(path) as reader:
        frame = reader.frame(0)
    np.testing.assert_array_equal(frame.positions, exact)
    np.testing.assert_array_equal(frame.velocities, exact / 3)
    np.testing.assert_array_equal(frame.cell, trajectories.TRICLINIC)


def test_reopening_cuts_frames_and_rows_after_the_step(tmp_path: Path) -> None:
    path, whole = tmp_path / "run.h5md", tmp_path / "whole.h5md"
    first, uninterrupted = (trajectories.create(p, with_velocities=True, with_forces=True) for p in (path, whole))
    for step in range(40):
        for writer in (first, uninterrupted):
            trajectories.append(writer, step)
            writer.append_thermo(trajectories.thermo_row(step))
    first.close()
    uninterrupted.close()
    again = TrajectoryWriter.reopen(path, 24)
    assert (again.frames_written, again.thermo_rows_written) == (25, 25)
    for step in range(25, 40):
        trajectories.append(again, step)
        again.append_thermo(trajectories.thermo_row(step))
    again.close()
    with h5py.File(path) as one, h5py.File(whole) as other:

        def same(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fi":
                np.testing.assert_array_equal(item[()], other[name][()], err_msg=name)

        one.visititems(same)
    assert len(universe(path).trajectory) == 40


def test_reopening_at_step_before_the_first_frame_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "run.h5md"
    writer = trajectories.create(path)
    trajectories.append(writer, 5)
    writer.close()
    again = TrajectoryWriter.reopen(path, 3)
    assert again.frames_written == 0
    trajectories.append(again, 4)
    again.close()
    assert [int(ts.data["step"]) for ts in universe(path).trajectory] == [4]


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5md"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"run\.h5md: exists already"):
        trajectories.create(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "another HDF5 file"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.h5md"
    if damage == "text":
        path.write_text("not HDF5")
    elif damage == "truncated":
        writer = trajectories.create(path)
        for step in range(5):
            trajectories.append(writer, step)
        writer.close()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "another HDF5 file":
        with h5py.File(path, "w") as file:
            file["x"] = 1.0
    with pytest.raises(OutputError, match=r"run\.h5md"):
        TrajectoryWriter.reopen(path, 100)
    with pytest.raises(OutputError, match=r"run\.h5md"):
        TrajectoryReader(path)


def test_frames_lacking_what_the_file_holds_are_refused(tmp_path: Path) -> None:
    writer = trajectories.create(tmp_path / "run.h5md", with_forces=True)
    with pytest.raises(ValueError, match="force"):
        writer.append(0, 0.0, trajectories.positions_at(0), cell=trajectories.ORTHOGONAL)
    trajectories.append(writer, 3)
    with pytest.raises(ValueError, match="step 3 after"):
        trajectories.append(writer, 3)
    writer.close()


def test_extxyz_beside_it_serves_as_topology(tmp_path: Path) -> None:
    from allegro_sim.output.record import RunRecord, write_extxyz

    path = tmp_path / "run.h5md"
    writer = trajectories.create(path)
    trajectories.append(writer, 0)
    writer.close()
    record = RunRecord(
        types=trajectories.SPECIES,
        positions=trajectories.positions_at(0),
        type_names=("Ow", "Hw"),
        type_symbols=("O", "H"),
        type_masses=np.array([15.999, 1.008]),
        cell=trajectories.TRICLINIC,
        pbc=np.array([True, True, True]),
        settings={},
        input_text="",
        model_file="model.h5",
        model_sha256="",
    )
    topology = tmp_path / "topology.xyz"
    write_extxyz(topology, record, record.types, record.positions, {})
    atoms = ase.io.read(topology)
    assert atoms.get_chemical_formula() == "H4O2"
    np.testing.assert_allclose(atoms.cell[:], trajectories.TRICLINIC)
    read = universe(path, topology)
    assert list(read.atoms.names) == ["O", "H", "H", "O", "H", "H"]
    assert len(read.trajectory) == 1
