"""Real spherical harmonics of any degree, and their slopes, over a chunk's edges; float64 inside.

Y_{l,+-m} = N_lm (d^m P_l / dt^m)(t) {Re, Im}(p + i q)^m,  N_lm^2 = (2l + 1)(2 - delta_m0)(l - m)!/(l + m)!, with (p,
q, t) = (z, x, y) of the
unit vector: the polar axis is y, components run m = -l..l, the squares of a degree sum to 2l + 1 (e3nn's basis,
Geiger & Smidt, arXiv:2207.09453). The slopes are those of this polynomial; only their part along the sphere has a
meaning.
"""

from __future__ import annotations

import math

import numpy as np

from .inner import inner_kernel


def harmonic_norms(l_max: int) -> np.ndarray:
    """N_lm: float64 (l_max + 1, l_max + 1), zero where m > l."""
    norms = np.zeros((l_max + 1, l_max + 1))
    for degree in range(l_max + 1):
        for m in range(degree + 1):
            ratio = math.factorial(degree - m) / math.factorial(degree + m)
            norms[degree, m] = math.sqrt((2 * degree + 1) * (1 if m == 0 else 2) * ratio)
    return norms


def scratch_rows(l_max: int) -> int:
    """Rows of scratch that `harmonics` needs."""
    return (l_max + 1) * (l_max + 2) + 2 * (l_max + 1)


@inner_kernel
def harmonics(values, slopes, scratch, units, norms, count):
    """Harmonics and their slopes by the unit vector (overwrites).

    values: float ((l_max + 1)^2, >= count) OUTPUT; slopes: float64 (3 (l_max + 1)^2, >= count) OUTPUT, row 3 a + c
    for component a and direction c; scratch: float64 (scratch_rows, >= count); units: float64 (3, >= count); norms:
    from `harmonic_norms`.
    """
    degrees = len(norms)
    legendre, angular = scratch[: degrees * (degrees + 1)], scratch[degrees * (degrees + 1) :]
    q, t, p = units[0], units[1], units[2]

    # Row l (l_max + 2) + m of `legendre`: d^m P_l / dt^m, m up to l_max + 1.
    for m in range(degrees + 1):
        diagonal = 1.0
        for odd in range(2 * m - 1, 0, -2):
            diagonal *= odd
        for degree in range(degrees):
            row = legendre[degree * (degrees + 1) + m]
            if degree < m:
                row[:count] = 0.0
            elif degree == m:
                row[:count] = diagonal
            else:
                below = legendre[(degree - 1) * (degrees + 1) + m]
                two_below = legendre[max(degree - 2, 0) * (degrees + 1) + m]  # zero where degree - 2 < m
                a, b = (2.0 * degree - 1.0) / (degree - m), (degree + m - 1.0) / (degree - m)
                if degree - 2 < m:
                    b = 0.0
                for z in range(count):
                    row[z] = a * t[z] * below[z] - b * two_below[z]

    # Rows 2 m, 2 m + 1 of `angular`: real and imaginary part of (p + i q)^m.
    angular[0, :count] = 1.0
    angular[1, :count] = 0.0
    for m in range(1, degrees):
        for z in range(count):
            real, imaginary = angular[2 * m - 2, z], angular[2 * m - 1, z]
            angular[2 * m, z] = p[z] * real - q[z] * imaginary
            angular[2 * m + 1, z] = p[z] * imaginary + q[z] * real

    for degree in range(degrees):
        for order in range(-degree, degree + 1):
            m = abs(order)
            component = degree * degree + degree + order
            polar, polar_slope = legendre[degree * (degrees + 1) + m], legendre[degree * (degrees + 1) + m + 1]
            # d Re/dp = m Re', d Re/dq = -m Im', d Im/dp = m Im', d Im/dq = m Re', where ' is the power m - 1.
            part = angular[2 * m] if order >= 0 else angular[2 * m + 1]
            before = max(m - 1, 0)
            by_p = angular[2 * before] if order >= 0 else angular[2 * before + 1]
            by_q = angular[2 * before + 1] if order >= 0 else angular[2 * before]
            factor = -1.0 * m if order >= 0 else 1.0 * m
            norm = norms[degree, m]
            for z in range(count):
                radial = norm * polar[z]
                values[component, z] = radial * part[z]
                slopes[3 * component, z] = radial * factor * by_q[z]
                slopes[3 * component + 1, z] = norm * polar_slope[z] * part[z]
                slopes[3 * component + 2, z] = radial * m * by_p[z]


@inner_kernel
def repeat_harmonics(values, slopes, repeated, degrees, count):
    """Further copies of harmonics and slopes, behind those of `degrees` degrees from 0 on (overwrites their rows).

    values, slopes: as for `harmonics`, with the rows of the copies; repeated: int64, the degree of each copy.
    """
    at = degrees * degrees
    for degree in repeated:
        for component in range(degree * degree, (degree + 1) * (degree + 1)):
            # Loops, not slices: NumPy's checks of two shapes take seconds to compile.
            for z in range(count):
                values[at, z] = values[component, z]
            for c in range(3):
                for z in range(count):
                    slopes[3 * at + c, z] = slopes[3 * component + c, z]
            at += 1
