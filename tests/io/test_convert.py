"""`allegro-tools convert`: ASE and MDAnalysis read back what the trajectory holds."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import ase
import ase.io
import ase.units
import MDAnalysis
import numpy as np
import pytest
from MDAnalysis.lib.mdamath import triclinic_vectors
from support import trajectories

from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.tools.main import main

DECIMALS = 1.0e-8  # extxyz holds eight decimals


def written(path: Path, **options) -> Path:
    writer = trajectories.create(path, precision="double", **options)
    for step in range(0, 9, 3):
        trajectories.append(writer, step, options.get("cell", trajectories.ORTHOGONAL))
    writer.close()
    return path


@pytest.mark.parametrize("cell", [trajectories.ORTHOGONAL, trajectories.TRICLINIC, None])
def test_frames_read_back(tmp_path: Path, cell) -> None:
    path = written(tmp_path / "run.h5md", cell=cell, pbc=cell is not None, with_velocities=True, with_forces=True)
    out = tmp_path / "run.xyz"
    assert main(["convert", str(path), str(out)]) == 0
    frames = ase.io.read(out, index=":")
    assert [atoms.info["step"] for atoms in frames] == [0, 3, 6]
    for atoms in frames:
        step = atoms.info["step"]
        assert atoms.get_chemical_symbols() == ["O", "H", "H", "O", "H", "H"]
        assert atoms.info["time_fs"] == 0.5 * step
        np.testing.assert_allclose(atoms.positions, trajectories.positions_at(step), atol=DECIMALS)
        np.testing.assert_allclose(
            atoms.get_velocities() * ase.units.fs, trajectories.velocities_at(step), atol=DECIMALS
        )
        np.testing.assert_allclose(atoms.get_forces(), trajectories.forces_at(step), atol=DECIMALS)
        assert atoms.get_potential_energy() == -step
        np.testing.assert_allclose(atoms.cell[:], np.zeros((3, 3)) if cell is None else cell)
        assert atoms.pbc.all() == (cell is not None)
        assert atoms.arrays["type"].tolist() == ["Ow", "Hw", "Hw", "Ow", "Hw", "Hw"]


def test_wrap_puts_atoms_into_the_cell(tmp_path: Path) -> None:
    path = written(tmp_path / "run.h5md", cell=trajectories.TRICLINIC)
    out = tmp_path / "run.extxyz"
    assert main(["convert", str(path), str(out), "--wrap"]) == 0
    atoms = ase.io.read(out, index=-1)
    fractional = atoms.positions @ np.linalg.inv(trajectories.TRICLINIC)
    assert fractional.min() > -1e-7
    assert fractional.max() < 1 + 1e-7
    moved = (atoms.positions - trajectories.positions_at(6)) @ np.linalg.inv(trajectories.TRICLINIC)
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-7)


@pytest.mark.parametrize("case", ["missing", "not a trajectory", "exists", "other ending", "no such folder"])
def test_what_cannot_be_converted_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    path, out = written(tmp_path / "run.h5md"), tmp_path / "run.xyz"
    named = path
    if case == "missing":
        path.unlink()
    elif case == "not a trajectory":
        path.write_text("text")
    elif case == "exists":
        out.write_text("precious")
        named = out
    elif case == "other ending":
        named = out = tmp_path / "run.gro"
    else:
        named = out = tmp_path / "absent" / "run.xyz"
    assert main(["convert", str(path), str(out)]) == 2
    assert str(named) in capsys.readouterr().err
    assert not out.exists() or out.read_text() == "precious"
    assert not list(tmp_path.glob(".*"))


def test_overwrite_replaces_the_output(tmp_path: Path) -> None:
    path, out = written(tmp_path / "run.h5md"), tmp_path / "run.xyz"
    out.write_text("old")
    assert main(["convert", str(path), str(out), "--overwrite"]) == 0
    assert len(ase.io.read(out, index=":")) == 3


MDA_FORMATS = {".xtc": 0.006, ".dcd": 1e-5, ".pdb": 0.0006, ".lammpsdump": 1e-5}
"""Ending -> Å: XTC has hundredths of an Å, PDB thousandths; DCD and MDAnalysis itself float32."""

TURNED = np.array([[0.0, 7.0, 0.0], [8.0, 1.5, 0.0], [2.0, -0.5, -9.0]])
"""The triclinic cell with y and x exchanged and z reversed: a rotation of it by half a turn."""


@pytest.mark.parametrize("ending", MDA_FORMATS)
@pytest.mark.parametrize("cell", [trajectories.ORTHOGONAL, trajectories.TRICLINIC, None])
@pytest.mark.filterwarnings("ignore")
def test_mdanalysis_reads_the_other_formats_back(tmp_path: Path, ending: str, cell) -> None:
    path = written(tmp_path / "run.h5md", cell=cell, pbc=cell is not None)
    out = tmp_path / f"run{ending}"
    assert main(["convert", str(path), str(out)]) == 0
    files = [out] if ending in (".pdb", ".lammpsdump") else [write_topology(tmp_path), out]
    universe = MDAnalysis.Universe(*map(str, files), dt=0.0015)
    assert len(universe.trajectory) == 3
    for step, ts in zip(range(0, 9, 3), universe.trajectory, strict=True):
        expected = trajectories.positions_at(step)
        if cell is None and ending == ".lammpsdump":  # MDAnalysis moves the box's corner to the origin
            expected = expected - expected.min(axis=0)
        np.testing.assert_allclose(ts.positions, expected, atol=MDA_FORMATS[ending])
        if ending != ".lammpsdump":
            assert ts.time == pytest.approx(0.5e-3 * step, abs=1e-6)
        if cell is not None and ending == ".pdb":  # one cell for all, which readers give to the first
            np.testing.assert_allclose(ase.io.read(out, index=0).cell[:], cell, atol=0.01)
        elif cell is not None:
            np.testing.assert_allclose(triclinic_vectors(ts.dimensions), cell, atol=1e-3)
        elif ending == ".dcd":
            assert ts.dimensions is None or not ts.dimensions[:3].any()
    if ending == ".pdb":
        assert universe.atoms.elements.tolist() == ["O", "H", "H", "O", "H", "H"]


def write_topology(folder: Path) -> Path:
    ase.io.write(folder / "topology.xyz", ase.Atoms("OHHOHH", trajectories.positions_at(0)))
    return folder / "topology.xyz"


@pytest.mark.parametrize("cell", [trajectories.ORTHOGONAL, trajectories.TRICLINIC])
def test_ase_reads_a_lammps_dump_back(tmp_path: Path, cell) -> None:
    path = written(tmp_path / "run.h5md", cell=cell, with_velocities=True, with_forces=True)
    out = tmp_path / "run.lammpsdump"
    assert main(["convert", str(path), str(out)]) == 0
    for step, atoms in zip(range(0, 9, 3), ase.io.read(out, index=":", format="lammps-dump-text"), strict=True):
        np.testing.assert_allclose(atoms.positions, trajectories.positions_at(step), atol=1e-8)
        np.testing.assert_allclose(atoms.cell[:], cell, atol=1e-12)
        velocities = atoms.get_velocities() * ase.units.fs
        np.testing.assert_allclose(velocities, trajectories.velocities_at(step), atol=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), trajectories.forces_at(step), atol=1e-6)


@pytest.mark.parametrize("ending", [".xtc", ".pdb", ".lammpsdump"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_turned_cell_keeps_all_periodic_distances(tmp_path: Path, ending: str, mirrored: bool) -> None:
    """Also of a left-handed cell, and as the same hand: signed volumes of four atoms stay."""
    cell = TURNED[[1, 0, 2]] if mirrored else TURNED
    path = written(tmp_path / "run.h5md", cell=cell)
    out = tmp_path / f"run{ending}"
    assert main(["convert", str(path), str(out), "--frames", "1:2"]) == 0
    files = [out] if ending != ".xtc" else [write_topology(tmp_path), out]
    universe = MDAnalysis.Universe(*map(str, files))
    found, vectors = universe.atoms.positions.astype(float), triclinic_vectors(universe.dimensions).astype(float)
    before = trajectories.positions_at(3)
    for own_cell, positions in ((vectors, found), (cell, before)):
        images = np.array([i @ own_cell for i in np.ndindex(5, 5, 5)]) - own_cell.sum(axis=0) * 2
        all_vectors = positions[:, None, None] - positions[None, :, None] + images
        distances = np.sort(np.linalg.norm(all_vectors, axis=-1).reshape(6, 6, -1), axis=-1)[..., :4]
        if own_cell is vectors:
            other = distances
    np.testing.assert_allclose(distances, other, atol=0.03)


def test_wrapped_atoms_lie_in_the_cell_of_every_format(tmp_path: Path) -> None:
    path = written(tmp_path / "run.h5md", cell=trajectories.TRICLINIC)
    out = tmp_path / "run.lammpsdump"
    assert main(["convert", str(path), str(out), "--wrap"]) == 0
    atoms = ase.io.read(out, index=-1, format="lammps-dump-text")
    fractional = atoms.positions @ np.linalg.inv(trajectories.TRICLINIC)
    assert fractional.min() > -1e-7
    assert fractional.max() < 1 + 1e-7


@pytest.mark.parametrize(
    ("text", "steps"),
    [("1:", [3, 6]), ("::2", [0, 6]), ("::-1", [6, 3, 0]), ("1", [3]), ("-1", [6]), ("-2:", [3, 6]), (":1", [0])],
)
def test_frames_are_chosen(tmp_path: Path, text: str, steps: list[int]) -> None:
    path, out = written(tmp_path / "run.h5md"), tmp_path / "run.xyz"
    assert main(["convert", str(path), str(out), f"--frames={text}"]) == 0
    assert [atoms.info["step"] for atoms in ase.io.read(out, index=":")] == steps


@pytest.mark.parametrize("text", ["3", "a", "::0", "-:", "5:9", "1:2:3:4"])
def test_frames_that_are_not_there_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path, out = written(tmp_path / "run.h5md"), tmp_path / "run.xyz"
    assert main(["convert", str(path), str(out), f"--frames={text}"]) == 2
    assert f"--frames {text}" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("ending", [".xtc", ".pdb", ".lammpsdump", ".extxyz"])
@pytest.mark.filterwarnings("ignore")
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path, ending: str) -> None:
    """Peak of what Python and NumPy allocate, 24 frames against 4: positions of a frame have 2.4 kB, so 20 more kept
    ones would show as 48 kB beside the 20 kB allowed for interning and caches."""
    peaks = []
    for n, count in enumerate((4, 4, 24)):  # the first only fills caches
        path = tmp_path / f"run{n}.h5md"
        species = np.zeros(100, int)
        writer = TrajectoryWriter.create(
            path, species=species, type_names=("O",), type_symbols=("O",), masses=np.ones(100), cell=np.eye(3) * 9.0,
            pbc=[True] * 3, precision="single",
        )  # fmt: skip
        for step in range(count):
            writer.append(step, 0.5 * step, np.full((100, 3), 0.01 * step), cell=np.eye(3) * 9.0, observables={})
        writer.close()
        tracemalloc.start()
        assert main(["convert", str(path), str(tmp_path / f"run{n}{ending}")]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 20_000


def test_a_missing_package_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    path = written(tmp_path / "run.h5md")
    assert main(["convert", str(path), str(tmp_path / "run.xtc")]) == 2
    assert 'pip install "allegro-sim[analysis]"' in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "run.xyz")]) == 0
