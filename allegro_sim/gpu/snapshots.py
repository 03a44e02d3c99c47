"""Frames and checkpoints on their way from the device: copied while the next steps are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from allegro_sim.gpu.atoms import DeviceAtoms
from allegro_sim.output.snapshot import SNAPSHOTS


class DeviceSnapshot:
    """`output.snapshot.Snapshot` in page-locked memory."""

    def __init__(self, arrays: dict[str, np.ndarray], wait: Callable[[], None]) -> None:
        self._arrays, self._wait = arrays, wait

    def wait(self) -> dict[str, np.ndarray]:
        self._wait()
        return self._arrays


class DeviceSnapshots:
    """Takes snapshots of the owned atoms: copies on the stream, so that what is launched after may change the rows.

    The sets of arrays on the host are made when they are first needed, grow, and are used in turn: a snapshot is good
    until `SNAPSHOTS` more have been begun.
    """

    def __init__(self, rows: DeviceAtoms) -> None:
        self._rows = rows
        self._sets: list[dict[str, np.ndarray]] = [{} for _ in range(SNAPSHOTS)]

    def take(self, names: Sequence[str]) -> DeviceSnapshot:
        """names: attributes of `DeviceAtoms`; "ids" are there in any case. Raises MemoryError."""
        held = self._sets.pop(0)
        self._sets.append(held)
        sources = {name: self._rows.owned(name) for name in ("ids", *names)}
        arrays = {name: self._room(held, name, rows) for name, rows in sources.items()}
        copies = [(rows, arrays[name]) for name, rows in sources.items() if len(rows)]
        return DeviceSnapshot(arrays, self._rows.executor.begin_download(copies))

    def _room(self, held: dict[str, np.ndarray], name: str, rows: Any) -> np.ndarray:
        """Rows of the array of this name for as many atoms, which grows with some to spare."""
        width = int(np.prod(rows.shape[1:], dtype=np.int64))
        if name not in held or held[name].size < len(rows) * width:
            held.pop(name, None)
            count = len(rows) + len(rows) // 8 + 64
            held[name] = self._rows.executor.allocate_pinned(count * width, rows.dtype)
        return held[name][: len(rows) * width].reshape(rows.shape)
