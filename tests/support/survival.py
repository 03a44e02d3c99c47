"""Runs that are ended from outside, and what they must leave: used by the tests of stops, kills and full disks.

A small system, 24 atoms of water, with output often, so that any moment is close to a write. Runs on one rank are
forked from the test's own process, whose kernels are compiled and loaded: such a run takes tenths of a second.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from allegro_sim import cli
from allegro_sim.dynamics.rehearsal import Rehearsal
from allegro_sim.model.weight_file import load_model
from allegro_sim.output.checkpoint import list_checkpoints, load_checkpoint
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.potential import create_potential
from allegro_sim.simulation import Simulation  # noqa: F401 - loaded here, so that no forked run has to

STEPS = 24

_INPUT = """
[model]
file = "{water}/water.h5"
[structure]
file = "{structure}"
[run]
steps = {steps}
seed = 3
device = "cpu"
threads = 1
[velocities]
temperature_K = 300
[dynamics]
ensemble = "langevin"
temperature_K = 300
friction_per_ps = 5
[output]
directory = "out"
trajectory_every = 2
thermo_every = 1
checkpoint_every = 5
velocities = true
forces = true
precision = "double"
"""


def write_input(folder: Path, repository: Path, steps: int = STEPS) -> Path:
    """FOLDER/input.toml, whose run writes to FOLDER/out when started in FOLDER."""
    structure = repository / "tests" / "data" / "water24.xyz"
    path = folder / "input.toml"
    path.write_text(_INPUT.format(water=repository / "inputs" / "water", structure=structure, steps=steps))
    return path


@functools.cache
def _load_kernels() -> None:
    """Once, in the process that forks."""
    model = load_model(Path(__file__).parents[2] / "inputs" / "water" / "water.h5")
    rehearsal = Rehearsal(model)
    rehearsal.rehearse_neighbors()
    rehearsal.rehearse_step(create_potential(model, device="cpu", precision="single", threads=1))


@dataclass(frozen=True)
class Ended:
    """How a forked run ended: exit code, or minus the number of the signal; and what it printed."""

    code: int
    output: str
    errors: str


def fork_run(
    folder: Path, *arguments: str | Path, prepare: Callable[[], None] | None = None, while_running=None
) -> Ended:
    """`allegro-sim ARGUMENTS` on one rank, in `folder`, in a child of this process.

    prepare() is called in the child before the run, while_running(pid) in this process.
    """
    _load_kernels()
    names = folder / "stdout.txt", folder / "stderr.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become_run(folder, names, [str(argument) for argument in arguments], prepare)
    if while_running is not None:
        while_running(pid)
    _, status = os.waitpid(pid, 0)
    output, errors = (name.read_text(errors="replace") if name.exists() else "" for name in names)
    return Ended(os.waitstatus_to_exitcode(status), output, errors)


def _become_run(folder: Path, names: tuple[Path, Path], arguments: list[str], prepare) -> None:
    code = 99
    try:
        os.chdir(folder)
        for number, name in zip((1, 2), names, strict=True):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        cli.world = SerialComm  # type: ignore[assignment]
        if prepare is not None:
            prepare()
        cli.main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def contents(directory: Path) -> dict[str, object]:
    """Every bit that a run computed: trajectory, thermodynamics, newest checkpoint; to be compared with ==."""
    found: dict[str, object] = {"thermo.csv": (directory / "thermo.csv").read_bytes()}
    with h5py.File(directory / "trajectory.h5md", "r", locking=False) as file:

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset) and name.split("/")[0] in ("particles", "observables", "thermo"):
                found[name] = (item.shape, np.ascontiguousarray(item[()]).tobytes())

        file.visititems(visit)
    newest = list_checkpoints(directory)[0]
    found["name of the checkpoint"] = newest.name
    for name, value in dataclasses.asdict(load_checkpoint(newest)).items():
        found[f"checkpoint/{name}"] = value.tobytes() if isinstance(value, np.ndarray) else value
    return found


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of what differs between two `contents`."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
