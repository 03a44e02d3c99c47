"""Bricks, migration and ghosts: which rank an atom belongs to, which copies of it are needed where, and their exchange.

A thread an atom, or a ghost. Bricks and their halos are explained in allegro_sim/parallel/decomposition.py and halo.py.

inverse: float64 (3, 3), of the cell; frame: float64 (4, 3), rows LOWER, EXTENT, WIDTH (of the halo), all fractional,
and STEPS (of the space-filling curve in a unit of the cell); lattice: int32 (3, 3), rows PERIODIC (1 or 0), GRID
(bricks), PLACE (of this rank's brick). shifts: whole cells from an atom to its copy, as the brick that gets it sees.
"""

from __future__ import annotations

import math

from numba import cuda, types

from .control import FOUND
from .halo_limits import CURVE_BITS, SHIFT_BITS, SHIFT_ZERO

LOWER, EXTENT, WIDTH, STEPS = 0, 1, 2, 3
PERIODIC, GRID, PLACE = 0, 1, 2


@cuda.jit(device=True)
def fractional(positions, inverse, i, c):
    """Coordinate c of atom i in units of the lattice vectors, not wrapped."""
    return (positions[i, 0] * inverse[0, c] + positions[i, 1] * inverse[1, c]) + positions[i, 2] * inverse[2, c]


@cuda.jit(device=True)
def brick_of(place, frame, lattice, c):
    """Which brick along direction c a wrapped coordinate lies in."""
    extent = frame[EXTENT, c]
    scaled = (place - frame[LOWER, c]) * (float(lattice[GRID, c]) / (extent if extent > 0.0 else 1.0))
    brick = 0
    if scaled > 0.0:
        brick = lattice[GRID, c] - 1
        if scaled < float(brick):
            brick = int(math.floor(scaled))  # noqa: RUF046 (a floor is a float to Numba)
    return brick


def locate(images, ranks, codes, positions, inverse, frame, lattice, owned):
    """Images that carry atoms into the cell, the rank of each, and its place on a Z-order curve (overwrites).

    images: int32 (C, 3); ranks: int32 (C,); codes: int64 (C,). Positions that are not finite: no image, brick 0.
    """
    i = cuda.grid(1)
    if i >= owned:
        return
    rank = 0
    code = 0
    for c in range(3):
        value = fractional(positions, inverse, i, c)
        if not math.isfinite(value):
            value = 0.0
        image = 0
        if lattice[PERIODIC, c] != 0:
            down = -math.floor(value)
            image = int(min(max(down, -2147483647.0), 2147483647.0))
        images[i, c] = image
        place = value + float(image)
        rank = rank * lattice[GRID, c] + brick_of(place, frame, lattice, c)
        step = (place - frame[LOWER, c]) * frame[STEPS, c]
        cell = int(min(max(step, 0.0), float((1 << CURVE_BITS) - 1)))
        for bit in range(CURVE_BITS):
            code |= ((cell >> bit) & 1) << (3 * bit + 2 - c)
    ranks[i] = rank
    codes[i] = code


@cuda.jit(device=True)
def reach_of(positions, images, inverse, frame, lattice, i, c):
    """The first and the last brick, counted from this rank's, in whose halo or brick atom i lies along direction c.

    An atom lies in the halo of brick b when lower_b - width <= place <= upper_b + width.
    """
    place = fractional(positions, inverse, i, c) + float(images[i, c])
    if not math.isfinite(place):
        return 0, 0
    bricks, brick = lattice[GRID, c], lattice[PLACE, c]
    if lattice[PERIODIC, c] == 0 and bricks == 1:
        return 0, 0
    size = frame[EXTENT, c] / float(bricks)
    first, last = -brick, bricks - 1 - brick
    if size > 0.0:
        above = math.floor((place + frame[WIDTH, c] - frame[LOWER, c]) / size)
        below = math.ceil((place - frame[WIDTH, c] - frame[LOWER, c]) / size) - 1.0
        if lattice[PERIODIC, c] != 0:
            first, last = int(below) - brick, int(above) - brick
        else:
            first, last = max(first, int(below) - brick), min(last, int(above) - brick)
    # This brick has the atom as its own, however its coordinate was rounded.
    return min(first, 0), max(last, 0)


def count_copies(copies, positions, images, inverse, frame, lattice, owned):
    """Ghosts that every atom has on all ranks together (overwrites). copies: int64 (C,)."""
    i = cuda.grid(1)
    if i >= owned:
        return
    number = 1
    for c in range(3):
        first, last = reach_of(positions, images, inverse, frame, lattice, i, c)
        number *= last - first + 1
    copies[i] = number - 1


def list_copies(rows, peers, shifts, ends, positions, images, inverse, frame, lattice, owned):
    """The ghosts of every atom, atom after atom (overwrites): its row, the rank that gets it, the shift there.

    rows, peers: int32 (n,); shifts: int32 (n, 3); ends: int64 (C,), sums of `count_copies`, each atom's included.
    """
    i = cuda.grid(1)
    if i >= owned:
        return
    place = 0
    if i > 0:
        place = ends[i - 1]
    first0, last0 = reach_of(positions, images, inverse, frame, lattice, i, 0)
    first1, last1 = reach_of(positions, images, inverse, frame, lattice, i, 1)
    first2, last2 = reach_of(positions, images, inverse, frame, lattice, i, 2)
    for d0 in range(first0, last0 + 1):
        for d1 in range(first1, last1 + 1):
            for d2 in range(first2, last2 + 1):
                if d0 == 0 and d1 == 0 and d2 == 0:
                    continue
                b0, b1, b2 = lattice[PLACE, 0] + d0, lattice[PLACE, 1] + d1, lattice[PLACE, 2] + d2
                # Whole cells that the brick is away; Python's // rounds down, and so does the kernel's.
                k0, k1, k2 = b0 // lattice[GRID, 0], b1 // lattice[GRID, 1], b2 // lattice[GRID, 2]
                a0, a1, a2 = b0 - k0 * lattice[GRID, 0], b1 - k1 * lattice[GRID, 1], b2 - k2 * lattice[GRID, 2]
                rows[place] = i
                peers[place] = (a0 * lattice[GRID, 1] + a1) * lattice[GRID, 2] + a2
                shifts[place, 0] = -k0
                shifts[place, 1] = -k1
                shifts[place, 2] = -k2
                place += 1


@cuda.jit(device=True)
def order_key(identity, n0, n1, n2):
    """A row's place in the canonical order."""
    code = (int(n0) + SHIFT_ZERO) << (2 * SHIFT_BITS) | (int(n1) + SHIFT_ZERO) << SHIFT_BITS | (int(n2) + SHIFT_ZERO)
    return (identity << (3 * SHIFT_BITS)) | code


def key_atoms(order_keys, ids, owned):
    """Places of atoms in the canonical order (overwrites). order_keys, ids: int64 (C,)."""
    i = cuda.grid(1)
    if i < owned:
        order_keys[i] = order_key(ids[i], 0, 0, 0)


def pack_ghosts(packed, rows, shifts, ids, types, position_bits, images, count):
    """What another rank must know of a ghost (overwrites): id, type, bits of the position, images, place in the order.

    packed: int64 (n, 9); position_bits: int64 (C, 3), the positions as integers.
    """
    k = cuda.grid(1)
    if k >= count:
        return
    i = rows[k]
    packed[k, 0] = ids[i]
    packed[k, 1] = types[i]
    for c in range(3):
        packed[k, 2 + c] = position_bits[i, c]
        packed[k, 5 + c] = images[i, c] + shifts[k, c]
    packed[k, 8] = order_key(ids[i], shifts[k, 0], shifts[k, 1], shifts[k, 2])


def unpack_ghosts(ids, types, position_bits, images, order_keys, packed, first, count):
    """Ghosts as the rows from `first` on (overwrites those)."""
    k = cuda.grid(1)
    if k >= count:
        return
    row = first + k
    ids[row] = packed[k, 0]
    types[row] = packed[k, 1]
    for c in range(3):
        position_bits[row, c] = packed[k, 2 + c]
        images[row, c] = packed[k, 5 + c]
    order_keys[row] = packed[k, 8]


def pack_atoms(packed, order, ids, types, position_bits, velocity_bits, count):
    """What migrates with an atom (overwrites): id, type, bits of position and velocity. packed: int64 (n, 8)."""
    k = cuda.grid(1)
    if k >= count:
        return
    i = order[k]
    packed[k, 0] = ids[i]
    packed[k, 1] = types[i]
    for c in range(3):
        packed[k, 2 + c] = position_bits[i, c]
        packed[k, 5 + c] = velocity_bits[i, c]


def unpack_atoms(ids, types, position_bits, velocity_bits, packed, count):
    """The rows from 0 on become what was packed (overwrites those)."""
    k = cuda.grid(1)
    if k >= count:
        return
    ids[k] = packed[k, 0]
    types[k] = packed[k, 1]
    for c in range(3):
        position_bits[k, c] = packed[k, 2 + c]
        velocity_bits[k, c] = packed[k, 5 + c]


def copy_positions(control, out, positions, rows, count):
    """out[k] = positions[rows[k]], k < count[0], bit for bit (overwrites).

    out: float64 (n, 3), the ghosts or what is sent; count: int32 (1,), on the device: the launch may outlive the list.
    """
    k = cuda.grid(1)
    if control[FOUND] != 0 or k >= count[0]:
        return
    i = rows[k]
    for c in range(3):
        out[k, c] = positions[i, c]


def add_forces(control, status, values, rows, terms, count):
    """values[rows[k]] += terms[k], k < count[0] (accumulates), in any order: integers.

    values, terms: int64 (C, width), (n, width). A sum that leaves 64 bits is a fault: status[1] becomes the row + 1.
    """
    k = cuda.grid(1)
    if control[FOUND] != 0 or k >= count[0]:
        return
    i = rows[k]
    for c in range(values.shape[1]):
        term = terms[k, c]
        before = cuda.atomic.add(values, (i, c), term)
        after = before + term
        if ((before ^ after) & (term ^ after)) < 0:
            status[1] = i + 1


_CONTROL, _STATUS = types.int64[::1], types.int32[::1]
_VECTORS, _INTEGERS = types.float64[:, ::1], types.int64[:, ::1]
_IDS, _TYPES, _IMAGES = types.int64[::1], types.int32[::1], types.int32[:, ::1]
_ROWS, _COUNT = types.int32[::1], types.int32
_PLACE = (_VECTORS, _VECTORS, types.int32[:, ::1])  # inverse, frame, lattice

KERNELS = {
    "locate": (locate, types.void(_IMAGES, _ROWS, _IDS, _VECTORS, *_PLACE, _COUNT)),
    "count_copies": (count_copies, types.void(_IDS, _VECTORS, _IMAGES, *_PLACE, _COUNT)),
    "list_copies": (list_copies, types.void(_ROWS, _ROWS, _IMAGES, _IDS, _VECTORS, _IMAGES, *_PLACE, _COUNT)),
    "key_atoms": (key_atoms, types.void(_IDS, _IDS, _COUNT)),
    "pack_ghosts": (pack_ghosts, types.void(_INTEGERS, _ROWS, _IMAGES, _IDS, _TYPES, _INTEGERS, _IMAGES, _COUNT)),
    "unpack_ghosts": (
        unpack_ghosts,
        types.void(_IDS, _TYPES, _INTEGERS, _IMAGES, _IDS, _INTEGERS, _COUNT, _COUNT),
    ),
    "pack_atoms": (pack_atoms, types.void(_INTEGERS, _IDS, _IDS, _TYPES, _INTEGERS, _INTEGERS, _COUNT)),
    "unpack_atoms": (unpack_atoms, types.void(_IDS, _TYPES, _INTEGERS, _INTEGERS, _INTEGERS, _COUNT)),
    "copy_positions": (copy_positions, types.void(_CONTROL, _VECTORS, _VECTORS, _ROWS, _ROWS)),
    "add_forces": (add_forces, types.void(_CONTROL, _STATUS, _INTEGERS, _ROWS, _INTEGERS, _ROWS)),
}
"""Name -> (function, signature)."""
