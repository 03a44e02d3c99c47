"""The CUDA potential without a GPU: its own plan, kernels and orchestration, with NumPy arrays for device arrays.

CUDA C++ kernels run in `cuda_runner.CpuModule`, Numba's in numba-cuda's simulator (tests/conftest.py turns it on),
products of the wide path as plain sums. Every array stands between guard bytes, and holds NaN until it is written;
after every operation the guards of the arrays that it was given are looked at.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from support.cuda_runner import CpuModule
from support.mixed_reference import truncate_to_tf32

from allegro_sim.cell import Cell
from allegro_sim.errors import DeviceError
from allegro_sim.evaluation import Evaluation, Evaluator
from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cuda.device import OutOfDeviceMemory
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import (
    NUMBERS,
    Launch,
    Matrix,
    Operation,
    Plan,
    Product,
    names_of,
)
from allegro_sim.potential.cuda.potential import CudaPotential

GUARD_BYTES = 256
GUARD = 0xA5
THREADS = 128
"""Threads of a block, as of the executor on a GPU."""


@dataclass(frozen=True)
class HostDevice:
    """What stands for the GPU."""

    total_bytes: int = 2**34
    multiprocessors: int = 8
    capability: tuple[int, int] = (9, 0)
    place: str = "here"
    identity: str = "here"

    def __str__(self) -> str:
        return "CPU runner"


class CaptureRefused(Exception):
    """What a driver refuses while a graph is captured."""


class HostGraph:
    """Launches that were captured, with their arguments; num_launches: how often."""

    def __init__(self, launches: list[Callable[[], None]]) -> None:
        self._launches = launches
        self.num_launches = 0

    def __len__(self) -> int:
        return len(self._launches)

    def launch(self) -> None:
        self.num_launches += 1
        for run in self._launches:
            run()


class HostBound:
    """Operations of a plan with their arrays, as `executor.BoundPlan`; what was run is written down."""

    def __init__(self, executor: HostExecutor, plan: Plan, arrays: Mapping[str, np.ndarray]) -> None:
        self.numbers = {name: ctypes.c_int32(0) for name in NUMBERS}
        for operation in plan.operations:
            executor.check(operation, plan, arrays)

        def calls(operations: tuple[Operation, ...]) -> list[tuple[Operation, Callable[[], None]]]:
            return [
                (operation, partial(executor.run, operation, dict(arrays), self.numbers)) for operation in operations
            ]

        self.before, self.chunk = calls(plan.before), calls(plan.chunk)

    def want(self, virial: bool, atom_virials: bool) -> None:
        self.numbers["want_virial"].value = virial
        self.numbers["want_atom_virials"].value = atom_virials

    def run_before(self) -> None:
        for _, call in self.before:
            call()

    def run_chunk(self, chunk: int) -> None:
        self.numbers["chunk"].value = chunk
        for _, call in self.chunk:
            call()


@dataclass
class HostExecutor:
    """`engine.Executor` on NumPy arrays.

    order, block_order, sanitize, optimize: see `CpuModule`. memory_limit: bytes that may be allocated at a time; above
    it an allocation fails as on a GPU. executed: every operation that was run, in order. copies: (direction, bytes).
    called: every kernel that `call` launched, also as part of a graph. launches: kernels launched one by one. waits:
    calls of `wait`. graphs: those captured. pinned: bytes of each array of page-locked memory.
    """

    order: str = "forward"
    block_order: str = "forward"
    sanitize: str = ""
    optimize: str = "-O1"
    memory_limit: int = 2**40
    device: HostDevice = field(default_factory=HostDevice)
    workspaces: dict[tuple[int, int, bool], int] = field(default_factory=dict)
    executed: list[Operation] = field(default_factory=list)
    copies: list[tuple[str, int]] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    launches: int = 0
    waits: int = 0
    graphs: list[HostGraph] = field(default_factory=list)

    def __post_init__(self) -> None:
        from numba import cuda

        from allegro_sim.kernels.numba_cuda.catalogue import KERNELS

        self._memory: dict[int, tuple[np.ndarray, int, int]] = {}  # by the address of the array
        self.module: CpuModule | None = None
        self._modules: dict[str, CpuModule] = {}
        self._captured: list[Callable[[], None]] | None = None
        self._ran: set[Any] = set()
        self._numba = {name: cuda.jit(signature)(python) for name, (python, signature) in KERNELS.items()}

    arrays = np

    def choose_workspace(self, shape: tuple[int, int, bool], nbytes: int) -> None:
        self.workspaces[shape] = nbytes

    def working(self):
        self._refuse_in_capture("an operation of whole arrays")
        return nullcontext()

    # --- graphs -------------------------------------------------------------------------------------------------------

    def capture(self, launches: Callable[[], None]) -> HostGraph:
        """As on a GPU: nothing runs, arguments are those of now, and whatever else is asked for is refused."""
        assert self._captured is None
        self._captured = []
        try:
            launches()
            self.graphs.append(HostGraph(self._captured))
        except CaptureRefused as error:
            raise DeviceError(f"{self.device} refuses a step as one CUDA graph ({error})") from None
        finally:
            self._captured = None
        return self.graphs[-1]

    def _refuse_in_capture(self, what: str) -> None:
        if self._captured is not None:
            raise CaptureRefused(f"{what} while a graph is captured")

    def _launch(self, kernel: str, run: Callable[[], None]) -> None:
        """Run a kernel, or keep it for the graph that is being captured. All arguments in `run` are values of now."""
        if self._captured is None:
            self._ran.add(kernel)
            self.launches += 1
            run()
        elif kernel not in self._ran:
            self._refuse_in_capture(f"{kernel} was never run, and would be loaded")
        else:
            self._captured.append(run)

    def load_module(self, source: str, kernels: Mapping[str, int]) -> None:
        module = CpuModule(source, order=self.order, block_order=self.block_order, optimize=self.optimize)
        assert set(module.kernels) == set(kernels), "the module has other kernels than its table"
        self._modules |= dict.fromkeys(kernels, module)

    def call(self, kernel: str, threads: int, *arguments: Any) -> Callable[[], None]:
        grid = max(1, -(-threads // THREADS))
        for argument in arguments:
            assert isinstance(argument, np.generic) or argument.flags.c_contiguous
        if kernel in self._numba:
            # No more threads than there is work for: each is a thread of Python.
            block = min(THREADS, max(threads, 1))
            run = partial(self._run_called, kernel, partial(self._run_numba, kernel, grid, block, arguments))
        else:
            run = partial(self._run_called, kernel, partial(self._run_module, kernel, grid, arguments))
        return partial(self._launch, kernel, run)

    def launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        self.call(kernel, threads, *arguments)()

    def _run_called(self, kernel: str, run: Callable[[], None]) -> None:
        self.called.append(kernel)
        run()

    def _run_module(self, kernel: str, grid: int, arguments: Sequence[Any]) -> None:
        self._modules[kernel].launch(kernel, (grid,), (THREADS,), arguments)

    def _run_numba(self, kernel: str, grid: int, block: int, arguments: Sequence[Any]) -> None:
        from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

        # Left to itself the simulator copies arrays in and out, and what overlaps with another would be lost.
        values = [FakeCUDAArray(value) if isinstance(value, np.ndarray) else value for value in arguments]
        self._numba[kernel][grid, block](*values)

    def load(self, layout: Layout) -> None:
        self.module = CpuModule(
            layout.source,
            order=self.order,
            block_order=self.block_order,
            sanitize=self.sanitize,
            optimize=self.optimize,
        )
        assert set(self.module.kernels) == set(layout.kernels), "the module has other kernels than the plan knows"

    # --- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, count: int, dtype: Any) -> np.ndarray:
        self._refuse_in_capture("an allocation")
        dtype = np.dtype(dtype)
        nbytes = count * dtype.itemsize
        if nbytes > self.memory_limit:
            raise OutOfDeviceMemory(nbytes)
        memory = np.full(nbytes + 3 * GUARD_BYTES, GUARD, np.uint8)
        start = -memory.ctypes.data % GUARD_BYTES + GUARD_BYTES
        self._memory[memory.ctypes.data + start] = (memory, start, nbytes)
        array = memory[start : start + nbytes].view(dtype)
        array[:] = np.nan if dtype.kind == "f" else 0
        return array

    def wait(self) -> None:
        self._refuse_in_capture("a wait")
        self.waits += 1

    def release(self) -> None:
        self._refuse_in_capture("a wait")

    def check_guards(self, operation: Operation | None = None, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Nothing was written before the start or after the end of the arrays of an operation, or of any array."""
        if operation is None or arrays is None:
            watched = dict.fromkeys(self._memory, "an array")
        else:
            watched = {_address(arrays[name]): name for name in names_of(operation) if name not in NUMBERS}
        for address, name in watched.items():
            memory, start, nbytes = self._memory[address]
            for outside in (memory[:start], memory[start + nbytes :]):
                if outside.tobytes().count(GUARD) != outside.size:
                    raise AssertionError(f"{operation or 'some kernel'} wrote outside of {name}, {nbytes} bytes")

    def upload(self, array: np.ndarray, values: np.ndarray) -> None:
        self._refuse_in_capture("a copy to the device")
        self.copies.append(("to the device", array.nbytes))
        array[...] = np.asarray(values, array.dtype).reshape(array.shape)

    def download(self, array: np.ndarray) -> np.ndarray:
        self._refuse_in_capture("a copy to the host")
        self.copies.append(("to the host", array.nbytes))
        return array.copy()

    def allocate_pinned(self, count: int, dtype: Any) -> np.ndarray:
        self._refuse_in_capture("an allocation")
        self.pinned.append(count * np.dtype(dtype).itemsize)
        return np.full(self.pinned[-1], GUARD, np.uint8).view(dtype)

    def begin_download(self, copies: Sequence[tuple[np.ndarray, np.ndarray]]) -> Callable[[], None]:
        """The values of now, which arrive at the last moment that is allowed: when they are waited for."""
        self._refuse_in_capture("a copy to the host")
        under_way = []
        for array, out in copies:
            assert (out.dtype, out.shape) == (array.dtype, array.shape) and out.flags.c_contiguous
            self.copies.append(("to the host, meanwhile", array.nbytes))
            under_way.append((out, array.copy()))
            out.view(np.uint8)[...] = GUARD

        def wait() -> None:
            while under_way:
                out, values = under_way.pop()
                out[...] = values

        return wait

    # --- launches -----------------------------------------------------------------------------------------------------

    def bind(self, plan: Plan, arrays: Mapping[str, np.ndarray]) -> HostBound:
        return HostBound(self, plan, arrays)

    def check(self, operation: Operation, plan: Plan, arrays: Mapping[str, np.ndarray]) -> None:
        """Every argument is a buffer of the plan with an array of its dtype and at least its size, or a number."""
        for name in names_of(operation):
            if name in NUMBERS:
                continue
            if name in plan.buffers:
                buffer, array = plan.buffers[name], arrays[name]
                assert array.dtype == buffer.dtype, name
                assert array.nbytes >= buffer.nbytes, name

    def run(
        self, operation: Operation, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, ctypes.c_int32]
    ) -> None:
        if isinstance(operation, Product):
            self._refuse_in_capture("cuBLAS")
            self._run(operation, arrays, numbers)
        else:
            now = {name: ctypes.c_int32(number.value) for name, number in numbers.items()}
            self._launch(operation.kernel, partial(self._run, operation, arrays, now))

    def _run(
        self, operation: Operation, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, ctypes.c_int32]
    ) -> None:
        self.executed.append(operation)
        if isinstance(operation, Product):
            self._multiply(operation, arrays)
        else:
            values = [self._value(argument, arrays, numbers) for argument in operation.arguments]
            assert isinstance(operation, Launch) and self.module is not None
            grid, block = (operation.grid,), (operation.block,)
            self.module.launch(operation.kernel, grid, block, values, operation.shared_bytes)
        self.check_guards(operation, arrays)

    @staticmethod
    def _value(argument: Any, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, ctypes.c_int32]) -> Any:
        if not isinstance(argument, str):
            return argument
        return np.int32(numbers[argument].value) if argument in numbers else arrays[argument]

    @staticmethod
    def _multiply(product: Product, arrays: Mapping[str, np.ndarray]) -> None:
        """Each element one chain of sums in the order of the inner index: its bits do not depend on its place."""

        def rows(matrix: Matrix, count: int, columns: int) -> np.ndarray:
            flat = arrays[matrix.buffer].reshape(-1)[matrix.offset :]
            step = flat.itemsize
            assert (count - 1) * matrix.stride + columns <= flat.size, matrix
            return np.lib.stride_tricks.as_strided(flat, (count, columns), (matrix.stride * step, step))

        left = rows(product.left, product.rows, product.inner)
        right = rows(product.right, product.inner, product.columns)
        out = rows(product.out, product.rows, product.columns)
        if product.tensor_cores:  # they read ten bits of the fraction, and ignore the rest
            left, right = truncate_to_tf32(left), truncate_to_tf32(right)
        total = out.copy() if product.accumulate else np.zeros_like(out)
        for k in range(product.inner):
            total += left[:, k : k + 1] * right[k]
        out[...] = total


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def cuda_potential(
    model: AllegroModel, precision: str, *, chunk_edges: int | None = 256, **options: Any
) -> CudaPotential:
    """A CUDA potential that runs here; options: those of `HostExecutor`."""
    return CudaPotential(model, precision=precision, chunk_edges=chunk_edges, executor=HostExecutor(**options))


def evaluate(
    model: AllegroModel,
    precision: str,
    positions: np.ndarray,
    vectors: np.ndarray | None,
    pbc: np.ndarray,
    types: np.ndarray,
    *,
    potential: CudaPotential | None = None,
    **options: Any,
) -> Evaluation:
    """Energy, forces, virial and atom virials of a structure by the CUDA potential, through all that a run uses."""
    evaluator = Evaluator(model, device="cpu", precision="double", threads=1)
    evaluator.potential = potential or cuda_potential(model, precision, **options)
    result = evaluator.evaluate(types, positions, Cell(vectors, pbc), want_atom_virials=True)
    return result
