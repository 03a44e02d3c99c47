"""The real spherical harmonics: e3nn's formulas up to degree 3, normalisation and slopes at any degree."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.model.reference_geometry import (
    lengths_backward,
    lengths_forward,
    spherical_harmonics_backward,
    spherical_harmonics_forward,
)

L_MAX = 8


@pytest.fixture(scope="module")
def vectors():
    """Random vectors, and those along the axes, where angles are not defined."""
    return np.vstack([np.random.default_rng(1).standard_normal((20, 3)), np.eye(3), -2.0 * np.eye(3)])


def test_up_to_degree_three_they_are_e3nns_polynomials(vectors):
    _, units = lengths_forward(vectors)
    x, y, z = units.T
    s = np.sqrt
    second = [
        s(15) * x * z, s(15) * x * y, s(5) * (y**2 - 0.5 * (x**2 + z**2)), s(15) * y * z, s(15) / 2 * (z**2 - x**2),
    ]  # fmt: skip
    third = [
        s(42) / 6 * (second[0] * z + second[4] * x),
        s(7) * second[0] * y,
        s(168) / 8 * (4 * y**2 - x**2 - z**2) * x,
        s(7) / 2 * y * (2 * y**2 - 3 * (x**2 + z**2)),
        s(168) / 8 * z * (4 * y**2 - x**2 - z**2),
        s(7) * second[4] * y,
        s(42) / 6 * (second[4] * z - second[0] * x),
    ]
    expected = np.stack([np.ones_like(x), s(3) * x, s(3) * y, s(3) * z, *second, *third], axis=1)
    np.testing.assert_allclose(spherical_harmonics_forward(units, 3), expected, rtol=0, atol=1e-14)


def test_squares_of_a_degree_sum_to_its_number_of_components(vectors):
    _, units = lengths_forward(vectors)
    harmonics = spherical_harmonics_forward(units, L_MAX)
    for degree in range(L_MAX + 1):
        squares = (harmonics[:, degree**2 : (degree + 1) ** 2] ** 2).sum(axis=1)
        np.testing.assert_allclose(squares, 2 * degree + 1, rtol=1e-12)


def test_components_are_orthogonal_over_the_sphere():
    """Gauss-Legendre in y and equal steps in the angle about y integrate products up to degree 16 exactly."""
    nodes, weights = np.polynomial.legendre.leggauss(L_MAX + 1)
    angles = 2.0 * np.pi * np.arange(2 * L_MAX + 1) / (2 * L_MAX + 1)
    y = np.repeat(nodes, len(angles))
    radius = np.sqrt(1.0 - y**2)
    phi = np.tile(angles, len(nodes))
    harmonics = spherical_harmonics_forward(np.stack([radius * np.sin(phi), y, radius * np.cos(phi)], axis=1), L_MAX)
    average = np.repeat(weights, len(angles)) / (2.0 * len(angles))
    np.testing.assert_allclose((harmonics.T * average) @ harmonics, np.eye((L_MAX + 1) ** 2), rtol=0, atol=1e-13)


def test_slopes_are_the_derivatives_by_the_vector(vectors):
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((len(vectors), (L_MAX + 1) ** 2))

    def energies(vectors):
        return (weights * spherical_harmonics_forward(lengths_forward(vectors)[1], L_MAX)).sum(axis=1)

    lengths, units = lengths_forward(vectors)
    grad_units = spherical_harmonics_backward(weights, units, L_MAX)
    slopes = lengths_backward(np.zeros_like(lengths), grad_units, lengths, units)
    step = 1e-3
    for axis in range(3):
        d = step * np.eye(3)[axis]
        difference = 8 * (energies(vectors + d) - energies(vectors - d)) - (
            energies(vectors + 2 * d) - energies(vectors - 2 * d)
        )
        # Fourth order: h^4/30 times a fifth derivative of up to (l/d)^5 ~ 1e7 for the shortest vector.
        np.testing.assert_allclose(difference / (12 * step), slopes[:, axis], rtol=0, atol=1e-6 * np.abs(slopes).max())
