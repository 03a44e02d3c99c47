"""`allegro-tools repair`: cut to the last whole frame or row, said in words; nothing else is touched or believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import trajectories

from allegro_sim.errors import OutputError
from allegro_sim.output.descent import DescentWriter
from allegro_sim.output.h5md import count_stored
from allegro_sim.output.lock import RunLock
from allegro_sim.output.thermo import ThermoWriter
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.tools.main import main as tools

FRAMES = 9


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    path = tmp_path / "trajectory.h5md"
    writer = trajectories.create(path, with_velocities=True)
    for step in range(FRAMES):
        writer.append_thermo(trajectories.thermo_row(step))
        trajectories.append(writer, step)
    writer.close()
    return path


@pytest.fixture
def thermo(tmp_path: Path) -> Path:
    path = tmp_path / "thermo.csv"
    writer = ThermoWriter.create(path)
    for step in range(5):
        writer.write(trajectories.thermo_row(step))
    writer.close()
    return path


def check_frames(path: Path, frames: int) -> None:
    with TrajectoryReader(path) as reader:
        assert reader.num_frames == frames
        for step, frame in enumerate(reader):
            assert frame.step == step
            np.testing.assert_array_equal(frame.positions, trajectories.positions_at(step))
            np.testing.assert_array_equal(frame.velocities, trajectories.velocities_at(step).astype(np.float32))
            assert frame.observables["temperature"] == 300.0 + step


def test_whole_files_stay_as_they_are(trajectory: Path, thermo: Path, capsys) -> None:
    before = thermo.read_bytes()
    assert tools(["repair", str(trajectory), str(thermo)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{trajectory}: whole, 9 frames", f"{thermo}: whole, 5 rows"]
    assert thermo.read_bytes() == before
    check_frames(trajectory, FRAMES)


def test_every_dataset_is_cut_to_the_last_whole_frame(trajectory: Path, capsys) -> None:
    """As if a kill had come when positions, but not velocities and steps, were longer by one and two."""
    with h5py.File(trajectory, "r+") as file:
        file["particles/all/position/value"].resize(FRAMES + 2, axis=0)
        for name in ("particles/all/velocity/value", "observables/temperature/value"):
            file[name].resize(FRAMES - 2, axis=0)
        file["thermo/total_eV"].resize(FRAMES - 1, axis=0)
    assert tools(["repair", str(trajectory)]) == 0
    words = "kept 7 frames and 8 rows of thermodynamics, cut off 4 frames and 1 rows after them"
    assert capsys.readouterr().out == f"{trajectory}: {words}\n"
    check_frames(trajectory, 7)
    with h5py.File(trajectory, "r") as file:
        lengths = {len(file[name]) for name in ("particles/all/position/value", "particles/all/velocity/step")}
        lengths |= {len(group["value"]) for group in file["observables"].values()}
        assert lengths == {7}
        assert {len(column) for column in file["thermo"].values()} == {8}


def test_a_truncated_trajectory_is_refused_or_keeps_frames_that_are_whole(
    trajectory: Path, tmp_path: Path, capsys
) -> None:
    """Not what a kill does, but a copy that was cut short: where tables are lost, HDF5 cannot go on with the file."""
    content = trajectory.read_bytes()
    copy = tmp_path / "copy.h5md"
    for size in [*range(0, len(content), len(content) // 23), *range(len(content) - 4000, len(content), 301)]:
        copy.write_bytes(content[:size])
        code = tools(["repair", str(copy)])
        said = capsys.readouterr().out
        if code:
            assert code == 2 and "not repaired: " in said and said.count("\n") == 1 and copy.stat().st_size == size
        else:
            frames = int(said.split("kept ")[1].split(" frames")[0])
            check_frames(copy, frames)


def test_chunks_beyond_the_end_of_a_file_are_told_from_those_before(trajectory: Path) -> None:
    with h5py.File(trajectory, "r") as file:
        values = file["particles/all/position/value"]
        ends = [info.byte_offset + info.size for info in map(values.id.get_chunk_info, range(FRAMES))]
        for frame, end in enumerate(ends):
            assert count_stored(values, end) == frame + 1
            assert count_stored(values, end - 1) == frame


@pytest.mark.parametrize("name", ["position", "velocity"])
def test_damaged_frames_are_named_and_the_others_kept(trajectory: Path, tmp_path: Path, name: str, capsys) -> None:
    """One bit, somewhere in the values of frames 2 and 5: whoever reads them says so, and nothing else is lost."""
    with h5py.File(trajectory, "r") as file:
        chunks = [file[f"particles/all/{name}/value"].id.get_chunk_info(frame) for frame in (2, 5)]
    content = bytearray(trajectory.read_bytes())
    for chunk, generator in zip(chunks, map(np.random.default_rng, range(2)), strict=True):
        content[chunk.byte_offset + int(generator.integers(chunk.size))] ^= 1 << int(generator.integers(8))
    trajectory.write_bytes(content)
    assert tools(["repair", str(trajectory)]) == 2
    said = capsys.readouterr().out
    assert "checksums of 2 of 9 frames differ" in said and ": 2, 5, counted from 0" in said and said.count("\n") == 1
    with TrajectoryReader(trajectory) as reader:
        assert [reader.frame(index).step for index in (0, 1, 3, 4, 6, 7, 8)] == [0, 1, 3, 4, 6, 7, 8]
        with pytest.raises(OutputError, match=r"trajectory\.h5md: frame 5 is damaged"):
            reader.frame(5)
    assert tools(["convert", str(trajectory), str(tmp_path / "out.extxyz")]) == 2
    assert "frame 2 is damaged" in capsys.readouterr().err and not (tmp_path / "out.extxyz").exists()
    assert tools(["convert", str(trajectory), str(tmp_path / "out.extxyz"), "--frames", "6:"]) == 0
    writer = TrajectoryWriter.reopen(trajectory)
    trajectories.append(writer, FRAMES)
    writer.close()
    assert TrajectoryReader(trajectory).frame(FRAMES).step == FRAMES


def test_rows_are_cut_after_the_last_whole_one(thermo: Path, capsys) -> None:
    whole = thermo.read_bytes()
    with thermo.open("ab") as file:
        file.write(b"5,0.1,0.2")
    assert tools(["repair", str(thermo)]) == 0
    assert capsys.readouterr().out == f"{thermo}: kept 5 rows, cut off the 9 bytes after them\n"
    assert thermo.read_bytes() == whole


def test_rows_of_a_minimisation_are_cut_after_the_last_whole_one(tmp_path: Path, capsys) -> None:
    path = tmp_path / "minimize.csv"
    writer = DescentWriter(path)
    for step in range(3):
        writer.write(step, -1.5 * step, 0.25)
    writer.close()
    whole = path.read_bytes()
    assert tools(["repair", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{path}: whole, 3 rows\n" and path.read_bytes() == whole
    path.write_bytes(whole + b"3,-4")
    assert tools(["repair", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{path}: kept 3 rows, cut off the 4 bytes after them\n"
    assert path.read_bytes() == whole


def test_a_directory_stands_for_the_files_of_a_run_in_it(
    trajectory: Path, thermo: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "topology.xyz").write_text("x")
    (tmp_path / "checkpoint-000000007.h5").write_bytes(b"cut")
    assert tools(["repair", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "not repaired" in lines[0] and "checkpoint-000000007.h5" in lines[0] and "--restart passes over" in lines[0]
    assert lines[1:] == [f"{thermo}: whole, 5 rows", f"{trajectory}: whole, 9 frames"]


def test_files_of_a_run_that_goes_on_are_left_alone(trajectory: Path, tmp_path: Path, capsys) -> None:
    lock = RunLock.acquire(tmp_path)
    assert tools(["repair", str(trajectory)]) == 2
    assert "a run is writing to this directory" in capsys.readouterr().out
    lock.release()
    assert tools(["repair", str(trajectory)]) == 0


@pytest.mark.parametrize("content", [b"", b"some text\nmore\n", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_files_of_others_are_refused_as_they_are(tmp_path: Path, content: bytes, capsys) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert tools(["repair", str(path), str(tmp_path / "none")]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("not repaired: ") for line in lines)
    assert str(path) in lines[0] and "none" in lines[1] and path.read_bytes() == content


def test_a_weight_file_is_no_trajectory(tmp_path: Path, inputs: Path, capsys) -> None:
    path = tmp_path / "water.h5"
    shutil.copy(inputs / "water" / "water.h5", path)
    before = path.read_bytes()
    assert tools(["repair", str(path)]) == 2
    assert "not repaired" in capsys.readouterr().out and path.read_bytes() == before
