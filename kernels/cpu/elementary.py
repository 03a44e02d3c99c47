"""Elementary functions of our own, for kernels: exp, expm1, log, log1p_unit, sincospi, sincos, tanh, erf.

Each is branch-free arithmetic (see `expressions`): it takes float32, float64 or vectors of them, vectorises in loops,
and gives an argument the same bits wherever it stands, in a vector body, a scalar tail or on another x86-64 or
AArch64 machine (libm's functions and their vector versions do not). Errors are one to four units in the last place,
stated at each function and held by tests/kernels/test_elementary.py. A NaN gives a NaN.

Methods are the classical ones (Cody and Waite, Software Manual for the Elementary Functions, 1980): reduction of the
argument with a constant split in two or three parts, and a polynomial. Polynomials are Taylor series cut where the
rest falls below the rounding, but for erf, whose coefficients are a Chebyshev fit computed with 50 digits.
"""

from __future__ import annotations

from math import factorial

from .expressions import (
    Expression,
    absolute,
    clamp,
    copysign,
    fma,
    horner,
    inline,
    low_bit,
    round_shifted,
    scale_by_power,
    select,
    split_exponent,
)

_LOG2_E = 1.4426950408889634
_LN2_SINGLE = (0.693145751953125, 1.4286068203094173e-06)
_LN2_DOUBLE = (0.6931471803691238, 1.9082149292705877e-10)
_SQRT_HALF = 0.7071067811865476
_PI = (3.141592653589793, 1.2246467991473532e-16)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
# Taylor coefficients of sin(pi r)/r (without the first) and cos(pi r) in r^2.
_SINPI = (
    -5.16771278004997,
    2.5501640398773455,
    -0.5992645293207921,
    0.08214588661112823,
    -0.0073704309457143504,
    0.00046630280576761255,
    -2.1915353447830217e-05,
    7.952054001475513e-07,
)
_COSPI = (
    1.0,
    -4.934802200544679,
    4.0587121264167685,
    -1.3352627688545895,
    0.2353306303588932,
    -0.02580689139001406,
    0.0019295743094039231,
    -0.0001046381049248457,
    4.303069587032947e-06,
    -1.3878952462213771e-07,
)
# (2 + x) exp(x^2) erfc(x) for 0.5 <= x <= 6 in y = (1/(2 + x) - 0.2625)/0.1375, errors 9e-18 and 1e-9.
_ERFC_DOUBLE = (
    1.0566438385555788,
    0.3934536421654098,
    0.08609390890467333,
    0.005321673670763709,
    -0.0021056675234895237,
    -0.00027744562104869345,
    9.237234698131544e-05,
    8.694092053693883e-06,
    -5.55200141681222e-06,
    1.5033892914163202e-07,
    3.107295797009007e-07,
    -6.14570251804623e-08,
    -8.931637234719404e-09,
    6.142991652208145e-09,
    -7.592782572003358e-10,
    -2.9132155803325097e-10,
    1.2961407385749156e-10,
    -1.7486163096737312e-12,
    -7.294689999575328e-12,
)
_ERFC_SINGLE = (
    1.0566438385555788,
    0.39345364105651326,
    0.08609389875900803,
    0.005321690165556628,
    -0.002105531888174155,
    -0.0002775218342130483,
    9.188057531408402e-05,
    8.849697629108296e-06,
    -4.885644227652104e-06,
)


def _reduce_exp(x: Expression) -> tuple[Expression, Expression, Expression]:
    """x = n ln2 + r: (expm1(r), n as a float, n in low bits). The argument is clamped so that 2^n stays normal."""
    x = clamp(x, -87.0, 88.0) if x.is_single else clamp(x, -708.0, 709.0)
    n, shifted = round_shifted(x, _LOG2_E)
    high, low = _LN2_SINGLE if x.is_single else _LN2_DOUBLE
    r = fma(n, -low, fma(n, -high, x))
    terms = 8 if x.is_single else 14
    tail = horner(r, tuple(1.0 / factorial(k) for k in range(2, terms)))
    return fma(r * r, tail, r), n, shifted


def _exp(x: Expression) -> Expression:
    """e^x, 1.1 ulp. Saturates: beyond about ±708 (float32: -87, 88) it stays at the value there."""
    minus_one, _, shifted = _reduce_exp(x)
    return scale_by_power(1.0 + minus_one, shifted)


def _expm1_negative(x: Expression) -> Expression:
    """e^x - 1 for x <= 0 (meant for it; to x of about 30 in float64, 15 in float32), 2 ulp."""
    minus_one, _, shifted = _reduce_exp(x)
    power = scale_by_power(x.constant(1.0), shifted)
    return fma(power, minus_one, power - 1.0)


def _log(x: Expression) -> Expression:
    """Natural logarithm of a positive normal float64, 1 ulp (NaN for infinity; nothing useful for other numbers)."""
    if x.is_single:
        raise TypeError("elementary.log takes float64 only")
    mantissa, exponent = split_exponent(x, _SQRT_HALF)
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    # log(1 + f) = 2 atanh(s) = f - (f^2/2 - s (f^2/2 + R)),  R = 2 s^2/3 + 2 s^4/5 + ...
    rest = z * horner(z, tuple(2.0 / (2 * k + 3) for k in range(10)))
    half_square = 0.5 * f * f
    high, low = _LN2_DOUBLE
    correction = half_square - fma(s, half_square + rest, exponent * low)
    # Taken apart into bits, a NaN would pass for a number: x - x keeps it.
    return fma(exponent, high, f - correction) + (x - x)


def _log1p_unit(x: Expression) -> Expression:
    """log(1 + x) for 0 <= x <= 1, 2 ulp."""
    s = x / (2.0 + x)
    z = s * s
    terms = 8 if x.is_single else 17
    series = z * horner(z, tuple(2.0 / (2 * k + 3) for k in range(terms)))
    return fma(s, series, 2.0 * s)


def _turn(sine: Expression, cosine: Expression, shifted: Expression) -> tuple[Expression, Expression]:
    """sin and cos of a reduced argument turned by as many quarter turns as the low bits of `shifted` say."""
    odd, half = low_bit(shifted, 0), low_bit(shifted, 1)
    turned_sine, turned_cosine = select(odd, cosine, sine), select(odd, sine, cosine)
    # The cosine changes sign in the second and third quarter: where exactly one of the two bits is set.
    negative = select(odd, select(half, 1.0, turned_sine.constant(-1.0)), select(half, turned_sine.constant(-1.0), 1.0))
    return select(half, -turned_sine, turned_sine), turned_cosine * negative


def _sincospi(x: Expression) -> tuple[Expression, Expression]:
    """(sin(pi x), cos(pi x)) of float64, |x| < 2^50, 1 ulp."""
    if x.is_single:
        raise TypeError("elementary.sincospi takes float64 only")
    n, shifted = round_shifted(x, 2.0)
    r = fma(n, -0.5, x)
    z = r * r
    sine = fma(r, _PI[0], r * fma(z, horner(z, _SINPI), _PI[1]))
    return _turn(sine, horner(z, _COSPI), shifted)


def _sincos(x: Expression) -> tuple[Expression, Expression]:
    """(sin x, cos x) of float64, |x| < 1e6, 2 ulp."""
    if x.is_single:
        raise TypeError("elementary.sincos takes float64 only")
    n, shifted = round_shifted(x, 1.0 / _HALF_PI[0])
    r = x
    for part in _HALF_PI:
        r = fma(n, -part, r)
    z = r * r
    sine = fma(r * z, horner(z, tuple((-1) ** k / factorial(2 * k + 1) for k in range(1, 10))), r)
    cosine = horner(z, tuple((-1) ** k / factorial(2 * k) for k in range(10)))
    return _turn(sine, cosine, shifted)


def _tanh(x: Expression) -> Expression:
    """Hyperbolic tangent, 3 ulp."""
    minus_one = _expm1_negative(-2.0 * absolute(x))
    return copysign(-minus_one / (2.0 + minus_one), x)


def _erf(x: Expression) -> Expression:
    """Error function, 4 ulp (just above |x| = 0.5; elsewhere 2)."""
    size = absolute(x)
    square = x * x
    terms = 7 if x.is_single else 14
    series = horner(square, tuple((-1) ** k * 1.1283791670955126 / (factorial(k) * (2 * k + 1)) for k in range(terms)))
    t = 1.0 / (2.0 + clamp(size, 0.5, 6.0))
    y = (t - 0.2625) * (1.0 / 0.1375)
    fit = horner(y, _ERFC_SINGLE if x.is_single else _ERFC_DOUBLE)
    far = 1.0 - _exp(-square) * t * fit
    return select(size < 0.5, x * series, copysign(far, x))


exp = inline(_exp)
expm1_negative = inline(_expm1_negative)
log = inline(_log)
log1p_unit = inline(_log1p_unit)
sincospi = inline(_sincospi)
sincos = inline(_sincos)
tanh = inline(_tanh)
erf = inline(_erf)
