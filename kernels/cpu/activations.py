"""Activation functions with their slopes, over rows of features.

silu x s(x), s the logistic function; mish x tanh(softplus(x)); gelu x Phi(x), Phi the normal distribution function;
ssp softplus(x) - ln 2; tanh; sigmoid s(x); softplus ln(1 + e^x).
"""

from __future__ import annotations

import math

from .elementary import _erf, _exp, _log1p_unit
from .expressions import Expression, absolute, copysign, fma, inline, select
from .inner import inner_kernel
from .simd import load, store, times

IDENTITY, SILU, MISH, GELU, SSP, TANH, SIGMOID, SOFTPLUS = range(8)
CODES = {
    "identity": IDENTITY,
    "silu": SILU,
    "mish": MISH,
    "gelu": GELU,
    "ssp": SSP,
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "softplus": SOFTPLUS,
}
"""Name of an activation in a model -> its number in a kernel."""

_LN2 = math.log(2.0)


def _logistic(x: Expression) -> Expression:
    return 1.0 / (1.0 + _exp(-x))


def _softplus_value(x: Expression) -> Expression:
    return select(x > 0.0, x, 0.0) + _log1p_unit(_exp(-absolute(x)))


def _tanh_of(x: Expression) -> Expression:
    # An absolute error of one rounding is all a feature needs: no expm1.
    decay = _exp(-2.0 * absolute(x))
    return copysign((1.0 - decay) / (1.0 + decay), x)


def _silu(x: Expression) -> tuple[Expression, Expression]:
    s = _logistic(x)
    value = x * s
    return value, fma(value, 1.0 - s, s)


def _mish(x: Expression) -> tuple[Expression, Expression]:
    gate = _tanh_of(_softplus_value(x))
    return x * gate, fma(x * (1.0 - gate * gate), _logistic(x), gate)


def _gelu(x: Expression) -> tuple[Expression, Expression]:
    phi = 0.5 * (1.0 + _erf(x * math.sqrt(0.5)))
    return x * phi, fma(x * (1.0 / math.sqrt(2.0 * math.pi)), _exp(-0.5 * x * x), phi)


def _ssp(x: Expression) -> tuple[Expression, Expression]:
    return _softplus_value(x) - _LN2, _logistic(x)


def _tanh(x: Expression) -> tuple[Expression, Expression]:
    value = _tanh_of(x)
    return value, 1.0 - value * value


def _sigmoid(x: Expression) -> tuple[Expression, Expression]:
    s = _logistic(x)
    return s, s * (1.0 - s)


def _softplus(x: Expression) -> tuple[Expression, Expression]:
    return _softplus_value(x), _logistic(x)


silu, mish, gelu, ssp = inline(_silu), inline(_mish), inline(_gelu), inline(_ssp)
tanh, sigmoid, softplus = inline(_tanh), inline(_sigmoid), inline(_softplus)


@inner_kernel
def activate(code, features, features_at, slopes, slopes_at, count):
    """features <- f(features), slopes <- f'(features) over `count` elements (overwrites both).

    features, slopes: float arrays of one dtype, from the places `features_at`, `slopes_at`; count: a multiple of
    `simd.lanes`; code: a number of `CODES`.
    """
    for n in range(0, count, 64 // features.itemsize):
        x = load(features, features_at + n)
        if code == SILU:
            value, slope = silu(x)
        elif code == MISH:
            value, slope = mish(x)
        elif code == GELU:
            value, slope = gelu(x)
        elif code == SSP:
            value, slope = ssp(x)
        elif code == TANH:
            value, slope = tanh(x)
        elif code == SIGMOID:
            value, slope = sigmoid(x)
        else:
            value, slope = softplus(x)
        store(features, features_at + n, value)
        store(slopes, slopes_at + n, slope)


@inner_kernel
def multiply(features, features_at, factors, factors_at, count):
    """features *= factors over `count` elements (a multiple of `simd.lanes`) from the given places."""
    for n in range(0, count, 64 // features.itemsize):
        product = times(load(features, features_at + n), load(factors, factors_at + n))
        store(features, features_at + n, product)
