"""`allegro-tools thermo`: blocking gives the errors of series whose errors are known; files of restarts are one run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import trajectories

from allegro_sim.output.thermo import THERMO_COLUMNS, ThermoWriter
from allegro_sim.tools.blocking import block_average
from allegro_sim.tools.main import main


def correlated(count: int, memory: float, seed: int) -> np.ndarray:
    """x_{n+1} = memory x_n + noise, of variance 1: (1 + memory) / (1 - memory) samples are worth one."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=count) * np.sqrt(1.0 - memory**2)
    values = np.empty(count)
    last = generator.normal()
    for n in range(count):
        last = memory * last + noise[n]
        values[n] = last
    return values


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_error_of_a_correlated_series(memory: float) -> None:
    """The true standard error is sqrt((1 + a) / (1 - a) / n). A single estimate scatters by some 10 %; 30 % is three
    times that."""
    count = 1 << 14
    result = block_average(5.0e4 + correlated(count, memory, seed=1))
    worth = (1.0 + memory) / (1.0 - memory)
    assert result.converged
    assert result.error == pytest.approx(np.sqrt(worth / count), rel=0.3)
    assert result.inefficiency == pytest.approx(worth, rel=0.6)
    assert result.mean == pytest.approx(5.0e4, abs=4.0 * np.sqrt(worth / count))


def test_two_errors_hold_the_true_mean_in_95_of_100_series() -> None:
    """Expected 191 of 200 for normal means, less the scatter of the error: at least 180 (and not all by far too long
    errors: the mean of deviation over error is near 1)."""
    results = [block_average(correlated(2048, 0.8, seed)) for seed in range(200)]
    deviations = np.array([result.mean / result.error for result in results])
    assert (np.abs(deviations) < 2.0).sum() >= 180
    assert 0.8 < np.sqrt((deviations**2).mean()) < 1.25


def test_a_series_shorter_than_its_memory_is_no_converged_error() -> None:
    assert not block_average(np.arange(256.0)).converged


def test_a_constant_has_no_error() -> None:
    result = block_average(np.full(64, -29943.25))
    assert (result.mean, result.error, result.deviation, result.converged) == (-29943.25, 0.0, 0.0, True)


def test_few_rows_have_no_error() -> None:
    assert np.isnan(block_average(np.arange(15.0)).error)


def write_rows(path: Path, steps: range, *, pressure: bool = True, shift: float = 0.0) -> Path:
    writer = ThermoWriter.create(path)
    for step in steps:
        row = {name: float(step) + shift for name in THERMO_COLUMNS} | {"step": step, "time_ps": step * 0.5e-3}
        writer.write(row | ({} if pressure else {"pressure_bar": None, "volume_A3": None}))
    writer.close()
    return path


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["thermo", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_averages_of_a_csv_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "thermo.csv", range(0, 2010, 10))
    for given in (path, tmp_path):
        found = as_json(capsys, given)
        assert found["rows"] == 201
        quantity = found["quantities"]["temperature_K"]
        assert quantity["mean"] == pytest.approx(1000.0)
        assert quantity["drift_per_ps"] == pytest.approx(2000.0)  # one a step of 0.5 fs
    assert main(["thermo", str(path)]) == 0
    assert "201 rows from 0 to 1 ps; 0 rows before them discarded" in capsys.readouterr().out


@pytest.mark.parametrize(("discard", "first"), [("0.25", 0.25), ("50%", 0.5), ("0", 0.0)])
def test_the_beginning_is_discarded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], discard: str, first: float
) -> None:
    found = as_json(capsys, write_rows(tmp_path / "thermo.csv", range(0, 2010, 10)), "--discard", discard)
    assert found["first_ps"] == pytest.approx(first)
    assert found["quantities"]["kinetic_eV"]["mean"] == pytest.approx((first / 0.5e-3 + 2000.0) / 2.0)


def test_files_of_restarts_are_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second part begins within the first, which it replaces from there on."""
    first = write_rows(tmp_path / "first.csv", range(0, 1000, 10))
    second = write_rows(tmp_path / "second.csv", range(500, 2010, 10), shift=1.0e6)
    found = as_json(capsys, first, second)
    assert found["rows"] == 201
    assert found["quantities"]["potential_eV"]["mean"] == pytest.approx(1000.0 + 151 / 201 * 1.0e6)


def test_rows_of_a_trajectory_are_those_of_its_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = trajectories.create(tmp_path / "run.h5md")
    csv = ThermoWriter.create(tmp_path / "thermo.csv")
    for step in range(0, 40, 2):
        row = trajectories.thermo_row(step)
        writer.append_thermo(row)
        csv.write(row)
    writer.close()
    csv.close()
    assert as_json(capsys, tmp_path / "run.h5md") == as_json(capsys, tmp_path / "thermo.csv")


def test_quantities_that_do_not_exist_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, write_rows(tmp_path / "thermo.csv", range(20), pressure=False))
    assert set(found["quantities"]) == {"temperature_K", "potential_eV", "kinetic_eV", "total_eV", "conserved_eV"}


def test_a_file_that_is_being_written_counts_with_its_whole_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "thermo.csv", range(20))
    with open(path, "a") as stream:
        stream.write("20,0.01,3")
    assert as_json(capsys, path)["rows"] == 20


@pytest.mark.parametrize("case", ["missing", "other file", "empty", "not in order", "bad discard", "all discarded"])
def test_what_cannot_be_averaged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    path = write_rows(tmp_path / "thermo.csv", range(0 if case == "empty" else 20))
    arguments, named = [str(path)], str(path)
    if case == "missing":
        path.unlink()
    elif case == "other file":
        path.write_text("a,b\n1,2\n")
    elif case == "not in order":
        arguments = [str(path), str(write_rows(tmp_path / "other.csv", range(20)))]
        named = "other.csv"
    elif case == "bad discard":
        arguments, named = [str(path), "--discard", "much"], "--discard much"
    elif case == "all discarded":
        arguments, named = [str(path), "--discard", "5"], "--discard 5"
    assert main(["thermo", *arguments]) == 2
    assert named in capsys.readouterr().err
