// Activation functions with their slopes; the same functions as kernels/cpu/activations.py.
//
// silu x s(x), s the logistic function; mish x tanh(softplus(x)); gelu x Phi(x), Phi the normal distribution function;
// ssp softplus(x) - ln 2; tanh; sigmoid s(x); softplus ln(1 + e^x). float: every step within 2 units in the last place.
#pragma once
#include "common.cuh"

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float log_of_one_plus(float x) { return log1pf(x); }
DEVICE double log_of_one_plus(double x) { return log1p(x); }
DEVICE float error_function(float x) { return erff(x); }
DEVICE double error_function(double x) { return erf(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE double hyperbolic_tangent(double x) { return tanh(x); }
DEVICE float reciprocal(float x) { return __fdividef(1.0f, x); }  // 0 from 2^126 on, where a quotient hardly differs
DEVICE double reciprocal(double x) { return 1.0 / x; }

// softplus(x) and its slope s(x)
DEVICE void softplus(REAL x, REAL& value, REAL& slope) {
  const REAL decay = exponential(x > REAL(0) ? -x : x);
  const REAL share = reciprocal(REAL(1) + decay);
  value = (x > REAL(0) ? x : REAL(0)) + log_of_one_plus(decay);
  slope = x > REAL(0) ? share : decay * share;
}

// value = f(x), slope = f'(x)
template <int FUNCTION> DEVICE void activate(REAL x, REAL& value, REAL& slope) {
  if constexpr (FUNCTION == SILU) {
    const REAL share = reciprocal(REAL(1) + exponential(-x));
    value = x * share;
    slope = multiply_add(value, REAL(1) - share, share);
  } else if constexpr (FUNCTION == MISH) {
    // With e = e^x, n = e (e + 2): tanh(softplus(x)) = n / (n + 2), which is 1 long before x = 40.
    const REAL power = exponential(x < REAL(40) ? x : REAL(40));
    const REAL n = power * (power + REAL(2));
    const REAL inverse = reciprocal(n + REAL(2));
    const REAL gate = n * inverse;
    value = x * gate;
    slope = multiply_add(x, REAL(4) * (power * inverse) * ((power + REAL(1)) * inverse), gate);
  } else if constexpr (FUNCTION == GELU) {
    const REAL phi = REAL(0.5) * (REAL(1) + error_function(x * REAL(0.70710678118654752440)));
    value = x * phi;
    slope = multiply_add(x * REAL(0.39894228040143267794), exponential(REAL(-0.5) * x * x), phi);
  } else if constexpr (FUNCTION == SSP) {
    softplus(x, value, slope);
    value -= REAL(0.69314718055994530942);
  } else if constexpr (FUNCTION == TANH) {
    value = hyperbolic_tangent(x);
    slope = REAL(1) - value * value;
  } else if constexpr (FUNCTION == SIGMOID) {
    value = reciprocal(REAL(1) + exponential(-x));
    slope = value * (REAL(1) - value);
  } else if constexpr (FUNCTION == SOFTPLUS) {
    softplus(x, value, slope);
  } else {
    value = x;
    slope = REAL(1);
  }
}
