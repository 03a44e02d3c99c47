"""Wigner 3j symbols of the real harmonics: known values, orthogonality, and agreement with the harmonics themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from allegro_sim.model.reference_geometry import spherical_harmonics_forward
from allegro_sim.model.wigner import clebsch_gordan, product_coefficients, wigner_3j

L_MAX = 6
# Sums of up to 13 x 13 products of numbers below 1, each right to 1e-16.
ROUNDING = 1e-14


def _triples(l_max):
    for l1, l2 in itertools.product(range(l_max + 1), repeat=2):
        for l3 in range(abs(l1 - l2), min(l1 + l2, l_max) + 1):
            yield l1, l2, l3


def test_orthogonality_up_to_degree_six():
    """sum_{a,b} W[a,b,c] W'[a,b,c'] = delta_{l l'} delta_{c c'} / (2 l + 1)."""
    for l1, l2 in itertools.product(range(L_MAX + 1), repeat=2):
        degrees = range(abs(l1 - l2), l1 + l2 + 1)
        rows = np.concatenate([product_coefficients(l1, l2, l3).reshape(-1, 2 * l3 + 1) for l3 in degrees], axis=1)
        assert rows.shape[0] == rows.shape[1]
        assert np.abs(rows.T @ rows - np.eye(len(rows))).max() < ROUNDING


def test_norm_is_one():
    for triple in _triples(L_MAX):
        assert abs(np.linalg.norm(wigner_3j(*triple)) - 1.0) < ROUNDING


def test_low_degrees_are_the_dot_and_the_cross_product():
    assert wigner_3j(0, 0, 0).item() == 1.0
    np.testing.assert_allclose(wigner_3j(1, 1, 0)[:, :, 0], np.eye(3) / math.sqrt(3.0), rtol=0, atol=ROUNDING)
    cross = np.zeros((3, 3, 3))
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[a, b, c], cross[b, a, c] = 1.0, -1.0
    np.testing.assert_allclose(wigner_3j(1, 1, 1), cross / math.sqrt(6.0), rtol=0, atol=ROUNDING)


def test_products_of_harmonics_couple_to_harmonics():
    """For l1 + l2 + l3 even, W contracted with Y_l1(n) and Y_l2(n) is a multiple of Y_l3(n): the complex harmonics'
    multiple <l1 0 l2 0 | l3 0> times e3nn's phase i^(l1 + l2 - l3). For an odd sum it is zero."""
    directions = np.random.default_rng(0).standard_normal((20, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    harmonics = spherical_harmonics_forward(directions, 4)
    part = [harmonics[:, degree**2 : (degree + 1) ** 2] for degree in range(5)]
    for l1, l2, l3 in _triples(4):
        coupled = np.einsum("abc,za,zb->zc", wigner_3j(l1, l2, l3), part[l1], part[l2])
        if (l1 + l2 + l3) % 2:
            assert np.abs(coupled).max() < 1e-13
            continue
        parallel = clebsch_gordan(l1, 0, l2, 0, l3, 0) * (-1) ** ((l1 + l2 - l3) // 2)
        factor = math.sqrt((2 * l1 + 1) * (2 * l2 + 1)) / (2 * l3 + 1) * parallel
        np.testing.assert_allclose(coupled, factor * part[l3], rtol=0, atol=1e-13)


def test_known_clebsch_gordan_coefficients():
    assert clebsch_gordan(1, 1, 1, -1, 0, 0) == pytest.approx(1 / math.sqrt(3), abs=ROUNDING)
    assert clebsch_gordan(1, 0, 1, 0, 2, 0) == pytest.approx(math.sqrt(2 / 3), abs=ROUNDING)
    assert clebsch_gordan(2, 1, 1, 0, 2, 1) == pytest.approx(math.sqrt(1 / 6), abs=ROUNDING)
    assert clebsch_gordan(1, 0, 1, 0, 1, 0) == 0.0
    assert clebsch_gordan(1, 1, 1, 1, 1, 1) == 0.0


def test_degrees_that_do_not_couple_are_an_error():
    for triple in ((1, 1, 3), (0, 1, 0), (-1, 0, 1)):
        with pytest.raises(ValueError, match="do not couple"):
            wigner_3j(*triple)
