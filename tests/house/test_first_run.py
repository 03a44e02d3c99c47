"""The first-run page, followed word for word, does what it says."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import h5py
import pytest
from support.documents import INSTALL, marked_blocks, run_document, script_of

FOLLOWED = ("trajectory.h5md", "topology.xyz", "thermo.csv", "checkpoint-000000200.h5", "checkpoint-000000300.h5")


def check_results(folder: Path) -> None:
    """What a reader of the page has at its end: a run of 300 steps, a picture and a converted trajectory."""
    assert all((folder / "water-nvt" / name).stat().st_size for name in FOLLOWED)
    with open(folder / "water-nvt" / "thermo.csv") as stream:
        assert [int(row["step"]) for row in csv.DictReader(stream)] == list(range(0, 301, 4))
    with h5py.File(folder / "water-nvt" / "trajectory.h5md") as file:
        assert file["particles/all/position/step"][:].tolist() == list(range(0, 301, 20))
    assert (folder / "water-nvt.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "water.xtc").stat().st_size


@pytest.mark.mpi
@pytest.mark.usefixtures("launcher")
@pytest.mark.filterwarnings("ignore")
def test_the_page_works_in_this_environment(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_document(repository / "docs" / "first-run.md", tmp_path, repository, monkeypatch)
    check_results(tmp_path)


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(1800)
def test_the_page_works_in_a_fresh_clone_and_environment(repository: Path, tmp_path: Path) -> None:
    """All files that git knows or would add, a new virtual environment, and nothing else of this one."""
    page = (repository / "docs" / "first-run.md").read_text()
    assert any(mark == INSTALL for mark, _, _ in marked_blocks(page))
    clone = tmp_path / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, clone / name)
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.defpath + os.pathsep + os.environ["PATH"],
        **{
            name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HTTP", "SSL", "TMP", "LANG"))
        },
    }
    done = subprocess.run(
        ["bash", "-c", script_of(page, install=True)],
        cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    check_results(clone)
