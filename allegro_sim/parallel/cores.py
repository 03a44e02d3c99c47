"""How many threads a rank may use: the cores of this node, shared among the ranks on it."""

from __future__ import annotations

import os
from pathlib import Path

from allegro_sim.parallel.comm import Comm

_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
_OLD_QUOTA_FILES = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def cores_of_rank(comm: Comm) -> int:
    """Number of cores that this rank may take, at least 1 (collective).

    A core in the affinity masks of several ranks of the node counts for each by its share; the container's quota of
    processor time is divided evenly.
    """
    own = affinity()
    masks = [mask for node, mask in comm.allgather((os.uname().nodename, own)) if node == os.uname().nodename]
    share = sum(1.0 / sum(core in mask for mask in masks) for core in own)
    # A share of three times one third must not come out as less than 1.
    return max(1, int(min(share, quota() / len(masks)) + 1.0e-6))


def affinity() -> frozenset[int]:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def quota() -> float:
    """Cores' worth of processor time granted by the control group (version 2 or 1); infinite without a limit."""
    try:
        if _QUOTA_FILE.exists():
            granted, period = _QUOTA_FILE.read_text().split()
        else:
            granted, period = (path.read_text().strip() for path in _OLD_QUOTA_FILES)
        return float(granted) / float(period) if granted not in ("max", "-1") else float("inf")
    except (OSError, ValueError):
        return float("inf")
