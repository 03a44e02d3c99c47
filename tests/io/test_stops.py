"""Runs that are asked to end do so at one step, with a checkpoint, and go on with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.survival import contents, differing, fork_run, write_input

from allegro_sim import stops
from allegro_sim.output.checkpoint import list_checkpoints
from allegro_sim.output.intervals import Intervals
from allegro_sim.output.outputs import Outputs
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.stops import Stops, describe_request, ends_run

MANY = 100_000
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with the input of a run that does not end by itself."""
    folder = tmp_path_factory.mktemp("long")
    write_input(folder, repository, steps=MANY)
    return folder


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.005)


def signalled(directory: Path, *numbers: int) -> Callable[[int], None]:
    """Sends signals once the run has made a checkpoint after step 0."""

    def send(pid: int) -> None:
        wait_for(directory / "checkpoint-000000005.h5")
        for number in numbers:
            os.kill(pid, number)

    return send


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_with_a_checkpoint_and_it_goes_on_with_the_same_bits(
    tmp_path: Path, repository: Path, number: signal.Signals
) -> None:
    write_input(tmp_path, repository, steps=MANY)
    ended = fork_run(tmp_path, "input.toml", while_running=signalled(tmp_path / "out", number))
    assert ended.code == 4, ended
    newest = list_checkpoints(tmp_path / "out")[0]
    reached = int(newest.stem.removeprefix("checkpoint-"))
    assert f"stopped by {number.name} at step {reached} of {MANY}" in ended.errors
    assert newest.name in ended.errors and "Traceback" not in ended.errors
    assert not (tmp_path / "out" / "run.lock").exists()

    steps = f"run.steps={reached + 13}"
    assert fork_run(tmp_path, "input.toml", "--restart", "--set", steps).code == 0
    whole = fork_run(tmp_path, "input.toml", "--set", "output.directory=whole", "--set", steps)
    assert whole.code == 0
    expected = contents(tmp_path / "whole")
    assert differing(contents(tmp_path / "out"), expected) == ["checkpoint/settings"]  # the name of the directory


@pytest.mark.alone
def test_a_second_interrupt_ends_the_run_at_once(long_run: Path) -> None:
    def interrupt_twice(pid: int) -> None:
        wait_for(long_run / "out" / "checkpoint-000000005.h5")
        os.kill(pid, signal.SIGSTOP)  # so that no step can come between
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
        os.kill(pid, signal.SIGINT)

    def block_in_a_step() -> None:
        from allegro_sim.potential.cpu import CpuPotential

        compute = CpuPotential.compute

        def slow(self, *arguments, **options) -> None:
            compute(self, *arguments, **options)
            if (long_run / "out" / "checkpoint-000000005.h5").exists():
                time.sleep(30)

        CpuPotential.compute = slow  # type: ignore[method-assign]

    began = time.monotonic()
    ended = fork_run(long_run, "input.toml", "--overwrite", prepare=block_in_a_step, while_running=interrupt_twice)
    assert time.monotonic() - began < 20
    assert ended.code == 130
    assert "a second SIGINT ends it at once" in ended.errors and "interrupted twice" in ended.errors


@pytest.mark.alone
def test_max_hours_ends_the_run_with_a_checkpoint(tmp_path: Path, repository: Path) -> None:
    write_input(tmp_path, repository, steps=MANY)
    began = time.monotonic()
    ended = fork_run(tmp_path, "input.toml", "--max-hours", str(2.0 / 3600))
    assert ended.code == 4, ended
    assert 2.0 <= time.monotonic() - began < 10.0
    assert "stopped by --max-hours at step" in ended.errors
    assert list_checkpoints(tmp_path / "out")[0].name in ended.errors


@pytest.mark.parametrize("hours", ["soon", "-1", "nan", "inf"])
def test_max_hours_must_be_hours(tmp_path: Path, hours: str) -> None:
    ended = fork_run(tmp_path, "input.toml", f"--max-hours={hours}")
    assert ended.code == 2 and "--max-hours" in ended.errors and repr(hours) in ended.errors


def test_a_request_at_the_last_step_is_no_stop(tmp_path: Path, repository: Path) -> None:
    write_input(tmp_path, repository, steps=1)
    assert fork_run(tmp_path, "input.toml", "--max-hours", "0").code == 0


def test_checkpoints_come_by_wall_time_too(tmp_path: Path, repository: Path) -> None:
    """Overdue at every step: the last two checkpoints are those of the last two steps."""
    write_input(tmp_path, repository, steps=8)
    often = ("--set", "output.checkpoint_every=0", "--set", "output.checkpoint_every_minutes=1e-6")
    assert fork_run(tmp_path, "input.toml", *often).code == 0
    assert [path.stem[-1] for path in list_checkpoints(tmp_path / "out")] == ["8", "7"]
    assert fork_run(tmp_path, "input.toml", *often[:3], "output.checkpoint_every_minutes=0", "--overwrite").code == 0
    assert [path.stem[-1] for path in list_checkpoints(tmp_path / "out")] == ["8", "0"]


def test_only_rank_0_watches_the_clock(tmp_path: Path) -> None:
    class OtherRank(SerialComm):
        rank = 1

    first, other = (
        Outputs(comm, tmp_path, Intervals(9, 0, 0, 0), checkpoint_every_minutes=1e-9)
        for comm in (SerialComm(), OtherRank())
    )
    assert first.asks() and not other.asks()


def test_signals_outrank_the_clock_and_the_clock_a_checkpoint() -> None:
    timed = Stops(max_hours=0.0)
    assert ends_run(timed.request()) and describe_request(timed.request()) == "--max-hours"
    assert timed.request() > stops.CHECKPOINT > stops.NOTHING and not ends_run(stops.CHECKPOINT)
    with timed.watching_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 10
        while describe_request(timed.request()) != "SIGTERM" and time.monotonic() < end:
            time.sleep(0.001)
    assert describe_request(timed.request()) == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Ranks:
    """`allegro-sim` on 3 ranks in a folder, started in the background; ended at the latest when the block is left."""

    def __init__(self, launcher: str, folder: Path, *arguments: str, before: str = "") -> None:
        self.folder = folder
        command = [launcher, "-n", "3", sys.executable, "-c", RANKS.replace("BEFORE", before), "input.toml"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
        self.mpirun = subprocess.Popen([*command, *arguments], cwd=folder, start_new_session=True, **streams)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.mpirun.poll() is None:
            os.killpg(self.mpirun.pid, signal.SIGKILL)
        self.mpirun.communicate()

    def wait(self, seconds: float = 30.0) -> str:
        """What all ranks said on standard error, once they have ended."""
        return self.mpirun.communicate(timeout=seconds)[1]

    @property
    def codes(self) -> list[str]:
        """Exit code of each rank."""
        return [(self.folder / f"code-{rank}").read_text() for rank in range(3)]


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("number", "target"), [*((number, "mpirun") for number in SIGNALS), (signal.SIGTERM, "rank 2")]
)
def test_all_ranks_stop_at_one_step(
    tmp_path: Path, repository: Path, launcher: str, number: signal.Signals, target: str
) -> None:
    write_input(tmp_path, repository, steps=MANY)
    with Ranks(launcher, tmp_path) as ranks:
        wait_for(tmp_path / "out" / "checkpoint-000000005.h5")
        pid = ranks.mpirun.pid if target == "mpirun" else int((tmp_path / "pid-2").read_text())
        os.kill(pid, number)
        errors = ranks.wait()
        assert ranks.mpirun.returncode == 4, errors
        assert errors.count(f"stopped by {number.name} at step") == 1 and "Traceback" not in errors
        assert ranks.codes == ["4", "4", "4"]


@pytest.mark.mpi
def test_all_ranks_stop_when_the_time_of_one_is_up(tmp_path: Path, repository: Path, launcher: str) -> None:
    write_input(tmp_path, repository, steps=MANY)
    with Ranks(launcher, tmp_path, "--max-hours", "0") as ranks:
        errors = ranks.wait(60.0)
        assert ranks.mpirun.returncode == 4, errors
        assert errors.count("stopped by --max-hours at step 1 of") == 1
        assert ranks.codes == ["4", "4", "4"]
    assert list_checkpoints(tmp_path / "out")[0].name == "checkpoint-000000001.h5"


@pytest.mark.alone
@pytest.mark.mpi
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_second_interrupt_of_the_launcher_ends_all_ranks_at_once(
    tmp_path: Path, repository: Path, launcher: str
) -> None:
    """As Ctrl-C twice in a terminal, while all ranks are in a step that takes half a minute."""
    write_input(tmp_path, repository, steps=MANY)
    with Ranks(launcher, tmp_path, before=SLOW) as ranks:
        wait_for(tmp_path / "out" / "checkpoint-000000005.h5")
        time.sleep(0.5)
        os.kill(ranks.mpirun.pid, signal.SIGINT)
        time.sleep(0.5)
        began = time.monotonic()
        os.kill(ranks.mpirun.pid, signal.SIGINT)
        errors = ranks.wait()
        while any(is_running(int((tmp_path / f"pid-{rank}").read_text())) for rank in range(3)):
            assert time.monotonic() - began < 10.0
            time.sleep(0.01)
        assert ranks.mpirun.returncode not in (0, 4), errors
        assert "a second SIGINT ends it at once" in errors and "Traceback" not in errors


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended; whoever started it may not have noticed yet."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


SLOW = """
from allegro_sim.potential.cpu import CpuPotential
compute = CpuPotential.compute
def slow(self, *arguments, **options):
    compute(self, *arguments, **options)
    if Path("out/checkpoint-000000005.h5").exists():
        time.sleep(30)
CpuPotential.compute = slow
"""

RANKS = """
import os, sys, time
from pathlib import Path
from allegro_sim import cli
from allegro_sim.parallel.comm import world
comm = world()
BEFORE
Path(f"pid-{comm.rank}").write_text(str(os.getpid()))
try:
    cli.main()
except SystemExit as ended:
    Path(f"code-{comm.rank}").write_text(str(ended.code))
    raise
"""
