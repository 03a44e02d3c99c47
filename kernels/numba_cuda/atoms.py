"""The step of single atoms: a thread an atom. What happens to an atom is the function that the CPU's loop runs, too.

control: int64 (WORDS,), see control.py; status: int32 (8,) of the potential (0: a chunk overflowed, 1: a fault);
types: int32; positions, velocities: float64 (C, 3), Å and Å/fs; forces: int64 (C, 3), units of 2^-40 eV/Å. `owned` is
the number of atoms; a launch has at least one block, so that the first thread is there on a rank without atoms.
"""

from __future__ import annotations

import math

from numba import cuda, types

from ..cpu.integrate import drift_atom, kick_atom, langevin_atom, moved_squared
from . import control as word
from .exact import nearest

_kick_atom, _drift_atom = cuda.jit(device=True)(kick_atom), cuda.jit(device=True)(drift_atom)
_langevin_atom = cuda.jit(device=True)(langevin_atom)
_moved_squared = cuda.jit(device=True)(moved_squared)

HEAT_SCALE = float(2**44)
HEAT_LIMIT = float(2**17)
"""Units of heat in an eV, and the largest change of an atom's kinetic energy in a step, eV."""

FOUND, HALT, STEP, OVERFLOW, FAULT = word.FOUND, word.HALT, word.STEP, word.OVERFLOW, word.FAULT
REBUILD, DISPLACEMENT, FORCE, DISTANCE = word.REBUILD, word.DISPLACEMENT, word.FORCE, word.DISTANCE


def first_kick(control, before, positions, velocities, forces, types, factors, owned):
    """Half a kick (accumulates in velocities); `before` becomes where the atoms are (overwrites)."""
    i = cuda.grid(1)
    if control[HALT] != 0 or i >= owned:
        return
    for c in range(3):
        before[i, c] = positions[i, c]
    _kick_atom(velocities, forces, factors[types[i]], i)


def verlet_first_half(
    control, velocities, forces, types, factors, timestep,
    status, positions, before, built, half_skin_squared, limit_squared, owned,
):  # fmt: skip
    """Half a kick, a whole drift (accumulates), and `_look_at_move`; `before` becomes where the atoms were."""
    i = cuda.grid(1)
    if control[HALT] != 0:
        return
    if i < owned:
        for c in range(3):
            before[i, c] = positions[i, c]
        _kick_atom(velocities, forces, factors[types[i]], i)
        _drift_atom(positions, velocities, timestep, i)
    _look_at_move(control, status, positions, before, built, half_skin_squared, limit_squared, owned)


def langevin_drift(
    control, heat, velocities, types, ids, noises, masses, half_timestep, decay, energy_unit, seed,
    status, positions, before, built, half_skin_squared, limit_squared, owned,
):  # fmt: skip
    """The middle of BAOAB (accumulates), and `_look_at_move`; the step's number is the control word's.

    heat: int64 (C,), units of 2^-44 eV: what friction and noise changed the kinetic energy by, collected in the row
    where the atom happens to be, since only the sum of all rows of all ranks means anything; noises, masses: float64
    (nt,), Å/fs and Da.
    """
    i = cuda.grid(1)
    if control[HALT] != 0:
        return
    if i < owned:
        given = _langevin_atom(
            positions, velocities, half_timestep, decay, noises[types[i]], masses[types[i]], energy_unit, seed,
            control[STEP], ids[i], i,
        )  # fmt: skip
        if abs(given) < HEAT_LIMIT:
            heat[i] += int(nearest(given * HEAT_SCALE))
        else:
            control[FAULT] = 1
            control[FOUND] = 1
    _look_at_move(control, status, positions, before, built, half_skin_squared, limit_squared, owned)


@cuda.jit(device=True)
def _look_at_move(control, status, positions, before, built, half_skin_squared, limit_squared, owned):
    """Whether the step may go on (sets control words): this thread's move since the list was built, and in this step.

    built: float64 (C, 3), positions at the build; half_skin_squared: Å², negative: the list is new at every step;
    limit_squared: Å², the guards'. The first thread adds what the last forces have left.
    """
    i = cuda.grid(1)
    if i == 0:
        if status[1] != 0:
            control[FAULT] = 1
        if half_skin_squared < 0.0:
            control[REBUILD] = 1
        if half_skin_squared < 0.0 or control[FAULT] != 0 or control[FORCE] != 0 or control[DISTANCE] != 0:
            control[FOUND] = 1
    if i >= owned:
        return
    moved = _moved_squared(built, positions, i)
    if not moved <= half_skin_squared:
        control[REBUILD] = 1
        control[FOUND] = 1
    if not math.isfinite(moved):
        control[FAULT] = 1
        control[FOUND] = 1
    if not _moved_squared(before, positions, i) <= limit_squared:
        control[DISPLACEMENT] = 1
        control[FOUND] = 1


def look_at_forces(control, forces, scale, limit_squared, owned):
    """Sets the control word FORCE where a force is above the guards' limit; scale: eV/Å of a unit."""
    i = cuda.grid(1)
    if control[FOUND] != 0 or i >= owned:
        return
    x, y, z = scale * float(forces[i, 0]), scale * float(forces[i, 1]), scale * float(forces[i, 2])
    if not (x * x + y * y) + z * z <= limit_squared:
        control[FORCE] = 1


def look_at_room(control, status):
    """Sets the control word OVERFLOW where a chunk of the potential had too little room; one thread.

    For several ranks, which must know of each other's before the second half of the step; a single one sees it there.
    """
    if cuda.grid(1) == 0 and control[FOUND] == 0 and status[0] > 0:
        control[OVERFLOW] = 1


def second_half(control, status, velocities, forces, types, factors, owned):
    """Half a kick with the new forces (accumulates); the first thread counts the step, or halts those that follow."""
    i = cuda.grid(1)
    overflowed = status[0] > 0 or control[OVERFLOW] != 0
    if control[FOUND] != 0 or overflowed:
        if i == 0:
            if overflowed:
                control[OVERFLOW] = 1
            control[HALT] = 1
        return
    if i == 0:
        control[STEP] += 1
    if i < owned:
        _kick_atom(velocities, forces, factors[types[i]], i)


_CONTROL, _STATUS = types.int64[::1], types.int32[::1]
_VECTORS, _FORCES = types.float64[:, ::1], types.int64[:, ::1]
_IDS, _TYPES, _TABLE = types.int64[::1], types.int32[::1], types.float64[::1]
_NUMBER, _COUNT = types.float64, types.int32
_LOOK = (_STATUS, _VECTORS, _VECTORS, _VECTORS, _NUMBER, _NUMBER)  # of `_look_at_move`, from status on

KERNELS = {
    "first_kick": (
        first_kick,
        types.void(_CONTROL, _VECTORS, _VECTORS, _VECTORS, _FORCES, _TYPES, _TABLE, _COUNT),
    ),
    "verlet_first_half": (
        verlet_first_half,
        types.void(_CONTROL, _VECTORS, _FORCES, _TYPES, _TABLE, _NUMBER, *_LOOK, _COUNT),
    ),
    "langevin_drift": (
        langevin_drift,
        types.void(
            _CONTROL,
            _IDS,
            _VECTORS,
            _TYPES,
            _IDS,
            _TABLE,
            _TABLE,
            _NUMBER,
            _NUMBER,
            _NUMBER,
            types.int64,
            *_LOOK,
            _COUNT,
        ),
    ),
    "look_at_forces": (look_at_forces, types.void(_CONTROL, _FORCES, _NUMBER, _NUMBER, _COUNT)),
    "look_at_room": (look_at_room, types.void(_CONTROL, _STATUS)),
    "second_half": (
        second_half,
        types.void(_CONTROL, _STATUS, _VECTORS, _FORCES, _TYPES, _TABLE, _COUNT),
    ),
}
"""Name -> (function, signature)."""
