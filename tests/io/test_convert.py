"""`allegro-tools convert`: ASE reads back what the trajectory holds."""

from __future__ import annotations

from pathlib import Path

import ase.io
import ase.units
import numpy as np
import pytest
from support import trajectories

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
        named = out = tmp_path / "run.pdb"
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
