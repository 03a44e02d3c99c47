"""thermo.csv: readable by anything, whole rows only, continued by a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import trajectories

from allegro_sim.errors import OutputError
from allegro_sim.output.thermo import THERMO_COLUMNS, ThermoWriter, count_rows


def written(path: Path, steps: range) -> Path:
    writer = ThermoWriter.create(path)
    for step in steps:
        writer.write(trajectories.thermo_row(step))
    writer.close()
    return path


def test_numpy_reads_back_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "thermo.csv"
    generator = np.random.default_rng(0)
    rows = [dict(zip(THERMO_COLUMNS, [step, *generator.normal(size=8).tolist()], strict=True)) for step in range(20)]
    writer = ThermoWriter.create(path)
    for row in rows:
        writer.write(row)
    writer.close()
    read = np.genfromtxt(path, delimiter=",", names=True)
    assert read.dtype.names == tuple(THERMO_COLUMNS)
    for name in THERMO_COLUMNS:
        assert read[name].tolist() == [row[name] for row in rows]


def test_columns_begin_as_documented() -> None:
    documented = "step,time_ps,temperature_K,potential_eV,kinetic_eV,total_eV,conserved_eV,pressure_bar,volume_A3"
    assert ",".join(THERMO_COLUMNS).startswith(documented)


def test_quantities_that_do_not_exist_are_empty_fields(tmp_path: Path) -> None:
    path = tmp_path / "thermo.csv"
    writer = ThermoWriter.create(path)
    writer.write(trajectories.thermo_row(0) | {"pressure_bar": None, "volume_A3": float("nan")})
    writer.close()
    assert path.read_text().splitlines()[1].endswith(",,")
    assert count_rows(path, 10) == 1


def test_rows_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "thermo.csv"
    writer = ThermoWriter.create(path)
    writer.write(trajectories.thermo_row(0))
    assert len(path.read_text().splitlines()) == 2
    writer.sync()
    writer.close()


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_reopening_cuts_later_rows_and_a_row_cut_short(tmp_path: Path, cut: int) -> None:
    path, whole = written(tmp_path / "cut.csv", range(0, 50, 10)), written(tmp_path / "whole.csv", range(0, 50, 10))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    writer = ThermoWriter.reopen(path, 25)
    assert writer.rows_written == 3
    for step in (30, 40):
        writer.write(trajectories.thermo_row(step))
    writer.close()
    assert path.read_bytes() == whole.read_bytes()


def test_reopening_before_the_first_row_leaves_the_header(tmp_path: Path) -> None:
    path = written(tmp_path / "thermo.csv", range(5, 8))
    ThermoWriter.reopen(path, 3).close()
    assert path.read_text() == ",".join(THERMO_COLUMNS) + "\n"


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thermo.csv"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"thermo\.csv: exists already"):
        ThermoWriter.create(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("damage", ["missing", "other header", "garbled row", "row twice"])
def test_damaged_files_are_refused_as_they_are(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path / "thermo.csv", range(3))
    lines = path.read_text().splitlines(keepends=True)
    if damage == "other header":
        lines[0] = "step,energy\n"
    elif damage == "garbled row":
        lines[2] = "\x00" * 20 + "\n"
    elif damage == "row twice":
        lines.insert(2, lines[2])
    path.write_text("".join(lines))
    if damage == "missing":
        path.unlink()
    with pytest.raises(OutputError, match=r"thermo\.csv"):
        ThermoWriter.reopen(path, 2)
    assert damage == "missing" or path.read_text() == "".join(lines)


def test_rows_with_other_columns_or_steps_out_of_order_are_refused(tmp_path: Path) -> None:
    writer = ThermoWriter.create(tmp_path / "thermo.csv")
    with pytest.raises(ValueError, match="columns"):
        writer.write({"step": 1})
    writer.write(trajectories.thermo_row(1))
    with pytest.raises(ValueError, match="step 1 after"):
        writer.write(trajectories.thermo_row(1))
    writer.close()
