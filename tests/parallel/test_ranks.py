"""Neighbour lists, ghosts, returned forces and migration on 1 to 8 ranks, in one launch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest


@pytest.mark.mpi
def test_lists_ghosts_and_forces_are_right_on_any_number_of_ranks(mpirun) -> None:
    result = mpirun(8, sys.executable, Path(__file__).parent.parent / "support" / "ranks_script.py", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    totals = re.search(r"cases (\d+), with an empty rank (\d+), with several hops (\d+)", result.stdout)
    assert totals is not None, result.stdout + result.stderr
    # The random cases must really have reached the difficult situations.
    cases, empty, several_hops = map(int, totals.groups())
    assert cases >= 40 and empty >= 10 and several_hops >= 10
