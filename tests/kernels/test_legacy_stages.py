"""Kernels that only the legacy generation runs, against plain NumPy: factors of edges, bases by pair, gates."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from allegro_sim.kernels.cpu import network, radial
from allegro_sim.model.description import LatentCutoff
from allegro_sim.model.reference_legacy_layers import latent_cutoff_backward, latent_cutoff_forward

COUNT, LENGTH = 37, 48


@numba.njit
def _factors(factors, slopes, scratch, kinds, parameters, scales, pairs, lengths, inverse_cutoffs, count):
    radial.edge_factors(factors, slopes, scratch, kinds, parameters, scales, pairs, lengths, inverse_cutoffs, count)


@numba.njit
def _pair_basis(basis, slopes, frequencies, pairs, cutoff, cutoff_slopes, x, count):
    radial.pair_bessel_basis(basis, slopes, frequencies, pairs, cutoff, cutoff_slopes, x, count)
    radial.constant_functions(basis, slopes, cutoff, cutoff_slopes, count)


@numba.njit
def _gates(features, factors, slopes, result, width):
    """Rows of 0 go to 1 times their factor, are added to 2, and dotted with 1 for the slope."""
    rows, size = len(factors), len(factors) * width
    network.gate(features, size, width, 0, width, factors, 0, rows, width, False)
    network.gate(features, 2 * size, width, 0, width, factors, 0, rows, width, True)
    network.gate_slope(result, features, 0, width, size, width, slopes, 0, rows, width, False)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_factors_of_edges(dtype):
    rng = np.random.default_rng(0)
    lengths = np.append(np.sort(rng.uniform(0.5, 4.4, COUNT - 1)), 3.0)  # one stands at a radius
    padded = np.ones(LENGTH)
    padded[:COUNT] = lengths
    pairs = rng.integers(0, 4, LENGTH)
    scales = rng.uniform(0.5, 2.0, 4)
    kinds = np.array([radial.POLYNOMIAL, radial.COSINE, radial.INSIDE, radial.SCALED, radial.UNITY, radial.OUTSIDE])
    parameters = np.array([[4.0, 5.0], [3.5, 0.7], [3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    factors, slopes = np.full((6, LENGTH), np.nan, dtype), np.full((6, LENGTH), np.nan)
    inverse = np.full(LENGTH, 1.0 / 4.5)
    _factors(factors, slopes, np.empty((3, LENGTH)), kinds, parameters, scales, pairs, padded, inverse, COUNT)
    # float32 results are rounded once; in float64 powers by exp and log carry some ten roundings.
    tolerance = 1e-13 if dtype == np.float64 else 1e-7
    for row, kind in ((0, "polynomial"), (1, "cosine")):
        cutoff = LatentCutoff(kind, parameters[row, 1], np.array([parameters[row, 0]]))
        assert np.abs(factors[row, :COUNT] - latent_cutoff_forward(cutoff, 0, lengths)).max() < tolerance
        by_length = latent_cutoff_backward(np.ones(COUNT), cutoff, 0, lengths)
        assert np.abs(slopes[row, :COUNT] - 4.5 * by_length).max() < 1e-12
    assert np.array_equal(factors[2, :COUNT], lengths < 3.0)
    assert np.array_equal(factors[3, :COUNT], scales[pairs[:COUNT]].astype(dtype))
    assert (factors[4, :COUNT] == 1.0).all()
    assert np.array_equal(factors[5, :COUNT], lengths >= 3.0)
    assert not slopes[2:, :COUNT].any()
    assert np.isnan(factors[:, COUNT:]).all()


def test_bessel_functions_of_each_pair_of_types_and_constants():
    rng = np.random.default_rng(1)
    frequencies, pairs = rng.uniform(0.8, 5.2, (4, 5)), rng.integers(0, 4, COUNT)
    x, cutoff, cutoff_slopes = rng.uniform(0.1, 0.99, (3, COUNT))
    basis, slopes = np.empty((7, COUNT)), np.empty((7, COUNT))
    _pair_basis(basis, slopes, frequencies, pairs, cutoff, cutoff_slopes, x, COUNT)
    w = frequencies[pairs].T
    waves = w * np.sinc(w * x)
    assert np.abs(basis[:5] - waves * cutoff).max() < 1e-14
    wave_slopes = (w * np.cos(np.pi * w * x) - waves) / x
    assert np.abs(slopes[:5] - (wave_slopes * cutoff + waves * cutoff_slopes)).max() < 1e-12
    assert np.array_equal(basis[5:], [cutoff, np.ones(COUNT)])
    assert np.array_equal(slopes[5:], [cutoff_slopes, np.zeros(COUNT)])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gates_and_their_slopes(dtype):
    rng = np.random.default_rng(2)
    rows, width = 5, 32
    features = rng.standard_normal((3, rows, width)).astype(dtype)
    before = features.copy()
    factors, slopes, result = rng.uniform(0, 1, rows).astype(dtype), rng.standard_normal(rows), np.full(rows, np.nan)
    _gates(features.reshape(-1), factors, slopes, result, width)
    assert np.array_equal(features[1], factors[:, None] * before[0])
    tolerance = 1e-15 if dtype == np.float64 else 1e-6
    assert np.abs(features[2] - (before[2] + factors[:, None] * before[0])).max() < tolerance
    expected = slopes * (before[0] * features[1]).sum(axis=1, dtype=np.float64)
    assert np.abs(result - expected).max() < 30 * tolerance
