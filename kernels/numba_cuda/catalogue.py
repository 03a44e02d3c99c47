"""Every Numba CUDA kernel by its name: (function, signature)."""

from __future__ import annotations

from . import atoms, halo

KERNELS = {**atoms.KERNELS, **halo.KERNELS}
