"""Linter, formatter and type checker are clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = ["allegro_sim", "kernels", "tools", "tests"]
MAX_LINES = 600


def check(repository: Path, *command: str) -> None:
    pytest.importorskip(command[0])
    done = subprocess.run([sys.executable, "-m", *command], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_linter_is_clean(repository: Path) -> None:
    check(repository, "ruff", "check", *FOLDERS)


def test_formatter_has_nothing_to_change(repository: Path) -> None:
    check(repository, "ruff", "format", "--check", *FOLDERS)


def test_type_checker_is_clean(repository: Path) -> None:
    check(repository, "mypy")


def test_every_file_can_be_read_in_one_sitting(repository: Path) -> None:
    lengths = {
        str(path.relative_to(repository)): len(path.read_text().splitlines())
        for folder in FOLDERS
        for path in (repository / folder).rglob("*.py")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
