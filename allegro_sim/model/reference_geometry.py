"""The reference's first stages, from edge vectors to harmonics and two-body embedding: plain NumPy float64.

Each stage is a forward and a handwritten backward function; `reference.py` puts them in order. Letters: i centre,
j neighbour, z edge (Z of them), m component of the harmonics (all degrees one after the other), t type. `grad_y` is
dE/dy; a backward function takes the gradient of its stage's outputs and returns that of its inputs. Nothing is changed
in place.

Source of the radial basis and the cutoff: Gasteiger et al., ICLR 2020 (arXiv:2003.03123), eqs. 7 and 8.
"""

from __future__ import annotations

import math

import numpy as np

from allegro_sim.model.description import BesselEmbedding, SplineEmbedding
from allegro_sim.model.irreps import Irrep

# --- geometry ---------------------------------------------------------------------------------------------------------


def lengths_forward(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length d (Z,) and unit vector n (Z, 3) of edge vectors r (Z, 3), in the unit of r."""
    lengths = np.sqrt((vectors**2).sum(axis=1))
    return lengths, vectors / lengths[:, None]


def lengths_backward(
    grad_lengths: np.ndarray, grad_units: np.ndarray, lengths: np.ndarray, units: np.ndarray
) -> np.ndarray:
    """dE/dr (Z, 3) from dE/dd (Z,) and dE/dn (Z, 3):  dd/dr = n,  dn/dr = (1 - n n^T) / d."""
    along = (grad_units * units).sum(axis=1)
    tangential = grad_units - along[:, None] * units
    return grad_lengths[:, None] * units + tangential / lengths[:, None]


def polynomial_cutoff_forward(x: np.ndarray, exponent: float) -> np.ndarray:
    """u_p(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) for x < 1, else 0; same shape as x."""
    p = exponent
    inside = 1.0 - 0.5 * (p + 1) * (p + 2) * x**p + p * (p + 2) * x ** (p + 1) - 0.5 * p * (p + 1) * x ** (p + 2)
    return np.where(x < 1.0, inside, 0.0)


def cutoff_forward(x: np.ndarray, exponent: float | None) -> np.ndarray:
    """u_p(x) (Z,), or 1 where there is no cutoff function."""
    return np.ones_like(x) if exponent is None else polynomial_cutoff_forward(x, exponent)


def cutoff_backward(grad_u: np.ndarray, x: np.ndarray, exponent: float | None) -> np.ndarray:
    """dE/dx (Z,)."""
    return np.zeros_like(x) if exponent is None else polynomial_cutoff_backward(grad_u, x, exponent)


def polynomial_cutoff_backward(grad_u: np.ndarray, x: np.ndarray, exponent: float) -> np.ndarray:
    """dE/dx; the derivative is -p(p+1)(p+2)/2 x^(p-1) (1-x)^2: u, u' and u'' vanish at x = 1."""
    p = exponent
    slope = -0.5 * p * (p + 1) * (p + 2) * x ** (p - 1) * (1.0 - x) ** 2
    return grad_u * np.where(x < 1.0, slope, 0.0)


# --- spherical harmonics ----------------------------------------------------------------------------------------------


def _legendre_derivatives(z: np.ndarray, l_max: int) -> dict[tuple[int, int], np.ndarray]:
    """d^m P_l / dz^m for 0 <= m <= l + 1 <= l_max + 1, as a dictionary over (l, m); each of z's shape."""
    q = {}
    for m in range(l_max + 2):
        double_factorial = float(math.prod(range(2 * m - 1, 0, -2)))
        for degree in range(l_max + 1):
            if degree < m:
                q[degree, m] = np.zeros_like(z)
            elif degree == m:
                q[degree, m] = np.full_like(z, double_factorial)
            else:
                two_below = q.get((degree - 2, m), 0.0)
                q[degree, m] = ((2 * degree - 1) * z * q[degree - 1, m] - (degree + m - 1) * two_below) / (degree - m)
    return q


def _harmonics_with_slopes(units: np.ndarray, l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Harmonics Y (Z, (l_max+1)^2) and the slopes dY/dn (Z, (l_max+1)^2, 3) of the polynomials that define them.

    Y_{l,±m} = N_lm * d^m P_l/dz^m (z) * {Re, Im} (x + iy)^m, N_lm^2 = (2l+1) (2 - delta_m0) (l-m)! / (l+m)!,
    where x, y, z are the third, first and second Cartesian component, as in e3nn. Only the part of the slope along the
    sphere has a meaning.
    """
    y, z, x = units.T  # in the textbook's names; e3nn's polar axis is its second one
    legendre = _legendre_derivatives(z, l_max)
    real, imaginary = [np.ones_like(x)], [np.zeros_like(x)]  # of (x + iy)^m
    for m in range(l_max):
        real.append(x * real[m] - y * imaginary[m])
        imaginary.append(x * imaginary[m] + y * real[m])

    size = (l_max + 1) ** 2
    harmonics, slopes = np.zeros((len(units), size)), np.zeros((len(units), size, 3))
    zero = np.zeros_like(x)
    for degree in range(l_max + 1):
        for m in range(degree + 1):
            multiplicity = 1 if m == 0 else 2
            norm = math.sqrt((2 * degree + 1) * multiplicity * math.factorial(degree - m) / math.factorial(degree + m))
            radial, radial_slope = norm * legendre[degree, m], norm * legendre[degree, m + 1]
            below_re, below_im = (m * real[m - 1], m * imaginary[m - 1]) if m > 0 else (zero, zero)
            parts = [(m, real[m], below_re, -below_im)] + ([(-m, imaginary[m], below_im, below_re)] if m > 0 else [])
            for order, angular, angular_dx, angular_dy in parts:
                column = degree * degree + degree + order
                harmonics[:, column] = radial * angular
                slopes[:, column, 0] = radial * angular_dy
                slopes[:, column, 1] = radial_slope * angular
                slopes[:, column, 2] = radial * angular_dx
    return harmonics, slopes


def _sources(l_max: int, repeated: tuple[Irrep, ...]) -> np.ndarray:
    """Which of the (l_max+1)^2 harmonics each component of `harmonics` is: they themselves, then the repeated ones."""
    once = (l_max + 1) ** 2
    copies = [np.arange(irrep.degree**2, (irrep.degree + 1) ** 2) for irrep in repeated]
    return np.concatenate([np.arange(once), *copies])


def spherical_harmonics_forward(units: np.ndarray, l_max: int, repeated: tuple[Irrep, ...] = ()) -> np.ndarray:
    """Real spherical harmonics Y[z, m] (Z, M) of unit vectors (Z, 3), any l_max; further copies of some behind them.

    'Component' normalisation: the squares of the 2l+1 components of degree l sum to 2l+1. Order within a degree: -l..l.
    M = (l_max+1)^2, or more where harmonics are repeated.
    """
    return _harmonics_with_slopes(units, l_max)[0][:, _sources(l_max, repeated)]


def spherical_harmonics_backward(
    grad_harmonics: np.ndarray, units: np.ndarray, l_max: int, repeated: tuple[Irrep, ...] = ()
) -> np.ndarray:
    """dE/dn (Z, 3); its component along n has no meaning and is projected out by `lengths_backward`."""
    slopes = _harmonics_with_slopes(units, l_max)[1][:, _sources(l_max, repeated)]
    return np.einsum("zm,zmc->zc", grad_harmonics, slopes)


# --- two-body embedding -----------------------------------------------------------------------------------------------


def bessel_forward(
    embedding: BesselEmbedding, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """h (Z, D) = concat(C[t_i], N[t_j]) * (b @ basis_linear),  b_n = w_n sinc(w_n x) u_p(x).

    x (Z,) = d / cutoff; types (Z,) of centre and neighbour; sinc(y) = sin(pi y) / (pi y). With constants, u_p(x) and 1
    follow the b_n.
    """
    frequencies = _frequencies(embedding, center_types, neighbor_types)
    waves = frequencies * np.sinc(frequencies * x[:, None])
    cutoff = cutoff_forward(x, embedding.cutoff_exponent)[:, None]
    basis = waves * cutoff
    if embedding.with_constants:
        basis = np.hstack([basis, cutoff, np.ones_like(cutoff)])
    return _pair_embedding(embedding, center_types, neighbor_types) * (basis @ embedding.basis_linear)


def bessel_backward(
    grad_h: np.ndarray, embedding: BesselEmbedding, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """dE/dx (Z,);  d sinc(y)/dy = (cos(pi y) - sinc(y)) / y."""
    grad_basis = (grad_h * _pair_embedding(embedding, center_types, neighbor_types)) @ embedding.basis_linear.T
    grad_cutoff = np.zeros_like(x)
    if embedding.with_constants:
        grad_basis, grad_cutoff = grad_basis[:, :-2], grad_basis[:, -2]
    frequencies = _frequencies(embedding, center_types, neighbor_types)
    phase = frequencies * x[:, None]
    waves = frequencies * np.sinc(phase)
    wave_slopes = frequencies**2 * (np.cos(np.pi * phase) - np.sinc(phase)) / phase
    cutoff = cutoff_forward(x, embedding.cutoff_exponent)
    grad_cutoff = grad_cutoff + (grad_basis * waves).sum(axis=1)
    through_cutoff = cutoff_backward(grad_cutoff, x, embedding.cutoff_exponent)
    return (grad_basis * wave_slopes).sum(axis=1) * cutoff + through_cutoff


def _frequencies(embedding: BesselEmbedding, center_types: np.ndarray, neighbor_types: np.ndarray) -> np.ndarray:
    """w_n: (num_bessels,), or (Z, num_bessels) where each pair of types has its own."""
    if embedding.frequencies.ndim == 1:
        return embedding.frequencies
    return embedding.frequencies[center_types, neighbor_types]


def _pair_embedding(embedding: BesselEmbedding, center_types: np.ndarray, neighbor_types: np.ndarray) -> np.ndarray:
    """concat(C[t_i], N[t_j]): (Z, D)."""
    return np.concatenate([embedding.center_types[center_types], embedding.neighbor_types[neighbor_types]], axis=1)


def _spline_phase(embedding: SplineEmbedding, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Angle 2 pi (x - lower_m) / width, clamped to the bump's support (Z, num_splines), and 2 pi / width."""
    num_splines = embedding.weights.shape[-1]
    lower = (np.arange(num_splines) - embedding.span) / num_splines
    width = (embedding.span + 1) / num_splines
    wave_number = 2.0 * np.pi / width
    return wave_number * (np.clip(x[:, None], lower, lower + width) - lower), wave_number


def spline_forward(
    embedding: SplineEmbedding, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """h (Z, D), h_c = sum_m weights[t_i, t_j, c, m] B_m(x), bumps B = (1 - cos(phase))^2 / 4."""
    phase, _ = _spline_phase(embedding, x)
    bumps = 0.25 * (1.0 - np.cos(phase)) ** 2
    return np.einsum("zcm,zm->zc", embedding.weights[center_types, neighbor_types], bumps)


def spline_backward(
    grad_h: np.ndarray, embedding: SplineEmbedding, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """dE/dx (Z,); outside a bump's support the clamped phase makes its sine zero."""
    phase, wave_number = _spline_phase(embedding, x)
    slopes = 0.5 * (1.0 - np.cos(phase)) * np.sin(phase) * wave_number
    return np.einsum("zc,zcm,zm->z", grad_h, embedding.weights[center_types, neighbor_types], slopes)


def radial_forward(
    embedding: BesselEmbedding | SplineEmbedding, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """Two-body embedding h (Z, D) of either kind."""
    if isinstance(embedding, BesselEmbedding):
        return bessel_forward(embedding, x, center_types, neighbor_types)
    return spline_forward(embedding, x, center_types, neighbor_types)


def radial_backward(
    grad_h: np.ndarray,
    embedding: BesselEmbedding | SplineEmbedding,
    x: np.ndarray,
    center_types: np.ndarray,
    neighbor_types: np.ndarray,
) -> np.ndarray:
    """dE/dx (Z,) of either kind."""
    if isinstance(embedding, BesselEmbedding):
        return bessel_backward(grad_h, embedding, x, center_types, neighbor_types)
    return spline_backward(grad_h, embedding, x, center_types, neighbor_types)
