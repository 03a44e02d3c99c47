"""How many threads a rank may use: the cores of this node, shared among the ranks on it."""

from __future__ import annotations

import os
from pathlib import Path

from allegro_sim.parallel.comm import Comm

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


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
    """Cores' worth of processor time granted by the control groups (version 2 or 1); infinite without a limit."""
    return min((_read_quota(folder) for folder in _own_folders()), default=float("inf"))


def _own_folders() -> list[Path]:
    """Folders of the control group of this process and of all groups around it."""
    folders = [_CGROUPS, _CGROUPS / "cpu"]
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = _CGROUPS / "cpu" if controllers else _CGROUPS
            own = root / path.lstrip("/")
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return folders


def _read_quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            granted, period = (folder / "cpu.max").read_text().split()
        else:
            granted, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(granted) / float(period) if granted not in ("max", "-1") else float("inf")
    except (OSError, ValueError):
        return float("inf")
