"""The decorator of functions that only other kernels call.

Such a function needs no entry from Python. Leaving that out halves the time to compile the potential: its arguments
are tuples of some twenty arrays, and unpacking those is more code than the function.
"""

from __future__ import annotations

from functools import partial

from .compilation import kernel

inner_kernel = partial(kernel, no_cpython_wrapper=True, no_cfunc_wrapper=True)
