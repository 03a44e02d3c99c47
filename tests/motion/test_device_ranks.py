"""Device motion on several MPI ranks: packed halos through a transport, migration, the same bits as on one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "device_ranks.py"

pytestmark = [pytest.mark.mpi, pytest.mark.simulator]


def run(mpirun, path, ranks, transport="host", skin="0.1"):
    done = mpirun(ranks, sys.executable, SCRIPT, path, transport, skin, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ("several ranks share a GPU" in done.stderr) == (ranks > 1 and transport != "nccl")
    assert ("A probe is sent now" in done.stderr) == (transport == "cuda-aware")
    return dict(np.load(path))


def check(mpirun, tmp_path, cases):
    expected = run(mpirun, tmp_path / "1.npz", 1)
    for ranks, transport, skin in cases:
        found = run(mpirun, tmp_path / f"{ranks}-{transport}-{skin}.npz", ranks, transport, skin)
        for key in (key for key in expected if key.startswith("minimised")):
            assert np.array_equal(found[key], expected[key]), (ranks, transport, skin, key)
        for name in ("nve", "langevin"):
            narrow = skin == "0.1" and (transport, name) != ("nccl", "langevin")  # see the script
            assert found[f"{name}/builds"] > 1 or not narrow  # atoms have migrated
            received = found[f"{name}/received"]
            assert len(received) == ranks and (ranks == 1 or received.any())
            same = [key for key in expected if key.startswith(name) and not key.endswith(("received", "builds"))]
            for key in [*same, f"{name}/builds"] if narrow else same:
                assert np.array_equal(found[key], expected[key]), (ranks, transport, skin, key)


def test_ranks_agree(mpirun, tmp_path):
    """Also where MPI is given the device's memory itself; and where steps are launched ahead (by NCCL's calls), though
    lists grow old in between, and a rank has too little room for its edges."""
    check(mpirun, tmp_path, [(2, "cuda-aware", "0.1"), (2, "host", "0.1"), (3, "nccl", "0.1")])


@pytest.mark.slow
def test_more_ranks_and_wider_skins_agree(mpirun, tmp_path):
    cases = [
        (4, "host", "0.1"),
        (2, "nccl", "1.0"),
        (4, "nccl", "0.5"),
        (4, "cuda-aware", "0.5"),
        (2, "host", "0.5"),
        (2, "host", "1.0"),
        (1, "host", "1.0"),
    ]
    check(mpirun, tmp_path, cases)
