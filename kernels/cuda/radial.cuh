// Radial functions of an edge's length and their slopes: polynomial cutoff, Bessel and spline bases, pair terms.
// float64, x = d / cutoff; equations and sources: kernels/cpu/radial.py.
#pragma once
#include "common.cuh"

static constexpr double PI = 3.14159265358979323846;

// x^n by squaring; n is a constant where it is called, and the loop unrolls.
DEVICE double whole_power(double x, int n) {
  double power = 1.0, square = x;
#pragma unroll
  for (int rest = n; rest > 0; rest >>= 1) {
    if (rest & 1) power *= square;
    square *= square;
  }
  return power;
}

// u_p(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), zero from x = 1 on, and du/dx (overwrites).
DEVICE void polynomial_cutoff(double& value, double& slope, double x, double p) {
  const double a = 0.5 * (p + 1.0) * (p + 2.0), b = p * (p + 2.0), c = 0.5 * p * (p + 1.0);
  const bool whole = p == (double)(int)p && p <= 64.0;
  const double below_power = whole ? whole_power(x, (int)p - 1) : exp((p - 1.0) * log(x));  // x^(p-1)
  const double power = below_power * x;
  const bool inside = x < 1.0;
  value = inside ? 1.0 - power * (a - x * (b - x * c)) : 0.0;
  slope = inside ? -p * a * below_power * (1.0 - x) * (1.0 - x) : 0.0;
}

// The same, or 1 everywhere where p is 0 (overwrites).
DEVICE void cutoff_function(double& value, double& slope, double x, double p) {
  value = 1.0;
  slope = 0.0;
  if (p > 0.0) polynomial_cutoff(value, slope, x, p);
}

#if RADIAL_BESSEL
// b_n(x) = sin(pi w_n x) / (pi x) u(x), given to store(n, b_n, db_n/dx); inverse: 1/x. Frequencies 1, 2, .. BESSELS, the
// usual ones, come from one sine by rotation; any others each from their own. WITH_CONSTANTS: then u(x), and 1.
template <class Store>
DEVICE void radial_basis(double x, double inverse, const double* __restrict__ frequencies, const Store& store) {
  double cutoff, cutoff_slope;
  cutoff_function(cutoff, cutoff_slope, x, CUTOFF_EXPONENT);
  const double scale = inverse * (1.0 / PI);
#if WHOLE_FREQUENCIES
  double sine_1, cosine_1;
  sincospi(x, &sine_1, &cosine_1);
  double sine = sine_1, cosine = cosine_1;
#endif
#pragma unroll
  for (int n = 0; n < BESSELS; ++n) {
#if WHOLE_FREQUENCIES
    const double frequency = n + 1.0;
    if (n > 0) {
      const double next = sine * cosine_1 + cosine * sine_1;
      cosine = cosine * cosine_1 - sine * sine_1;
      sine = next;
    }
#else
    const double frequency = frequencies[n];
    double sine, cosine;
    sincospi(frequency * x, &sine, &cosine);
#endif
    const double wave = sine * scale;
    const double wave_slope = (frequency * cosine - wave) * inverse;
    store(n, wave * cutoff, wave_slope * cutoff + wave * cutoff_slope);
  }
#if WITH_CONSTANTS
  store(BESSELS, cutoff, cutoff_slope);
  store(BESSELS + 1, 1.0, 0.0);
#endif
}
#else
// B_m(x) = (1 - cos(2 pi (x - lower_m) / width))^2 / 4 on its support, given to store(m, B_m, dB_m/dx);
// lower_m = (m - span) / NB, width = (span + 1) / NB.
template <class Store>
DEVICE void radial_basis(double x, double, const double* __restrict__, const Store& store) {
  constexpr double width = (SPLINE_SPAN + 1.0) / NB;
#pragma unroll 1
  for (int m = 0; m < NB; ++m) {
    const double lower = ((double)m - SPLINE_SPAN) / NB;
    const double inside = fmin(fmax(x, lower), lower + width) - lower;
    double sine, cosine;
    sincospi(2.0 * (inside / width), &sine, &cosine);
    const double rise = x == x ? 1.0 - cosine : x;  // fmin and fmax hide a NaN
    store(m, 0.25 * rise * rise, (PI / width) * rise * sine);
  }
}
#endif

#if PAIR_TERM == PAIR_ZBL
// Universal repulsion of a pair, the half of it that is its centre's (eV), and its slope by d (eV/A) (overwrites).
// table: of the pair of types (Z_i^0.23 + Z_j^0.23) / 0.46850, and NT NT behind it K Z_i Z_j / 2. Ziegler, Biersack,
// Littmark (1985).
DEVICE void pair_term(double& energy, double& slope, double d, double inverse_cutoff, const double* table) {
  const double scale = table[0], strength = table[NT * NT];
  double cutoff, cutoff_slope;
  polynomial_cutoff(cutoff, cutoff_slope, d * inverse_cutoff, PAIR_EXPONENT);
  const double q = scale * d;
  const double e0 = 0.02817 * exp(-0.20162 * q), e1 = 0.28022 * exp(-0.40290 * q);
  const double e2 = 0.50986 * exp(-0.94229 * q), e3 = 0.18175 * exp(-3.19980 * q);
  const double psi = (e0 + e1) + (e2 + e3);
  const double psi_slope = -scale * ((0.20162 * e0 + 0.40290 * e1) + (0.94229 * e2 + 3.19980 * e3));
  const double inverse = 1.0 / d;
  const double factor = strength * inverse;
  energy = factor * psi * cutoff;
  slope = factor * ((psi_slope - psi * inverse) * cutoff + psi * cutoff_slope * inverse_cutoff);
}
#elif PAIR_TERM == PAIR_LENNARD_JONES
// Lennard-Jones 12-6 and its relatives, the half of a pair's that is its centre's (eV), and its slope by d (eV/A)
// (overwrites). table: of the pair of types sigma, and NT NT and 2 NT NT behind it the factor of the powers and delta;
// see kernels/cpu/radial.py. Without a cutoff function (PAIR_EXPONENT 0) it ends at the cutoff with a jump.
DEVICE void pair_term(double& energy, double& slope, double d, double inverse_cutoff, const double* table) {
  const double strength = table[NT * NT], delta = table[2 * NT * NT];
  const double inverse = 1.0 / (d - delta), ratio = table[0] * inverse;
#if PAIR_WHOLE_POWER
  const double q = whole_power(ratio, PAIR_WHOLE_POWER);
#else
  const double q = exp(PAIR_POWER * log(ratio));  // NaN where ratio < 0
#endif
  double cutoff, cutoff_slope;
  cutoff_function(cutoff, cutoff_slope, d * inverse_cutoff, PAIR_EXPONENT);
#if PAIR_STYLE == PAIR_ONE_POWER
  energy = strength * q;
  slope = -PAIR_POWER * energy * inverse;
#else
  energy = strength * (q * q - q);
  slope = strength * (PAIR_POWER * q - 2.0 * PAIR_POWER * q * q) * inverse;
#endif
#if PAIR_STYLE == PAIR_REPULSIVE_PART
  energy += 0.5 * strength;
  if (d >= PAIR_END + delta) energy = slope = 0.0;
#endif
  slope = slope * cutoff + energy * (cutoff_slope * inverse_cutoff);
  energy *= cutoff;
}
#endif
