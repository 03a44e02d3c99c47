"""Threads of a rank: the node's cores are shared, by affinity and by the container's quota."""

from __future__ import annotations

import os

import pytest

from allegro_sim.parallel import cores
from allegro_sim.parallel.comm import SerialComm


class RanksOfANode(SerialComm):
    """This rank among others with given affinity masks; the last two are on another node."""

    def __init__(self, masks: list[set[int]]) -> None:
        self.masks = masks
        self.size = len(masks) + 2

    def allgather(self, value):
        elsewhere = [("elsewhere", frozenset(range(64)))] * 2
        return [(os.uname().nodename, frozenset(mask)) for mask in self.masks] + elsewhere


@pytest.mark.parametrize(
    ("masks", "quota", "expected"),
    [
        ([set(range(8))], float("inf"), 8),
        ([set(range(8))], 2.5, 2),
        ([set(range(8))] * 4, float("inf"), 2),
        ([set(range(8))] * 3, float("inf"), 2),
        ([{0, 1, 2}] * 3, float("inf"), 1),
        ([set(range(4))] * 8, float("inf"), 1),
        ([{0, 1, 2, 3}, {4, 5}], float("inf"), 4),
        ([set(range(8))] * 2, 4.0, 2),
        ([set(range(8))], 0.5, 1),
    ],
)
def test_cores_are_shared_among_the_ranks_of_a_node(monkeypatch, masks, quota, expected) -> None:
    monkeypatch.setattr(cores, "affinity", lambda: frozenset(masks[0]))
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.cores_of_rank(RanksOfANode(masks)) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, float("inf")),
        ("0::/job/step\n", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, 2.0),
        ("4:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, 3.0),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ("", {}, float("inf")),
    ],
)
def test_quota_of_the_control_groups(monkeypatch, tmp_path, own: str, files: dict[str, str], expected: float) -> None:
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "_OWN_CGROUP", tmp_path / "own")
    assert cores.quota() == expected


def test_this_machine_has_a_core() -> None:
    assert 1 <= cores.cores_of_rank(SerialComm()) <= (os.cpu_count() or 1)
