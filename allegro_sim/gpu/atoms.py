"""The arrays of one rank on the device: rows [0, owned) are owned atoms, then ghosts; capacity beyond that."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.gpu.arrays import Scratch, new_array
from allegro_sim.potential.cuda.engine import Executor
from allegro_sim.system import System

_LOCAL: dict[str, tuple[tuple[int, ...], Any]] = {
    "ids": ((), np.int64),
    "types": ((), np.int32),
    "positions": ((3,), np.float64),
    "images": ((3,), np.int32),
    "forces": ((3,), np.int64),
    "order_keys": ((), np.int64),
    "faults": ((), np.uint8),
}
_OWNED: dict[str, tuple[tuple[int, ...], Any]] = {
    "velocities": ((3,), np.float64),
    "energies": ((), np.float64),
    "before": ((3,), np.float64),
    "built": ((3,), np.float64),
    "heat": ((), np.int64),
}


class DeviceAtoms:
    """Atoms and ghosts of a rank, as `System`, on the device.

    Attributes (device arrays; C rows of atoms and ghosts, O of atoms alone, capacities)
    -------------------------------------------------------------------------------------
    ids, types, positions, images, forces : as in `System`, (C, ...)
    order_keys : int64 (C,), place of a row in the canonical order: its id, then its images beyond the owner's
    faults : uint8 (C,), rows whose energy or forces were not finite or out of range
    velocities, energies : as in `System`, (O, ...)
    before : float64 (O, 3), positions at which the last forces were computed, once atoms have moved on
    built : float64 (O, 3), positions at which the neighbour list was built
    heat : int64 (O,), what the bath has given, 2^-44 eV; of a row and not of an atom: only the sum of all rows counts
    num_owned, num_ghosts : int
    scratch : Scratch, for a new neighbour list
    """

    def __init__(self, executor: Executor) -> None:
        self.executor, self.scratch = executor, Scratch(executor)
        self.num_owned = 0
        self.num_ghosts = 0
        self._arrays = {name: self._allocate(name, shape, dtype, 1) for name, (shape, dtype) in self._all().items()}
        self._views: dict[str, tuple[Any, Any]] = {}

    @staticmethod
    def _all() -> dict[str, tuple[tuple[int, ...], Any]]:
        return {**_LOCAL, **_OWNED}

    def __getattr__(self, name: str) -> Any:
        arrays = self.__dict__.get("_arrays", {})
        if name not in arrays:
            raise AttributeError(name)
        return arrays[name]

    @property
    def num_local(self) -> int:
        return self.num_owned + self.num_ghosts

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    @property
    def held(self) -> tuple[Any, ...]:
        """Arrays that stay the same until they must grow."""
        return tuple(self._arrays.values())

    def owned(self, name: str) -> Any:
        """The rows of the owned atoms."""
        return self._arrays[name][: self.num_owned]

    def local(self, name: str) -> Any:
        """The rows of atoms and ghosts."""
        return self._arrays[name][: self.num_local]

    def bits(self, name: str) -> Any:
        """An array of float64 as int64, all rows; the same object as long as the array is."""
        array = self._arrays[name]
        of, view = self._views.get(name, (None, None))
        if of is not array:
            view = array.view(np.int64)
            self._views[name] = array, view
        return view

    def reserve(self, rows: int, owned: int) -> None:
        """Grow to at least so many rows, with room to spare; what is there is kept."""
        for names, wanted in ((_LOCAL, rows), (_OWNED, owned)):
            for name, (shape, dtype) in names.items():
                old = self._arrays[name]
                if len(old) >= wanted:
                    continue
                new = self._allocate(name, shape, dtype, wanted + wanted // 8 + 64)
                kept = self.num_local if names is _LOCAL else self.num_owned
                kept = len(old) if name == "heat" else min(len(old), kept)
                with self.executor.working():
                    new[:kept] = old[:kept]
                self._arrays[name] = new

    def _allocate(self, name: str, shape: tuple[int, ...], dtype: Any, rows: int) -> Any:
        return new_array(self.executor, (rows, *shape), dtype, f"{name} of {rows} atoms and ghosts")

    def take(self, system: System) -> None:
        """Become the owned atoms of a system on the host (copies); ghosts are dropped."""
        count = system.num_owned
        self.num_owned, self.num_ghosts = 0, 0
        self.reserve(count, count)
        self.num_owned = count
        for name in ("ids", "types", "positions", "velocities"):
            self.upload(name, getattr(system, name)[:count])

    def upload(self, name: str, values: np.ndarray) -> None:
        """Copy from the host: the owned rows."""
        if len(values):
            self.executor.upload(self.owned(name), values)

    def give(self, system: System, names: tuple[str, ...]) -> None:
        """Copy to a system on the host, which gets as many rows: all rows of what ghosts have, else the owned ones."""
        system.num_owned = system.num_ghosts = 0  # nothing there is worth keeping
        system.reserve(self.num_local)
        system.num_owned, system.num_ghosts = self.num_owned, self.num_ghosts
        for name in names:
            rows = self.local(name) if name in _LOCAL else self.owned(name)
            if len(rows):
                getattr(system, name)[: len(rows)] = self.executor.download(rows)
