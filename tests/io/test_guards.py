"""Guards: each finds what it watches, does what it is told to, shows the atoms, and changes no bit of the run."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest

from allegro_sim.output.trajectory_reader import TrajectoryReader

INPUT = """
[model]
file = "{inputs}/water/water.h5"
[structure]
file = "{data}/water24.xyz"
[run]
steps = 6
threads = 1
device = "cpu"
[velocities]
temperature_K = 300
[output]
directory = "out"
trajectory_every = 1
thermo_every = 1
checkpoint_every = 0
precision = "double"
"""

# A limit that water at 300 K breaks at once, for each guard, and words of the message.
LIMITS = {
    "displacement": ("guards.max_displacement_A=0.005", ["max_displacement_A", "Å"]),
    "force": ("guards.max_force_eV_A=0.5", ["max_force_eV_A", "eV/Å"]),
    "distance": ("guards.min_distance_A={ O-H = 1.2 }", ["min_distance_A", "Å below"]),
    "temperature": ("guards.max_temperature_K=299", ["max_temperature_K", "300 K"]),
    "energy": ("guards.max_energy_jump_eV=1e-9", ["max_energy_jump_eV", "per atom"]),
}


@pytest.fixture
def run(run_input: Callable, inputs: Path) -> Callable[..., tuple[int, str, str]]:
    """run(*overrides) -> exit code, output, errors: six steps of 24 atoms in an empty directory."""
    return run_input(INPUT.format(inputs=inputs, data=inputs.parent / "tests" / "data"))


def rows() -> list[dict[str, str]]:
    with open("out/thermo.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("what", LIMITS)
def test_stop_ends_the_run_with_code_3_and_shows_the_atoms_and_their_neighbours(run, what: str) -> None:
    limit, words = LIMITS[what]
    code, _, errors = run(limit)
    assert code == 3 and errors.count("\n") == 1 and "stopped at step" in errors
    assert all(word in errors for word in words), errors
    (excerpt,) = Path("out").glob(f"guard-{what}-*.xyz")
    (stopped,) = Path("out").glob("stopped-*.xyz")
    assert str(excerpt) in errors and str(stopped) in errors
    atoms = ase.io.read(excerpt)
    fault, values = atoms.arrays["at_fault"], atoms.arrays["value"]
    assert fault.any() and values[fault].min() >= values[~fault].max(initial=-np.inf)
    assert (np.diff(atoms.arrays["id"]) > 0).all()
    for name in ("force_eV_A", "velocity_A_fs"):
        assert atoms.arrays[name].shape == (len(atoms), 3) and np.abs(atoms.arrays[name]).max() > 0.0
    whole = ase.io.read(stopped)
    assert whole.arrays["id"][whole.arrays["at_fault"]].tolist() == atoms.arrays["id"][fault].tolist()


def test_excerpt_holds_the_forces_and_pairs_that_broke_the_limit(run) -> None:
    """Compared with numbers of ASE's own, from the structure that was read."""
    assert run("guards.max_force_eV_A=0.5", "output.forces=true")[0] == 3
    atoms = ase.io.read(next(Path("out").glob("guard-force-*.xyz")))
    assert "guard-force-000000000.xyz" in [path.name for path in Path("out").iterdir()]
    with TrajectoryReader("out/trajectory.h5md") as trajectory:
        forces = trajectory.frame(0).forces
    largest = np.linalg.norm(forces, axis=1)
    expected = np.flatnonzero(largest > 0.5)
    assert atoms.arrays["id"][atoms.arrays["at_fault"]].tolist() == expected.tolist()
    assert atoms.arrays["value"] == pytest.approx(largest[atoms.arrays["id"]], abs=1e-7)  # eight digits in the file
    assert run("guards.min_distance_A={ H-O = 1.0 }", flags=("--overwrite",))[0] == 3
    found = ase.io.read(next(Path("out").glob("guard-distance-*.xyz")))
    structure = ase.io.read("out/topology.xyz")
    distances = structure.get_all_distances(mic=True)
    unlike = structure.numbers[:, None] != structure.numbers[None]
    close = np.flatnonzero((unlike & (distances < 1.0)).any(axis=1))
    step = int(next(Path("out").glob("guard-distance-*.xyz")).stem[-9:])
    if step == 0:
        assert found.arrays["id"][found.arrays["at_fault"]].tolist() == close.tolist()
    else:
        assert len(close) == 0


def test_neighbourhood_is_that_of_the_atoms_at_fault(run) -> None:
    """Of two molecules 30 Å apart, the one without a large force is not shown."""
    first = ase.Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    second = first.copy()
    second.positions += [30.0, 0, 0]
    second.positions[1, 0] += 0.15  # a stretched bond: 3.7 eV/Å
    ase.io.write("two.xyz", first + second, format="extxyz")
    limit = ["structure.file=two.xyz", "guards.max_force_eV_A=2.5", "velocities.temperature_K=0"]
    assert run(*limit)[0] == 3
    atoms = ase.io.read(next(Path("out").glob("guard-force-*.xyz")))
    assert atoms.arrays["id"].tolist() == [3, 4, 5]
    assert 4 in atoms.arrays["id"][atoms.arrays["at_fault"]]


@pytest.mark.parametrize("what", LIMITS)
@pytest.mark.parametrize("action", ["warn", "checkpoint"])
def test_warning_and_checkpoint_leave_every_bit_of_the_run(run, what: str, action: str) -> None:
    assert run("output.directory=plain")[0] == 0
    code, output, errors = run(LIMITS[what][0], f"guards.on_{what}={action}")
    assert (code, errors) == (0, "")
    warnings = [line for line in output.splitlines() if line.startswith("Warning: guard at step")]
    assert len(warnings) == 1, output  # not again for a while
    assert ("checkpoint follows" in warnings[0]) == (action == "checkpoint")
    names = {path.name for path in Path("out").glob("checkpoint-*")}
    between = names - {"checkpoint-000000000.h5", "checkpoint-000000006.h5"}
    step = int(warnings[0].split("step ")[1].split(":")[0])
    if action == "checkpoint" and what in ("displacement", "force", "distance"):
        assert between == {f"checkpoint-{step + 1:09d}.h5"}  # the step in progress
    elif action == "checkpoint" and step not in (0, 6):
        assert between == {f"checkpoint-{step:09d}.h5"}
    else:
        assert not between
    assert Path("out/thermo.csv").read_bytes() == Path("plain/thermo.csv").read_bytes()
    with TrajectoryReader("out/trajectory.h5md") as one, TrajectoryReader("plain/trajectory.h5md") as other:
        assert len(one) == len(other) == 7
        assert all((a.positions == b.positions).all() for a, b in zip(one, other, strict=True))


def test_limits_that_are_kept_say_nothing(run) -> None:
    code, output, errors = run(
        "guards.max_force_eV_A=50",
        "guards.min_distance_A={ O-H = 0.5, H-H = 0.8, O-O = 1.5 }",
        "guards.min_temperature_K=10",
        "guards.max_temperature_K=2000",
        "guards.max_energy_jump_eV=1",
    )
    assert (code, errors) == (0, "") and "Warning" not in output
    assert not list(Path("out").glob("guard-*"))


def test_last_step_is_watched_too(run) -> None:
    """Forces of a run of no steps: no later step compares them."""
    code, _, errors = run("run.steps=0", "guards.max_force_eV_A=0.5")
    assert code == 3 and "stopped at step 0" in errors
    assert len(rows()) == 1


def test_heat_of_a_bath_is_no_jump(run) -> None:
    """From 300 K into a bath of 3000 K with strong friction: 0.02 eV an atom a step, none of it the integrator's."""
    bath = ["dynamics.ensemble=langevin", "dynamics.temperature_K=3000", "dynamics.friction_per_ps=200"]
    assert run(*bath, "guards.max_energy_jump_eV=0.004", "run.timestep_fs=0.25")[0] == 0
    totals = np.array([float(row["total_eV"]) for row in rows()])
    assert (np.diff(totals) / 24 > 0.008).any()


def test_energy_before_a_restart_counts(run) -> None:
    """The jump between the checkpoint's row and the first one after the restart is the same as without a restart."""
    assert run("guards.max_energy_jump_eV=1e-9", "guards.on_energy=warn", "run.steps=0")[0] == 0
    code, output, _ = run("guards.max_energy_jump_eV=1e-9", "guards.on_energy=warn", flags=("--restart",))
    assert code == 0 and "Warning: guard at step 1: the conserved energy changed" in output


@pytest.mark.mpi
def test_ranks_find_the_same_atoms_at_the_same_step(run, mpirun: Callable, tmp_path: Path) -> None:
    limits = ["guards.max_force_eV_A=1.6", "guards.min_distance_A={ O-H = 0.95 }"]
    limits += ["guards.on_force=warn", "guards.on_distance=warn", "guards.max_temperature_K=299"]
    assert run(*limits)[0] == 3
    options = [a for o in [*limits, "output.directory=ranks"] for a in ("--set", o)]
    done = mpirun(3, sys.executable, "-m", "allegro_sim", "input.toml", *options, cwd=tmp_path, timeout=60)
    assert done.returncode == 3 and done.stderr.count("stopped at step") == 1, done.stderr
    names = sorted(path.name for path in Path("out").glob("*.xyz"))
    assert names == sorted(path.name for path in Path("ranks").glob("*.xyz")) and len(names) >= 3
    for name in names:
        assert (Path("out") / name).read_bytes() == (Path("ranks") / name).read_bytes(), name
