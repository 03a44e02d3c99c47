"""One run at a time writes to a directory, and to nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
from support.survival import contents, differing, fork_run, write_input

from allegro_sim.errors import OutputError
from allegro_sim.kernels.cpu.compilation import cache_directory
from allegro_sim.output.lock import LOCK, Holder, RunLock, check_lock

HERE = Holder.this_process()


def write_lock(directory: Path, **changes) -> Path:
    path = directory / LOCK
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(HERE, **changes))))
    return path


def test_a_second_run_is_refused_while_the_first_goes_on_undisturbed(tmp_path: Path, repository: Path) -> None:
    write_input(tmp_path, repository)
    assert fork_run(tmp_path, "input.toml", "--set", "output.directory=alone").code == 0
    first = tmp_path / "first"
    first.mkdir()
    refused = []

    def start_others(pid: int) -> None:
        while not (tmp_path / "out" / "checkpoint-000000005.h5").exists():
            time.sleep(0.005)
        os.kill(pid, signal.SIGSTOP)
        for flag in ((), ("--restart",), ("--overwrite",)):
            refused.append(fork_run(first, "../input.toml", "--set", f"output.directory={tmp_path / 'out'}", *flag))
        os.kill(pid, signal.SIGCONT)
        refused.append(pid)

    assert fork_run(tmp_path, "input.toml", while_running=start_others).code == 0
    pid = refused.pop()
    assert len(refused) == 3
    for ended in refused:
        assert ended.code == 2 and ended.errors.count("\n") == 1
        assert f"process {pid} on" in ended.errors and "a run is writing to this directory" in ended.errors
    assert differing(contents(tmp_path / "out"), contents(tmp_path / "alone")) == ["checkpoint/settings"]
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    lock = RunLock.acquire(tmp_path)
    assert lock.replaced is None
    for attempt in (check_lock, RunLock.acquire):
        with pytest.raises(OutputError, match=rf"run\.lock: a run is writing .*process {os.getpid()} on"):
            attempt(tmp_path)
    lock.release()
    lock.release()
    check_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_releasing_leaves_the_lock_of_another(tmp_path: Path) -> None:
    lock = RunLock.acquire(tmp_path)
    lock.path.unlink()
    path = write_lock(tmp_path, pid=1)
    lock.release()
    assert path.exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        RunLock.acquire(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
    # First a zombie, which has ended too though its number is still taken; then gone.
    while Path(f"/proc/{pid}/stat").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(0.001)
    if Path("/proc").exists():
        check_lock(tmp_path)
    os.waitpid(pid, 0)
    check_lock(tmp_path)
    lock = RunLock.acquire(tmp_path)
    assert lock.replaced is not None and lock.replaced.pid == pid
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.skipif(not HERE.birth, reason="this system does not tell when a process began")
def test_a_process_that_has_got_the_number_of_a_dead_one_is_told_from_it(tmp_path: Path) -> None:
    write_lock(tmp_path, birth="1")
    lock = RunLock.acquire(tmp_path)
    assert lock.replaced is not None and lock.replaced.birth == "1"


@pytest.mark.skipif(not HERE.boot or not HERE.machine, reason="this system does not tell one boot from another")
def test_a_lock_from_before_the_machine_started_is_taken_over(tmp_path: Path) -> None:
    write_lock(tmp_path, boot="another", pid=1)
    assert RunLock.acquire(tmp_path).replaced is not None


@pytest.mark.parametrize("elsewhere", [{"host": "node17"}, {"machine": "another"}, {"processes": "of a container"}])
def test_a_lock_from_elsewhere_is_respected_and_the_message_says_how_to_remove_it(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    path = write_lock(tmp_path, **elsewhere)
    for attempt in (check_lock, RunLock.acquire):
        with pytest.raises(OutputError, match=rf"cannot be told.*if it has ended, remove {path}"):
            attempt(tmp_path)
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"pid": "x"}'])
def test_a_lock_that_says_nothing_is_respected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / LOCK
    path.write_bytes(content)
    for attempt in (check_lock, RunLock.acquire):
        with pytest.raises(OutputError, match=rf"not a lock of this program.*remove {path}"):
            attempt(tmp_path)
    assert path.read_bytes() == content


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    for trial in range(6):
        directory = tmp_path / str(trial)
        directory.mkdir()
        write_lock(directory, birth="1")
        go, done = directory / "go", os.pipe()
        children = []
        for _ in range(6):
            if (pid := os.fork()) == 0:
                while not go.exists():
                    pass
                try:
                    RunLock.acquire(directory)
                    os.write(done[1], b"got")
                except OutputError:
                    os.write(done[1], b"not")
                while go.exists():  # alive, so that the lock stays held
                    time.sleep(0.001)
                os._exit(0)
            children.append(pid)
        go.touch()
        answers = b"".join(os.read(done[0], 3) for _ in children)
        go.unlink()
        for pid in children:
            os.waitpid(pid, 0)
        assert answers.count(b"got") == 1, answers


def test_nothing_but_the_named_directory_is_written_to(tmp_path: Path, repository: Path, monkeypatch) -> None:
    """Home and temporary folders included; the cache of compiled kernels is the exception, and has its own variable."""
    monkeypatch.setenv("ALLEGRO_SIM_CACHE", str(cache_directory().parent))
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "start")}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    write_input(tmp_path, repository)
    (tmp_path / "named").mkdir()

    def snapshot() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for root in (tmp_path, repository / "inputs" / "water")
            for path in root.rglob("*")
            if tmp_path / "named" not in [path, *path.parents] and path.name not in ("stdout.txt", "stderr.txt")
        }

    start = folders["start"]
    assert fork_run(start, "--version").code == 0  # makes the files that take the output
    before = snapshot()
    named = ("../input.toml", "--set", "output.directory=../named/out")
    assert fork_run(start, *named).code == 0
    assert fork_run(start, *named, "--dry-run", "--overwrite").code == 0
    assert snapshot() == before
    assert len(list((tmp_path / "named" / "out").iterdir())) == 5
