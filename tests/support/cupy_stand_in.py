"""The calls of CuPy and Numba that `potential/cuda/executor.py` makes, with a CPU behind them instead of a GPU.

Device memory is NumPy memory; `launchKernel` runs the kernel in the CPU runner with the very pointers that the driver
would read; `gemmEx` multiplies what its addresses, strides and flags say, column-major, as cuBLAS does. So a test that
goes through here shows which pointers, numbers, sizes and orders the executor gives, not what a GPU makes of them.
Signatures are CuPy's: tests/potential/test_cuda_executor.py compares them where CuPy is installed.

    executor = load_executor(monkeypatch)          # the module, bound to these calls
    executor.CudaExecutor(device)
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.cuda_runner import CpuModule
from support.cuda_running import Library
from support.mixed_reference import truncate_to_tf32

from allegro_sim.potential.cuda.products import WORKSPACES

EXECUTOR = "allegro_sim.potential.cuda.executor"
STREAM = 0x5712EA4
"""Handle of the one stream; null is another."""

DEFAULT_SHARED_BYTES = 48 * 1024
MAX_DYNAMIC_SHARED_SIZE = 8  # CUfunction_attribute_enum of cuda.h


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


CAPTURE_UNSUPPORTED = 900  # cudaErrorStreamCaptureUnsupported
CAPTURE_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal
_captured: list[list[Callable[[], None]]] = []
"""The launches of the capture that is going on, if one is."""


def _refuse_in_capture() -> None:
    if _captured:
        raise CUDARuntimeError(CAPTURE_UNSUPPORTED)


class Graph:
    """Launches with the values that their arguments had at the capture."""

    def __init__(self, launches: list[Callable[[], None]]) -> None:
        self._launches = launches

    def launch(self, stream: Any = None) -> None:
        assert stream.ptr == STREAM
        assert not _captured
        launched.append("graph")
        for run in self._launches:
            run()


def _launch(run: Callable[[], None]) -> None:
    if _captured:
        _captured[-1].append(run)
    else:
        run()


class DeviceArray(np.ndarray):
    """NumPy's array with what CuPy's has and it has not."""

    @property
    def data(self) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(ptr=self.__array_interface__["data"][0] if self.size else 0)

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        _refuse_in_capture()
        assert type(arr) is np.ndarray
        assert arr.dtype == self.dtype
        assert arr.shape == self.shape
        assert stream.ptr == STREAM
        self[...] = arr

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        """Where nobody waits, the values of now arrive when an event that was recorded after is waited for."""
        _refuse_in_capture()
        assert stream.ptr == STREAM
        values = np.array(self, subok=False)
        if out is None:
            assert blocking, "memory that is not page-locked would be waited for"
            return values
        assert not blocking
        assert type(out) is np.ndarray and out.flags.c_contiguous
        assert (out.dtype, out.shape) == (self.dtype, self.shape)
        assert any(memory.holds(out) for memory in pinned), "a copy to memory that is not page-locked waits"
        out.view(np.uint8)[...] = 0xA5
        under_way.append((out, values))
        return out


class PinnedMemory(bytearray):
    """What `alloc_pinned_memory` returns: a buffer of bytes."""

    def holds(self, array: np.ndarray) -> bool:
        mine = np.frombuffer(self, np.uint8)
        return np.shares_memory(mine, array)


pinned: list[PinnedMemory] = []
under_way: list[tuple[np.ndarray, np.ndarray]] = []
"""Copies to the host that no event has been recorded after."""


def alloc_pinned_memory(size: int) -> PinnedMemory:
    pinned.append(PinnedMemory(b"\xa5" * size))
    return pinned[-1]


class Event:
    """Holds back the copies before it until somebody waits."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        assert block, "the thread that waits would keep a core busy"

    def record(self, stream: Any = None) -> None:
        assert stream.ptr == STREAM
        self._copies, under_way[:] = list(under_way), []

    def synchronize(self) -> None:
        assert current_device[threading.get_ident()] == DEVICE, "the thread would use another GPU"
        while self._copies:
            out, values = self._copies.pop(0)
            out[...] = values


DEVICE = 3
"""Number of the GPU of this rank; a thread of its own begins with 0."""
current_device: defaultdict[int, int] = defaultdict(int)


class GpuNumber:
    """`cupy.cuda.Device`."""

    def __init__(self, device: int) -> None:
        self.id = device

    def use(self) -> None:
        current_device[threading.get_ident()] = self.id


def getDevice() -> int:
    return current_device[threading.get_ident()]


class Stream:
    current: list[int] = [0]  # noqa: RUF012

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        assert non_blocking, "work on a blocking stream waits for the null stream's"
        self.ptr = STREAM

    def __enter__(self) -> Stream:
        self.current.append(self.ptr)
        return self

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def synchronize(self) -> None:
        _refuse_in_capture()

    def begin_capture(self, mode: Any = None) -> None:
        assert mode == CAPTURE_THREAD_LOCAL, "the writer's thread may wait meanwhile"
        assert not _captured
        _captured.append([])

    def end_capture(self) -> Graph:
        return Graph(_captured.pop())


class Module:
    """What `load` is given is the source here, or the name of a Numba kernel: what the executor loads is replaced."""

    def load(self, cubin: bytes) -> None:
        assert type(cubin) is bytes
        if cubin.startswith(NUMBA):
            self.runner = _NumbaModule(cubin.removeprefix(NUMBA).decode())
        else:
            self.runner = CpuModule(cubin.decode(), optimize="-O0")

    def get_function(self, name: str) -> SimpleNamespace:
        function = SimpleNamespace(ptr=id(self) + 1 + self.runner.kernels.index(name), module=self)
        _functions[function.ptr] = (self.runner, self.runner.kernels.index(name))
        return function


NUMBA = b"numba: "


class _NumbaModule:
    """One Numba kernel, run by Numba's simulator on what the launch's values lead to."""

    def __init__(self, name: str) -> None:
        from numba import cuda

        from allegro_sim.kernels.numba_cuda.catalogue import KERNELS

        function, self._signature = KERNELS[name]
        self._kernel, self.kernels = cuda.jit(self._signature)(function), [name]

    def parameter_bytes(self, kernel: int) -> list[int]:
        sizes: list[int] = []
        for kind in self._signature.args:
            is_array = hasattr(kind, "ndim")
            sizes += [8] * (5 + 2 * kind.ndim) if is_array else [np.dtype(str(kind)).itemsize]
        return sizes

    def run_pointers(self, kernel: int, sizes: tuple[int, ...], shared_bytes: int, pointers: int) -> str:
        assert kernel == 0 and shared_bytes == 0
        places = iter((ctypes.c_void_p * len(self.parameter_bytes(0))).from_address(pointers))
        self._kernel[sizes[0], sizes[3]](*[self._argument(kind, places) for kind in self._signature.args])
        return ""

    @staticmethod
    def _argument(kind: Any, places: Any) -> Any:
        """By Numba's own convention (its dispatcher's `_prepare_args`)."""

        def number(dtype: Any = np.int64) -> Any:
            return np.frombuffer(ctypes.string_at(next(places), np.dtype(dtype).itemsize), dtype)[0]

        if not hasattr(kind, "ndim"):
            return number(str(kind))
        dtype = np.dtype(str(kind.dtype))
        unused, size, itemsize, address = (number(), number()), number(), number(), number()
        shape, strides = (tuple(int(number()) for _ in range(kind.ndim)) for _ in range(2))
        assert unused == (0, 0) and itemsize == dtype.itemsize and size == np.prod(shape)
        array = np.zeros(shape, dtype)
        assert array.strides == strides or not size
        if size:
            memory = (ctypes.c_uint8 * array.nbytes).from_address(int(address))
            array = np.frombuffer(memory, dtype).reshape(shape)
        return _shared(array)


_functions: dict[int, tuple[Any, int]] = {}
_shared_bytes: dict[int, int] = {}
launched: list[str] = []


def launchKernel(
    f: int, grid_dim_x: int, grid_dim_y: int, grid_dim_z: int, block_dim_x: int, block_dim_y: int, block_dim_z: int,
    shared_mem_bytes: int, stream: int, kernel_params: int, extra: int,
) -> None:  # fmt: skip
    assert stream == STREAM
    assert not extra
    assert shared_mem_bytes <= _shared_bytes.get(f, DEFAULT_SHARED_BYTES), "more shared memory than the function has"
    runner, kernel = _functions[f]
    sizes = (grid_dim_x, grid_dim_y, grid_dim_z, block_dim_x, block_dim_y, block_dim_z)
    library = runner if isinstance(runner, _NumbaModule) else runner._engine
    assert isinstance(library, Library | _NumbaModule)

    def run(pointers: int = kernel_params, _kept: Any = None) -> None:
        launched.append(runner.kernels[kernel])
        message = library.run_pointers(kernel, sizes, shared_mem_bytes, pointers)
        assert not message, message

    if _captured:
        # The driver copies the values that the pointers lead to; a graph has no others.
        sizes_of = runner.parameter_bytes(kernel)
        places = (ctypes.c_void_p * len(sizes_of)).from_address(kernel_params)
        values = [
            ctypes.create_string_buffer(ctypes.string_at(place, size), size)
            for place, size in zip(places, sizes_of, strict=True)
        ]
        kept = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        _launch(partial(run, ctypes.addressof(kept), (kept, values)))
    else:
        run()


def funcSetAttribute(f: int, attribute: int, value: int) -> None:
    assert attribute == MAX_DYNAMIC_SHARED_SIZE
    _shared_bytes[f] = value


def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    assert stream == STREAM
    assert ptr
    ctypes.memset(ptr, value, size)


class Cublas:
    """The library, called through ctypes: every function returns a status; a product comes later in a capture."""

    def __init__(self) -> None:
        self.status, self._stream, self._workspace = 0, 0, 0

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = 0xB1A5
        return self.status

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:
        assert handle.value == 0xB1A5
        self._stream, self._workspace = stream, 0
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, workspace: int, nbytes: int) -> int:
        assert workspace and nbytes in WORKSPACES
        self._workspace = workspace
        return 0

    def cublasGemmEx(
        self, handle: Any, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
        B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
    ) -> int:  # fmt: skip
        """C (m, n) = alpha A (m, k) B (k, n) + beta C, columns lda, ldb, ldc numbers apart; sums in the order of k."""
        assert handle.value == 0xB1A5 and self._stream == STREAM
        assert self._workspace, "a workspace of cuBLAS's own, which it may have to allocate"
        assert (transa, transb, algo) == (constants["CUBLAS_OP_N"], constants["CUBLAS_OP_N"], -1)
        assert Atype == Btype == Ctype
        dtype = {0: np.float32, 1: np.float64}[Atype]  # CUDA_R_32F, CUDA_R_64F
        is_tf32 = computeType == constants["CUBLAS_COMPUTE_32F_FAST_TF32"]
        full = {0: "CUBLAS_COMPUTE_32F", 1: "CUBLAS_COMPUTE_64F"}[Atype]
        assert computeType in (constants[full], constants["CUBLAS_COMPUTE_32F_FAST_TF32"])
        assert m <= lda and k <= ldb and m <= ldc
        a, b, c = (_columns(*of, dtype) for of in ((A, m, k, lda), (B, k, n, ldb), (C, m, n, ldc)))
        factors = [_columns(place, 1, 1, 1, dtype)[0, 0] for place in (alpha, beta)]
        assert factors[0] == 1 and factors[1] in (0, 1)

        def multiply() -> None:
            total = c.copy() if factors[1] else np.zeros_like(c)
            for inner in range(k):
                left, right = a[:, inner : inner + 1], b[inner]
                if is_tf32:
                    left, right = truncate_to_tf32(left), truncate_to_tf32(right)
                total += left * right
            c[...] = total

        _launch(multiply)
        return 0


def _columns(address: int, rows: int, columns: int, stride: int, dtype: Any) -> np.ndarray:
    """The column-major matrix at an address."""
    size = np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * (((columns - 1) * stride + rows) * size)).from_address(address)
    flat = np.frombuffer(memory, dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, stride * size))


constants = {
    "CUBLAS_OP_N": 0,
    "CUBLAS_GEMM_DEFAULT": -1,
    "CUBLAS_COMPUTE_32F": 68,
    "CUBLAS_COMPUTE_64F": 70,
    "CUBLAS_COMPUTE_32F_FAST_TF32": 77,
}


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class OutOfMemoryError(MemoryError):
    pass


def zeros(shape: int, dtype: Any = float, order: str = "C") -> DeviceArray:
    _refuse_in_capture()
    assert Stream.current[-1] == STREAM, "zeros on another stream would not wait for this one"
    if np.prod(shape) * np.dtype(dtype).itemsize > memory_limit[0]:
        raise OutOfMemoryError
    return np.zeros(shape, dtype).view(DeviceArray)


memory_limit = [2**40]
cublas = Cublas()


def _shared(value: Any) -> Any:
    """Left to itself the simulator copies arrays in and out, and what overlaps with another would be lost."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    return FakeCUDAArray(value) if isinstance(value, np.ndarray) else value


class _Cupy(ModuleType):
    """Operations of whole arrays are NumPy's, on the stream."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)

        def call(*values: Any, **options: Any) -> Any:
            _refuse_in_capture()
            assert Stream.current[-1] == STREAM, f"{name} on another stream would not wait for this one"
            found = function(*values, **options)
            return found.view(DeviceArray) if isinstance(found, np.ndarray) else found

        return call if callable(function) else function


def load_executor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The executor's module, loaded anew with these calls in the place of CuPy's."""
    launched.clear()
    under_way.clear()
    current_device.clear()
    GpuNumber(DEVICE).use()
    _captured.clear()
    memory_limit[0] = 2**40
    cublas.status = 0
    cupy, cuda = _Cupy("cupy"), ModuleType("cupy.cuda")
    driver = SimpleNamespace(
        launchKernel=launchKernel, funcSetAttribute=funcSetAttribute, CUDADriverError=CUDADriverError
    )
    cuda.__dict__.update(
        driver=driver,
        runtime=SimpleNamespace(
            memsetAsync=memsetAsync,
            getDevice=getDevice,
            CUDARuntimeError=CUDARuntimeError,
            streamCaptureModeThreadLocal=CAPTURE_THREAD_LOCAL,
        ),
        function=SimpleNamespace(Module=Module),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        Stream=Stream,
        Event=Event,
        Device=GpuNumber,
        alloc_pinned_memory=alloc_pinned_memory,
    )
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    cupy.__dict__.update(cuda=cuda, zeros=zeros, ndarray=DeviceArray, get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.delitem(sys.modules, EXECUTOR, raising=False)
    module = importlib.import_module(EXECUTOR)
    monkeypatch.setattr(module, "load_or_compile", lambda source, capability: source.encode())
    monkeypatch.setattr(module, "load_cublas", lambda: cublas)
    monkeypatch.setattr(module, "load_or_compile_numba", lambda name, capability: NUMBA + name.encode())
    del sys.modules[EXECUTOR]  # who imports it next gets CuPy's again, or the error that there is none
    return module
