"""Device motion on several MPI ranks: packed halos through a transport, migration, the same bits as on one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "device_ranks.py"

pytestmark = [pytest.mark.mpi, pytest.mark.simulator]


def test_ranks_agree(mpirun, tmp_path):
    runs = []
    for ranks in (1, 2, 3):
        done = mpirun(ranks, sys.executable, SCRIPT, tmp_path / f"{ranks}.npz", timeout=300)
        assert done.returncode == 0, done.stderr
        runs.append(dict(np.load(tmp_path / f"{ranks}.npz")))
    for found, ranks in zip(runs, (1, 2, 3), strict=True):
        for name in ("nve", "langevin"):
            assert found[f"{name}/builds"] > 1  # atoms have migrated
            received = found[f"{name}/received"]
            assert len(received) == ranks and (ranks == 1 or received.any())
        for key, values in runs[0].items():
            if not key.endswith("received"):
                assert np.array_equal(found[key], values), (ranks, key)
