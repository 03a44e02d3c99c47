"""Arrays that vectors of numbers are read from."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.simd import VECTOR_BYTES


def aligned_empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that start at a multiple of 64 bytes: vectors then never straddle cache lines."""
    count = int(np.prod(shape))
    raw = np.zeros(count * np.dtype(dtype).itemsize + VECTOR_BYTES, np.uint8)
    start = -raw.ctypes.data % VECTOR_BYTES
    return raw[start : start + count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
