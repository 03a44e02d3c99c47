"""Files are written in a thread of their own: in order, completely, and an error in it ends the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import trajectories
from support.survival import contents, differing, fork_run, write_input

from allegro_sim.errors import OutputError, StorageStop
from allegro_sim.output import outputs as outputs_module
from allegro_sim.output import run_files, writer_thread
from allegro_sim.output.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from allegro_sim.output.intervals import Intervals
from allegro_sim.output.outputs import Outputs
from allegro_sim.output.record import RunRecord
from allegro_sim.output.run_files import RunFiles
from allegro_sim.output.snapshot import HostSnapshot
from allegro_sim.output.thermo import ThermoWriter, count_rows
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader, count_frames
from allegro_sim.parallel.comm import SerialComm

LAST = 30
SECONDS = 20.0
"""After so long something hangs."""


class Disk:
    """A disk that takes nothing while it is blocked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []  # of the writes that have begun
        self.open = threading.Event()
        write = RunFiles.write

        def blocked(files: RunFiles, due, step: int, *rest) -> None:
            self.steps.append(step)
            assert self.open.wait(SECONDS)
            write(files, due, step, *rest)

        monkeypatch.setattr(RunFiles, "write", blocked)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.open.set()


def begin(directory: Path, record: RunRecord, **intervals: int) -> Outputs:
    every = {"trajectory": 1, "thermo": 1, "checkpoint": 5} | intervals
    outputs = Outputs(SerialComm(), directory, Intervals(LAST, **every), velocities=True, forces=True)
    outputs.create(record)
    return outputs


def write(outputs: Outputs, step: int) -> None:
    """The output of a step; afterwards the arrays that it was given change, as in a run."""
    system = trajectories.system_at(step)
    row = trajectories.thermo_row(step)
    outputs.write(outputs.due(step), step, 0.5 * step, partial(HostSnapshot, system), row=row, state={"heat": step})
    system.positions[:], system.velocities[:], system.forces[:] = np.nan, np.nan, -1


def goes_on(function: Callable[[], None], seconds: float) -> threading.Thread | None:
    """Call a function; the thread that is still in it after so long, or None."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return thread if thread.is_alive() else None


@pytest.fixture
def record() -> RunRecord:
    return trajectories.record()


def test_the_third_frame_waits_until_the_first_is_written(tmp_path: Path, record: RunRecord, disk: Disk) -> None:
    outputs = begin(tmp_path / "out", record)
    for step in (0, 1):
        assert goes_on(partial(write, outputs, step), SECONDS) is None
    waiting = goes_on(partial(write, outputs, 2), 0.3)
    assert waiting is not None and disk.steps == [0]
    disk.open.set()
    waiting.join(SECONDS)
    assert not waiting.is_alive()
    outputs.close()
    with TrajectoryReader(tmp_path / "out/trajectory.h5md") as reader:
        assert [frame.step for frame in reader] == disk.steps == [0, 1, 2]


def test_rows_wait_in_a_queue_that_has_an_end(
    tmp_path: Path, record: RunRecord, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows hold no atoms: many may wait, but not ever more."""
    monkeypatch.setattr(writer_thread, "MOST_JOBS", 8)
    outputs = begin(tmp_path / "out", record, trajectory=0, checkpoint=0)
    for step in range(8):
        assert goes_on(partial(write, outputs, step), SECONDS) is None
    waiting = goes_on(partial(write, outputs, 8), 0.3)
    assert waiting is not None
    disk.open.set()
    waiting.join(SECONDS)
    outputs.close()
    rows = (tmp_path / "out/thermo.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(9))


def test_a_disk_that_is_slow_at_random_changes_no_bit(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a checkpoint counts what is on the disk before it."""
    every = {"trajectory": 2, "checkpoint": 5}
    original, counted = run_files.write_checkpoint, []

    def counting(directory: Path, saved: Checkpoint) -> None:
        assert saved.frames_written == count_frames(directory / "trajectory.h5md") == saved.step // 2 + 1
        assert saved.thermo_rows_written == count_rows(directory / "thermo.csv") == saved.step + 1
        counted.append(saved.step)
        time.sleep(0.02)
        original(directory, saved)

    for name in ("whole", "slow"):
        if name == "slow":
            for target, method in ((TrajectoryWriter, "append"), (ThermoWriter, "write"), (RunFiles, "write")):
                slow_down(monkeypatch, target, method)
            monkeypatch.setattr(run_files, "write_checkpoint", counting)
        outputs = begin(tmp_path / name, record, **every)
        for step in range(LAST + 1):
            write(outputs, step)
        outputs.close()
    assert counted == [5 * n for n in range(7)]
    assert differing(contents(tmp_path / "slow"), contents(tmp_path / "whole")) == []


def slow_down(monkeypatch: pytest.MonkeyPatch, target: object, name: str, most: float = 0.01) -> None:
    function, generator = getattr(target, name), np.random.default_rng(len(name))

    def slow(*arguments, **options):
        time.sleep(generator.uniform(0.0, most))
        return function(*arguments, **options)

    monkeypatch.setattr(target, name, slow)


@pytest.mark.parametrize(
    "error", [OutputError("the file: cannot be written"), OSError(28, "full"), ValueError("a bug")]
)
def test_the_first_error_ends_all_writing_and_is_told_by_the_next_call(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    outputs = begin(tmp_path / "out", record)
    append = TrajectoryWriter.append

    def fail(writer: TrajectoryWriter, step: int, *rest, **options) -> None:
        if step == 6:
            raise error
        append(writer, step, *rest, **options)

    monkeypatch.setattr(TrajectoryWriter, "append", fail)
    for step in range(6):
        write(outputs, step)
    outputs._writer.drain()
    assert not outputs.asks()
    write(outputs, 6)
    deadline = time.monotonic() + SECONDS
    while not outputs.asks():  # so the loop comes to write, whether output is due or not
        assert time.monotonic() < deadline
    expected = ValueError if isinstance(error, ValueError) else StorageStop
    match = "a bug" if expected is ValueError else r"stopped at step 6: .*checkpoint-000000005\.h5 is whole"
    for call in (partial(write, outputs, 7), outputs.close):
        with pytest.raises(expected, match=match):
            call()
    assert not (tmp_path / "out/run.lock").exists()
    with TrajectoryReader(tmp_path / "out/trajectory.h5md") as reader:
        assert [frame.step for frame in reader] == list(range(6))


def test_a_run_that_ends_by_an_error_leaves_what_it_has_given(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, RunFiles, "write", 0.2)
    outputs = begin(tmp_path / "out", record)
    for step in range(6):
        write(outputs, step)
    outputs.abandon()
    assert list_checkpoints(tmp_path / "out")[0].name == "checkpoint-000000005.h5"
    assert not (tmp_path / "out/run.lock").exists()


def test_a_write_that_never_ends_is_not_waited_for_when_the_run_fails(
    tmp_path: Path, record: RunRecord, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs_module, "_PATIENCE_SECONDS", 0.1)
    outputs = begin(tmp_path / "out", record)
    write(outputs, 0)
    write(outputs, 1)
    assert goes_on(outputs.abandon, SECONDS) is None
    assert (tmp_path / "out/run.lock").exists()  # somebody still writes there
    disk.open.set()
    outputs._writer._thread.join(SECONDS)
    assert disk.steps == [0]  # what had not begun does not begin any more


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("how", ["disk", "bug"])
def test_an_error_ends_a_run_long_before_its_next_output(tmp_path: Path, repository: Path, how: str) -> None:
    """The write of step 0 fails when the third step is done; nothing is due for a hundred thousand more."""
    write_input(tmp_path, repository, steps=100_000)
    rare = [f"--set=output.{name}_every=0" for name in ("trajectory", "thermo", "checkpoint")]

    def prepare() -> None:
        from allegro_sim.motion import HostMotion

        taken = threading.Semaphore(0)
        advance = HostMotion.advance

        def counted(*arguments, **options):
            found = advance(*arguments, **options)
            taken.release()
            if found.step == 50_000:
                raise AssertionError("nobody was told")
            return found

        def fail(*_) -> None:
            for _ in range(3):
                assert taken.acquire(timeout=SECONDS)
            raise OSError(28, "No space left on device") if how == "disk" else ValueError("a mistake")

        HostMotion.advance = counted  # type: ignore[method-assign]
        run_files.write_checkpoint = fail  # type: ignore[assignment]

    ended = fork_run(tmp_path, "input.toml", *rare, prepare=prepare)
    if how == "disk":
        assert ended.code == 3 and ended.errors.count("\n") == 1, ended
        assert "stopped at step 0: " in ended.errors and "No space left on device" in ended.errors
        assert "There is no checkpoint yet" in ended.errors
    else:
        assert ended.code == 1 and "internal error" in ended.errors and "ValueError: a mistake" in ended.errors


@pytest.mark.parametrize("stop", ["--max-hours=0", "--set=guards.max_temperature_K=1"])
def test_what_a_stopped_run_tells_of_is_on_the_disk(tmp_path: Path, repository: Path, stop: str) -> None:
    """On a slow disk, too: the checkpoint that is named; the rows before that which a guard did not let pass."""
    write_input(tmp_path, repository, steps=100_000)

    def prepare() -> None:
        original = RunFiles.write

        def slow(*arguments) -> None:
            time.sleep(0.3)
            original(*arguments)

        RunFiles.write = slow  # type: ignore[method-assign]

    guard = "guards" in stop
    every = ["--set=output.thermo_every=4", "--set=guards.on_temperature=stop"] if guard else []
    start = ["--set=velocities.temperature_K=0"] if guard else []
    ended = fork_run(tmp_path, "input.toml", stop, *every, *start, prepare=prepare)
    assert ended.code == (3 if guard else 4), ended
    (newest, *_) = list_checkpoints(tmp_path / "out")
    load_checkpoint(newest)
    rows = (tmp_path / "out" / "thermo.csv").read_text().splitlines()[1:]
    if guard:
        assert [row.split(",")[0] for row in rows] == ["0"]
    else:
        assert newest.name == "checkpoint-000000001.h5" and newest.name in ended.errors
    assert not (tmp_path / "out" / "run.lock").exists()
