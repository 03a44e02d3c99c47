"""Wigner 3j symbols in the basis of the real spherical harmonics.

They couple two real vectors of degrees l1 and l2 to one of degree l3, equivariantly under rotations:
out[c] = sum_{a,b} W[a,b,c] first[a] second[b]. Basis and phases are e3nn's (Geiger & Smidt, arXiv:2207.09453):
component m = -l..l, polar axis y, W scaled to Frobenius norm 1. Complex Clebsch-Gordan coefficients come from Racah's
formula in exact integer arithmetic, so every number is right to the last bits of float64 at any degree.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import factorial, isqrt, sqrt

import numpy as np


def _sqrt_of_fraction(square: Fraction) -> float:
    """Square root of an exact fraction of any size, rounded once or twice only.

    The numerator is scaled so that the integer root carries more than 64 bits.
    """
    scale = max(0, 140 - square.numerator.bit_length() + square.denominator.bit_length())
    scale += scale % 2
    root = isqrt((square.numerator << scale) // square.denominator)
    return float(Fraction(root, 1 << (scale // 2)))


def clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """<l1 m1 l2 m2 | l3 m3> with the Condon-Shortley phase (Racah 1942; Varshalovich et al., eq. 8.2.1)."""
    if m1 + m2 != m3 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    triangle = Fraction(
        factorial(l3 + l1 - l2) * factorial(l3 - l1 + l2) * factorial(l1 + l2 - l3), factorial(l1 + l2 + l3 + 1)
    )
    magnetic = (
        factorial(l3 + m3) * factorial(l3 - m3) * factorial(l1 - m1) * factorial(l1 + m1)
        * factorial(l2 - m2) * factorial(l2 + m2)
    )  # fmt: skip
    series = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = (
            factorial(k) * factorial(l1 + l2 - l3 - k) * factorial(l1 - m1 - k) * factorial(l2 + m2 - k)
            * factorial(l3 - l2 + m1 + k) * factorial(l3 - l1 - m2 + k)
        )  # fmt: skip
        series += Fraction((-1) ** k, denominator)
    root = _sqrt_of_fraction((2 * l3 + 1) * triangle * magnetic * series * series)
    return root if series > 0 else -root


def real_to_complex(degree: int) -> np.ndarray:
    """Unitary matrix q (2l+1, 2l+1), complex128: rows are complex components m, columns real ones, e3nn's phases."""
    q = np.zeros((2 * degree + 1, 2 * degree + 1), np.complex128)
    q[degree, degree] = 1.0
    for m in range(1, degree + 1):
        q[degree - m, degree + m] = 1.0 / sqrt(2.0)
        q[degree - m, degree - m] = -1.0j / sqrt(2.0)
        q[degree + m, degree + m] = (-1) ** m / sqrt(2.0)
        q[degree + m, degree - m] = (-1) ** m * 1.0j / sqrt(2.0)
    return (-1.0j) ** degree * q


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real Wigner 3j symbol, float64 (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), Frobenius norm 1; read-only.

    Raises ValueError when the degrees do not obey the triangle inequality.
    """
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2}, {l3} do not couple: the triangle inequality is not met")
    complex_symbol = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                complex_symbol[l1 + m1, l2 + m2, l3 + m1 + m2] = clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    real_symbol = np.einsum(
        "ma,nb,oc,mno->abc", real_to_complex(l1), real_to_complex(l2), real_to_complex(l3).conj(), complex_symbol
    ).real
    real_symbol[np.abs(real_symbol) < 1e-14] = 0.0  # exact zeros: rounding of the change of basis leaves 1e-17
    real_symbol /= np.linalg.norm(real_symbol)
    real_symbol.setflags(write=False)
    return real_symbol


def product_coefficients(l1: int, l2: int, l3: int) -> np.ndarray:
    """sqrt(2 l3 + 1) * wigner_3j(l1, l2, l3): the numbers in Allegro's tensor product ('component' normalisation)."""
    return sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3)
