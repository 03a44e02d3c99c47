"""Counter-based random numbers: the same for an atom at a step on any number of ranks and threads, and after a restart.

Philox4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC '11, doi:10.1145/2063384.2063405.
The key is the seed, the counter (step, purpose, atom). Normal deviates by Box and Muller, from 32-bit uniforms: they
end at 6.7 standard deviations. Logarithm, sine and cosine are written out, so that their bits depend on no library.
"""

from __future__ import annotations

import math

import numpy as np

from .compilation import kernel

PURPOSE_VELOCITIES = 1
PURPOSE_LANGEVIN = 2

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_16 = np.uint64(16)
_UNIT = 2.0**-32
_SQRT_HALF = math.sqrt(0.5)
_LN2 = math.log(2.0)
_TWO_PI = 2.0 * math.pi


@kernel
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox4x32. Counter and key words, and the four words returned, are uint64 below 2^32."""
    for _ in range(10):
        product0 = _M0 * c0
        product1 = _M1 * c2
        c0, c1, c2, c3 = (product1 >> _32) ^ c1 ^ k0, product1 & _MASK, (product0 >> _32) ^ c3 ^ k1, product0 & _MASK
        k0 = (k0 + _W0) & _MASK
        k1 = (k1 + _W1) & _MASK
    return c0, c1, c2, c3


@kernel
def log_unit(u):
    """Natural logarithm of u in (0, 1), to 1e-15: ln u = e ln 2 + 2 artanh s, s = (m - 1)/(m + 1), u = 2^e m."""
    m, e = math.frexp(u)
    if m < _SQRT_HALF:
        m *= 2.0
        e -= 1
    s = (m - 1.0) / (m + 1.0)
    t = s * s  # at most 0.0295
    series = 1.0 / 23.0
    for n in range(21, 0, -2):
        series = series * t + 1.0 / n
    return e * _LN2 + 2.0 * s * series


@kernel
def sincos_turns(u):
    """sin(2 pi u) and cos(2 pi u), u in [0, 1), to 1e-15: exact reduction to an eighth turn, then Taylor series."""
    quarter = math.floor(4.0 * u + 0.5)
    x = _TWO_PI * (u - 0.25 * quarter)  # |x| <= pi/4
    t = x * x
    sine = 1.0
    cosine = 1.0
    for n in range(16, 0, -2):
        sine = 1.0 - sine * t / (n * (n + 1.0))
        cosine = 1.0 - cosine * t / (n * (n - 1.0))
    sine *= x
    turn = int(quarter) & 3
    if turn == 1:
        return cosine, -sine
    if turn == 2:
        return -sine, -cosine
    if turn == 3:
        return -cosine, sine
    return sine, cosine


@kernel
def three_normals(seed, step, atom, purpose):
    """Three independent standard normal deviates for (seed, step, global atom id, purpose).

    seed, atom: int64, not negative; step: int64 below 2^48; purpose: int64 below 2^16.
    """
    s, n, a = np.uint64(seed), np.uint64(step), np.uint64(atom)
    c1 = (n >> _32) | (np.uint64(purpose) << _16)
    w0, w1, w2, w3 = philox4x32(n & _MASK, c1, a & _MASK, a >> _32, s & _MASK, s >> _32)
    radius = math.sqrt(-2.0 * log_unit((np.float64(w0) + 0.5) * _UNIT))
    other = math.sqrt(-2.0 * log_unit((np.float64(w2) + 0.5) * _UNIT))
    sine, cosine = sincos_turns(np.float64(w1) * _UNIT)
    _, third = sincos_turns(np.float64(w3) * _UNIT)
    return radius * cosine, radius * sine, other * third


@kernel
def fill_normals(out, ids, seed, step, purpose):
    """Standard normal deviates of many atoms. out: float64 (N, 3) OUTPUT (overwrites); ids: int64 (N,)."""
    for row in range(len(ids)):
        out[row, 0], out[row, 1], out[row, 2] = three_normals(seed, step, ids[row], purpose)
