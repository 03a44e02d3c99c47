"""Every Numba CUDA kernel by its name: (function, signature)."""

from __future__ import annotations

from . import atoms, descent, halo

KERNELS = {**atoms.KERNELS, **descent.KERNELS, **halo.KERNELS}
