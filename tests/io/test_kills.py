"""kill -9 at any moment: the files can be read after a repair, and a restart gives the bits of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.survival import contents, differing, fork_run, write_input

from allegro_sim.output import checkpoint
from allegro_sim.output.directory import existing_outputs
from allegro_sim.output.lock import RunLock
from allegro_sim.output.thermo import ThermoWriter
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.tools.main import main as tools


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, object]:
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    write_input(folder, repository)
    assert fork_run(folder, "input.toml").code == 0
    return contents(folder / "out")


@pytest.fixture
def folder(tmp_path: Path, repository: Path) -> Path:
    write_input(tmp_path, repository)
    return tmp_path


def check_what_is_left(directory: Path) -> None:
    """Repair accepts all files but one that has only begun; and then all can be read."""
    left = [path for path in existing_outputs(directory) if path.suffix != ".xyz" and path.stat().st_size]
    if left:
        assert tools(["repair", *map(str, left)]) == 0
    if (directory / "trajectory.h5md").exists():
        with TrajectoryReader(directory / "trajectory.h5md") as trajectory:
            assert [frame.step for frame in trajectory] == list(range(0, 2 * trajectory.num_frames, 2))
    if directory / "thermo.csv" in left:
        lines = (directory / "thermo.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines[1:]] == [str(step) for step in range(len(lines) - 1)]
    for path in checkpoint.list_checkpoints(directory):
        checkpoint.load_checkpoint(path)


def restart(folder: Path) -> None:
    """Go on as a batch script would; where the kill came before the directory was made, start."""
    flags = ("--restart",) if (folder / "out").exists() else ()
    ended = fork_run(folder, "input.toml", *flags)
    assert ended.code == 0, ended


def kill_at(target: object, name: str, count: int, *, after: bool) -> Callable[[], None]:
    """Kills the process before or after call number `count` of a function."""

    def prepare() -> None:
        function = getattr(target, name)
        calls = 0

        def counted(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == count and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if calls == count and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(target, name, counted)

    return prepare


MOMENTS = {
    "before the directory is locked": (RunLock, "acquire", 1, False),
    "when the directory is locked": (RunLock, "acquire", 1, True),
    "while the lock is made": (os, "link", 1, False),
    "before the header of thermo.csv": (ThermoWriter, "_write_line", 1, False),
    "before the trajectory has its name": (os, "replace", 2, False),
    "before the first frame": (TrajectoryWriter, "append", 1, False),
    "in the first frame": (TrajectoryWriter, "_write_frame_and_rows", 1, False),
    "before the first checkpoint": (checkpoint, "_write_hdf5", 1, False),
    "in the first checkpoint": (checkpoint, "_write_hdf5", 1, True),
    "in a frame, between values and step": (h5py.File, "flush", 12, True),
    "in a frame, after some values": (h5py.Dataset, "resize", 200, True),
    "between a frame and its row": (ThermoWriter, "write", 17, False),
    "between a row and its checkpoint": (checkpoint, "_write_hdf5", 4, False),
    "in a checkpoint, unsealed": (checkpoint, "_write_hdf5", 4, True),
    "in a checkpoint, sealed and unnamed": (checkpoint, "_seal", 4, True),
    "between a checkpoint and the removal of an old one": (checkpoint, "_sync_directory", 4, True),
    "after the last checkpoint": (checkpoint, "_sync_directory", 6, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_chosen_moment(folder: Path, whole: dict[str, object], moment: str) -> None:
    target, name, count, after = MOMENTS[moment]
    ended = fork_run(folder, "input.toml", prepare=kill_at(target, name, count, after=after))
    assert ended.code == -signal.SIGKILL, ended
    check_what_is_left(folder / "out")
    restart(folder)
    assert differing(contents(folder / "out"), whole) == []


@pytest.mark.parametrize("moment", ["in a frame, after some values", "in a checkpoint, unsealed"])
def test_killed_again_and_again_and_restarted_without_a_repair(
    folder: Path, whole: dict[str, object], moment: str
) -> None:
    """Each restart is killed too; a run that reaches fewer calls than that before its end has come through."""
    target, name, count, after = MOMENTS[moment]
    flags: tuple[str, ...] = ()
    for _ in range(10):
        ended = fork_run(folder, "input.toml", *flags, prepare=kill_at(target, name, count, after=after))
        flags = ("--restart",)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended
    else:
        pytest.fail("the run never came to its end")
    assert differing(contents(folder / "out"), whole) == []


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> float:
    """Seconds that a run takes on one rank, with all that it needs in memory."""
    folder = tmp_path_factory.mktemp("usual")
    write_input(folder, repository)
    began = time.monotonic()
    assert fork_run(folder, "input.toml").code == 0
    return time.monotonic() - began


@pytest.mark.parametrize("number", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 50))])
def test_killed_at_a_random_time(folder: Path, whole: dict[str, object], usual: float, number: int) -> None:
    seconds = float(np.random.default_rng(number).uniform(0.0, usual))

    def kill(pid: int) -> None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)

    ended = fork_run(folder, "input.toml", while_running=kill)
    assert ended.code in (0, -signal.SIGKILL), ended
    if ended.code:
        check_what_is_left(folder / "out")
        restart(folder)
    assert differing(contents(folder / "out"), whole) == []


@pytest.mark.parametrize("number", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 50))])
def test_terminated_at_a_random_time_and_restarted_without_a_repair(
    folder: Path, whole: dict[str, object], usual: float, number: int
) -> None:
    """SIGTERM: exit code 4 and a checkpoint; before the program listens for it, what the system does."""
    seconds = float(np.random.default_rng(200 + number).uniform(0.0, usual))

    def terminate(pid: int) -> None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGTERM)

    ended = fork_run(folder, "input.toml", while_running=terminate)
    assert ended.code in (0, 4, -signal.SIGTERM), ended
    assert "Traceback" not in ended.errors
    if ended.code == 4:
        assert checkpoint.list_checkpoints(folder / "out")[0].name in ended.errors
    if ended.code:
        restart(folder)
    assert differing(contents(folder / "out"), whole) == []


def kill_ranks(
    folder: Path, launcher: str, targets: list[int], seconds: float, number: signal.Signals = signal.SIGKILL
) -> int:
    """Run on 3 ranks, and send some of them a signal so many seconds after the first has begun; returns mpirun's exit
    code."""
    command = [launcher, "-n", "3", sys.executable, "-c", RANKS, "input.toml"]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        paths = [folder / f"pid-{rank}" for rank in range(3)]
        while not all(path.exists() for path in paths):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(seconds)
        for rank in targets:
            try:
                os.kill(int(paths[rank].read_text()), number)
            except ProcessLookupError:  # it has come to its end, or another's death has ended it
                continue
        return process.wait(timeout=10 if number == signal.SIGKILL else 30)


RANKS = """
import os
from pathlib import Path
unfinished = Path(f"new-{os.getpid()}")
unfinished.write_text(str(os.getpid()))
unfinished.rename("pid-" + os.environ["PMI_RANK"])
from allegro_sim.cli import main
main()
"""


@pytest.mark.mpi
@pytest.mark.parametrize("number", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 50))])
def test_ranks_killed_at_a_random_time(folder: Path, whole: dict[str, object], launcher: str, number: int) -> None:
    """Rank 0, 1, 2, and all of them in turn, in a run that takes some three seconds, one of them in the loop."""
    generator = np.random.default_rng(100 + number)
    targets = [[0, 1, 2], [0], [1], [2]][number % 4]
    code = kill_ranks(folder, launcher, targets, float(generator.uniform(0.0, 3.0)))
    if code:
        check_what_is_left(folder / "out")
        restart(folder)
    assert differing(contents(folder / "out"), whole) == []


@pytest.mark.mpi
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 50))])
def test_ranks_terminated_at_a_random_time(folder: Path, whole: dict[str, object], launcher: str, number: int) -> None:
    """SIGTERM to all ranks, or to one of them, wherever they are."""
    generator = np.random.default_rng(300 + number)
    targets = [[0, 1, 2], [0], [1], [2]][number % 4]
    if kill_ranks(folder, launcher, targets, float(generator.uniform(0.0, 3.0)), signal.SIGTERM):
        restart(folder)
    assert differing(contents(folder / "out"), whole) == []
