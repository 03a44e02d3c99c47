"""A step of a minimisation by FIRE: what happens to one atom is a plain function, compiled for both back ends.

Here inside a loop over atoms, and in `kernels/numba_cuda/descent.py` for a thread per atom. The numbers of a step are
those of `allegro_sim.dynamics.fire.Move`.
"""

from __future__ import annotations

import math

import numpy as np

from .compilation import kernel
from .fixed_point import FORCE_SCALE
from .inner import inner_kernel

_UNIT = 1.0 / FORCE_SCALE  # a power of two: exact


@kernel
def _push(velocity, force, back, step, kept, along):
    """One component of an atom's velocity after the step, and of its move, before the longest move is looked at."""
    move = 0.0
    if back > 0.0:
        move -= back * velocity
        velocity = 0.0
    velocity += step * force
    velocity *= kept
    velocity += along * force
    return velocity, move + step * velocity


def descend_atom(positions, velocities, forces, back, step, kept, along, longest, i):
    """Half a step back if `back` is not 0, then v = kept (v + step F) + along F and x += step v (accumulates).

    positions, velocities: float64 (C, 3), Å and sqrt(eV); forces: int64 (C, 3), fixed point; back, step: sqrt(Å²/eV);
    kept: 1; along: sqrt(Å²/eV); longest: Å. An atom that would move farther goes so far, and slows down.
    """
    u, x = _push(velocities[i, 0], _UNIT * np.float64(forces[i, 0]), back, step, kept, along)
    v, y = _push(velocities[i, 1], _UNIT * np.float64(forces[i, 1]), back, step, kept, along)
    w, z = _push(velocities[i, 2], _UNIT * np.float64(forces[i, 2]), back, step, kept, along)
    length = math.sqrt((x * x + y * y) + z * z)
    if length > longest:
        factor = longest / length
        x, y, z = x * factor, y * factor, z * factor
        u, v, w = u * factor, v * factor, w * factor
    velocities[i, 0], velocities[i, 1], velocities[i, 2] = u, v, w
    positions[i, 0] += x
    positions[i, 1] += y
    positions[i, 2] += z


_descend_atom = inner_kernel(descend_atom)


@kernel
def descend(positions, velocities, forces, back, step, kept, along, longest, count):
    """`descend_atom` for the first `count` rows (accumulates)."""
    for i in range(count):
        _descend_atom(positions, velocities, forces, back, step, kept, along, longest, i)
