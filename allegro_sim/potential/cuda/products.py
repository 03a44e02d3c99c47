"""Wide products by cuBLAS, into our own buffers, called through ctypes.

CuPy has cuBLAS's products too, but refuses them while a stream is captured, and has no call that sets the workspace.
Both matter here. With a workspace that it owns a product allocates nothing and can be part of a CUDA graph. And the
workspace decides whether an edge's numbers keep their bits: with its own, cuBLAS 13.1 on an H200 gave some rows of some
products other bits than the rest, with none it did not (bench/results/2026-11-27-gpu-nvidia-h200-cublas.log).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.potential.cuda.device import OutOfDeviceMemory
from allegro_sim.potential.cuda.plan import Matrix, Product

WORKSPACES = (2**25, 2**20, 2**16, 256)
"""Bytes of workspace that are tried: what cuBLAS asks for on Hopper, and down to as good as none."""

Shape = tuple[int, int, bool]
"""inner, columns, tensor_cores of a product."""

_ALLOC_FAILED = 3  # CUBLAS_STATUS_ALLOC_FAILED
_NOT_TRANSPOSED = 0  # CUBLAS_OP_N
_DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
_REAL_TYPES = {4: 0, 8: 1}  # bytes -> CUDA_R_32F, CUDA_R_64F
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_FAST_TF32 = 68, 70, 77


def load_cublas() -> Any:
    """The library, from wherever it was installed: found as CuPy finds it. Raises DeviceError."""
    try:
        from cuda import pathfinder

        library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceError(
            f"cuBLAS cannot be loaded ({reason}), which makes the products of so wide a model; install the extra for "
            'your driver: pip install "allegro-sim[cuda13]", or [cuda12]'
        ) from None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    matrix: list[Any] = [pointer, number, number]
    library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.cublasGemmEx.argtypes = [pointer, *[number] * 5, pointer, *matrix * 2, pointer, *matrix, number, number]
    return library


class Products:
    """Products on one stream.

    Parameters
    ----------
    library : of `load_cublas`
    stream : address of the stream
    workspace : address of device memory for the largest of WORKSPACES
    real, precision : of the model

    Attributes
    ----------
    workspaces : bytes of workspace by shape; the largest where nothing was chosen

    Raises
    ------
    OutOfDeviceMemory, DeviceError : cuBLAS cannot begin
    """

    def __init__(self, library: Any, stream: int, workspace: int, real: np.dtype, precision: str) -> None:
        self.workspaces: dict[Shape, int] = {}
        self._library, self._workspace, self._real = library, workspace, real
        self._handle = ctypes.c_void_p()
        _check("cublasCreate", library.cublasCreate_v2(ctypes.byref(self._handle)))
        # Setting the stream takes the workspace away, so it comes first.
        _check("cublasSetStream", library.cublasSetStream_v2(self._handle, stream))
        self._compute = {False: _COMPUTE_64F if precision == "double" else _COMPUTE_32F, True: _COMPUTE_FAST_TF32}
        self._one, self._zero = np.ones(1, real), np.zeros(1, real)

    def prepare(self, product: Product, arrays: Mapping[str, Any]) -> Callable[[], None]:
        """The call that launches a product, with the workspace that its shape has now.

        cuBLAS is column-major: it computes the transpose, right^T left^T, of the row-major product.
        """
        kind, compute = _REAL_TYPES[self._real.itemsize], self._compute[product.tensor_cores]
        out, left, right = (self._place(matrix, arrays) for matrix in (product.out, product.left, product.right))
        beta = self._one if product.accumulate else self._zero
        arguments = (
            self._handle, _NOT_TRANSPOSED, _NOT_TRANSPOSED, product.columns, product.rows, product.inner,
            self._one.ctypes.data, right, kind, product.right.stride, left, kind, product.left.stride,
            beta.ctypes.data, out, kind, product.out.stride, compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip
        nbytes = self.workspaces.get((product.inner, product.columns, product.tensor_cores), WORKSPACES[0])
        multiply, take = self._library.cublasGemmEx, self._library.cublasSetWorkspace_v2
        handle, workspace = self._handle, self._workspace

        def call() -> None:
            _check("cublasSetWorkspace", take(handle, workspace, nbytes))
            _check("cublasGemmEx", multiply(*arguments))

        return call

    def _place(self, matrix: Matrix, arrays: Mapping[str, Any]) -> int:
        return arrays[matrix.buffer].data.ptr + matrix.offset * self._real.itemsize


def _check(what: str, status: int) -> None:
    if status == _ALLOC_FAILED:
        raise OutOfDeviceMemory(0)
    if status != 0:
        raise DeviceError(f"cuBLAS's {what} failed with status {status} (cublasStatus_t)")
