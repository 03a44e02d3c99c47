"""The CUDA potential behind the interface that every potential has: arrays of the host in and out, by copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.kernels.numba_cuda.control import WORDS
from allegro_sim.model.description import AllegroModel
from allegro_sim.neighbors import NeighborList
from allegro_sim.potential.cuda.device import MATRIX_UNITS, OutOfDeviceMemory, find_device
from allegro_sim.potential.cuda.engine import Arrays, Engine, Executor
from allegro_sim.potential.cuda.layout import Layout, refuse_unsupported
from allegro_sim.potential.cuda.plan import system_buffers
from allegro_sim.system import System

_GIVEN = ("positions", "images", "types", "cell", "row_offsets", "indices", "control")
_RESULTS = ("energies", "forces", "virial_words", "atom_virials", "faults", "status")


class CudaPotential:
    """An Allegro model on a GPU.

    Parameters
    ----------
    model : AllegroModel
    precision : "double", "single" (float32) or "mixed" (float32, large products of TF32 numbers); positions, lengths,
        energies and the sums of forces as in every precision of the CPU
    chunk_edges : most edges computed at a time, or None: what a buffer of `engine.BUFFER_BYTES` holds
    executor : what launches the kernels; None: the GPU
    chosen : why this device, for the description, where the program chose it
    local_rank : number of this rank on its node, which takes one of the node's GPUs

    Attributes
    ----------
    device, precision, description : see `interface.Potential`
    engine : Engine, the evaluation with arrays that are on the device

    Raises
    ------
    DeviceError : there is no GPU that can be used, or the kernels do not cover the model
    """

    device = "cuda"

    def __init__(
        self,
        model: AllegroModel,
        *,
        precision: str = "mixed",
        chunk_edges: int | None = None,
        executor: Executor | None = None,
        chosen: str = "",
        local_rank: int = 0,
    ) -> None:
        if chunk_edges is not None and chunk_edges < 1:
            raise ValueError(f"chunk_edges must be at least 1, found {chunk_edges}")
        self.precision = precision
        refuse_unsupported(model)
        if executor is None:
            executor = _gpu_executor(local_rank)
        layout = Layout(model, precision, matrix_units=executor.device.capability in MATRIX_UNITS)
        self.engine = Engine(layout, executor, max_rows=chunk_edges)
        self._executor, self._chosen = executor, chosen
        self._memory = Arrays(executor)
        self._list: tuple[object, ...] = ()
        self._given: tuple[Any, ...] = ()
        self._has_atom_virials = False

    @property
    def description(self) -> str:
        """GPU, product path and, once there is a neighbour list, the chunks."""
        engine, layout = self.engine, self.engine.layout
        written, computed = layout.folded.multiply_adds
        units = {"double": "float64", "single": "float32", "mixed": "TF32"}[self.precision]
        path = "fused kernels" if layout.fused else "cuBLAS"
        parts = [*filter(None, [self._chosen]), f"{self._executor.device}", f"products in {units} by {path}"]
        if not layout.fused and engine.table is not None:
            kept = "independent of" if engine.keeps_bits else "NOT independent of"
            sizes = engine.blocks.sizes
            parts.append(f"{sizes[0]} to {sizes[-1]} rows at a time, bits {kept} an edge's place (probed)")
        if engine.table is None:
            parts.append(f"chunks of at most {engine.max_rows} edges")
        else:
            table = engine.table
            parts.append(
                f"{table.num_chunks} chunks of {table.capacity} rows, {100 * table.padding_share:.1f} % of it padding, "
                f"{engine.chunk_bytes / 2**20:.0f} MiB"
            )
        parts.append(f"multiply-adds per edge: {computed} (as written: {written})")
        return "; ".join(parts)

    def prepare(self) -> None:
        """Compile the kernels, or load them, and put the constants on the device."""
        self.engine.prepare()

    def compute(
        self, system: System, neighbors: NeighborList, *, want_virial: bool = False, want_atom_virials: bool = False
    ) -> None:
        """See `interface.Potential.compute`. `system.bad_centres` may name a ghost's row, where only its sum is out
        of range.
        """
        owned, local = system.num_owned, system.num_local
        if len(neighbors.row_offsets) != owned + 1:
            raise ValueError(
                f"the neighbour list has {len(neighbors.row_offsets) - 1} rows for {owned} atoms: build it"
            )
        self.prepare()
        self._take_list(system, neighbors, want_atom_virials)
        arrays = self._arrays
        self._executor.upload(arrays["positions"], system.positions[:local])
        while True:
            self.engine.launch(want_virial=want_virial, want_atom_virials=want_atom_virials)
            status = self._executor.download(arrays["status"])
            if not self.engine.overflow(status):
                break
            self.engine.recover()
        system.energies[:owned] = self._executor.download(arrays["energies"])
        system.forces[:local] = self._executor.download(arrays["forces"])
        if want_virial:
            system.virial_words[:] = self._executor.download(arrays["virial_words"])
        if want_atom_virials:
            if system.atom_virials is None or len(system.atom_virials) < local:
                system.atom_virials = np.zeros((system.capacity, 9), np.int64)
            system.atom_virials[:local] = self._executor.download(arrays["atom_virials"])
        system.bad_centres = np.empty(0, np.int64)
        if status[1] != 0:
            system.bad_centres = np.flatnonzero(self._executor.download(arrays["faults"]))

    def _take_list(self, system: System, neighbors: NeighborList, want_atom_virials: bool) -> None:
        """Everything but the positions goes to the device once a build of the list."""
        now = (neighbors, neighbors.num_builds, system, system.num_owned, system.num_local)
        # Atom virials have an array from the first call that wants them to the next build.
        if self._list == now and (self._has_atom_virials or not want_atom_virials):
            return
        self._list, self._has_atom_virials, self._given = now, want_atom_virials, ()
        buffers = system_buffers(
            rows=system.num_local,
            owned=system.num_owned,
            listed=max(neighbors.num_edges, 1),
            chunks=0,
            atom_virials=want_atom_virials,
        )
        try:
            self._arrays = {name: self._memory.get(buffers[name]) for name in (*_GIVEN, *_RESULTS)}
        except OutOfDeviceMemory:
            self._list = ()
            needed = sum(buffers[name].nbytes for name in (*_GIVEN, *_RESULTS))
            raise DeviceError(
                f"{self._executor.device} is out of memory: {system.num_local} atoms and ghosts and their neighbour "
                f"list need {needed / 2**20:.1f} MiB. Use more GPUs, a smaller system or a smaller skin"
            ) from None
        local = system.num_local
        for name, values in (
            ("positions", system.positions[:local]),
            ("images", system.images[:local]),
            ("types", system.types[:local]),
            ("cell", system.cell.vectors),
            ("row_offsets", neighbors.row_offsets),
            ("control", np.zeros(WORDS, np.int64)),
        ):
            self._executor.upload(self._arrays[name], values)
        if neighbors.num_edges:
            self._executor.upload(self._arrays["indices"], neighbors.indices)
        self.engine.bind(self._arrays, system.num_owned)

    def bind(self, arrays: Mapping[str, Any], owned: int, listed: int) -> None:
        """Take arrays that are on the device, for `engine.launch`: see `Engine.bind`. Of the very arrays that it has
        the engine keeps what it can."""
        before, self._given = self._given, (owned, *arrays.values())
        unchanged = len(before) == len(self._given) and before[0] == owned
        if unchanged and all(a is b for a, b in zip(before[1:], arrays.values(), strict=True)):
            self.engine.refit(listed)
            return
        self._list = ()
        self.engine.bind(arrays, owned, listed)


def _gpu_executor(local_rank: int) -> Executor:
    """The GPU, or DeviceError; CuPy is loaded here and nowhere before."""
    device = find_device(local_rank)
    from allegro_sim.potential.cuda.executor import CudaExecutor

    return CudaExecutor(device)
