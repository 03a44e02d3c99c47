"""The minimisation before a run: downhill to the tolerance, the same bits on all ranks, and a run that follows."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from support.survival import contents, differing, fork_run

from allegro_sim.evaluation import Evaluator
from allegro_sim.minimization import Minimization
from allegro_sim.model.weight_file import load_model
from allegro_sim.output import checkpoint
from allegro_sim.output.checkpoint import load_checkpoint
from allegro_sim.output.outputs import Outputs
from allegro_sim.output.screen import Screen
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.potential.cpu import CpuPotential
from allegro_sim.stops import NOTHING, Stops
from allegro_sim.structure import read_structure
from allegro_sim.tools.main import main as tools

INPUT = """
[model]
file = "{inputs}/water/water.h5"
[structure]
file = "{data}/water24.xyz"
[minimize]
max_steps = 200
[run]
steps = 0
threads = 1
device = "cpu"
precision = "double"
[output]
directory = "out"
precision = "double"
"""


@pytest.fixture
def run(run_input: Callable, inputs: Path) -> Callable[..., tuple[int, str, str]]:
    """run(*overrides) -> exit code, output, errors: minimises 24 atoms in an empty directory."""
    return run_input(INPUT.format(inputs=inputs, data=inputs.parent / "tests" / "data"))


def way(directory: str = "out") -> np.ndarray:
    """Rows (n, 3) of step, energy, largest force."""
    with open(Path(directory) / "minimize.csv", newline="") as file:
        return np.array([[float(value) for value in row.values()] for row in csv.DictReader(file)])


def test_minimum_is_reached_and_written(run, inputs: Path) -> None:
    code, output, errors = run("minimize.force_tolerance_eV_A=0.02")
    assert (code, errors) == (0, "") and "Warning" not in output
    rows = way()
    assert rows[:, 0].tolist() == list(range(len(rows))) and len(rows) > 10
    assert rows[-1, 2] <= 0.02 < rows[:-1, 2].min()
    assert rows[-1, 1] == rows[:, 1].min() < rows[0, 1] - 0.5
    # What was written is the minimum, judged by an evaluation of its own. Eight digits of positions: 1e-6 eV/Å.
    model = load_model(inputs / "water" / "water.h5")
    for path in ("out/minimized.xyz", "out/trajectory.h5md", "out/checkpoint-000000000.h5"):
        structure = read_structure(path, model=model)
        found = Evaluator(model, device="cpu", threads=1).evaluate(structure.types, structure.positions, structure.cell)
        assert np.linalg.norm(found.forces, axis=1).max() == pytest.approx(rows[-1, 2], abs=1e-5)
        assert found.energy == pytest.approx(rows[-1, 1], abs=1e-6)
    assert (load_checkpoint("out/checkpoint-000000000.h5").velocities == 0.0).all()


def test_distorted_start_comes_down(run) -> None:
    """Atoms thrown about by 0.25 Å, with forces a hundred times the tolerance."""
    atoms = ase.io.read(Path(__file__).parent.parent / "data" / "water24.xyz")
    atoms.positions += np.random.default_rng(0).uniform(-0.25, 0.25, atoms.positions.shape)
    ase.io.write("bad.xyz", atoms, format="extxyz")
    code, output, _ = run("structure.file=bad.xyz", "minimize.max_steps=400")
    rows = way()
    assert code == 0 and rows[0, 2] > 5.0 and rows[-1, 2] <= 0.05, output


def test_steps_that_do_not_suffice_are_told(run) -> None:
    code, output, errors = run("minimize.max_steps=3")
    assert (code, errors) == (0, "") and "Warning: the minimisation is not converged: after 3 steps" in output
    assert len(way()) == 4


def test_longest_move_is_kept(run) -> None:
    before = ase.io.read(Path(__file__).parent.parent / "data" / "water24.xyz").positions
    assert run("minimize.max_steps=1", "minimize.max_move_A=0.001", "minimize.force_tolerance_eV_A=1e-6")[0] == 0
    moved = np.linalg.norm(ase.io.read("out/minimized.xyz").positions - before, axis=1)
    assert moved.max() == pytest.approx(0.001, abs=2e-8) and moved.min() > 0.0  # eight digits in both files


def test_velocities_are_drawn_after_it(run) -> None:
    code, _, errors = run("run.steps=2")
    assert code == 2 and "velocities.temperature_K" in errors and "minimisation" in errors
    assert not Path("out").exists()
    assert run("run.steps=2", "velocities.temperature_K=300", "output.thermo_every=1")[0] == 0
    with open("out/thermo.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["temperature_K"]) == pytest.approx(300.0, rel=1e-9)
    assert float(first["potential_eV"]) == pytest.approx(way()[-1, 1], abs=1e-9)
    masses = np.where(load_checkpoint("out/checkpoint-000000002.h5").types == 0, 15.999, 1.008)
    velocities = load_checkpoint("out/checkpoint-000000000.h5").velocities
    assert np.abs(masses @ velocities).max() < 1e-10


def test_cluster_starts_without_turning(run) -> None:
    atoms = ase.io.read(Path(__file__).parent.parent / "data" / "water24.xyz")[:6]
    ase.io.write("cluster.xyz", ase.Atoms(atoms.symbols, atoms.positions), format="extxyz")
    assert run("structure.file=cluster.xyz", "run.steps=1", "velocities.temperature_K=300")[0] == 0
    checkpoint = load_checkpoint("out/checkpoint-000000000.h5")
    masses = checkpoint.type_masses[checkpoint.types][:, None]
    centre = (masses * checkpoint.positions).sum(axis=0) / masses.sum()
    turning = np.cross(checkpoint.positions - centre, masses * checkpoint.velocities)
    assert np.abs(turning.sum(axis=0)).max() < 1e-10 * np.abs(turning).max()
    assert checkpoint.state["degrees_of_freedom"] == 3 * 6 - 6


def test_restart_after_it_does_not_minimise_again(run) -> None:
    options = ["velocities.temperature_K=300", "output.thermo_every=1"]
    assert run(*options, "run.steps=4", "output.directory=whole")[0] == 0
    assert run(*options, "run.steps=2")[0] == 0
    before = Path("out/minimize.csv").read_bytes()
    code, output, _ = run(*options, "run.steps=4", flags=("--restart",))
    assert code == 0 and "minimisation" not in output and Path("out/minimize.csv").read_bytes() == before
    for name in ("thermo.csv", "minimized.xyz"):
        assert (Path("out") / name).read_bytes() == (Path("whole") / name).read_bytes()


RESTARTED = ["velocities.temperature_K=300", "run.steps=3", "output.thermo_every=1", "output.trajectory_every=1"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """SIGTERM once the program has asked for requests so often."""
    calls = iter(range(1000))
    monkeypatch.setattr(Stops, "request", lambda _: 115.0 if next(calls) >= steps else NOTHING)


@pytest.fixture
def whole(run) -> dict[str, object]:
    """What an uninterrupted run leaves, in another directory."""
    assert run(*RESTARTED, "output.directory=whole")[0] == 0
    return left_in("whole")


def left_in(directory: str) -> dict[str, object]:
    """Every bit of a run, and of its minimisation; the settings name the directory."""
    found = contents(Path(directory))
    del found["checkpoint/settings"]
    return found | {name: (Path(directory) / name).read_bytes() for name in ("minimize.csv", "minimized.xyz")}


def test_interrupted_one_goes_on_with_the_same_bits(run, whole, monkeypatch) -> None:
    """At its first move, later, and twice; no settings of the minimisation keep it from going on."""
    for steps in (0, 7, 5):
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            code, _, errors = run(*RESTARTED, flags=("--restart",) if Path("out").exists() else ())
        assert code == 4 and "SIGTERM in the minimisation" in errors and "checkpoint-000000000.h5" in errors
    reached = load_checkpoint("out/checkpoint-000000000.h5").minimization["step"]
    assert reached == 1 + 8 + 6 and len(way()) == reached
    assert Path("out/thermo.csv").read_text().count("\n") == 1  # the header
    code, output, errors = run(*RESTARTED, flags=("--restart",))
    assert (code, errors) == (0, "") and "begins again" not in output
    assert differing(left_in("out"), whole) == []


def test_checkpoints_of_it_come_at_their_interval_and_may_be_continued_elsewhere(run, whole, tmp_path: Path) -> None:
    stopped = [*RESTARTED, "minimize.max_steps=9", "output.checkpoint_every=4"]
    ended = fork_run(tmp_path, *arguments(stopped), prepare=kill_when(checkpoint, "_sync_directory", 2))
    assert ended.code == -signal.SIGKILL
    assert load_checkpoint("out/checkpoint-000000000.h5").minimization["step"] == 8
    Path("elsewhere").mkdir()
    shutil.copy("out/checkpoint-000000000.h5", "elsewhere/saved.h5")
    assert run(*RESTARTED, "output.directory=new", flags=("--restart", "elsewhere/saved.h5"))[0] == 0
    assert (Path("new") / "minimized.xyz").read_bytes() == whole["minimized.xyz"]
    assert (Path("new") / "thermo.csv").read_bytes() == whole["thermo.csv"]
    assert way("new").tolist() == way("whole")[8:].tolist()


def arguments(overrides: list[str], *flags: str) -> list[str]:
    return ["input.toml", *(word for override in overrides for word in ("--set", override)), *flags]


def kill_when(target: object, name: str, count: int) -> Callable[[], None]:
    """kill -9 after call number `count` of a function."""

    def prepare() -> None:
        function, calls = getattr(target, name), itertools.count(1)

        def counted(*args, **options):
            result = function(*args, **options)
            if next(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(target, name, counted)

    return prepare


MOMENTS = {
    "before any checkpoint": (Minimization, "_tell", 3),
    "after a row beyond the checkpoint": (Minimization, "_tell", 11),
    "in a checkpoint": (checkpoint, "_write_hdf5", 2),
    "when minimized.xyz is there": (Outputs, "write_minimized", 1),
    "when step 0 is written": (TrajectoryWriter, "append", 1),
    "when step 0 is told": (Screen, "thermo", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_one_goes_on_with_the_same_bits(run, whole, tmp_path: Path, moment: str) -> None:
    often = [*RESTARTED, "output.checkpoint_every=5"]
    ended = fork_run(tmp_path, *arguments(often), prepare=kill_when(*MOMENTS[moment]))
    assert ended.code == -signal.SIGKILL, ended
    assert tools(["repair", "out"]) == 0
    code, _, errors = run(*RESTARTED, flags=("--restart",))
    assert (code, errors) == (0, "")
    assert differing(left_in("out"), whole) == []


def test_checkpoint_of_it_has_no_velocities_of_atoms(run, inputs: Path, monkeypatch) -> None:
    interrupt_after(monkeypatch, 6)
    assert run()[0] == 4
    saved = load_checkpoint("out/checkpoint-000000000.h5")
    assert np.abs(saved.velocities).max() > 0.0
    structure = read_structure("out/checkpoint-000000000.h5", model=load_model(inputs / "water" / "water.h5"))
    assert structure.velocities is None and (structure.positions == saved.positions).all()


@pytest.mark.parametrize("damage", ["row missing", "another header"])
def test_way_that_does_not_lead_to_the_checkpoint_is_refused(run, monkeypatch, damage: str) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        assert run()[0] == 4
    lines = Path("out/minimize.csv").read_text().splitlines(keepends=True)
    Path("out/minimize.csv").write_text("".join(lines[:-1] if damage == "row missing" else ["x\n", *lines[1:]]))
    code, _, errors = run(flags=("--restart",))
    assert code == 2 and "minimize.csv" in errors and errors.count("\n") == 1


@pytest.mark.mpi
def test_ranks_go_the_same_way_bit_for_bit(run, mpirun: Callable, tmp_path: Path) -> None:
    options = ["velocities.temperature_K=300", "run.steps=3", "minimize.max_steps=25", "output.trajectory_every=1"]
    assert run(*options)[0] == 0
    program = [sys.executable, "-m", "allegro_sim", *arguments([*options, "output.directory=ranks"])]
    done = mpirun(3, *program, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("minimize.csv", "minimized.xyz", "thermo.csv"):
        assert (Path("out") / name).read_bytes() == (Path("ranks") / name).read_bytes(), name
    # Interrupted at its first move on one rank, and continued on three.
    assert run(*options, "output.directory=ranks", flags=("--overwrite", "--max-hours", "0"))[0] == 4
    assert load_checkpoint("ranks/checkpoint-000000000.h5").minimization["step"] == 1
    done = mpirun(3, *program, "--restart", cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("minimize.csv", "minimized.xyz", "thermo.csv"):
        assert (Path("out") / name).read_bytes() == (Path("ranks") / name).read_bytes(), name


def test_forces_that_are_not_finite_stop_it(run, monkeypatch) -> None:
    compute, calls = CpuPotential.compute, iter(range(1000))

    def break_later(potential, system, neighbors, **options) -> None:
        compute(potential, system, neighbors, **options)
        # Two calls are the rehearsal's and the first forces.
        if next(calls) >= 5:
            system.bad_centres = np.flatnonzero(system.ids[: system.num_owned] == 17)

    monkeypatch.setattr(CpuPotential, "compute", break_later)
    code, _, errors = run()
    assert code == 3 and "of the minimisation energy or forces are not finite" in errors and "Traceback" not in errors
    (stopped,) = Path("out").glob("stopped-*.xyz")
    assert str(stopped) in errors
    assert np.flatnonzero(ase.io.read(stopped).arrays["at_fault"]).tolist() == [17]
