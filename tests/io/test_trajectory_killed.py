"""A killed run leaves a trajectory whose whole frames can be read, and which a restart continues."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import trajectories

from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader


class RecordedFile(io.BytesIO):
    """A file in memory that remembers every write: (offset, bytes), or (None, size) for a change of its length."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.writes: list[tuple[int | None, bytes | int]] = []

    def write(self, data) -> int:
        self.writes.append((self.tell(), bytes(data)))
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        assert size is not None
        self.writes.append((None, size))
        return super().truncate(size)


def apply(image: bytearray, offset: int | None, data: bytes | int) -> None:
    end = data if isinstance(data, int) else offset + len(data)
    image.extend(bytes(max(0, end - len(image))))
    if isinstance(data, int):
        del image[data:]
    else:
        image[offset:end] = data


def check_frames(path: Path, least: int) -> int:
    """All whole frames are as they were written; returns how many there are."""
    with TrajectoryReader(path) as reader:
        assert least <= reader.num_frames <= least + 1
        for index, frame in enumerate(reader):
            assert frame.step == index
            assert frame.time_fs == 0.5 * index
            np.testing.assert_array_equal(frame.positions, trajectories.positions_at(index))
            np.testing.assert_array_equal(frame.cell, trajectories.ORTHOGONAL)
            assert frame.forces is not None
            np.testing.assert_allclose(frame.forces, trajectories.forces_at(index), atol=1e-6)  # stored as float32
            assert frame.observables["temperature"] == 300.0 + index
        return reader.num_frames


def check_every_moment(tmp_path: Path, frames: int, last_writes: int) -> None:
    """Build the file as it stands after each of the last writes, and read and continue it."""
    path = tmp_path / "run.h5md"
    trajectories.create(path, with_forces=True).close()
    recorded = RecordedFile(path.read_bytes())
    image = bytearray(recorded.getvalue())
    writer = TrajectoryWriter(path, h5py.File(recorded, "r+"))
    recorded.writes.clear()
    written = []  # number of writes when the frame had been written
    for step in range(frames):
        writer.append_thermo(trajectories.thermo_row(step))
        trajectories.append(writer, step)
        written.append(len(recorded.writes))
    writes = list(recorded.writes)
    writer.close()

    killed = tmp_path / "killed.h5md"
    for count, change in enumerate(writes):
        if count >= len(writes) - last_writes:
            killed.write_bytes(image)
            whole = sum(number <= count for number in written)
            found = check_frames(killed, whole)
            again = TrajectoryWriter.reopen(killed, frames)
            assert found <= again.frames_written <= whole + 1
            for step in range(again.frames_written, again.frames_written + 1):
                trajectories.append(again, step)
            again.close()
            check_frames(killed, again.frames_written)
        apply(image, *change)


def test_a_kill_between_any_two_writes_costs_at_most_the_frame_being_written(tmp_path: Path) -> None:
    check_every_moment(tmp_path, frames=4, last_writes=10**6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_while_the_indices_of_the_file_grow_costs_at_most_one_frame(tmp_path: Path) -> None:
    """Frame 1025 needs a fifth chunk of the step dataset, whose index then leaves its first block."""
    check_every_moment(tmp_path, frames=1025, last_writes=60)


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support import trajectories
writer = trajectories.create(Path(sys.argv[1]), with_velocities=True, with_forces=True)
print("made", flush=True)
step = 0
while True:
    trajectories.append(writer, step)
    writer.append_thermo(trajectories.thermo_row(step))
    step += 1
"""


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.11, 0.2])
def test_mdanalysis_reads_all_whole_frames_after_kill_9(tmp_path: Path, seconds: float) -> None:
    mda = pytest.importorskip("MDAnalysis")
    path = tmp_path / "run.h5md"
    tests = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, "-c", RUN, str(path), str(tests)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"made\n"
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with TrajectoryReader(path) as reader:
        frames = check_frames(path, reader.num_frames)
    if frames:
        universe = mda.Universe.empty(trajectories.NUM_ATOMS, trajectory=True)
        universe.load_new(str(path))
        steps = [int(ts.data["step"]) for ts in universe.trajectory]
        universe.trajectory.close()
        assert steps == list(range(frames))
    again = TrajectoryWriter.reopen(path, frames // 2)
    assert again.frames_written == min(frames, frames // 2 + 1)
    again.close()


def test_another_process_reads_a_trajectory_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "run.h5md"
    writer = trajectories.create(path)
    trajectories.append(writer, 0)
    trajectories.append(writer, 1)
    program = "import sys, h5py; print(len(h5py.File(sys.argv[1])['particles/all/position/step']))"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    writer.close()
    assert done.stdout == "2\n", done.stderr
