"""Our elementary functions: accurate to the stated units in the last place, the same bits at every place of a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allegro_sim.kernels.cpu import elementary
from allegro_sim.kernels.cpu.compilation import kernel


@kernel(cache=False)
def _exp(x, y):
    for n in range(len(x)):
        y[n] = elementary.exp(x[n])


@kernel(cache=False)
def _expm1_negative(x, y):
    for n in range(len(x)):
        y[n] = elementary.expm1_negative(x[n])


@kernel(cache=False)
def _log(x, y):
    for n in range(len(x)):
        y[n] = elementary.log(x[n])


@kernel(cache=False)
def _log1p_unit(x, y):
    for n in range(len(x)):
        y[n] = elementary.log1p_unit(x[n])


@kernel(cache=False)
def _sinpi(x, y):
    for n in range(len(x)):
        y[n] = elementary.sincospi(x[n])[0]


@kernel(cache=False)
def _cospi(x, y):
    for n in range(len(x)):
        y[n] = elementary.sincospi(x[n])[1]


@kernel(cache=False)
def _sin(x, y):
    for n in range(len(x)):
        y[n] = elementary.sincos(x[n])[0]


@kernel(cache=False)
def _cos(x, y):
    for n in range(len(x)):
        y[n] = elementary.sincos(x[n])[1]


@kernel(cache=False)
def _tanh(x, y):
    for n in range(len(x)):
        y[n] = elementary.tanh(x[n])


@kernel(cache=False)
def _erf(x, y):
    for n in range(len(x)):
        y[n] = elementary.erf(x[n])


_PI = np.longdouble("3.14159265358979323846264338327950288")


def _exact_erf(x):
    return np.array([math.erf(float(value)) for value in x], dtype=np.longdouble)


# name: (kernel, exact function in extended precision, low, high, units in the last place allowed, dtypes)
BOTH, DOUBLE = (np.float32, np.float64), (np.float64,)
FUNCTIONS = {
    "exp": (_exp, np.exp, -80.0, 80.0, 1.2, BOTH),
    "expm1_negative": (_expm1_negative, np.expm1, -30.0, 0.0, 2.0, BOTH),
    "log": (_log, np.log, 1e-12, 40.0, 1.0, DOUBLE),
    "log near 1": (_log, np.log, 0.6, 1.6, 1.0, DOUBLE),
    "log1p_unit": (_log1p_unit, np.log1p, 0.0, 1.0, 2.0, BOTH),
    # Reduced exactly, so the result is accurate relative to itself also next to a zero.
    "sinpi": (_sinpi, lambda x: np.sin(_PI * (x - 2 * np.rint(x / 2))), -40.0, 40.0, 1.5, DOUBLE),
    "cospi": (_cospi, lambda x: np.cos(_PI * (x - 2 * np.rint(x / 2))), -40.0, 40.0, 1.5, DOUBLE),
    "sin": (_sin, np.sin, -1e4, 1e4, 2.0, DOUBLE),
    "cos": (_cos, np.cos, -1e4, 1e4, 2.0, DOUBLE),
    "tanh": (_tanh, np.tanh, -12.0, 12.0, 3.0, BOTH),
    "tanh near 0": (_tanh, np.tanh, -0.3, 0.3, 3.0, BOTH),
    "erf": (_erf, _exact_erf, -7.0, 7.0, 4.0, BOTH),
    "erf near 0": (_erf, _exact_erf, -0.6, 0.6, 4.0, BOTH),
}
CASES = [(name, dtype) for name, entry in FUNCTIONS.items() for dtype in entry[-1]]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_error_in_units_of_the_last_place(name, dtype):
    function, exact, low, high, bound, _ = FUNCTIONS[name]
    x = np.random.default_rng(1).uniform(low, high, 20001).astype(dtype)
    y = np.empty_like(x)
    function(x, y)
    expected = exact(x.astype(np.longdouble))
    # Next to the zeros of sine and cosine the reference itself is limited: pi has 64 bits there.
    floor = 1e-17 if "pi" in name else 0.0
    error = np.abs(y - expected) - floor
    assert np.max(error / np.spacing(np.abs(expected).astype(dtype))) <= bound


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_bits_do_not_depend_on_the_place_in_the_loop(name, dtype):
    function, _, low, high, _, _ = FUNCTIONS[name]
    x = np.random.default_rng(2).uniform(low, high, 103).astype(dtype)
    whole = np.empty_like(x)
    function(x, whole)
    alone = np.empty_like(x)
    for n in range(len(x)):  # one element at a time runs in a loop's scalar tail
        function(x[n : n + 1], alone[n : n + 1])
    assert np.array_equal(whole, alone)
    shifted = np.empty_like(x)
    function(x[5:], shifted[5:])
    assert np.array_equal(whole[5:], shifted[5:])


@pytest.mark.parametrize("dtype", BOTH)
def test_limits_and_nan(dtype):
    x = np.array([-1e4, 1e4, np.nan], dtype)
    y = np.empty_like(x)
    _exp(x, y)
    assert 0.0 <= y[0] < 1e-30
    assert y[1] > 1e30
    assert np.isnan(y[2])
    for function in (_tanh, _erf):
        function(x, y)
        assert np.array_equal(y[:2], [-1.0, 1.0])
        assert np.isnan(y[2])


def test_log_of_nan():
    y = np.empty(1)
    _log(np.array([np.nan]), y)
    assert np.isnan(y[0])


def test_exact_values():
    y = np.empty(4)
    _sinpi(np.array([0.0, 0.5, 1.0, 1.5]), y)
    assert np.array_equal(np.abs(y), [0, 1, 0, 1])
    _log(np.array([1.0, 2.0, 0.5, 4.0]), y)
    assert np.array_equal(y, np.log([1.0, 2.0, 0.5, 4.0]))
