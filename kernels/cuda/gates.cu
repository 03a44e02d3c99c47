// What the legacy generation does to an edge's numbers between MLPs: factors of its length, updates of the scalar
// features by what a latent MLP gives, factors of its pair of types.
#include "radial.cuh"
#include "wide.cu"

enum Gate { POLYNOMIAL_GATE, COSINE_GATE, INSIDE_GATE, OUTSIDE_GATE };

// A factor and its slope by d. POLYNOMIAL: u_p(d / r); COSINE: (1 + cos(pi (d/r - c) / (1 - c))) / 2 between c r and r, 1
// before; INSIDE: 1 where d < r, else 0; OUTSIDE: 0 there, else 1. parameter: p or c.
template <int KIND> DEVICE void gate_of_length(
    REAL* __restrict__ gate, REAL* __restrict__ gate_slope, double d, double radius, double parameter) {
  double value, slope;
  if constexpr (KIND == POLYNOMIAL_GATE) {
    polynomial_cutoff(value, slope, d / radius, parameter);
    slope /= radius;
  } else if constexpr (KIND == COSINE_GATE) {
    const double phase = (d / radius - parameter) / (1.0 - parameter);
    double sine, cosine;
    sincospi(fmin(fmax(phase, 0.0), 1.0), &sine, &cosine);
    value = 0.5 * (1.0 + cosine);
    slope = -0.5 * PI * sine / ((1.0 - parameter) * radius);
  } else {
    value = (d < radius) == (KIND == INSIDE_GATE) ? 1.0 : 0.0;
    slope = 0.0;
  }
  *gate = (REAL)value;
  *gate_slope = (REAL)slope;
}

DEVICE double length_of_edge(const double* __restrict__ vectors, int z, int capacity) {
  const double x = vectors[z], y = vectors[capacity + z], w = vectors[2LL * capacity + z];
  return sqrt(__dadd_rn(__dadd_rn(__dmul_rn(x, x), __dmul_rn(y, y)), __dmul_rn(w, w)));
}

// Columns FIRST .. FIRST + WIDTH of x <- or += gate * latent, rounded as operands if ROUND. GATE: row of gates, or -1.
// KEEP: row of a gate of 0 or 1 on what stands in x, if ADD, or -1.
template <int ROWS, int WIDTH, int FIRST, int GATE, int KEEP, bool ADD, bool ROUND>
DEVICE void update_scalars(REAL* x, const REAL* latent, const REAL* gates, int capacity) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    REAL value[REALS_16], before[REALS_16];
    REAL* place = row_of(x, z, LDX) + FIRST + column;
    load_wide(value, row_of(latent, z, WIDTH) + column);
    if constexpr (ADD) load_wide(before, place);
    const REAL gate = GATE < 0 ? REAL(1) : gates[(long long)(GATE < 0 ? 0 : GATE) * capacity + z];
    const REAL keep = KEEP < 0 ? REAL(1) : gates[(long long)(KEEP < 0 ? 0 : KEEP) * capacity + z];
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) {
      if constexpr (ADD && KEEP >= 0) before[n] *= keep;
      value[n] = ADD ? multiply_add(gate, value[n], before[n]) : gate * value[n];
      if constexpr (ROUND) value[n] = round_operand(value[n]);
    }
    store_wide(place, value);
  });
}

// dlatent <- gate * dx's columns FIRST .., rounded as operands if ROUND (overwrites). KEEP: row of a gate on those
// columns themselves (scaled: dx), or -1.
template <int ROWS, int WIDTH, int FIRST, int GATE, int KEEP, bool ROUND>
DEVICE void update_gradients(
    REAL* dlatent, const REAL* dx, REAL* scaled, const REAL* gates, int capacity) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    REAL value[REALS_16];
    load_wide(value, row_of(dx, z, LDX) + FIRST + column);
    if constexpr (KEEP >= 0) {
      const REAL keep = gates[(long long)KEEP * capacity + z];
      REAL kept[REALS_16];
#pragma unroll
      for (int n = 0; n < REALS_16; ++n) kept[n] = keep * value[n];
      store_wide(row_of(scaled, z, LDX) + FIRST + column, kept);
    }
    const REAL gate = GATE < 0 ? REAL(1) : gates[(long long)(GATE < 0 ? 0 : GATE) * capacity + z];
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) {
      value[n] *= gate;
      if constexpr (ROUND) value[n] = round_operand(value[n]);
    }
    store_wide(row_of(dlatent, z, WIDTH) + column, value);
  });
}

// latent_slope[z] <- or += slope of the gate times dx's columns FIRST .. times latent: dE/dd through the gate (eV/A).
template <int ROWS, int WIDTH, int FIRST, int GATE, bool ADD>
DEVICE void add_gate_slopes(
    double* latent_slope, const REAL* dx, const REAL* latent, const REAL* gate_slopes, int capacity) {
  for (int row = threadIdx.x / 32; row < ROWS; row += WIDE_THREADS / 32) {
    const int z = blockIdx.x * ROWS + row;
    const double sum = sum_of_row<WIDTH>([&](int column) {
      const REAL2 given = load_pair(row_of(dx, z, LDX) + FIRST + column);
      const REAL2 value = load_pair(row_of(latent, z, WIDTH) + column);
      return (double)multiply_add(given.x, value.x, given.y * value.y);
    });
    if (threadIdx.x % 32 == 0) {
      const double share = (double)gate_slopes[(long long)GATE * capacity + z] * sum;
      latent_slope[z] = ADD ? latent_slope[z] + share : share;
    }
  }
}

// rows <- gate * rows, rows of WIDTH numbers.
template <int ROWS, int WIDTH, int GATE> DEVICE void scale_rows(REAL* rows, const REAL* gates, int capacity) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    REAL value[REALS_16];
    load_wide(value, row_of(rows, z, WIDTH) + column);
    const REAL gate = gates[(long long)GATE * capacity + z];
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) value[n] *= gate;
    store_wide(row_of(rows, z, WIDTH) + column, value);
  });
}

// edge_energies *= the factor of the edge's pair of types. A thread a row.
DEVICE void scale_energy_of_edge(
    double* __restrict__ edge_energies, const int* __restrict__ pairs, const double* __restrict__ edge_scales,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk) {
  const int z = blockIdx.x * blockDim.x + threadIdx.x;
  if (z < edge_count(first, chunk_centers, chunk)) edge_energies[z] *= edge_scales[pairs[z]];
}

// radial_slope, dE/dx, += what comes through the gates. A thread a row.
DEVICE void add_latent_slope_of_edge(
    double* __restrict__ radial_slope, const double* __restrict__ latent_slope, const int* __restrict__ pairs,
    const double* __restrict__ cutoffs, const int* __restrict__ first, const int* __restrict__ chunk_centers,
    int chunk) {
  const int z = blockIdx.x * blockDim.x + threadIdx.x;
  if (z < edge_count(first, chunk_centers, chunk)) radial_slope[z] += latent_slope[z] * cutoffs[pairs[z]];
}
