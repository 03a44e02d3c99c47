"""A step of a minimisation: a thread an atom. What happens to an atom is the function that the CPU's loop runs, too.

Arrays as in atoms.py, beside which this is; the numbers of a step as in `kernels/cpu/descent.py`.
"""

from __future__ import annotations

from numba import cuda, types

from ..cpu.descent import descend_atom
from ..cpu.integrate import moved_squared
from . import control as word

_descend_atom, _moved_squared = cuda.jit(device=True)(descend_atom), cuda.jit(device=True)(moved_squared)

FOUND, REBUILD = word.FOUND, word.REBUILD


def descend(
    control, positions, velocities, forces, built, half_skin_squared, back, step, kept, along, longest, owned
):  # fmt: skip
    """A step downhill (accumulates), and whether the neighbour list is then too old (sets REBUILD and FOUND).

    built: float64 (C, 3), positions at the build; half_skin_squared: Å², negative: the list is new at every step.
    """
    i = cuda.grid(1)
    if i == 0 and half_skin_squared < 0.0:
        control[REBUILD] = 1
        control[FOUND] = 1
    if i >= owned:
        return
    _descend_atom(positions, velocities, forces, back, step, kept, along, longest, i)
    if not _moved_squared(built, positions, i) <= half_skin_squared:
        control[REBUILD] = 1
        control[FOUND] = 1


_CONTROL = types.int64[::1]
_VECTORS, _FORCES = types.float64[:, ::1], types.int64[:, ::1]
_NUMBER, _COUNT = types.float64, types.int32

KERNELS = {
    "descend": (
        descend,
        types.void(_CONTROL, _VECTORS, _VECTORS, _FORCES, _VECTORS, *(6 * (_NUMBER,)), _COUNT),
    ),
}
"""Name -> (function, signature)."""
