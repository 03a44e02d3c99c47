"""Kernels of single stages against plain NumPy: activations, radial functions, harmonics, and sums of lanes."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.kernels.cpu import activations, edges, harmonics, radial, simd
from allegro_sim.kernels.cpu.compilation import kernel
from allegro_sim.model import reference_geometry
from allegro_sim.model.description import ACTIVATIONS, BesselEmbedding, SplineEmbedding
from allegro_sim.model.reference_layers import ACTIVATION_FUNCTIONS

COUNT = 37


@kernel(cache=False)
def _activate(code, features, slopes):
    activations.activate(code, features, 0, slopes, 0, len(features))


@kernel(cache=False)
def _cutoff(values, slopes, x, exponent):
    radial.polynomial_cutoff(values, slopes, x, exponent, len(x))


@kernel(cache=False)
def _bessel(basis, slopes, frequencies, cutoff, cutoff_slopes, x):
    radial.bessel_basis(basis, slopes, frequencies, cutoff, cutoff_slopes, x, len(x))


@kernel(cache=False)
def _spline(basis, slopes, span, x):
    radial.spline_basis(basis, slopes, span, x, len(x))


@kernel(cache=False)
def _harmonics(values, slopes, scratch, units, norms, count):
    harmonics.harmonics(values, slopes, scratch, units, norms, count)


@kernel(cache=False)
def _sum_lanes(result, values):
    result[0] = simd.sum_lanes(simd.load(values, 0))


@kernel(cache=False)
def _sum_eight(result, values):
    width = values.shape[1]
    total = simd.sum_lanes_of_eight(
        simd.load(values, 0),
        simd.load(values, width),
        simd.load(values, 2 * width),
        simd.load(values, 3 * width),
        simd.load(values, 4 * width),
        simd.load(values, 5 * width),
        simd.load(values, 6 * width),
        simd.load(values, 7 * width),
    )
    simd.store(result, 0, total)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_activation_and_slope(name, dtype):
    x = np.concatenate([np.linspace(-12, 12, 4000), [-90.0, 90.0, -800.0, 800.0, 0.0], np.zeros(11)]).astype(dtype)
    function, slope = ACTIVATION_FUNCTIONS[name]
    values, slopes = x.copy(), np.empty_like(x)
    _activate(activations.CODES[name], values, slopes)
    exact = x.astype(np.float64)
    # A few roundings of the largest term; the reference itself cancels where a function falls to zero.
    bound = 8 * np.finfo(dtype).eps
    assert np.all(np.abs(values - function(exact)) <= bound * np.maximum(1, np.abs(exact)))
    assert np.all(np.abs(slopes - slope(exact)) <= bound * np.maximum(1, np.abs(exact)))
    if name not in ("sigmoid", "softplus"):
        assert values[4004] == 0.0  # exactly: an edge at its cutoff contributes nothing


def test_cutoff_and_its_slope():
    x = np.linspace(0.02, 1.2, COUNT)
    values, slopes = np.empty(COUNT), np.empty(COUNT)
    for exponent in (2.0, 6.0, 7.5):
        _cutoff(values, slopes, x, exponent)
        # Coefficients up to 60 cancel.
        assert np.allclose(values, reference_geometry.polynomial_cutoff_forward(x, exponent), rtol=0, atol=1e-13)
        expected = reference_geometry.polynomial_cutoff_backward(np.ones(COUNT), x, exponent)
        assert np.allclose(slopes, expected, rtol=1e-12, atol=1e-13)


def test_bessel_basis_and_slopes():
    x = np.linspace(0.05, 1.0, COUNT)
    embedding = BesselEmbedding(np.array([1.0, 2.0, 3.3]), 6.0, np.ones((1, 2)), np.ones((1, 1)), np.eye(3))
    types = np.zeros(COUNT, np.int64)
    cutoff, cutoff_slopes = np.empty(COUNT), np.empty(COUNT)
    basis, slopes = np.empty((3, COUNT)), np.empty((3, COUNT))
    _cutoff(cutoff, cutoff_slopes, x, 6.0)
    _bessel(basis, slopes, embedding.frequencies, cutoff, cutoff_slopes, x)
    assert np.allclose(basis, reference_geometry.bessel_forward(embedding, x, types, types).T, rtol=0, atol=1e-13)
    for n in range(3):
        gradient = np.tile(np.eye(3)[n], (COUNT, 1))
        expected = reference_geometry.bessel_backward(gradient, embedding, x, types, types)
        assert np.allclose(slopes[n], expected, rtol=0, atol=1e-11)


def test_spline_basis_and_slopes():
    x, types = np.linspace(0.0, 1.0, COUNT), np.zeros(COUNT, np.int64)
    embedding = SplineEmbedding(np.eye(6)[None, None], span=3)
    basis, slopes = np.empty((6, COUNT)), np.empty((6, COUNT))
    _spline(basis, slopes, 3.0, x)
    assert np.allclose(basis, reference_geometry.spline_forward(embedding, x, types, types).T, rtol=0, atol=1e-14)
    for m in range(6):
        gradient = np.tile(np.eye(6)[m], (COUNT, 1))
        expected = reference_geometry.spline_backward(gradient, embedding, x, types, types)
        assert np.allclose(slopes[m], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 5])
def test_harmonics_and_slopes_along_the_sphere(l_max):
    rng = np.random.default_rng(l_max)
    units = rng.standard_normal((COUNT, 3))
    units[:6] = np.concatenate([np.eye(3), -np.eye(3)])
    units /= np.linalg.norm(units, axis=1)[:, None]
    size = (l_max + 1) ** 2
    values, slopes = np.empty((size, COUNT)), np.empty((3 * size, COUNT))
    scratch = np.full((harmonics.scratch_rows(l_max), COUNT), np.nan)
    _harmonics(values, slopes, scratch, np.ascontiguousarray(units.T), harmonics.harmonic_norms(l_max), COUNT)
    expected = reference_geometry.spherical_harmonics_forward(units, l_max)
    assert np.allclose(values, expected.T, rtol=0, atol=1e-13 * 10**l_max)
    for component in range(size):
        gradient = np.tile(np.eye(size)[component], (COUNT, 1))
        expected = reference_geometry.spherical_harmonics_backward(gradient, units, l_max)
        ours = slopes[3 * component : 3 * component + 3].T
        difference = ours - expected
        difference -= (difference * units).sum(axis=1)[:, None] * units
        assert np.abs(difference).max() < 1e-12 * 10**l_max


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_lanes(dtype):
    values = np.random.default_rng(3).integers(-9, 9, (8, simd.lanes(dtype))).astype(dtype)
    result = np.full(simd.lanes(dtype), np.nan, dtype)
    _sum_lanes(result, values)
    assert result[0] == values[0].sum()
    _sum_eight(result, values)
    assert np.array_equal(result[:8], values.sum(axis=1))
    assert not result[8:].any()


def test_chunks_are_runs_of_whole_centres():
    lengths = np.array([0, 3, 4, 0, 20, 1, 1, 1, 0, 0])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    chunks = np.zeros(len(offsets), np.int64)
    count = edges.plan_chunks(chunks, offsets, 8, 4)
    assert chunks[: count + 1].tolist() == [0, 4, 5, 9, 10]
    assert edges.plan_chunks(chunks, np.zeros(1, np.int64), 8, 4) == 0
