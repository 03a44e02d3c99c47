"""A plan on a GPU: CuPy holds memory, stream and modules, and launches kernels; wide products are cuBLAS's.

Importing this loads CuPy. All work goes to one stream, in order; what waits are `download`, `wait`, `release`, and the
function that `begin_download` returns.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np
from cupy.cuda import driver

from allegro_sim.errors import DeviceError
from allegro_sim.kernels.numba_cuda.catalogue import KERNELS
from allegro_sim.kernels.numba_cuda.compilation import flat_arguments
from allegro_sim.potential.cuda.compile import load_or_compile, load_or_compile_numba
from allegro_sim.potential.cuda.device import Device, OutOfDeviceMemory
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import NUMBERS, Launch, Operation, Plan
from allegro_sim.potential.cuda.products import WORKSPACES, Products, Shape, load_cublas

_THREADS = 128
"""Threads of a block of the kernels that `call` launches."""

_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_DEFAULT_SHARED_BYTES = 48 * 1024
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class BoundPlan:
    """Operations of a plan, each with the call that launches it: arguments are prepared once, numbers change in place.

    before, chunk: lists of (operation, call).
    """

    def __init__(self) -> None:
        self.numbers = {name: ctypes.c_int32(0) for name in NUMBERS}
        self.before: list[tuple[Operation, Callable[[], Any]]] = []
        self.chunk: list[tuple[Operation, Callable[[], Any]]] = []

    def run_before(self) -> None:
        for _, call in self.before:
            call()

    def run_chunk(self, chunk: int) -> None:
        self.numbers["chunk"].value = chunk
        for _, call in self.chunk:
            call()

    def want(self, virial: bool, atom_virials: bool) -> None:
        """What the next launches of `energies_and_forces` add up besides forces."""
        self.numbers["want_virial"].value = virial
        self.numbers["want_atom_virials"].value = atom_virials


class Graph:
    """Launches that were captured; the arrays they were given must live as long."""

    def __init__(self, graph: Any, stream: cupy.cuda.Stream) -> None:
        self._graph, self._stream = graph, stream

    def launch(self) -> None:
        """All of it, in order, after what was launched before."""
        self._graph.launch(self._stream)


class CudaExecutor:
    """Memory and launches on one GPU.

    Attributes
    ----------
    device : Device
    stream : cupy.cuda.Stream, where all work goes
    arrays : CuPy, for sorts and sums of whole arrays, inside `with executor.working()`
    """

    arrays = cupy

    def __init__(self, device: Device) -> None:
        self.device = device
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self._functions: dict[str, Any] = {}
        self._modules: list[Any] = []
        self._kept: dict[str, _Kept] = {}
        self._products: Products | None = None
        self._sources: list[np.ndarray] = []

    def load(self, layout: Layout) -> None:
        """Compile the model's module, or load it. Raises OutOfDeviceMemory."""
        try:
            self.load_module(layout.source, {name: kernel.shared_bytes for name, kernel in layout.kernels.items()})
        except driver.CUDADriverError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            raise OutOfDeviceMemory(0) from None
        if not layout.fused:
            self._make_products(layout)

    def _make_products(self, layout: Layout) -> None:
        self._workspace = self.allocate(max(WORKSPACES), np.dtype(np.uint8))
        place = self._workspace.data.ptr
        self._products = Products(load_cublas(), self.stream.ptr, place, layout.real, layout.precision)

    def choose_workspace(self, shape: Shape, nbytes: int) -> None:
        """Of cuBLAS, for the products of this shape that are bound from now on."""
        assert self._products is not None
        self._products.workspaces[shape] = nbytes

    def load_module(self, source: str, kernels: Mapping[str, int]) -> None:
        """Compile a module of CUDA C++, or load it; kernels: name -> bytes of dynamic shared memory."""
        self._load(load_or_compile(source, self.device.capability), kernels)

    def _load(self, code: bytes, kernels: Mapping[str, int]) -> None:
        module = cupy.cuda.function.Module()
        module.load(code)
        self._modules.append(module)  # its functions live as long as it does
        for name, shared_bytes in kernels.items():
            function = module.get_function(name)
            if shared_bytes > _DEFAULT_SHARED_BYTES:
                driver.funcSetAttribute(function.ptr, _MAX_DYNAMIC_SHARED_SIZE, shared_bytes)
            self._functions[name] = function

    def _numba_places(self, kernel: str, arguments: Sequence[Any]) -> list[Any]:
        """The values to launch a Numba kernel with, which is loaded if it is not yet."""
        if kernel not in self._functions:
            self._load(load_or_compile_numba(kernel, self.device.capability), {kernel: 0})
        return flat_arguments(kernel, arguments, lambda array: array.data.ptr)

    def working(self) -> Any:
        """A context in which CuPy's own operations go to the stream, too."""
        return self.stream

    # --- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, count: int, dtype: np.dtype) -> cupy.ndarray:
        """A one-dimensional array of zeros. Raises OutOfDeviceMemory."""
        try:
            with self.stream:
                return cupy.zeros(count, dtype)
        except cupy.cuda.memory.OutOfMemoryError:
            raise OutOfDeviceMemory(count * np.dtype(dtype).itemsize) from None

    def wait(self) -> None:
        """For all that was launched."""
        self.stream.synchronize()

    def release(self) -> None:
        """Give memory that no array holds any more back to the driver."""
        self.wait()
        cupy.get_default_memory_pool().free_all_blocks()

    def upload(self, array: cupy.ndarray, values: np.ndarray) -> None:
        """Copy to the device, all of `array`; `values` must stay as they are until the next `download`."""
        source = np.ascontiguousarray(values, array.dtype).reshape(array.shape)
        array.set(source, stream=self.stream)
        self._sources.append(source)  # where the device reads the host's memory itself, it may do so later

    def download(self, array: cupy.ndarray) -> np.ndarray:
        """Copy to the host, after all that was launched before."""
        values = array.get(stream=self.stream)
        self._sources.clear()
        return values

    def allocate_pinned(self, count: int, dtype: np.dtype) -> np.ndarray:
        """A one-dimensional array of the host that a copy can reach while the host does something else.

        Raises MemoryError.
        """
        nbytes = count * np.dtype(dtype).itemsize
        try:
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(nbytes), dtype, count)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise MemoryError(f"{nbytes / 2**20:.1f} MiB of page-locked memory of the host: {error}") from None

    def begin_download(self, copies: Sequence[tuple[cupy.ndarray, np.ndarray]]) -> Callable[[], None]:
        """Have arrays copied to pinned ones of the host, (array, out), after all that was launched before.

        Returns a function that waits for the copies, in whatever thread it is called.
        """
        for array, out in copies:
            array.get(stream=self.stream, out=out, blocking=False)
        done = cupy.cuda.Event(block=True, disable_timing=True)
        done.record(self.stream)
        device = cupy.cuda.Device(cupy.cuda.runtime.getDevice())

        def wait() -> None:
            device.use()  # a thread begins on the first GPU, and would make itself at home there
            done.synchronize()

        return wait

    # --- single kernels ---

    def call(self, kernel: str, threads: int, *arguments: Any) -> Callable[[], None]:
        """The call that launches a kernel with at least one block of `_THREADS`, for these arrays and NumPy numbers."""
        return self._launcher(kernel, _blocks(threads), _THREADS, 0, self._places(kernel, arguments), arguments)

    def launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        """`call`, and the call: where a kernel gets the very arrays of the last time, nothing is prepared anew."""
        kept = self._kept.get(kernel)
        if kept is None or not kept.takes(arguments):
            places = self._places(kernel, arguments)
            launcher = self._launcher(kernel, _blocks(threads), _THREADS, 0, places, arguments)
            kept = self._kept[kernel] = _Kept(arguments, _numbers(arguments, places), launcher)
        kept.launch(_blocks(threads), arguments)

    def _places(self, kernel: str, arguments: Sequence[Any]) -> list[Any]:
        """The values to launch a kernel with, as ctypes objects."""
        if kernel in KERNELS:
            return self._numba_places(kernel, arguments)
        return [
            ctypes.c_void_p(value.data.ptr)
            if isinstance(value, cupy.ndarray)
            else ctypes.create_string_buffer(value.tobytes(), value.nbytes)
            for value in arguments
        ]

    def capture(self, launches: Callable[[], None]) -> Graph:
        """What `launches` launches, as one graph with the arguments of now; nothing runs yet.

        Whatever waits, copies or allocates is refused by the driver meanwhile, and so are kernels that were never run.
        Work of other threads on other streams goes on.

        Raises
        ------
        DeviceError : the driver refuses something
        """
        refusals = (cupy.cuda.runtime.CUDARuntimeError, driver.CUDADriverError)
        try:
            self.stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                launches()
            except BaseException:
                with contextlib.suppress(*refusals):  # what was refused first is what to tell
                    self.stream.end_capture()
                raise
            return Graph(self.stream.end_capture(), self.stream)
        except refusals as error:
            raise DeviceError(f"{self.device} refuses a step as one CUDA graph ({error})") from None

    # --- launches -----------------------------------------------------------------------------------------------------

    def bind(self, plan: Plan, arrays: Mapping[str, cupy.ndarray]) -> BoundPlan:
        """Prepare every launch for these arrays."""
        bound = BoundPlan()
        for operations, calls in ((plan.before, bound.before), (plan.chunk, bound.chunk)):
            calls += [(operation, self.prepare(operation, arrays, bound)) for operation in operations]
        return bound

    def prepare(self, operation: Operation, arrays: Mapping[str, cupy.ndarray], bound: BoundPlan) -> Callable[[], Any]:
        """The call that launches one operation."""
        if isinstance(operation, Launch):
            return self._prepare_launch(operation, arrays, bound)
        assert self._products is not None
        return self._products.prepare(operation, arrays)

    def _prepare_launch(
        self, launch: Launch, arrays: Mapping[str, cupy.ndarray], bound: BoundPlan
    ) -> Callable[[], None]:
        values: list[Any] = []
        for argument in launch.arguments:
            if isinstance(argument, np.generic):
                values.append(ctypes.create_string_buffer(argument.tobytes(), argument.nbytes))
            elif argument in bound.numbers:
                values.append(bound.numbers[argument])
            else:
                values.append(ctypes.c_void_p(arrays[argument].data.ptr))
        return self._launcher(launch.kernel, launch.grid, launch.block, launch.shared_bytes, values)

    def _launcher(
        self, kernel: str, grid: int, block: int, shared_bytes: int, values: list[Any], arrays: Any = ()
    ) -> Callable[[], None]:
        # The driver reads the values at the launch, through these pointers, and the kernel the arrays: they are kept.
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function, stream = self._functions[kernel], self.stream.ptr
        pointer, place, start = function.ptr, ctypes.addressof(pointers), driver.launchKernel
        kept = (values, pointers, function, arrays)

        def call(blocks: int = grid, _kept: Any = kept) -> None:
            start(pointer, blocks, 1, 1, block, 1, 1, shared_bytes, stream, place, 0)

        return call


class _Kept(NamedTuple):
    """A prepared launch: its arguments, those of them that are numbers with their places, and the call."""

    arguments: Sequence[Any]
    numbers: Sequence[tuple[int, Any]]
    call: Callable[..., None]

    def takes(self, arguments: Sequence[Any]) -> bool:
        """Whether these are the same arrays, and numbers of the same types."""
        return len(arguments) == len(self.arguments) and all(
            new is old or (isinstance(new, np.generic) and type(new) is type(old))
            for new, old in zip(arguments, self.arguments, strict=True)
        )

    def launch(self, blocks: int, arguments: Sequence[Any]) -> None:
        for number, place in self.numbers:
            place.raw = arguments[number].tobytes()
        self.call(blocks)


def _numbers(arguments: Sequence[Any], places: Sequence[Any]) -> list[tuple[int, Any]]:
    """Which arguments are numbers, and where their bytes stand: they alone have buffers among the places."""
    buffers = [place for place in places if isinstance(place, ctypes.Array)]
    numbers = [n for n, value in enumerate(arguments) if isinstance(value, np.generic)]
    assert all(arguments[n].nbytes == len(buffer) for n, buffer in zip(numbers, buffers, strict=True))
    return list(zip(numbers, buffers, strict=True))


def _blocks(threads: int) -> int:
    return max(1, -(-threads // _THREADS))
