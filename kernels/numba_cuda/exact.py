"""Sums and products rounded one by one: NVVM fuses a product with the sum after it unless told not to.

`multiply` and `add` of two float64 are libdevice's functions without contraction, `nearest` the nearest whole number,
the even one of two. In Numba's simulator, where a kernel
is plain Python and libdevice is absent, Python's own operations, which never fuse, take their place.
"""

from __future__ import annotations

import operator

from numba.cuda import libdevice
from numba.cuda.core import config

if config.ENABLE_CUDASIM:
    multiply, add, nearest = operator.mul, operator.add, round
else:
    multiply, add, nearest = libdevice.dmul_rn, libdevice.dadd_rn, libdevice.rint
