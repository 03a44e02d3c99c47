"""Runs in which one rank fails at a chosen moment: the failure is put in from outside, by a script that replaces one
function of the program on that rank."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

LIMIT_SECONDS = 10.0
"""The most between the failure of a rank and the end of all."""

SCRIPT = """
import importlib, os, sys
from pathlib import Path

place, count, rank, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
del sys.argv[1:5]

def fail(self):
    Path("failed").touch()
    if how == "device memory":
        self.atoms.executor.memory_limit = 0
        return
    if how == "throws":
        raise ValueError("a mistake")
    if how == "user error":
        from allegro_sim.errors import StructureError
        raise StructureError("this rank alone")
    if how == "full disk":
        raise OSError(28, "No space left on device")
    if how == "memory":
        import numpy
        numpy.empty(1 << 60, numpy.uint8)
    if how == "exits":
        sys.exit(0)
    os.kill(os.getpid(), {"dies": 9, "crashes": 11}[how])

def break_function():
    module, name, method = place.split(":")
    target = importlib.import_module(module)
    if name:
        target = getattr(target, name)
    original = getattr(target, method)
    calls = 0
    def broken(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == count:
            fail(arguments[0] if arguments else None)
        return original(*arguments, **options)
    setattr(target, method, broken)

PRELUDE
if os.environ["PMI_RANK"] == str(rank):
    break_function()
from allegro_sim import cli
cli.main()
"""


def fail_in_a_run(
    folder: Path,
    launcher: str,
    moment: tuple[str, int],
    rank: int,
    how: str,
    *,
    ranks: int = 3,
    options: Sequence[str] = (),
    prelude: str = "",
) -> tuple[float, int, str]:
    """moment: module:class:function, and which call of it fails. Runs input.toml in the folder; prelude: lines that
    every rank runs before.

    Returns seconds between the failure and the end of mpirun, its exit code, and all that was printed."""
    place, count = moment
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("PRELUDE", prelude))
    command = [
        launcher,
        "-n",
        str(ranks),
        sys.executable,
        script,
        place,
        str(count),
        str(rank),
        how,
        "input.toml",
        *options,
    ]
    with (folder / "printed.txt").open("w") as printed:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True
        )
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(timeout=10)
            pytest.fail(f"hangs: {(folder / 'printed.txt').read_text()}")
    ended = time.time()
    failed = folder / "failed"
    assert failed.exists(), f"that moment never came: {(folder / 'printed.txt').read_text()}"
    return ended - failed.stat().st_mtime, code, (folder / "printed.txt").read_text()
