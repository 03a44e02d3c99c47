"""A disk that takes no more stops the run with a message; after space is made, a restart gives the same bits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.survival import contents, differing, fork_run, write_input

from allegro_sim.errors import OutputError, StorageStop
from allegro_sim.output import directory
from allegro_sim.output.checkpoint import list_checkpoints, load_checkpoint
from allegro_sim.output.directory import require_space
from allegro_sim.output.thermo import ThermoWriter
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.tools.main import main as tools

KIB = 1024
RESERVED = 64 * KIB
"""About what the writer asks for before each frame of this system, over what the frame takes."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Output of a run that had space enough."""
    folder = tmp_path_factory.mktemp("whole")
    write_input(folder, repository)
    assert fork_run(folder, "input.toml").code == 0
    return folder / "out"


@pytest.fixture
def folder(tmp_path: Path, repository: Path) -> Path:
    write_input(tmp_path, repository)
    return tmp_path


def limit(size: int) -> Callable[[], None]:
    """No file may become longer: writes fail as on a full disk, also in the middle of one."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def check_message(code: int, errors: str) -> None:
    assert code == 3, errors
    assert "stopped at step" in errors and "Make space, and " in errors and "--restart" in errors
    assert "Traceback" not in errors and errors.count("\n") == 1, errors


def trajectory_sizes(size: int) -> list[int]:
    """Limits that stop the trajectory between its first frame and its last, not on round numbers."""
    begin = 60 * KIB
    return [begin + (size - begin) * part // 16 + 7 * part for part in range(1, 16)]


@pytest.mark.parametrize("reserving", [True, False], ids=["reserved before", "met while writing"])
@pytest.mark.parametrize(
    "part", [1, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4, 5, 7, 11, 13, 14))]
)
def test_a_trajectory_that_meets_the_limit(folder: Path, whole: Path, part: int, reserving: bool) -> None:
    """Also where the file system cannot reserve space, and HDF5 fails in the middle of a flush."""
    size = (whole / "trajectory.h5md").stat().st_size
    at = trajectory_sizes(size)[part] + (RESERVED if reserving else 0)

    def prepare() -> None:
        if not reserving:
            TrajectoryWriter._reserve = lambda *_arguments: None  # type: ignore[method-assign]
        limit(at)()

    ended = fork_run(folder, "input.toml", prepare=prepare)
    check_message(ended.code, ended.errors)
    assert "trajectory.h5md" in ended.errors
    for path in list_checkpoints(folder / "out"):
        load_checkpoint(path)
    # Under the limit still: stopped again, or refused where the file cannot even be mended; with no less than before.
    before = [path.name for path in list_checkpoints(folder / "out")]
    again = fork_run(folder, "input.toml", "--restart", prepare=prepare)
    if reserving or again.code == 3:
        check_message(again.code, again.errors)
    else:
        assert again.code == 2 and "trajectory.h5md: cannot be changed: File too large" in again.errors
    assert [path.name for path in list_checkpoints(folder / "out")] >= before
    assert tools(["repair", str(folder / "out" / "trajectory.h5md")]) == 0
    assert fork_run(folder, "input.toml", "--restart").code == 0
    assert differing(contents(folder / "out"), contents(whole)) == []


def test_a_checkpoint_that_meets_the_limit(folder: Path, whole: Path) -> None:
    """The trajectory, already longer, is written at the last step only."""
    sparse = ("--set", "output.trajectory_every=0")
    assert fork_run(folder, "input.toml", *sparse, "--set", "run.steps=7").code == 0
    size = list_checkpoints(folder / "out")[0].stat().st_size
    ended = fork_run(folder, "input.toml", *sparse, "--restart", prepare=limit(size - KIB))
    check_message(ended.code, ended.errors)
    assert "checkpoint-000000010.h5: cannot be written" in ended.errors
    assert "checkpoint-000000007.h5 is whole" in ended.errors
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")]
    assert fork_run(folder, "input.toml", *sparse, "--restart").code == 0
    assert (folder / "out" / "thermo.csv").read_bytes() == (whole / "thermo.csv").read_bytes()
    newest = [load_checkpoint(list_checkpoints(path)[0]) for path in (folder / "out", whole)]
    assert newest[0].positions.tobytes() == newest[1].positions.tobytes()
    assert newest[0].velocities.tobytes() == newest[1].velocities.tobytes()


def test_no_room_for_even_the_first_checkpoint(folder: Path, whole: Path) -> None:
    sparse = ("--set", "output.trajectory_every=0")
    ended = fork_run(folder, "input.toml", *sparse, prepare=limit(8 * KIB))
    check_message(ended.code, ended.errors)
    assert "There is no checkpoint yet" in ended.errors
    assert fork_run(folder, "input.toml", *sparse, "--restart").code == 0
    assert (folder / "out" / "thermo.csv").read_bytes() == (whole / "thermo.csv").read_bytes()


def test_a_thermo_row_that_meets_the_limit(tmp_path: Path) -> None:
    from support.trajectories import thermo_row

    path = tmp_path / "thermo.csv"
    pid = os.fork()
    if pid == 0:
        writer = ThermoWriter.create(path)
        limit(path.stat().st_size + 250)()
        code = 1
        try:
            for step in range(100):
                writer.write(thermo_row(step))
        except OutputError as error:
            writer.close()
            code = 0 if "thermo.csv: cannot be written: File too large" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    rows = path.read_text().splitlines()[1:]
    again = ThermoWriter.reopen(path)
    assert again.rows_written == len(rows) - 1 and "bytes" in again.cut  # the last is cut short
    again.close()
    assert path.read_text().splitlines()[1:] == rows[:-1]


@pytest.mark.parametrize("what", ["frame", "checkpoint"])
def test_too_little_space_is_seen_before_it_is_written_to(
    folder: Path, whole: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is said to be full from the fourth of its files on."""

    def prepare() -> None:
        from allegro_sim.output import run_files

        asked = 0

        def require(path: Path, size: int, name: str) -> None:
            nonlocal asked
            asked += what in name
            require_space(path, size if asked < 4 else 1 << 62, name)

        run_files.require_space = require  # type: ignore[attr-defined]

    ended = fork_run(folder, "input.toml", prepare=prepare)
    check_message(ended.code, ended.errors)
    assert f"the next {what} needs" in ended.errors and "MiB left" in ended.errors
    assert fork_run(folder, "input.toml", "--restart").code == 0
    assert differing(contents(folder / "out"), contents(whole)) == []


def test_space_is_that_of_the_disk_with_some_to_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_blocks, f_bavail, f_frsize = 1000, 500, 4096

    monkeypatch.setattr(directory.os, "statvfs", lambda path: Disk)
    room = 500 * 4096 - directory.SPARE_BYTES
    require_space(tmp_path, room, "the file")
    with pytest.raises(StorageStop, match=r"the file needs 1\.0 MiB .* has 2\.0 MiB left"):
        require_space(tmp_path, room + 1, "the file")
    Disk.f_blocks = Disk.f_bavail = 0  # a file system that tells nothing
    require_space(tmp_path, room, "the file")


@pytest.mark.parametrize("where", ["closed pipe", "full disk"])
def test_a_log_that_cannot_be_written_stops_the_run(folder: Path, whole: Path, where: str) -> None:
    code = "from allegro_sim import cli; from allegro_sim.parallel.comm import SerialComm; cli.world = SerialComm; "
    if where == "full disk" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full" if where == "full disk" else writing, "w") as log:
        done = subprocess.run(
            [sys.executable, "-c", code + "cli.main()", "input.toml"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 3
    assert done.stderr.startswith("allegro-sim: the log cannot be written: ") and done.stderr.count("\n") == 1
    flags = ("--restart",) if (folder / "out").exists() else ()
    assert fork_run(folder, "input.toml", *flags).code == 0
    assert differing(contents(folder / "out"), contents(whole)) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.4 MiB in memory; skipped where mounting is not permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("spare", [directory.SPARE_BYTES, -(1 << 30)], ids=["checked before", "met while writing"])
def test_a_small_disk(folder: Path, whole: Path, small_disk: Path, spare: int) -> None:
    """With the check the run stops before a write, without it in the middle of one."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1240 * KIB if spare < 0 else 0))
    place = ("--set", f"output.directory={small_disk / 'out'}")

    def prepare() -> None:
        directory.SPARE_BYTES = spare

    ended = fork_run(folder, "input.toml", *place, prepare=prepare)
    check_message(ended.code, ended.errors)
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert fork_run(folder, "input.toml", *place, "--restart").code == 0
    assert differing(contents(small_disk / "out"), contents(whole)) == ["checkpoint/settings"]
