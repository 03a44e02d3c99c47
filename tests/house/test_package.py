"""What is shipped is what is in the tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import allegro_sim

SUFFIXES = {".py", ".cu", ".cuh"}
FOLDERS = {"allegro_sim": "allegro_sim", "kernels": "allegro_sim/kernels", "tools": "allegro_sim/tools"}


def test_wheel_holds_exactly_the_sources_of_the_tree(repository: Path, tmp_path: Path) -> None:
    """A subpackage missing from the list in pyproject.toml works in the checkout and silently drops out of the
    wheel.
    """
    pytest.importorskip("setuptools")
    copy = tmp_path / "tree"  # a fresh copy: nothing of an earlier build can leak in, nothing is left behind
    copy.mkdir()
    for folder in FOLDERS:
        shutil.copytree(repository / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, copy)
    program = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if Path(name).suffix in SUFFIXES}
    expected = {
        f"{package}/{path.relative_to(repository / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (repository / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert shipped == expected


def test_one_version_everywhere(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert allegro_sim.__version__ == project["version"]
    assert f"version: {project['version']}" in (repository / "CITATION.cff").read_text()
    assert f"## {project['version']}" in (repository / "CHANGELOG.md").read_text()


def test_commands_are_installed() -> None:
    commands = {entry.name: entry.value for entry in metadata.entry_points(group="console_scripts")}
    assert commands["allegro-sim"] == "allegro_sim.cli:main"
    assert commands["allegro-tools"] == "allegro_sim.tools.main:main"


def test_checkout_runs_without_installation(repository: Path) -> None:
    """`python -m allegro_sim` at the root finds the kernels and tools that stand beside the package."""
    done = subprocess.run(
        [sys.executable, "-m", "allegro_sim", "--version"], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert allegro_sim.__version__ in done.stdout
