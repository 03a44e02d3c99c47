"""The files of a run together: intervals, restarts, and nothing overwritten or removed by mistake."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import trajectories

from allegro_sim.errors import OutputError
from allegro_sim.output.checkpoint import load_checkpoint, newest_checkpoint
from allegro_sim.output.directory import check_directory, existing_outputs
from allegro_sim.output.intervals import Intervals
from allegro_sim.output.outputs import Outputs
from allegro_sim.output.snapshot import HostSnapshot
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.parallel.comm import SerialComm


def outputs(directory: Path, last_step: int = 20, **intervals) -> Outputs:
    every = {"trajectory": 6, "thermo": 4, "checkpoint": 5} | intervals
    return Outputs(SerialComm(), directory, Intervals(last_step, **every), velocities=True, forces=True)


def play(writer: Outputs, first: int, last: int) -> None:
    for step in range(first, last + 1):
        row, state = trajectories.thermo_row(step), {"heat": 0.25 * step}
        if due := writer.due(step):
            writer.write(
                due, step, 0.5 * step, partial(HostSnapshot, trajectories.system_at(step)), row=row, state=state
            )


def test_every_file_has_its_interval_and_the_last_step(tmp_path: Path) -> None:
    writer = outputs(tmp_path / "out", last_step=20)
    writer.create(trajectories.record())
    play(writer, 0, 20)
    writer.close()
    assert [path.name for path in writer.files()] == [
        "trajectory.h5md",
        "topology.xyz",
        "thermo.csv",
        "checkpoint-000000015.h5",
        "checkpoint-000000020.h5",
    ]
    with TrajectoryReader(tmp_path / "out/trajectory.h5md") as reader:
        assert [frame.step for frame in reader] == [0, 6, 12, 18, 20]
        for frame in reader:
            np.testing.assert_array_equal(frame.positions, trajectories.positions_at(frame.step))  # in input order
            row = trajectories.thermo_row(frame.step)
            assert frame.observables["total_energy"] == row["total_eV"]
            assert frame.observables["pressure"] == row["pressure_bar"]
        assert reader.provenance["model_sha256"] == "00"
    rows = (tmp_path / "out/thermo.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [0, 4, 8, 12, 16, 20]
    checkpoint = load_checkpoint(tmp_path / "out/checkpoint-000000020.h5")
    assert (checkpoint.frames_written, checkpoint.thermo_rows_written) == (5, 6)
    assert checkpoint.state == {"heat": 5.0}
    np.testing.assert_array_equal(checkpoint.velocities, trajectories.velocities_at(20))


def test_interval_zero(tmp_path: Path) -> None:
    writer = outputs(tmp_path, last_step=7, trajectory=0, thermo=0, checkpoint=0)
    due = [writer.due(step) for step in range(8)]
    assert [step for step in range(8) if due[step].thermo] == [0, 7]
    assert [step for step in range(8) if due[step].checkpoint] == [0, 7]
    assert not any(d.trajectory for d in due)
    writer.create(trajectories.record())
    play(writer, 0, 7)
    writer.close()
    assert not (tmp_path / "trajectory.h5md").exists()


@pytest.mark.parametrize("reached", [10, 13, 19])
def test_a_restart_gives_the_files_of_an_uninterrupted_run(tmp_path: Path, reached: int) -> None:
    whole = outputs(tmp_path / "whole")
    whole.create(trajectories.record())
    play(whole, 0, 20)
    whole.close()
    first = outputs(tmp_path / "cut")
    first.create(trajectories.record())
    play(first, 0, reached)
    first.close()
    _, checkpoint = newest_checkpoint(tmp_path / "cut", warn=pytest.fail)
    again = outputs(tmp_path / "cut")
    again.resume(trajectories.record(), checkpoint)
    play(again, checkpoint.step + 1, 20)
    again.close()
    assert (tmp_path / "cut/thermo.csv").read_bytes() == (tmp_path / "whole/thermo.csv").read_bytes()
    with TrajectoryReader(tmp_path / "cut/trajectory.h5md") as one, TrajectoryReader(whole.files()[0]) as other:
        assert one.num_frames == other.num_frames
        for ours, theirs in zip(one, other, strict=True):
            assert ours.step == theirs.step
            np.testing.assert_array_equal(ours.positions, theirs.positions)
    assert [path.name for path in again.files()] == [path.name for path in whole.files()]


def test_a_restart_from_an_older_checkpoint_removes_the_newer_one(tmp_path: Path) -> None:
    writer = outputs(tmp_path)
    writer.create(trajectories.record())
    play(writer, 0, 20)
    writer.close()
    again = outputs(tmp_path)
    again.resume(trajectories.record(), load_checkpoint(tmp_path / "checkpoint-000000015.h5"))
    assert not (tmp_path / "checkpoint-000000020.h5").exists()
    play(again, 16, 20)
    again.close()
    with TrajectoryReader(tmp_path / "trajectory.h5md") as reader:
        assert [frame.step for frame in reader] == [0, 6, 12, 18, 20]


def test_files_that_lost_what_the_checkpoint_counted_are_refused_as_they_are(tmp_path: Path) -> None:
    writer = outputs(tmp_path)
    writer.create(trajectories.record())
    play(writer, 0, 20)
    writer.close()
    checkpoint = load_checkpoint(tmp_path / "checkpoint-000000015.h5")
    thermo = tmp_path / "thermo.csv"
    content = thermo.read_text()
    thermo.write_text("\n".join(content.splitlines()[:3]) + "\n")
    with pytest.raises(OutputError, match=r"thermo\.csv: has 2 rows .* counted 4"):
        outputs(tmp_path).resume(trajectories.record(), checkpoint)
    assert (tmp_path / "checkpoint-000000020.h5").exists()
    thermo.write_text(content)
    (tmp_path / "trajectory.h5md").unlink()
    with pytest.raises(OutputError, match=r"trajectory\.h5md"):
        outputs(tmp_path).resume(trajectories.record(), checkpoint)
    assert thermo.read_text() == content


def test_a_restart_may_begin_a_trajectory(tmp_path: Path) -> None:
    writer = outputs(tmp_path, last_step=10, trajectory=0)
    writer.create(trajectories.record())
    play(writer, 0, 10)
    writer.close()
    again = outputs(tmp_path)
    again.resume(trajectories.record(), load_checkpoint(tmp_path / "checkpoint-000000010.h5"))
    play(again, 11, 20)
    again.close()
    with TrajectoryReader(tmp_path / "trajectory.h5md") as reader:
        assert [frame.step for frame in reader] == [12, 18, 20]


def test_output_of_an_earlier_run_is_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    writer = outputs(tmp_path)
    writer.create(trajectories.record())
    play(writer, 0, 20)
    writer.close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=r"--restart.*--overwrite"):
        check_directory(tmp_path)
    with pytest.raises(OutputError, match=r"--restart.*--overwrite"):
        outputs(tmp_path).create(trajectories.record())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    check_directory(tmp_path, restart=True)
    check_directory(tmp_path, overwrite=True)


def test_overwrite_removes_only_what_this_program_makes(tmp_path: Path) -> None:
    theirs = ["notes.txt", "checkpoint-best.h5", "stopped-here.xyz", "trajectory.h5md.bak", "run.log"]
    for name in [*theirs, "trajectory.h5md", "checkpoint-000000007.h5", "stopped-000000003.xyz", ".topology.xyz.new"]:
        (tmp_path / name).write_text("x")
    assert len(existing_outputs(tmp_path)) == 3
    writer = outputs(tmp_path)
    writer.create(trajectories.record(), overwrite=True)
    writer.close()
    expected = [*theirs, "trajectory.h5md", "topology.xyz", "thermo.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)


def test_a_directory_that_cannot_be_written_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for directory in (file, file / "below"):
        with pytest.raises(OutputError, match=r"output\.directory .* is a file"):
            check_directory(directory)
    check_directory(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(OutputError, match=r"output\.directory /proc/new"):
        outputs(Path("/proc/new")).create(trajectories.record())


def test_a_stopped_run_leaves_its_atoms_in_a_file(tmp_path: Path) -> None:
    import ase.io

    writer = outputs(tmp_path)
    writer.create(trajectories.record())
    positions = trajectories.positions_at(0)
    positions[2] = np.nan
    marks = np.arange(trajectories.NUM_ATOMS) == 2
    path = writer.write_stopped(3, trajectories.SPECIES, positions, {"id": np.arange(6), "at_fault": marks})
    writer.close()
    assert path == tmp_path / "stopped-000000003.xyz"
    assert path in writer.files()
    atoms = ase.io.read(path)
    assert atoms.arrays["at_fault"].tolist() == marks.tolist()
    assert np.isnan(atoms.positions[2]).all()
