"""The command `allegro-sim`: a short run with the bundled model, its flags, and its exit codes."""

from __future__ import annotations

import csv
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest

from allegro_sim import __version__
from allegro_sim.simulation import Simulation


@pytest.fixture
def program(run_program: Callable, inputs: Path) -> Callable[..., tuple[int, str, str]]:
    """program(*arguments) -> exit code, output, errors: inputs/water/smoke.toml on one rank, in an empty directory."""
    return functools.partial(run_program, str(inputs / "water" / "smoke.toml"))


def thermo(directory: str) -> list[dict[str, str]]:
    with open(Path(directory) / "thermo.csv", newline="") as file:
        return list(csv.DictReader(file))


def frames(directory: str) -> dict[str, np.ndarray]:
    with h5py.File(Path(directory) / "trajectory.h5md", "r") as file:
        particles = file["particles/all"]
        found = {name: particles[name]["value"][()] for name in ("position", "velocity", "force")}
        return found | {"step": particles["position/step"][()]}


def test_run_writes_all_outputs_and_names_them(program) -> None:
    code, output, errors = program()
    assert (code, errors) == (0, "")
    directory = Path("water-smoke")
    names = {"trajectory.h5md", "topology.xyz", "thermo.csv", "checkpoint-000000003.h5", "checkpoint-000000006.h5"}
    assert {path.name for path in directory.iterdir()} == names
    assert all(str(directory / name) in output for name in names)
    assert [row["step"] for row in thermo("water-smoke")] == [str(step) for step in range(7)]
    assert frames("water-smoke")["step"].tolist() == [0, 2, 4, 6]
    for word in (f"allegro-sim {__version__}", "cpu", "single", "192 atoms", "edges per atom", "langevin", "ns/day"):
        assert word in output
    # Velocities are drawn with exactly this temperature.
    assert float(thermo("water-smoke")[0]["temperature_K"]) == pytest.approx(300.0, rel=1e-9)


def test_existing_output_is_kept_unless_told_otherwise(program) -> None:
    assert program("--set", "run.steps=1")[0] == 0
    before = Path("water-smoke/thermo.csv").read_bytes()
    code, _, errors = program("--set", "run.steps=2")
    assert code == 2 and "--restart" in errors and "--overwrite" in errors
    assert Path("water-smoke/thermo.csv").read_bytes() == before
    assert program("--set", "run.steps=2", "--overwrite")[0] == 0
    assert len(thermo("water-smoke")) == 3


@pytest.mark.parametrize("ensemble", ["langevin", "nve"])
def test_restart_continues_with_the_same_bits(program, ensemble: str) -> None:
    options = ["--set", f"dynamics.ensemble={ensemble}", "--set", "output.precision=double"]
    assert program(*options, "--set", "output.directory=whole")[0] == 0
    assert program(*options, "--set", "output.directory=parts", "--set", "run.steps=4")[0] == 0
    code, output, _ = program(*options, "--set", "output.directory=parts", "--restart")
    assert code == 0 and "checkpoint-000000004.h5" in output
    whole, parts = frames("whole"), frames("parts")
    assert all((whole[name] == parts[name]).all() for name in whole)
    assert thermo("whole") == thermo("parts")
    # From an older checkpoint, named: what came after it is cut off and computed again.
    code, output, _ = program(*options, "--set", "output.directory=parts", "--restart", "parts/checkpoint-000000004.h5")
    assert code == 0
    assert all((whole[name] == value).all() for name, value in frames("parts").items())


def test_restart_into_an_empty_directory_begins_new_files(program) -> None:
    assert program("--set", "run.steps=3")[0] == 0
    checkpoint = "water-smoke/checkpoint-000000003.h5"
    assert program("--restart", checkpoint, "--set", "output.directory=elsewhere")[0] == 0
    assert [row["step"] for row in thermo("elsewhere")] == ["4", "5", "6"]


def test_finished_run_says_so(program) -> None:
    assert program()[0] == 0
    before = Path("water-smoke/thermo.csv").read_bytes()
    code, output, errors = program("--restart")
    assert (code, errors) == (0, "") and "finished: 6 of 6 steps" in output
    assert Path("water-smoke/thermo.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("run.seed=9", "run.seed: 1 -> 9"),
        ("dynamics.friction_per_ps=1.0", "dynamics.friction_per_ps"),
        ("structure.replicate=[2,1,1]", "number of atoms: 192 -> 384"),
        ("run.precision=double", 'run.precision: "single" -> "double"'),
    ],
)
def test_restart_of_another_run_is_refused(program, change: str, words: str) -> None:
    assert program("--set", "run.steps=1")[0] == 0
    code, _, errors = program("--restart", "--set", change)
    assert code == 2 and words in errors


def test_dry_run_tells_what_would_run_and_writes_nothing(program, tmp_path: Path) -> None:
    code, output, errors = program("--dry-run", "--set", "structure.replicate=[2,1,1]")
    assert (code, errors) == (0, "")
    for word in ("[dynamics]", 'ensemble = "langevin"', "replicate = [2, 1, 1]", "384 atoms", "bricks", "MiB"):
        assert word in output
    assert list(tmp_path.iterdir()) == []


def test_step_zero_alone(program) -> None:
    assert program("--set", "run.steps=0")[0] == 0
    assert len(thermo("water-smoke")) == 1


def test_atom_that_moves_too_far_stops_the_run(program) -> None:
    code, _, errors = program("--set", "guards.max_displacement_A=0.02", "--set", "run.steps=100")
    assert code == 3
    assert "stopped at step" in errors and "0.02 Å" in errors and "Traceback" not in errors
    (stopped,) = Path("water-smoke").glob("stopped-*.xyz")
    assert str(stopped) in errors
    atoms = ase.io.read(stopped)
    assert len(atoms) == 192 and (atoms.arrays["id"] == np.arange(192)).all()
    fault = atoms.arrays["at_fault"]
    assert fault.any() and not fault.all()
    assert all(str(atom) in errors for atom in np.flatnonzero(fault)[:3])
    assert (atoms.arrays["displacement"][fault] > 0.02).all()


@pytest.mark.parametrize("thermo_every", [1, 100])
def test_forces_that_are_not_finite_stop_the_run(program, monkeypatch, thermo_every: int) -> None:
    """Found at once where something is to be written, else by the next step; never written as a result."""
    begin = Simulation._begin

    def begin_and_break(simulation: Simulation) -> None:
        begin(simulation)
        compute = simulation.potential.compute

        def break_at_step_3(system, neighbors, **options) -> None:
            compute(system, neighbors, **options)
            if simulation.step == 2:  # the step in progress leads to 3
                system.bad_centres = np.flatnonzero(system.ids[: system.num_owned] == 17)

        monkeypatch.setattr(simulation.potential, "compute", break_at_step_3)

    monkeypatch.setattr(Simulation, "_begin", begin_and_break)
    options = ["--set", f"output.thermo_every={thermo_every}", "--set", "output.checkpoint_every=100"]
    code, _, errors = program(*options, "--set", "output.trajectory_every=0")
    assert code == 3
    assert "stopped at step 3" in errors and "atoms 17 " in errors
    atoms = ase.io.read("water-smoke/stopped-000000003.xyz")
    assert np.flatnonzero(atoms.arrays["at_fault"]).tolist() == [17]
    assert [row["step"] for row in thermo("water-smoke")] == (["0", "1", "2"] if thermo_every == 1 else ["0"])


def test_version_and_help() -> None:
    done = subprocess.run([sys.executable, "-m", "allegro_sim", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"allegro-sim {__version__}\n")
    done = subprocess.run([sys.executable, "-m", "allegro_sim", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for flag in ("--set", "--restart", "--overwrite", "--dry-run", "--version"):
        assert flag in done.stdout


def test_runs_on_one_rank_where_no_mpi_library_is_installed(inputs: Path, tmp_path: Path) -> None:
    """mpi4py is there, and finds no library: the name it is told to load does not exist."""
    command = [sys.executable, "-m", "allegro_sim", inputs / "water" / "smoke.toml", "--set", "run.steps=2"]
    environment = os.environ | {"MPI4PY_LIBMPI": str(tmp_path / "no-such-library.so")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 x " in done.stdout
    done = subprocess.run(command, cwd=tmp_path, env=environment | {"PMI_SIZE": "2"}, capture_output=True, text=True)
    assert done.returncode == 2 and "no MPI library can be loaded" in done.stderr


@pytest.mark.mpi
def test_one_rank_prints_for_all(inputs: Path, tmp_path: Path, mpirun: Callable) -> None:
    smoke = inputs / "water" / "smoke.toml"
    done = mpirun(3, sys.executable, "-m", "allegro_sim", smoke, "--set", "run.steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("edges per atom") == 1
    assert "3 x " in done.stdout
    done = mpirun(3, sys.executable, "-m", "allegro_sim", smoke, "--unknown", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("--unknown") == 1


@pytest.mark.mpi
def test_guard_stops_all_ranks(inputs: Path, tmp_path: Path, mpirun: Callable) -> None:
    smoke = inputs / "water" / "smoke.toml"
    options = ["--set", "guards.max_displacement_A=0.02", "--set", "run.steps=100"]
    done = mpirun(3, sys.executable, "-m", "allegro_sim", smoke, *options, cwd=tmp_path, timeout=60)
    assert done.returncode == 3 and done.stderr.count("stopped at step") == 1
    assert len(ase.io.read(next((tmp_path / "water-smoke").glob("stopped-*.xyz")))) == 192


CRASH = """
from allegro_sim import cli
from allegro_sim.errors import StructureError
from allegro_sim.simulation import Simulation
run = Simulation.run
def crash(simulation):
    if simulation.comm.rank == 1:
        raise ERROR
    run(simulation)
Simulation.run = crash
cli.main()
"""


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ('ValueError("a mistake")', 1, ["internal error on rank 1 of 3", "ValueError: a mistake"]),
        ('StructureError("this brick alone")', 2, ["allegro-sim: this brick alone"]),
    ],
)
def test_error_on_one_rank_ends_all(
    inputs: Path, tmp_path: Path, mpirun: Callable, error: str, code: int, words: list[str]
) -> None:
    script = tmp_path / "crash.py"
    script.write_text(CRASH.replace("ERROR", error))
    done = mpirun(3, sys.executable, script, inputs / "water" / "smoke.toml", cwd=tmp_path, timeout=30)
    # Where one rank aborts the others, mpirun may answer with the signal it killed those with.
    assert done.returncode in (code, 9)
    assert all(word in done.stderr for word in words)
    assert ("Traceback" in done.stderr) == (code == 1)
