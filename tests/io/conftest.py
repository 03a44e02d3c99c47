"""The program in this process, for tests that look at what it says and leaves."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from allegro_sim import cli
from allegro_sim.parallel.comm import SerialComm

Ended = tuple[int, str, str]
"""Exit code, output, errors."""


@pytest.fixture
def run_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """run_program(*arguments) -> exit code, output, errors: `allegro-sim ARGUMENTS` on one rank, in an empty folder."""
    monkeypatch.setattr(cli, "world", SerialComm)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        output, errors = io.StringIO(), io.StringIO()
        redirected = contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors)
        with redirected[0], redirected[1], pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        return int(ended.value.code or 0), output.getvalue(), errors.getvalue()

    return run


@pytest.fixture
def run_input(run_program: Callable[..., Ended]) -> Callable[[str], Callable[..., Ended]]:
    """run_input(text) -> run; run(*overrides, flags=()): the program with this input file and with `--set OVERRIDE`."""

    def write(text: str) -> Callable[..., Ended]:
        Path("input.toml").write_text(text)

        def run(*overrides: str, flags: tuple[str, ...] = ()) -> Ended:
            return run_program("input.toml", *(word for o in overrides for word in ("--set", o)), *flags)

        return run

    return write
