// Real spherical harmonics of any degree, and the gradient of a sum of them; float64.
//
// Y_{l,+-m} = N_lm (d^m P_l / dt^m)(t) {Re, Im}(p + i q)^m,  N_lm^2 = (2l + 1)(2 - delta_m0)(l - m)!/(l + m)!, with
// (q, t, p) = (x, y, z) of the unit vector: kernels/cpu/harmonics.py, e3nn's basis (Geiger & Smidt, arXiv:2207.09453).
// All loops have constant bounds and unroll: nothing is indexed at run time.
#pragma once
#include "common.cuh"

__device__ constexpr double root_of(double value) {  // Newton's iteration from above, until it stops falling
  double root = value > 1.0 ? value : 1.0;
  for (int step = 0; step < 200; ++step) {
    const double next = 0.5 * (root + value / root);
    if (!(next < root)) break;
    root = next;
  }
  return root;
}

struct HarmonicNorms {
  double values[L_MAX + 1][L_MAX + 1];
};

__device__ constexpr HarmonicNorms make_harmonic_norms() {
  HarmonicNorms norms{};
  for (int l = 0; l <= L_MAX; ++l) {
    double ratio = 1.0;  // (l + m)! / (l - m)!
    for (int m = 0; m <= l; ++m) {
      if (m > 0) ratio *= (double)(l + m) * (double)(l - m + 1);
      norms.values[l][m] = root_of((2 * l + 1) * (m == 0 ? 1.0 : 2.0) / ratio);
    }
  }
  return norms;
}

__device__ constexpr double odd_factorial(int m) {  // (2m - 1)!!
  double product = 1.0;
  for (int odd = 2 * m - 1; odd > 1; odd -= 2) product *= odd;
  return product;
}

// d^m P_l / dt^m up the degrees l = m, m + 1, ..
struct LegendreColumn {
  double value, below;
  DEVICE void start(int m) {
    value = odd_factorial(m);
    below = 0.0;
  }
  DEVICE void raise(double t, int l, int m) {  // from degree l - 1 to l
    const double next = ((2.0 * l - 1.0) / (l - m)) * (t * value) - ((l + m - 1.0) / (l - m)) * below;
    below = value;
    value = next;
  }
};

// values[a] = Y_a of the unit vector (q, t, p) (overwrites).
DEVICE void harmonics_of(double (&values)[HARMONICS], double q, double t, double p) {
  constexpr HarmonicNorms norms = make_harmonic_norms();
  double real = 1.0, imaginary = 0.0;  // (p + i q)^m
#pragma unroll
  for (int m = 0; m <= L_MAX; ++m) {
    LegendreColumn column;
    column.start(m);
#pragma unroll
    for (int l = m; l <= L_MAX; ++l) {
      if (l > m) column.raise(t, l, m);
      const double radial = norms.values[l][m] * column.value;
      values[l * l + l + m] = radial * real;
      if (m > 0) values[l * l + l - m] = radial * imaginary;
    }
    const double next = p * real - q * imaginary;
    imaginary = p * imaginary + q * real;
    real = next;
  }
}

// (by_q, by_t, by_p) = sum over a > 0 of slopes[a] dY_a/d(q, t, p) (overwrites). Y is the polynomial above: only the
// part along the sphere has a meaning.
DEVICE void harmonics_gradient(
    double& by_q, double& by_t, double& by_p, const double (&slopes)[HARMONICS], double q, double t, double p) {
  constexpr HarmonicNorms norms = make_harmonic_norms();
  by_q = by_t = by_p = 0.0;
  double real = 1.0, imaginary = 0.0, real_before = 0.0, imaginary_before = 0.0;  // the powers m and m - 1
#pragma unroll
  for (int m = 0; m <= L_MAX; ++m) {
    // Sums over l of slopes N_lm times this column and times its derivative, for Re and Im.
    double cosine = 0.0, sine = 0.0, cosine_by_t = 0.0, sine_by_t = 0.0;
    LegendreColumn column, derivative;
    column.start(m);
    derivative.start(m + 1);
#pragma unroll
    for (int l = m; l <= L_MAX; ++l) {
      if (l == 0) continue;
      if (l > m) column.raise(t, l, m);
      if (l > m + 1) derivative.raise(t, l, m + 1);
      const double plus = norms.values[l][m] * slopes[l * l + l + m];
      cosine += plus * column.value;
      if (l > m) cosine_by_t += plus * derivative.value;
      if (m > 0) {
        const double minus = norms.values[l][m] * slopes[l * l + l - m];
        sine += minus * column.value;
        if (l > m) sine_by_t += minus * derivative.value;
      }
    }
    by_t += cosine_by_t * real + sine_by_t * imaginary;
    by_p += m * (cosine * real_before + sine * imaginary_before);
    by_q += m * (sine * real_before - cosine * imaginary_before);
    real_before = real;
    imaginary_before = imaginary;
    real = p * real_before - q * imaginary_before;
    imaginary = p * imaginary_before + q * real_before;
  }
}
