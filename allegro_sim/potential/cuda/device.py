"""Which GPU there is, and one clear message for each way in which there is none that can be used."""

from __future__ import annotations

import ctypes
import socket
from dataclasses import dataclass
from typing import Any

from allegro_sim.errors import DeviceError

MINIMUM_CAPABILITY = (8, 0)
"""TF32 products and asynchronous copies to shared memory came with it (Ampere)."""

MATRIX_UNITS = ((8, 0), (9, 0), (10, 0))
"""Capabilities whose matrix units pay for float64, and for float32 by three TF32 products; on others they are few."""

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class OutOfDeviceMemory(Exception):
    """An allocation on the device failed; `needed` bytes were asked for."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} bytes")
        self.needed = needed


@dataclass(frozen=True)
class Device:
    """A GPU that can be used."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    multiprocessors: int
    place: str = ""
    """Host and number of the GPU there, and its memory, for the banner."""
    identity: str = ""
    """Host and bus address: the same for ranks that share the GPU, whatever number each of them sees it under."""

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def find_device(local_rank: int = 0) -> Device:
    """A GPU of those visible (CUDA_VISIBLE_DEVICES), made current: ranks of a node take them in turn.

    Raises
    ------
    DeviceError : no driver, no GPU, no CuPy, a driver too old for CuPy's build, a GPU too old
    """
    supported = driver_version(_load_driver())
    cupy = _load_cupy()
    check_driver(supported, cupy.cuda.runtime.runtimeGetVersion())
    try:
        number = local_rank % cupy.cuda.runtime.getDeviceCount()
        cupy.cuda.Device(number).use()
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        bus = cupy.cuda.runtime.deviceGetPCIBusId(number)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"the GPU cannot be used: {error}") from None
    device = Device(
        name=properties["name"].decode(),
        capability=(properties["major"], properties["minor"]),
        total_bytes=properties["totalGlobalMem"],
        multiprocessors=properties["multiProcessorCount"],
        identity=f"{socket.gethostname()} {bus}",
        place=f"{socket.gethostname()} GPU {number} ({properties['totalGlobalMem'] / 2**30:.0f} GiB)",
    )
    check_capability(device)
    return device


def driver_version(driver: Any) -> int:
    """The CUDA version that the driver supports, as 1000 major + 10 minor; driver: the library libcuda, or None.

    Raises
    ------
    DeviceError : there is no driver, or it finds no GPU
    """
    if driver is None:
        raise DeviceError("there is no NVIDIA driver on this machine (libcuda.so.1 was not found)")
    status = driver.cuInit(0)
    count = ctypes.c_int(0)
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value == 0):
        raise DeviceError("the NVIDIA driver finds no GPU (is one hidden by CUDA_VISIBLE_DEVICES?)")
    if status != 0:
        raise DeviceError(f"the NVIDIA driver does not start (CUDA error {status}); see nvidia-smi")
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def check_driver(supported: int, built_for: int) -> None:
    """Refuse a driver of an older major version than CuPy was built for; both as 1000 major + 10 minor."""
    if supported // 1000 < built_for // 1000:
        raise DeviceError(
            f"the NVIDIA driver supports CUDA {_dotted(supported)}, and the CuPy installed is built for "
            f"CUDA {_dotted(built_for)}: update the driver, or install the extra [cuda{supported // 1000}] instead of "
            f"[cuda{built_for // 1000}]"
        )


def check_capability(device: Device) -> None:
    """Refuse a GPU older than the kernels."""
    if device.capability < MINIMUM_CAPABILITY:
        major, minor = MINIMUM_CAPABILITY
        raise DeviceError(f'{device} is too old: {major}.{minor} (Ampere) or newer is needed; use device = "cpu"')


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _load_driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _load_cupy() -> Any:
    try:
        import cupy
        from numba import cuda  # noqa: F401 (its absence is found here, not in the middle of a run)
    except ImportError as error:
        raise DeviceError(
            f"there is a GPU, but a package to use it cannot be loaded ({error}); install the extra for your driver: "
            'pip install "allegro-sim[cuda13]", or [cuda12]'
        ) from None
    return cupy
