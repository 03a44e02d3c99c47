"""The nearest whole number of a float64, the even one of two: libdevice's function.

In Numba's simulator, where a kernel is plain Python and libdevice is absent, Python's own takes its place.
"""

from __future__ import annotations

from numba.cuda import libdevice
from numba.cuda.core import config

nearest = round if config.ENABLE_CUDASIM else libdevice.rint
