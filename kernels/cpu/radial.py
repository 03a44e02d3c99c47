"""Radial functions of an edge's length and their derivatives: Bessel and spline bases, and the pair terms.

All in float64, over arrays of a chunk's edges; results of the bases are cast to the features' dtype. x = d / cutoff.
Rows of a two-dimensional array (rows, ld) hold one quantity of all edges.
"""

from __future__ import annotations

import math

import numpy as np

from .elementary import exp, log, sincospi
from .inner import inner_kernel

BESSEL, SPLINE, PAIR_BESSEL = range(3)
NO_PAIRS, ZBL, LENNARD_JONES = range(3)
BOTH_POWERS, REPULSIVE_PART, ONE_POWER = range(3)
POLYNOMIAL, COSINE, INSIDE, OUTSIDE, SCALED, UNITY = range(6)


@inner_kernel
def polynomial_cutoff(values, slopes, x, exponent, count):
    """u_p(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), zero from x = 1 on, and du/dx (overwrites).

    values, slopes, x: float64 (count,); exponent: p >= 2. Gasteiger et al., arXiv:2003.03123, eq. 8.
    """
    p = exponent
    a, b, c = 0.5 * (p + 1.0) * (p + 2.0), p * (p + 2.0), 0.5 * p * (p + 1.0)
    for z in range(count):
        y = x[z]
        below = exp((p - 1.0) * log(y))  # x^(p-1)
        power = below * y
        inside = y < 1.0
        values[z] = 1.0 - power * (a - y * (b - y * c)) if inside else 0.0
        slopes[z] = -p * a * below * (1.0 - y) * (1.0 - y) if inside else 0.0


@inner_kernel
def cutoff_function(values, slopes, x, exponent, count):
    """`polynomial_cutoff`, or 1 everywhere where the exponent is 0 (overwrites)."""
    if exponent > 0.0:
        polynomial_cutoff(values, slopes, x, exponent, count)
    else:
        values[:count] = 1.0
        slopes[:count] = 0.0


@inner_kernel
def bessel_basis(basis, slopes, frequencies, cutoff, cutoff_slopes, x, count):
    """b_n(x) = w_n sinc(w_n x) u(x), sinc(y) = sin(pi y) / (pi y), and db_n/dx (overwrites).

    basis, slopes: float (num_bessels, >= count) OUTPUT; frequencies: float64 (num_bessels,) w_n; cutoff,
    cutoff_slopes: u and du/dx; x: float64 (count,). Gasteiger et al., arXiv:2003.03123, eq. 7 (without its
    normalisation).
    """
    for n in range(len(frequencies)):
        w = frequencies[n]
        for z in range(count):
            sine, cosine = sincospi(w * x[z])
            wave = sine / (math.pi * x[z])
            wave_slope = (w * cosine - wave) / x[z]
            basis[n, z] = wave * cutoff[z]
            slopes[n, z] = wave_slope * cutoff[z] + wave * cutoff_slopes[z]


@inner_kernel
def pair_bessel_basis(basis, slopes, frequencies, pairs, cutoff, cutoff_slopes, x, count):
    """As `bessel_basis`; frequencies: float64 (nt * nt, num_bessels), of the pairs of types; pairs: int64 (count,)."""
    for n in range(frequencies.shape[1]):
        for z in range(count):
            w = frequencies[pairs[z], n]
            sine, cosine = sincospi(w * x[z])
            wave = sine / (math.pi * x[z])
            wave_slope = (w * cosine - wave) / x[z]
            basis[n, z] = wave * cutoff[z]
            slopes[n, z] = wave_slope * cutoff[z] + wave * cutoff_slopes[z]


@inner_kernel
def constant_functions(basis, slopes, cutoff, cutoff_slopes, count):
    """The last two functions of the basis: u(x), and 1 (overwrites)."""
    last = len(basis) - 1
    for z in range(count):
        basis[last - 1, z] = cutoff[z]
        slopes[last - 1, z] = cutoff_slopes[z]
        basis[last, z] = 1.0
        slopes[last, z] = 0.0


@inner_kernel
def edge_factors(factors, slopes, scratch, kinds, parameters, edge_scales, pairs, lengths, inverse_cutoffs, count):
    """Factors of edges and their derivatives by x, row n of kind kinds[n] (overwrites). (r, c) = parameters[n].

    POLYNOMIAL: u_c(d / r), see `polynomial_cutoff`; COSINE: (1 + cos(pi (d/r - c) / (1 - c))) / 2 between c r and r, 1
    before; INSIDE: 1 where d < r, else 0; OUTSIDE: 0 there, else 1; SCALED: edge_scales of the pair of types; UNITY: 1.
    factors: float (rows, >= count); slopes: float64 (rows, >= count); scratch: float64 (>= 3, >= count); edge_scales
    (nt * nt,), lengths, inverse_cutoffs: float64; pairs: int64.
    """
    for n in range(len(kinds)):
        kind, radius, parameter = kinds[n], parameters[n, 0], parameters[n, 1]
        if kind == POLYNOMIAL:
            for z in range(count):
                scratch[0, z] = lengths[z] / radius
            polynomial_cutoff(scratch[1], scratch[2], scratch[0], parameter, count)
            for z in range(count):
                factors[n, z] = scratch[1, z]
                slopes[n, z] = scratch[2, z] / (radius * inverse_cutoffs[z])
        elif kind == COSINE:
            for z in range(count):
                phase = (lengths[z] / radius - parameter) / (1.0 - parameter)
                sine, cosine = sincospi(min(max(phase, 0.0), 1.0))
                factors[n, z] = 0.5 * (1.0 + cosine)
                slopes[n, z] = -0.5 * math.pi * sine / ((1.0 - parameter) * (radius * inverse_cutoffs[z]))
        else:
            for z in range(count):
                slopes[n, z] = 0.0
                if kind == INSIDE:
                    factors[n, z] = 1.0 if lengths[z] < radius else 0.0
                elif kind == OUTSIDE:
                    factors[n, z] = 0.0 if lengths[z] < radius else 1.0
                elif kind == SCALED:
                    factors[n, z] = edge_scales[pairs[z]]
                else:
                    factors[n, z] = 1.0


@inner_kernel
def spline_basis(basis, slopes, span, x, count):
    """B_m(x) = (1 - cos(2 pi (x - lower_m) / width))^2 / 4 on its support, and dB_m/dx (overwrites).

    basis, slopes: float (num_splines, >= count) OUTPUT; lower_m = (m - span) / num_splines,
    width = (span + 1) / num_splines; x: float64 (count,).
    """
    num_splines = len(basis)
    width = (span + 1.0) / num_splines
    for m in range(num_splines):
        lower = (m - span) / num_splines
        for z in range(count):
            inside = min(max(x[z], lower), lower + width) - lower
            sine, cosine = sincospi(2.0 * (inside / width))
            basis[m, z] = 0.25 * (1.0 - cosine) * (1.0 - cosine)
            slopes[m, z] = (math.pi / width) * (1.0 - cosine) * sine


@inner_kernel
def zbl(
    energies, slopes, lengths, cutoff, cutoff_slopes, inverse_cutoffs, first_numbers, second_numbers, coulomb, count
):
    """Universal repulsion, half of it given to each atom of the pair: e = K Z_i Z_j / (2 d) psi(q) u(x).

    q = (Z_i^0.23 + Z_j^0.23) d / 0.46850, psi = sum_k c_k exp(-a_k q). Overwrites energies (eV) and slopes (de/dd,
    eV/Å). lengths: d, Å; cutoff, cutoff_slopes: u and du/dx, with an exponent of their own; inverse_cutoffs: dx/dd;
    first_numbers, second_numbers: Z_i, Z_j; all float64 (count,). coulomb: K, eV Å.
    Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
    """
    for z in range(count):
        d = lengths[z]
        scale = (exp(0.23 * log(first_numbers[z])) + exp(0.23 * log(second_numbers[z]))) / 0.46850
        q = scale * d
        e0 = 0.02817 * exp(-0.20162 * q)
        e1 = 0.28022 * exp(-0.40290 * q)
        e2 = 0.50986 * exp(-0.94229 * q)
        e3 = 0.18175 * exp(-3.19980 * q)
        psi = (e0 + e1) + (e2 + e3)
        psi_slope = -scale * ((0.20162 * e0 + 0.40290 * e1) + (0.94229 * e2 + 3.19980 * e3))
        strength = 0.5 * coulomb * first_numbers[z] * second_numbers[z] / d
        energies[z] = strength * psi * cutoff[z]
        through_cutoff = psi * cutoff_slopes[z] * inverse_cutoffs[z]
        slopes[z] = strength * ((psi_slope - psi / d) * cutoff[z] + through_cutoff)


@inner_kernel
def whole_power(x, n):
    """x^n by squaring, n > 0."""
    power, square = 1.0, x
    while n > 0:
        if n & 1:
            power *= square
        square *= square
        n >>= 1
    return power


@inner_kernel
def lennard_jones(
    energies, slopes, lengths, cutoff, cutoff_slopes, inverse_cutoffs, pairs, tables, style, power, end, count
):
    """Lennard-Jones 12-6 and its relatives, half of it given to each atom of the pair; q = (sigma / (d - delta))^n.

    BOTH_POWERS: e = 2 epsilon (q^2 - q) u(x); REPULSIVE_PART: e = (2 epsilon (q^2 - q) + epsilon) u(x) where
    d < end + delta, else 0; ONE_POWER: e = epsilon / 2 q u(x). Overwrites energies (eV) and slopes (de/dd, eV/Å);
    arguments as of `zbl`. pairs: int64 (count,); tables: float64 (3, nt * nt), of each ordered pair of types sigma, Å,
    the factor of epsilon and the powers, eV, and delta, Å; power: n. A power of a negative number is NaN unless n is
    whole. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931).
    """
    whole = np.int64(power) if power <= 64.0 and power == np.floor(power) else 0
    for z in range(count):
        strength, delta = tables[1, pairs[z]], tables[2, pairs[z]]
        inverse = 1.0 / (lengths[z] - delta)
        ratio = tables[0, pairs[z]] * inverse
        if whole > 0:
            q = whole_power(ratio, whole)
        elif ratio > 0.0:
            q = exp(power * log(ratio))
        else:
            q = 0.0 if ratio == 0.0 else np.nan
        if style == ONE_POWER:
            energy = strength * q
            slope = -power * energy * inverse
        else:
            energy = strength * (q * q - q)
            slope = strength * (power * q - 2.0 * power * q * q) * inverse
        if style == REPULSIVE_PART:
            energy += 0.5 * strength
            if lengths[z] >= end + delta:
                energy = 0.0
                slope = 0.0
        energies[z] = energy * cutoff[z]
        slopes[z] = slope * cutoff[z] + energy * (cutoff_slopes[z] * inverse_cutoffs[z])
