"""Half-steps of the integrators, and the sums over atoms that observables are made of.

What happens to one atom is a plain function, compiled for both back ends: here inside loops over atoms, and in
`kernels/numba_cuda/atoms.py` for a thread per atom. Every statement acts on one atom alone, or adds integers: the bits
do not depend on ranks.
"""

from __future__ import annotations

import numpy as np

from .compilation import kernel
from .fixed_point import add_to_words
from .inner import inner_kernel
from .philox import PURPOSE_LANGEVIN, three_normals


def kick_atom(velocities, forces, factor, i):
    """v_i += factor F_i (accumulates). velocities: float64 (C, 3), Å/fs; forces: int64 (C, 3), fixed point."""
    for c in range(3):
        velocities[i, c] += factor * np.float64(forces[i, c])


def drift_atom(positions, velocities, timestep, i):
    """x_i += dt v_i (accumulates). positions: float64 (C, 3), Å; velocities: float64 (C, 3), Å/fs; timestep: fs."""
    for c in range(3):
        positions[i, c] += timestep * velocities[i, c]


@kernel
def kinetic_energy(x, y, z, mass, energy_unit):
    """Of one atom with velocity (x, y, z), Å/fs, eV. energy_unit: eV per Da (Å/fs)²."""
    return 0.5 * energy_unit * mass * ((x * x + y * y) + z * z)


def langevin_atom(positions, velocities, half_timestep, decay, noise, mass, energy_unit, seed, step, atom, i):
    """Half a drift, friction and noise v = decay v + noise R, half a drift, of row i (accumulates).

    noise: Å/fs, of the atom's type; atom: its global id. Returns the heat: what friction and noise changed the kinetic
    energy by, eV.
    """
    normals = three_normals(seed, step, atom, PURPOSE_LANGEVIN)
    before = kinetic_energy(velocities[i, 0], velocities[i, 1], velocities[i, 2], mass, energy_unit)
    for c in range(3):
        positions[i, c] += half_timestep * velocities[i, c]
        velocities[i, c] = decay * velocities[i, c] + noise * normals[c]
        positions[i, c] += half_timestep * velocities[i, c]
    return kinetic_energy(velocities[i, 0], velocities[i, 1], velocities[i, 2], mass, energy_unit) - before


def moved_squared(before, after, i):
    """|x_i - before_i|², Å²; not finite where one of them is not. before, after: float64 (C, 3)."""
    x = after[i, 0] - before[i, 0]
    y = after[i, 1] - before[i, 1]
    z = after[i, 2] - before[i, 2]
    return (x * x + y * y) + z * z


_kick_atom, _drift_atom = inner_kernel(kick_atom), inner_kernel(drift_atom)
_langevin_atom, _moved_squared = inner_kernel(langevin_atom), inner_kernel(moved_squared)


@kernel
def kick(velocities, forces, types, factors, count):
    """v += factor[t] F (accumulates). velocities: float64 (C, 3), Å/fs; forces: int64 (C, 3), fixed point.

    factors: float64 (nt,), Å/fs per fixed-point unit of force; the first `count` rows are moved.
    """
    for i in range(count):
        _kick_atom(velocities, forces, factors[types[i]], i)


@kernel
def drift(positions, velocities, timestep, count):
    """x += dt v (accumulates). positions: float64 (C, 3), Å; velocities: float64 (C, 3), Å/fs; timestep: fs."""
    for i in range(count):
        _drift_atom(positions, velocities, timestep, i)


@kernel
def langevin_drift(
    heat_words, positions, velocities, types, ids, half_timestep, decay, noises, masses, energy_unit, seed, step, count
):
    """The middle of BAOAB: half a drift, friction and noise v = decay v + noise[t] R, half a drift (accumulates).

    heat_words: int64 (2,) OUTPUT, two-word sum of what friction and noise changed the kinetic energy by, eV
    (overwrites); positions, velocities: float64 (C, 3); types: int32 (C,); ids: int64 (C,); noises: float64 (nt,),
    Å/fs; masses: float64 (nt,), Da; energy_unit: eV per Da (Å/fs)². Returns False if a term of the sum is not finite
    or too large.
    """
    heat_words[:] = 0
    good = True
    for i in range(count):
        mass = masses[types[i]]
        heat = _langevin_atom(
            positions, velocities, half_timestep, decay, noises[types[i]], mass, energy_unit, seed, step, ids[i], i
        )
        good = add_to_words(heat_words, heat) and good
    return good


@kernel
def kinetic_sums(energy_words, momentum_words, velocities, types, masses, energy_unit, count):
    """Kinetic energy by type and total momentum, as two-word sums (overwrites).

    energy_words: int64 (nt, 2) OUTPUT, eV; momentum_words: int64 (3, 2) OUTPUT, Da Å/fs; velocities: float64 (C, 3),
    Å/fs; masses: float64 (nt,), Da; energy_unit: eV per Da (Å/fs)². Returns False if a term is not finite or too large.
    """
    energy_words[:] = 0
    momentum_words[:] = 0
    good = True
    for i in range(count):
        mass = masses[types[i]]
        energy = kinetic_energy(velocities[i, 0], velocities[i, 1], velocities[i, 2], mass, energy_unit)
        good = add_to_words(energy_words[types[i]], energy) and good
        for c in range(3):
            good = add_to_words(momentum_words[c], mass * velocities[i, c]) and good
    return good


@kernel
def count_far_moves(before, after, limit, count):
    """Number of atoms farther than `limit` (Å) from where they were, or at no finite place. before, after: (C, 3)."""
    far = 0
    for i in range(count):
        if not (_moved_squared(before, after, i) <= limit * limit):
            far += 1
    return far
