"""Arrays on the device: made, or copied from the host, with one clear message where there is no room."""

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
