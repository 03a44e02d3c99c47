"""Evaluation with arrays that are on the device: chunks, buffers, overflow. Nothing here copies atoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.potential.cuda.chunks import ROW_MULTIPLE, Blocks, ChunkTable, centers_for, make_table, round_up
from allegro_sim.potential.cuda.device import OutOfDeviceMemory
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import Buffer, Plan, system_buffers
from allegro_sim.potential.cuda.probe import product_blocks
from allegro_sim.potential.cuda.products import Shape

BUFFER_BYTES, MEMORY_SHARE = 2**33, 16
"""Default size of the buffers of a chunk; a sixteenth of the device's memory where that is less. Too few centres do not
fill a GPU: with 2^30 an H200 evaluated the medium model at 1.23 million atom-steps/s, with this at 1.56."""

MAX_ROWS = 2**20
MIN_ROWS = 1024
"""Fewest rows to retry with when memory runs out."""


class Graph(Protocol):
    """Launches that were captured."""

    def launch(self) -> None: ...


class Executor(Protocol):
    """What runs a plan: `executor.CudaExecutor`."""

    device: Any  # has total_bytes, multiprocessors, capability; its text names it
    arrays: Any  # the module of array operations, as NumPy's, to be used inside `with executor.working()`

    def load(self, layout: Layout) -> None: ...
    def load_module(self, source: str, kernels: Mapping[str, int]) -> None: ...
    def working(self) -> AbstractContextManager[Any]: ...
    def call(self, kernel: str, threads: int, *arguments: Any) -> Callable[[], None]: ...
    def launch(self, kernel: str, threads: int, *arguments: Any) -> None: ...
    def allocate(self, count: int, dtype: np.dtype) -> Any: ...
    def wait(self) -> None: ...
    def release(self) -> None: ...
    def upload(self, array: Any, values: np.ndarray) -> None: ...
    def download(self, array: Any) -> np.ndarray: ...
    def allocate_pinned(self, count: int, dtype: np.dtype) -> np.ndarray: ...
    def begin_download(self, copies: Sequence[tuple[Any, np.ndarray]]) -> Callable[[], None]: ...
    def capture(self, launches: Callable[[], None]) -> Graph: ...
    def bind(self, plan: Plan, arrays: Mapping[str, Any]) -> Any: ...
    def choose_workspace(self, shape: Shape, nbytes: int) -> None: ...


class Arrays:
    """Device arrays by the name of their buffer: allocated when first needed, and again only to grow."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._memory: dict[str, Any] = {}

    @property
    def nbytes(self) -> int:
        return sum(int(memory.nbytes) for memory in self._memory.values())

    def get(self, buffer: Buffer) -> Any:
        """The array of a buffer, in its shape; its contents are those of before, or zeros. Raises OutOfDeviceMemory."""
        count = buffer.nbytes // buffer.dtype.itemsize
        memory = self._memory.get(buffer.name)
        if memory is None or memory.size < count:
            memory = None
            self.drop(buffer.name)
            memory = self._executor.allocate(count, buffer.dtype)
            self._memory[buffer.name] = memory
        return memory[:count].reshape(buffer.shape)

    def drop(self, *names: str) -> None:
        for name in names:
            self._memory.pop(name, None)


class Engine:
    """A model on a device.

    `bind` after every build of the neighbour list, then `launch` as often as positions change; after each, the status
    word tells whether a chunk was too small (`overflow`), and `recover` and another `launch` give the right forces.

    Parameters
    ----------
    layout : Layout
    executor : Executor
    max_rows : most edges of a chunk, or None: what fits `buffer_bytes`
    buffer_bytes : size of the buffers of a chunk, or None: see `BUFFER_BYTES`

    Attributes
    ----------
    table : ChunkTable, of the last `bind` or `recover`
    plan : Plan
    arrays : dict of the device arrays that the plan names
    blocks : what the rows of a chunk are made of: for wide models, those of one product each
    keeps_bits : whether an edge's numbers are independent of its place among them (probed for wide models)
    """

    def __init__(
        self, layout: Layout, executor: Executor, *, max_rows: int | None = None, buffer_bytes: int | None = None
    ) -> None:
        self.layout, self.executor = layout, executor
        if buffer_bytes is None:
            buffer_bytes = min(BUFFER_BYTES, executor.device.total_bytes // MEMORY_SHARE)
        fitting = buffer_bytes // (layout.bytes_per_edge + layout.bytes_per_center // 4)
        self.blocks, self.keeps_bits = Blocks(), True
        self.max_rows = self.blocks.whole(max_rows or max(MIN_ROWS, min(fitting, MAX_ROWS)))
        self.margin = 1.0
        self.table: ChunkTable | None = None
        self.plan: Plan | None = None
        self.arrays: dict[str, Any] = {}
        self._own = Arrays(executor)
        self._bound: Any = None
        self._prepared = False
        self._listed = self._tabled = 0  # pairs of the list, now and when the table was made

    def prepare(self) -> None:
        """Compile or load the kernels and put the constants on the device; once."""
        if self._prepared:
            return
        try:
            self.executor.load(self.layout)
            for name, values in self.layout.constants.items():
                self.executor.upload(self._constant(name), values)
        except OutOfDeviceMemory:
            needed = sum(values.nbytes for values in self.layout.constants.values())
            raise DeviceError(
                f"{self.executor.device} is out of memory: the model's weights need {needed / 2**20:.1f} MiB. Free "
                "memory that other programs hold"
            ) from None
        if not self.layout.fused:
            self._probe()
        self._prepared = True

    def _probe(self) -> None:
        try:
            self.blocks, self.keeps_bits = product_blocks(self.layout, self.executor)
        except OutOfDeviceMemory as error:
            raise DeviceError(
                f"{self.executor.device} is out of memory: to try the products of so wide a model takes "
                f"{error.needed / 2**20:.1f} MiB at a time. Free memory that other programs hold"
            ) from None
        self.executor.release()  # what the trials held
        self.max_rows = self.blocks.whole(self.max_rows)

    def bind(self, system: Mapping[str, Any], owned: int, listed: int = 0) -> None:
        """Take the arrays of a system with a new neighbour list, and make the chunk table: the host waits for counts.

        system: device arrays by name, of the dtypes of `plan.system_buffers`: positions, images, types, cell,
        row_offsets and indices (the list), and the results energies, forces, virial_words, atom_virials (a single row
        where none are wanted), faults, status. They may be longer than the system, except row_offsets (owned + 1).
        listed: pairs of the list, for `refit`.
        """
        self.prepare()
        self._system, self._owned, self._listed = dict(system), owned, listed
        self.margin = 1.0
        self._make_chunks()

    def refit(self, listed: int) -> None:
        """A new neighbour list, of `listed` pairs, in the arrays of the last `bind`: what can be kept is kept.

        Of one chunk nothing but the number of edges matters, and that goes with the number of pairs; where it does not,
        the chunk overflows. Of more, the host waits for the edges of every centre.
        """
        self._listed = listed
        if self.table is not None and self._tabled and self.table.may_hold(listed / self._tabled):
            return
        counts = self._count()
        if self.table is None or not self.table.holds(counts):
            self.margin = 1.0
            self._make_chunks(counts)

    def launch(self, *, want_virial: bool = False, want_atom_virials: bool = False) -> None:
        """Launch one evaluation (overwrites the results); does not wait."""
        assert self.table is not None
        self._bound.want(want_virial, want_atom_virials)
        self._bound.run_before()
        for chunk in range(self.table.num_chunks):
            self._bound.run_chunk(chunk)

    @staticmethod
    def overflow(status: np.ndarray) -> int:
        """From the status words (on the host): edges that the fullest chunk had no room for it, or 0."""
        return int(status[0])

    def recover(self) -> None:
        """After an overflow: a new table from the edges there are now, with more room; then `launch` again."""
        self.margin *= 2.0
        self._make_chunks()

    @property
    def bound(self) -> Any:
        """The executor's calls for the present plan, for measurements launch by launch."""
        return self._bound

    @property
    def chunk_bytes(self) -> int:
        """Size of the buffers of a chunk as planned."""
        return self.plan.nbytes("edge", "center") if self.plan else 0

    # --- chunks -------------------------------------------------------------------------------------------------------

    def _make_chunks(self, counts: np.ndarray | None = None) -> None:
        counts = self._count() if counts is None else counts
        while True:
            table = make_table(counts, self.max_rows, margin=self.margin, blocks=self.blocks)
            try:
                self._take(table)
                return
            except OutOfDeviceMemory as error:
                self._shrink(table, error)

    def _count(self) -> np.ndarray:
        """Edges of every centre now."""
        buffers = self._buffers(num_chunks=0)
        counting = self.layout.count_edges(self._owned)
        if not counting:
            return np.zeros(0, np.int32)
        arrays = {**self._system, "counts": self._own.get(buffers["counts"]), "reaches": self._constant("reaches")}
        self.executor.bind(Plan(0, 0, buffers, counting, ()), arrays).run_before()
        return self.executor.download(arrays["counts"])

    def _take(self, table: ChunkTable) -> None:
        buffers = self._buffers(table.num_chunks)
        plan = self.layout.plan(table.capacity, round_up(table.max_centers, 8), buffers, self.blocks)
        arrays = {
            name: self._system[name] if name in self._system else self._own.get(buffer)
            for name, buffer in plan.buffers.items()
        }
        self.executor.upload(arrays["chunk_centers"], table.centers)
        self.table, self.plan, self.arrays, self._tabled = table, plan, arrays, self._listed
        self._bound = self.executor.bind(plan, arrays)

    def _buffers(self, num_chunks: int) -> dict[str, Buffer]:
        system = self._system
        return system_buffers(
            rows=len(system["positions"]),
            owned=self._owned,
            listed=len(system["indices"]),
            chunks=num_chunks,
            atom_virials=len(system["atom_virials"]) > 1,
        )

    def _constant(self, name: str) -> Any:
        values = self.layout.constants[name]
        return self._own.get(Buffer(name, values.shape, values.dtype, "constant"))

    def _shrink(self, table: ChunkTable, error: OutOfDeviceMemory) -> None:
        """Fewer rows a chunk after an allocation failed."""
        layout = self.layout
        needed = table.capacity * layout.bytes_per_edge + table.max_centers * layout.bytes_per_center
        names = [name for name, buffer in layout.buffers(ROW_MULTIPLE, 1).items() if buffer.kind in ("edge", "center")]
        self._own.drop(*names)
        self.arrays, self._bound = {}, None
        self.executor.release()
        rows = self.blocks.whole(min(self.max_rows, table.capacity) // 2)
        least = self.blocks.whole(MIN_ROWS)
        if rows < least or rows >= table.capacity:
            smallest = least * layout.bytes_per_edge + centers_for(least) * layout.bytes_per_center
            raise DeviceError(
                f"{self.executor.device} is out of memory: chunks of {table.capacity} edges need {needed / 2**20:.1f} "
                f"MiB ({error.needed / 2**20:.1f} MiB could not be allocated), and the smallest chunks, of {least} "
                f"edges, {smallest / 2**20:.1f} MiB. Use more GPUs, a smaller system or a smaller skin, or free "
                "memory that other programs hold"
            ) from None
        self.max_rows = rows
