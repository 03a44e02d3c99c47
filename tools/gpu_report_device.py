"""The GPU side of tools/gpu_report.py: CuPy and events; everything else of the report runs without a GPU."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.errors import AllegroSimError
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential.cuda.device import find_device
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import Operation, Plan, Product
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.system import System
from allegro_sim.tools import roofline
from allegro_sim.tools.benchmark_models import water_box
from allegro_sim.tools.roofline_mlps import product_work

if TYPE_CHECKING:
    from allegro_sim.tools.gpu_report_prepare import Prepared

SKIN = 1.0
"""Å of the neighbour lists: the program's default."""

WARM_UP = 3
ROUNDS = 5
"""Measurements of each rate."""

COPY_BYTES = 2**31
PRODUCT_SIZE = 8192

CEILINGS_SOURCE = """
template <class T> __device__ void multiply_add_chains(T* out, int rounds) {
  T a[8];
  for (int n = 0; n < 8; ++n) a[n] = T(threadIdx.x + n) * T(1e-3);
  const T factor = T(1) - T(1e-6), term = out[0];
  for (int r = 0; r < rounds; ++r)
#pragma unroll
    for (int n = 0; n < 8; ++n) a[n] = a[n] * factor + term;
  T sum = 0;
  for (int n = 0; n < 8; ++n) sum += a[n];
  if (sum == T(-1)) out[1] = sum;
}
extern "C" __global__ void float32_rate(float* out, int rounds) { multiply_add_chains(out, rounds); }
extern "C" __global__ void float64_rate(double* out, int rounds) { multiply_add_chains(out, rounds); }
extern "C" __global__ void special_rate(float* out, int rounds) {
  float a[8];
  for (int n = 0; n < 8; ++n) a[n] = 1.5f + (float)(threadIdx.x + n);
  for (int r = 0; r < rounds; ++r)
#pragma unroll
    for (int n = 0; n < 8; ++n) a[n] = rsqrtf(a[n]);
  float sum = 0;
  for (int n = 0; n < 8; ++n) sum += a[n];
  if (sum == -1.0f) out[1] = sum;
}
"""
"""Chains of one instruction each, eight side by side in a thread, for the rates of the float32, float64 and
special-function units; compiled with fused multiply-adds and without subnormals, so that a step is one instruction."""

CEILINGS_OPTIONS = ("-std=c++17", "-fmad=true", "-ftz=true", "-default-device")


class CudaGpu:
    """The first GPU that is visible; see `gpu_report.Gpu`.

    Raises
    ------
    DeviceError : there is none that can be used
    """

    def __init__(self, prepared: Prepared) -> None:
        self._device = find_device()  # before CuPy: it says clearly what is missing
        import cupy

        self._cupy, self._prepared = cupy, prepared
        prepared.use_cubins()
        self._case: CudaCase | None = None

    def identity(self) -> dict[str, Any]:
        runtime = self._cupy.cuda.runtime
        properties = runtime.getDeviceProperties(0)
        return {
            "gpu": self._device.name,
            "capability": ".".join(map(str, self._device.capability)),
            "memory_bytes": self._device.total_bytes,
            "multiprocessors": int(properties["multiProcessorCount"]),
            "driver": _driver_name(),
            "driver_cuda": runtime.driverGetVersion(),
            "runtime_cuda": runtime.runtimeGetVersion(),
            "nvrtc": self._prepared.nvrtc,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in ("numpy", "numba", "numba-cuda", "cupy-cuda13x")},
        }

    # --- rates --------------------------------------------------------------------------------------------------------

    def ceilings(self) -> dict[str, Any]:
        cupy = self._cupy
        rates: dict[str, Any] = {"copy": [2.0 * COPY_BYTES / s for s in self._times(self._copy())]}  # read and written
        operations = 2.0 * PRODUCT_SIZE**3
        for name, dtype, tf32 in (
            ("tf32", np.float32, True),
            ("float32_product", np.float32, False),
            ("float64_product", np.float64, False),
        ):
            rates[name] = [operations / s for s in self._times(self._product(dtype, tf32))]
        module = cupy.cuda.function.Module()
        module.load(self._prepared.ceilings(self._device.capability))
        blocks = 32 * int(cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"])
        for name, dtype, each in (("float32", "f4", 2.0), ("float64", "f8", 2.0), ("special", "f4", 1.0)):
            kernel, out, rounds = module.get_function(f"{name}_rate"), cupy.zeros(2, dtype), 4096
            done = each * 8 * rounds * 256.0 * blocks
            times = self._times(lambda k=kernel, o=out, r=rounds: k((blocks,), (256,), (o, np.int32(r))))
            rates[name] = [done / s for s in times]
        cupy.get_default_memory_pool().free_all_blocks()
        return rates

    def _copy(self) -> Any:
        """A copy of COPY_BYTES within the device's memory."""
        numbers = np.random.default_rng(0).random(COPY_BYTES // 64, np.float32)
        source, target = (self._cupy.empty(COPY_BYTES // 4, np.float32) for _ in range(2))
        for part in range(0, source.size, numbers.size):
            source[part : part + numbers.size].set(numbers)
        return lambda: self._cupy.copyto(target, source)

    def _product(self, dtype: Any, tf32: bool) -> Any:
        """A product of random square matrices by cuBLAS; of TF32 numbers, where it may use the units for them.

        The numbers are made by NumPy: CuPy's own need cuRAND and a compiler at run time.
        """
        cupy = self._cupy
        from cupy.cuda import cublas

        shape, size = (PRODUCT_SIZE, PRODUCT_SIZE), PRODUCT_SIZE
        rng = np.random.default_rng(0)
        left, right = (cupy.empty(shape, dtype) for _ in range(2))
        for matrix in (left, right):
            matrix.set((rng.integers(-1023, 1024, shape, np.int16) / 1024).astype(dtype))
        out = cupy.empty(shape, dtype)
        single = dtype == np.float32
        compute = cublas.CUBLAS_COMPUTE_32F if single else cublas.CUBLAS_COMPUTE_64F
        compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else compute
        handle, one, zero = cupy.cuda.device.get_cublas_handle(), np.ones(1, dtype), np.zeros(1, dtype)
        kind = 0 if single else 1  # CUDA_R_32F, CUDA_R_64F

        def call() -> None:
            cublas.gemmEx(
                handle, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_N, size, size, size, one.ctypes.data,
                left.data.ptr, kind, size, right.data.ptr, kind, size, zero.ctypes.data, out.data.ptr, kind, size,
                compute, cublas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip

        return call

    def _times(self, call: Any) -> list[float]:
        """Seconds of each of ROUNDS calls, on the current stream."""
        stream = self._cupy.cuda.get_current_stream()
        for _ in range(WARM_UP):
            call()
        found = []
        for _ in range(ROUNDS):
            start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
            start.record(stream)
            call()
            end.record(stream)
            end.synchronize()
            found.append(1e-3 * self._cupy.cuda.get_elapsed_time(start, end))
        return found

    # --- cases --------------------------------------------------------------------------------------------------------

    def case(self, model: str, precision: str, structure: Any, *, max_rows: int | None = None) -> CudaCase:
        self._case = None
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._case = CudaCase(self._cupy, self._prepared.model(model), precision, structure, max_rows)
        return self._case


class CudaCase:
    """See `gpu_report.Case`."""

    def __init__(self, cupy: Any, model: Any, precision: str, structure: Any, max_rows: int | None) -> None:
        self._cupy, self._model, self._precision = cupy, model, precision
        if isinstance(structure, int):
            positions, vectors, types = water_box(structure, model)
            pbc = np.ones(3, bool)
        else:
            positions, vectors, pbc, types = structure
        cell, count = Cell(vectors, pbc), len(types)
        self._system = System(cell, model.masses, count)
        self._system.set_owned(np.arange(count), types, positions, np.zeros((count, 3)))
        self._neighbors = NeighborList(model.reaches, SKIN)
        self._domain = Domain(SerialComm(), cell, self._neighbors)
        self._domain.rebuild(self._system)
        self._potential = CudaPotential(model, precision=precision, chunk_edges=max_rows)
        self._compute()
        engine = self._potential.engine
        edges = self._neighbors.count_within_cutoffs(self._system)
        assert engine.table is not None
        self.facts = {
            "atoms": count,
            "ghosts": self._system.num_ghosts,
            "edges": int(edges),
            "listed": self._neighbors.num_edges,
            "path": "fused" if engine.layout.fused else "wide",
            "chunks": engine.table.num_chunks,
            "capacity": engine.table.capacity,
            "padding_share": engine.table.padding_share,
            "description": self._potential.description,
        }

    def _compute(self) -> None:
        self._potential.compute(self._system, self._neighbors)

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        self._compute()
        self._domain.add_forces(self._system)
        system = self._system
        owned = system.num_owned
        if len(system.bad_centres):
            raise AllegroSimError(f"{len(system.bad_centres)} centres without finite results")
        energies, forces = np.empty(owned), np.empty((owned, 3))
        energies[system.ids[:owned]] = system.energies[:owned]
        forces[system.ids[:owned]] = system.owned_forces()
        return energies, forces

    def stages(self) -> dict[str, float]:
        use_tests()
        from support.stage_reference import replay

        self._compute()
        return replay(self._potential)

    def seconds(self, repeats: int) -> list[float]:
        """Launches of a whole evaluation, arrays on the device, between two events."""
        engine, cuda = self._potential.engine, self._cupy.cuda
        stream = engine.executor.stream
        for _ in range(WARM_UP):
            engine.launch()
        found = []
        for _ in range(repeats):
            start, end = cuda.Event(), cuda.Event()
            start.record(stream)
            engine.launch()
            end.record(stream)
            end.synchronize()
            found.append(1e-3 * cuda.get_elapsed_time(start, end))
        status = engine.executor.download(engine.arrays["status"])
        if engine.overflow(status):
            raise AllegroSimError(f"a chunk overflowed while it was timed: {status.tolist()}")
        return found

    def kernel_seconds(self, repeats: int) -> dict[str, list[float]]:
        """An event before and after every launch: gaps between launches do not count."""
        engine, cuda = self._potential.engine, self._cupy.cuda
        stream, bound = engine.executor.stream, engine.bound
        totals: dict[str, list[float]] = {}
        for repeat in range(repeats):
            events = []
            for chunk in range(-1, engine.table.num_chunks):
                bound.numbers["chunk"].value = max(chunk, 0)
                for operation, call in bound.before if chunk < 0 else bound.chunk:
                    start, end = cuda.Event(), cuda.Event()
                    start.record(stream)
                    call()
                    end.record(stream)
                    events.append((operation_name(operation), start, end))
            stream.synchronize()
            for name, start, end in events:
                times = totals.setdefault(name, [0.0] * repeats)
                times[repeat] += 1e-3 * cuda.get_elapsed_time(start, end)
        return totals

    def works(self) -> dict[str, roofline.Work]:
        engine = self._potential.engine
        return plan_works(engine.layout, engine.plan, self.facts["edges"], self.facts["atoms"])

    def memory(self) -> dict[str, int]:
        engine, pool = self._potential.engine, self._cupy.get_default_memory_pool()
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return {
            "device_used_bytes": total - free,
            "pool_bytes": pool.total_bytes(),
            "held_bytes": pool.used_bytes(),
            "chunk_buffer_bytes": engine.chunk_bytes,
            "atom_and_pair_bytes": engine.plan.nbytes("system", "result", "index"),
        }


def use_tests() -> None:
    """tests/support holds the references and the small models."""
    tests = str(Path(__file__).resolve().parent.parent / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)


def plan_works(layout: Layout, plan: Plan, edges: int, atoms: int) -> dict[str, roofline.Work]:
    """What the operations of a plan do for an edge, by `operation_name`; those that share a name together."""
    counted = roofline.works_by_name(roofline.kernel_works(layout.model, layout.precision))
    known = {name: work.per_edge(edges / atoms) for name, work in counted.items()}
    works: dict[str, roofline.Work] = {}
    for operation in plan.operations:
        name = operation_name(operation)
        if isinstance(operation, Product):
            work = product_work(operation, layout.real.itemsize).scaled(operation.rows / plan.capacity)
            works[name] = works[name].plus(work) if name in works else work
        else:
            works[name] = known[name]
    return works


def operation_name(operation: Operation) -> str:
    """What an operation of a plan is called in a report; launches of one kernel share a name."""
    if isinstance(operation, Product):
        return f"product_{operation.left.buffer}_{operation.inner}x{operation.columns}_{operation.out.buffer}"
    return operation.kernel


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _driver_name() -> str:
    """The driver's own version, as nvidia-smi shows it."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            return file.readline().split("Module")[-1].strip()
    except OSError:
        return ""
