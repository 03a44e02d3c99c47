"""`allegro-tools plan`: what is counted for ranks that are not there is what they count when they are."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import water

from allegro_sim.cell import Cell
from allegro_sim.errors import OutputError
from allegro_sim.loads import brick_loads, count_pairs, largest, uniform_load
from allegro_sim.model.weight_file import load_model
from allegro_sim.neighbors import NeighborList
from allegro_sim.potential.folding import fold_model
from allegro_sim.tools.device_rates import CPU_RATE, RECORDS, measured_gpus
from allegro_sim.tools.main import main


def lines_of_loads(text: str) -> dict[str, str]:
    """The facts about one rank, by their label."""
    _, _, after = text.partition("In one rank, at most\n")
    block = after.split("\n\n")[0]
    found = dict(re.findall(r"^  (\w+) +(.*)$", block, flags=re.MULTILINE))
    return {label: found[label] for label in ("atoms", "pairs", "halo", "arrays")}


@pytest.mark.mpi
@pytest.mark.parametrize(("shape", "ranks"), [("periodic", 3), ("open", 2)])
def test_a_plan_is_what_a_dry_run_counts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    water_model: Path,
    mpirun: Callable,
    shape: str,
    ranks: int,
) -> None:
    atoms = water.water_molecules(water.SPACING * water.grid((2, 3, 4)))
    if shape == "periodic":
        atoms.set_cell([[6.2, 0, 0], [1.0, 9.3, 0], [0, 1.5, 12.4]])
        atoms.set_pbc(True)
    atoms.write(tmp_path / "start.extxyz")
    path = water.write_input(
        tmp_path / "run.toml", water_model, tmp_path / "start.extxyz", tmp_path / "out",
        run={"steps": 1}, velocities={"temperature_K": 300.0},
    )  # fmt: skip
    copies = ["--set", f"structure.replicate={[1, 1, 2] if shape == 'periodic' else [1, 1, 1]}"]
    output = mpirun(ranks, sys.executable, "-m", "allegro_sim", str(path), "--dry-run", *copies).stdout
    assert main(["plan", str(path), "--ranks", str(ranks), *copies]) == 0
    assert lines_of_loads(capsys.readouterr().out) == lines_of_loads(output)
    assert not (tmp_path / "out").exists()


def test_even_density_gives_what_counting_gives(water_model: Path) -> None:
    """Random atoms of a liquid's density on eight ranks: the fullest brick has some 5 % more than the mean."""
    rng = np.random.default_rng(5)
    cell = Cell(np.diag([30.0, 28.0, 26.0]), True)
    positions = rng.random((2000, 3)) @ cell.vectors
    neighbors = NeighborList(load_model(water_model).cutoffs, 1.0)
    pairs = count_pairs(cell, np.zeros(2000, int), positions, neighbors)
    counted = largest(brick_loads(cell, positions, pairs, neighbors.reach, 8)[1])
    even = uniform_load(2000, cell.heights, cell.pbc, pairs.mean(axis=0), neighbors.reach, 8)
    for name in ("owned", "ghosts", "received", "listed", "edges"):
        assert getattr(even, name) == pytest.approx(getattr(counted, name), rel=0.15), name


def test_pairs_are_those_of_all_images(water_model: Path) -> None:
    """Against every image of every atom, in a cell smaller than the reach."""
    model = load_model(water_model)
    rng = np.random.default_rng(2)
    vectors = np.array([[5.0, 0.0, 0.0], [1.0, 5.5, 0.0], [0.0, -1.0, 6.0]])
    positions, types = rng.random((9, 3)) @ vectors, np.arange(9) % 2
    neighbors = NeighborList(model.cutoffs, 1.0)
    found = count_pairs(Cell(vectors, True), types, positions, neighbors)
    shifts = (np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)) @ vectors
    apart = np.linalg.norm(positions[None, :, None] + shifts - positions[:, None, None], axis=-1)
    apart[apart == 0.0] = np.inf
    assert (found[:, 0] == (apart < neighbors.reach).sum(axis=(1, 2))).all()
    cutoffs = model.cutoffs[types[:, None], types[None, :]][:, :, None]
    assert (found[:, 1] == (apart < cutoffs).sum(axis=(1, 2))).all()


def test_the_rate_of_a_core_is_the_record(repository: Path) -> None:
    record = json.loads((repository / CPU_RATE.record).read_text())
    assert CPU_RATE.processor in record["processor"]
    assert CPU_RATE.seconds == pytest.approx(1e-3 * statistics.median(record["milliseconds"]["allegro-sim"]))
    assert (CPU_RATE.edges, CPU_RATE.precision, record["threads"]) == (record["edges"], record["precision"], 1)
    model = load_model(repository / "inputs" / "water" / "water.h5")
    assert CPU_RATE.multiply_adds == fold_model(model).multiply_adds[1]


@pytest.fixture
def water_model(inputs: Path) -> Path:
    return inputs / "water" / "water.h5"


@pytest.fixture
def input_path(tmp_path: Path, repository: Path) -> str:
    folder = repository / "inputs" / "water"
    text = (folder / "nvt.toml").read_text().replace('"water', f'"{folder}/water', 1)
    text = text.replace('"water-192', f'"{folder}/water-192')
    (tmp_path / "run.toml").write_text(text)
    return str(tmp_path / "run.toml")


def test_the_speed_of_a_core_is_scaled_from_its_record(input_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The very system of the record: the same speed."""
    assert main(["plan", input_path, "--ranks", "1", "--set", "run.threads=1"]) == 0
    text = capsys.readouterr().out
    assert f"{1.0 / CPU_RATE.seconds:.0f} steps/s" in text
    assert CPU_RATE.record in text
    assert main(["plan", input_path, "--ranks", "1", "--set", "run.precision=double"]) == 0
    assert "not measured in double" in capsys.readouterr().out


def test_a_gpu_without_a_record_has_a_bound_and_no_speed(
    input_path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measured_gpus, "__defaults__", (tmp_path,))
    assert main(["plan", input_path, "--gpus", "2"]) == 0
    text = capsys.readouterr().out
    assert "speed          not measured: there is no record of a GPU in mixed" in text
    for name in ("A100", "H100", "H200"):
        assert re.search(rf"bound, {name} +at most [\d.]+ steps/s.* not a measurement", text)
        assert re.search(rf"largest, {name} +[\d.]+ million atoms", text)


def test_a_record_of_a_gpu_gives_a_speed(
    input_path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A record that says: the bundled model's 192 atoms in 1 ms, which are the 192 atoms of the input."""
    results = {
        "speed/medium/mixed/192": {"evaluation_seconds": [1e-6]},
        "speed/bundled/mixed/192": {"evaluation_seconds": [1e-3, 1.1e-3, 0.9e-3]},
        "speed/bundled/mixed/3072": {"error": "out of memory"},
        "speed/bundled/double/192": {"evaluation_seconds": [1e-5]},
        "speed/ceilings": {},
    }
    (tmp_path / "2026-01-01-gpu-t.json").write_text(json.dumps({"gpu": "Testing 1", "results": results}))
    monkeypatch.setattr(measured_gpus, "__defaults__", (tmp_path,))
    assert main(["plan", input_path, "--gpus", "1"]) == 0
    speed = re.search(r"speed, Testing 1 +(\d+) steps/s", capsys.readouterr().out)
    assert speed is not None
    assert int(speed[1]) == pytest.approx(1000, rel=0.01)  # 38.2 edges an atom, rounded


def test_records_in_the_tree_can_be_read() -> None:
    for precision in ("double", "single", "mixed"):
        assert all(rate.multiply_adds_per_second > 0.0 for rate in measured_gpus(precision, 10_000, RECORDS))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01-gpu-t.json").write_text("{}")
    with pytest.raises(OutputError, match=r"2026-01-01-gpu-t\.json"):
        list(measured_gpus("mixed", 10_000, tmp_path))


def test_a_system_too_large_to_count_is_planned_from_its_density(
    input_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--gpus", "64", "--memory-GiB", "40", "--set", "structure.replicate=[60,60,60]"]
    assert main(["plan", input_path, *arguments]) == 0
    text = capsys.readouterr().out
    assert "41472000 atoms on 64 GPUs" in text
    assert "In one rank, from the density" in text
    assert "fit 40 GiB a GPU" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--ranks", "1", "--memory-GiB", "0"], "--memory-GiB 0"), (["--gpus", "1", "--set", "run.stebs=1"], "run.stebs")],
)
def test_what_cannot_be_planned_is_named(
    input_path: str, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["plan", input_path, *arguments]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--ranks", "0"], ["--ranks", "1", "--gpus", "1"]])
def test_one_number_of_ranks_is_needed(input_path: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", input_path, *arguments])
    assert stopped.value.code == 2
