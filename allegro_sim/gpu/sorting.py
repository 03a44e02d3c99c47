"""Ascending order of keys on the device, for rows along the space-filling curve and in bins."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.gpu.atoms import DeviceAtoms

FEW = 4096
"""So many keys at most are sorted by one kernel, in which each thread counts the keys before its own: one launch, where
a sort of CuPy's is many, and takes memory."""


def sort_keys(atoms: DeviceAtoms, keys: Any, count: int) -> tuple[Any, Any]:
    """Rows in the order of their keys, equal ones in their own, and the keys in that order.

    keys: int64, at least `count`, on the device; returns two arrays of int64 with `count` or more elements.
    """
    executor, scratch = atoms.executor, atoms.scratch
    if count <= FEW:
        order, ascending = scratch.get("order", count, np.int64), scratch.get("sorted", count, np.int64)
        executor.launch("sort_few", count, order, ascending, keys, np.int32(count))
        return order, ascending
    with executor.working():
        order = executor.arrays.argsort(keys[:count], kind="stable")
        return order, keys[order]
