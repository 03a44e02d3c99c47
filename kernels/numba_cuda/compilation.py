"""Kernels of the catalogue compiled for the GPU at hand, once on a machine.

Numba keys its disk cache on the file of one function, so a change in a function it calls, in another file, goes unseen.
As on the CPU (`cpu/compilation.py`), the cache directory is named by a hash of every source there is.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numba import cuda
from numba.cuda.core import config

from ..cpu import compilation as cpu
from .catalogue import KERNELS


def source_hash() -> str:
    """Hash of all sources that these kernels are made of, and of Numba's CUDA target."""
    digest = hashlib.sha256((version("numba-cuda") + cpu.source_hash()).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def compiled_kernel(name: str) -> Any:
    """A kernel of the catalogue, to be configured and called; compiled now, or read from the disk."""
    function, signature = KERNELS[name]
    # Numba reads this setting when a kernel is made; put back, so that a user's own Numba code is not moved.
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cpu.cache_directory().parent / f"numba-cuda-{source_hash()}")
    try:
        return cuda.jit(signature, cache=True)(function)
    finally:
        config.CACHE_DIR = before
