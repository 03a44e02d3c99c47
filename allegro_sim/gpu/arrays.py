"""Arrays on the device: made, copied from the host, or kept to be written over; one clear message where memory ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.potential.cuda.device import OutOfDeviceMemory
from allegro_sim.potential.cuda.engine import Executor


def new_array(executor: Executor, shape: int | tuple[int, ...], dtype: Any, what: str) -> Any:
    """An array of this shape; also an empty one has an address. what: for the message.

    Raises
    ------
    DeviceError : out of memory
    """
    shape = (shape,) if isinstance(shape, int) else shape
    count = int(np.prod(shape, dtype=np.int64))
    try:
        return executor.allocate(max(count, 1), np.dtype(dtype))[:count].reshape(shape)
    except OutOfDeviceMemory as error:
        raise DeviceError(
            f"{executor.device} is out of memory: {error.needed / 2**20:.1f} MiB for {what} could not be allocated. "
            "Use more GPUs, a smaller system or a smaller skin, or free memory that other programs hold"
        ) from None


def to_device(executor: Executor, values: np.ndarray, what: str) -> Any:
    """A copy of an array of the host, with its dtype."""
    array = new_array(executor, values.shape, values.dtype, what)
    executor.upload(array, values)
    return array


class Scratch:
    """Arrays by name that a new neighbour list writes over: the same ones each time, until they must grow.

    So they are not allocated and cleared again, and launches that were prepared for them stay good. Only small ones are
    kept: of a large system the memory is free for others between two lists.
    """

    KEPT_BYTES = 2**26

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._arrays: dict[str, Any] = {}

    def get(self, name: str, rows: int, dtype: Any, *widths: int) -> Any:
        """An array of at least so many rows; what is in it is undefined. Raises DeviceError."""
        array = self._arrays.get(name)
        if array is not None and len(array) >= rows:
            return array
        self._arrays.pop(name, None)
        array = None  # its memory may be what the new one needs
        room = rows + rows // 8 + 64
        small = room * int(np.prod(widths)) * np.dtype(dtype).itemsize <= self.KEPT_BYTES
        array = new_array(self._executor, (room if small else rows, *widths), dtype, f"a list of {rows} rows")
        if small:
            self._arrays[name] = array
        return array
