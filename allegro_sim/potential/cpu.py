"""The potential on a CPU: threads that take chunks of centres through the kernels of `allegro_sim.kernels.cpu`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.kernels.cpu.allegro import work
from allegro_sim.kernels.cpu.edges import Atoms, Sums, merge_rows, plan_chunks
from allegro_sim.model.description import AllegroModel
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.cores import cores_of_rank
from allegro_sim.potential.plan import Plan
from allegro_sim.system import System

CACHE_BYTES = 1280 * 1024
"""Workspace of a chunk of listed edges. The third or so of them that lies in the skin leaves its part untouched, and
what remains fits the second-level cache of a core. With the water model, 96 to 512 edges differ by a quarter in speed.
"""

MIN_CHUNK_EDGES, MAX_CHUNK_EDGES = 64, 512


class _Worker:
    """What one thread owns: scratch, and its integer sums (the first one adds straight into the system's arrays)."""

    def __init__(self, plan: Plan, capacity: int, max_centers: int) -> None:
        self.workspace, self.edges = plan.allocate(capacity, max_centers)
        self.forces = np.zeros((0, 3), np.int64)
        self.atom_virials = np.zeros((0, 9), np.int64)
        self.virial_words = np.zeros((9, 2), np.int64)
        self.virial = np.zeros(9)

    def reserve(self, rows: int, want_atom_virials: bool) -> None:
        if len(self.forces) < rows:
            self.forces = np.zeros((rows, 3), np.int64)
        if want_atom_virials and len(self.atom_virials) < rows:
            self.atom_virials = np.zeros((rows, 9), np.int64)


class CpuPotential:
    """An Allegro model on the cores of this process.

    Parameters
    ----------
    model : AllegroModel
    precision : "double" (features and weights float64), "single" (float32) or "mixed" (computed as "single" here);
    lengths,
        radial functions and harmonics are float64 in all of them, as are energies; forces are summed in fixed point
    threads : int >= 1, or None: as many as this process may use
    chunk_edges : int >= 1, or None: chosen to fit a core's cache; the results do not depend on it
    chosen : why this device, for the description, where the program chose it

    Attributes
    ----------
    device, precision, description : see `interface.Potential`
    """

    device = "cpu"

    def __init__(
        self,
        model: AllegroModel,
        *,
        precision: str = "single",
        threads: int | None = None,
        chunk_edges: int | None = None,
        chosen: str = "",
    ) -> None:
        if (threads is not None and threads < 1) or (chunk_edges is not None and chunk_edges < 1):
            raise ValueError(f"threads and chunk_edges must be at least 1, found {threads} and {chunk_edges}")
        self.precision = precision
        self.threads = threads or cores_of_rank(SerialComm())
        self._plan = Plan(model, np.float64 if precision == "double" else np.float32)
        fitting = CACHE_BYTES // self._plan.bytes_per_edge // 16 * 16
        self._may_shrink = chunk_edges is None
        self.chunk_edges = chunk_edges or min(max(fitting, MIN_CHUNK_EDGES), MAX_CHUNK_EDGES)
        # Centres of a chunk: more only where they have next to no edges.
        self._max_centers = max(16, self.chunk_edges // 8)
        self._pool = ThreadPoolExecutor(self.threads - 1, "allegro-potential") if self.threads > 1 else None
        self._counter = np.zeros(1, np.int64)
        self._chunks = np.zeros(1, np.int64)
        self._faults = np.zeros(0, np.uint8)
        self._make_workers(self.chunk_edges)
        self.description = "; ".join(filter(None, (chosen, self._describe())))

    def _make_workers(self, capacity: int) -> None:
        self._capacity = capacity
        self._network, self._track = self._plan.bind(capacity)
        self._workers = [_Worker(self._plan, capacity, self._max_centers) for _ in range(self.threads)]

    def workspace_bytes(self) -> int:
        """Scratch of one thread, bytes."""
        worker = self._workers[0]
        return sum(array.nbytes for part in (worker.workspace, worker.edges) for array in part)

    def _describe(self) -> str:
        written, computed = self._plan.folded.multiply_adds
        as_single = ", mixed computed as single" if self.precision == "mixed" else ""
        return (
            f"own products in {self._plan.dtype.name}{as_single}; threads: {self.threads}; "
            f"chunks of {self.chunk_edges} edges; multiply-adds per edge: {computed} (as written: {written})"
        )

    def prepare(self) -> None:
        """Compile or load the kernels, by running them over no chunks."""
        atoms = Atoms(
            positions=np.zeros((0, 3)),
            images=np.zeros((0, 3), np.int32),
            types=np.zeros(0, np.int32),
            cell=Cell(None, False).vectors,  # read-only as every cell's: kernels of other arrays are other kernels
            row_offsets=np.zeros(1, np.int64),
            indices=np.zeros(0, np.int32),
            energies=np.zeros(0),
            faults=np.zeros(0, np.uint8),
        )
        forces, virials = np.zeros((0, 3), np.int64), np.zeros((0, 9), np.int64)
        worker = self._workers[0]
        self._counter[0] = 0
        plan_chunks(self._chunks, atoms.row_offsets, 1, 1)
        self._run(worker, atoms, Sums(forces, worker.virial_words, virials, worker.virial), 0, False, False)
        merge_rows(forces, forces, atoms.faults)
        merge_rows(virials, virials, atoms.faults)

    def _run(
        self, worker: _Worker, atoms: Atoms, sums: Sums, num_chunks: int, want_virial: bool, want_atom_virials: bool
    ) -> None:
        work(
            self._network, self._track, worker.workspace, worker.edges, atoms, sums, self._chunks, num_chunks,
            self._counter, want_virial, want_atom_virials,
        )  # fmt: skip

    def compute(
        self, system: System, neighbors: NeighborList, *, want_virial: bool = False, want_atom_virials: bool = False
    ) -> None:
        """See `interface.Potential.compute`. `system.bad_centres` may name a ghost's row, where only its sum is out
        of range.

        The virial is the plain sum of -r (x) dE/dr, symmetric up to rounding.
        """
        owned, local = system.num_owned, system.num_local
        offsets = neighbors.row_offsets
        if len(offsets) != owned + 1:
            raise ValueError(f"the neighbour list has {len(offsets) - 1} rows for {owned} atoms: build it first")
        self._reserve(system, offsets, want_atom_virials)
        # At least four chunks a thread, so that all end at about the same time.
        share = max(neighbors.num_edges // (4 * self.threads), MIN_CHUNK_EDGES)
        max_edges = min(self.chunk_edges, share) if self._may_shrink else self.chunk_edges
        num_chunks = plan_chunks(self._chunks, offsets, max_edges, self._max_centers)

        if want_atom_virials and (system.atom_virials is None or len(system.atom_virials) < local):
            system.atom_virials = np.zeros((system.capacity, 9), np.int64)
        all_virials = system.atom_virials
        virials = all_virials[:local] if want_atom_virials and all_virials is not None else np.zeros((0, 9), np.int64)
        forces, faults = system.forces[:local], self._faults[:local]
        forces[:] = 0
        virials[:] = 0
        faults[:] = 0
        atoms = Atoms(
            positions=system.positions,
            images=system.images,
            types=system.types,
            cell=system.cell.vectors,
            row_offsets=offsets,
            indices=neighbors.indices,
            energies=system.energies,
            faults=self._faults,
        )
        self._counter[0] = 0
        tasks = []
        for n, worker in enumerate(self._workers):
            worker.virial_words[:] = 0
            sums = Sums(
                forces if n == 0 else worker.forces[:local],
                worker.virial_words,
                virials if n == 0 else worker.atom_virials[: len(virials)],
                worker.virial,
            )
            tasks.append((worker, atoms, sums, num_chunks, want_virial, want_atom_virials))
        helpers = [self._pool.submit(self._run, *task) for task in tasks[1:]] if self._pool and num_chunks > 1 else []
        self._run(*tasks[0])
        for helper in helpers:
            helper.result()
        for _, _, part, *_ in tasks[1 : 1 + len(helpers)]:
            merge_rows(forces, part.forces, faults)
            merge_rows(virials, part.atom_virials, faults)
        if want_virial:
            system.virial_words[:] = sum(worker.virial_words for worker in self._workers)
        system.bad_centres = np.flatnonzero(faults)

    def _reserve(self, system: System, offsets: np.ndarray, want_atom_virials: bool) -> None:
        """Grow what depends on the system: only when it grew."""
        longest = int(np.max(np.diff(offsets), initial=0))
        if longest > self._capacity:
            self._make_workers(longest + longest // 4)
        if len(self._chunks) < len(offsets):
            self._chunks = np.zeros(len(offsets) + len(offsets) // 4, np.int64)
        if len(self._faults) < system.capacity:
            self._faults = np.zeros(system.capacity, np.uint8)
        for worker in self._workers[1:]:
            worker.reserve(system.capacity, want_atom_virials)
