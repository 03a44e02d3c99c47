"""The neighbour list on the device: the same list as `allegro_sim.neighbors`, in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.errors import StructureError
from allegro_sim.gpu.arrays import new_array, to_device
from allegro_sim.gpu.atoms import DeviceAtoms
from allegro_sim.gpu.sorting import sort_keys
from allegro_sim.neighbors import LIST_MARGIN, NeighborList
from allegro_sim.parallel.decomposition import Decomposition

_MOST_BINS = 2**21 - 4
"""Along an axis: BIN_BITS of kernels/cuda/lists.cu, less the padding."""


class DeviceNeighbors:
    """Verlet list of a rank's owned rows (Verlet, Phys. Rev. 159, 98, 1967), built from sorted bins.

    Parameters
    ----------
    atoms : DeviceAtoms
    decomposition : Decomposition, whose halo the ghosts fill
    cutoffs, skin : as of `NeighborList`

    Attributes
    ----------
    row_offsets : int64 (owned + 1,), indices : int32, on the device; see `NeighborList`
    num_edges : int, pairs of the list, those of the skin included
    num_builds : int
    """

    def __init__(self, atoms: DeviceAtoms, decomposition: Decomposition, cutoffs: np.ndarray, skin: float) -> None:
        self.skin = skin
        self.num_edges = 0
        self.num_builds = 0
        self._atoms, self._decomposition = atoms, decomposition
        self._executor = atoms.executor
        self._cutoffs = np.ascontiguousarray(cutoffs, np.float64)
        self._limits = self._device((self._cutoffs + (skin + LIST_MARGIN)) ** 2)
        cell = decomposition.cell
        self._cell, self._inverse = self._device(cell.vectors), self._device(cell.inverse)
        self._bins, self._num_fits = self._device(np.zeros((2, 3))), 0
        self._offsets = self._new(1, np.int64)
        self._storage = self._new(1, np.int32)
        self._row_offsets = self._offsets, self._offsets

    @property
    def row_offsets(self) -> Any:
        """The same array as long as the number of atoms does not change, nor must it grow."""
        size = self._atoms.num_owned + 1
        base, rows = self._row_offsets
        if base is not self._offsets or len(rows) != size:
            self._row_offsets = base, rows = self._offsets, self._offsets[:size]
        return rows

    @property
    def indices(self) -> Any:
        """With room to spare, at least one element: the same array until it must grow."""
        return self._storage

    @property
    def held(self) -> tuple[Any, ...]:
        """Arrays that stay the same until they must grow."""
        return self._offsets, self._storage

    @property
    def cell(self) -> Any:
        """Lattice vectors, float64 (3, 3), on the device."""
        return self._cell

    @property
    def nbytes(self) -> int:
        return int(self._offsets.nbytes + self._storage.nbytes)

    def build(self) -> None:
        """List the neighbours of every owned row among all rows; the host waits for their number."""
        atoms, xp, scratch = self._atoms, self._executor.arrays, self._atoms.scratch
        owned, local = atoms.num_owned, atoms.num_local
        self._place_bins()
        if len(self._offsets) < owned + 1:
            self._offsets = self._new(owned + owned // 8 + 64, np.int64)  # the first is, and stays, 0
        self.num_edges = 0
        if owned:
            keys = scratch.get("keys", local, np.int64)
            place = (atoms.positions, atoms.images)
            self._run("bin_rows", local, keys, *place, self._inverse, self._bins, np.int32(local))
            order, sorted_keys = sort_keys(atoms, keys, local)
            counts = scratch.get("counts", owned, np.int64)
            search = (
                *place, atoms.types, self._cell, self._limits, keys, sorted_keys, order, np.int32(len(self._cutoffs)),
                np.int32(owned), np.int32(local),
            )  # fmt: skip
            self._run("count_rows", 32 * owned, counts, *search)
            with self._executor.working():
                xp.cumsum(counts[:owned], out=self._offsets[1 : owned + 1])
            self.num_edges = int(self._executor.download(self._offsets[owned : owned + 1])[0])
            if self.num_edges > len(self._storage):
                # A little room to spare, for the densities to come.
                self._storage = self._new(0, np.int32)
                self._storage = self._new(self.num_edges + self.num_edges // 16 + 64, np.int32)
            self._run("fill_rows", 32 * owned, self._storage, self.row_offsets, atoms.order_keys, *search)
            with self._executor.working():
                atoms.owned("built")[...] = atoms.owned("positions")
        self.num_builds += 1

    def closest_pair(self) -> tuple[float, int, int]:
        """Smallest squared distance (Å²) of a listed pair, and the ids of its atoms; (inf, -1, -1) without pairs."""
        atoms, owned = self._atoms, self._atoms.num_owned
        if not owned:
            return np.inf, -1, -1
        squared, closest = self._new(owned, np.float64), self._new(owned, np.int32)
        given = (self.row_offsets, self.indices, atoms.ids, atoms.positions, atoms.images, self._cell, np.int32(owned))
        self._run("closest_rows", owned, squared, closest, *given)
        with self._executor.working():
            least = float(squared.min())
            if not np.isfinite(least):
                return np.inf, -1, -1
            rows = self._executor.arrays.flatnonzero(squared == least)
            first = self._executor.download(atoms.ids[rows])
            second = self._executor.download(atoms.ids[closest[rows]])
        return (least, *min(zip(first.tolist(), second.tolist(), strict=True)))

    def give(self, neighbors: NeighborList) -> None:
        """Copy to a list on the host."""
        neighbors.row_offsets = self._executor.download(self.row_offsets)
        neighbors.indices = self._executor.download(self.indices)[: self.num_edges]

    def _place_bins(self) -> None:
        decomposition = self._decomposition
        if self._num_fits == decomposition.num_fits:
            return
        self._num_fits = decomposition.num_fits
        lower, upper = decomposition.brick()
        corner = lower - decomposition.halo_fraction
        span = upper + decomposition.halo_fraction - corner
        widths = np.maximum(decomposition.halo_fraction, span / _MOST_BINS)
        if not np.isfinite(span).all():
            raise StructureError("positions are so far apart that they cannot be sorted in space; correct them")
        self._executor.upload(self._bins, np.stack([corner, widths]))

    def _run(self, kernel: str, threads: int, *arguments: Any) -> None:
        self._executor.launch(kernel, threads, *arguments)

    def _new(self, count: int, dtype: Any) -> Any:
        return new_array(self._executor, count, dtype, f"the neighbour list of {self._atoms.num_owned} atoms")

    def _device(self, values: np.ndarray) -> Any:
        return to_device(self._executor, np.ascontiguousarray(values, np.float64), "the neighbour list")
