// One channel's numbers of a centre in registers: loads, stores, products with an edge's harmonics, sums over channels.
#pragma once
#include "common.cuh"

// Whether dscal is set to zero after it is read (for products that add to it).
#ifndef ZERO_DSCAL
#define ZERO_DSCAL 0
#endif

// Degree of component m, one of the first HARMONICS, and which of `slots` weights a channel (one an irrep, or a single
// one) any component has.
__device__ constexpr int degree_of(int m) {
  int degree = 0;
  while ((degree + 1) * (degree + 1) <= m) ++degree;
  return degree;
}
__device__ constexpr int slot_of(int m, int slots) {
  return slots == 1 ? 0 : m < HARMONICS ? degree_of(m) : REPEATED_SLOT_OF(m);
}

template <int N> DEVICE void zero_channel(REAL (&values)[N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) values[n] = 0;
}

// Components of a channel in memory, UP numbers apart.
template <int N> DEVICE void load_channel(REAL (&values)[N], const REAL* address) {
#pragma unroll
  for (int n = 0; n < N; ++n) values[n] = address[n * UP];
}
template <int N> DEVICE void store_channel(REAL* address, const REAL (&values)[N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) address[n * UP] = values[n];
}

// The weights of an edge's row for this channel, one a slot.
template <int N> DEVICE void load_slots(REAL (&weights)[N], const REAL* __restrict__ address) {
#pragma unroll
  for (int l = 0; l < N; ++l) weights[l] = address[l * UP];
}

// Row z of the harmonics, MP numbers; all lanes of a centre read the same.
DEVICE void load_harmonics(REAL (&Y)[MP], const REAL* __restrict__ harmonics, int z) {
  const REAL* const row = row_of(harmonics, z, MP);
#pragma unroll
  for (int m = 0; m < MP; m += REALS_16) {
    REAL some[REALS_16];
    load_wide(some, row + m);
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) Y[m + n] = some[n];
  }
}

// result[slot] = sum over the slot's components of Y[m] vector[m], in order (overwrites).
template <int SLOTS>
DEVICE void product_by_slots(REAL (&result)[SLOTS], const REAL (&Y)[MP], const REAL (&vector)[M]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const int slot = slot_of(m, SLOTS);
    const bool starts = m == 0 || slot != slot_of(m - 1, SLOTS);
    result[slot] = starts ? Y[m] * vector[m] : multiply_add(Y[m], vector[m], result[slot]);
  }
}

// Sums of COUNT values a lane over groups of GROUP lanes, the values halved at each exchange: a lane ends with the
// complete sum number (lane % GROUP) / (GROUP / COUNT), in values[0]. Both are powers of two, COUNT <= GROUP. A fixed
// tree.
template <int COUNT, int GROUP> struct Butterfly {
  static DEVICE void add(REAL* values, int lane) {
    const bool upper = lane & (GROUP / 2);
    REAL kept[COUNT / 2];
#pragma unroll
    for (int n = 0; n < COUNT / 2; ++n) {
      const REAL given = upper ? values[n] : values[n + COUNT / 2];
      kept[n] = upper ? values[n + COUNT / 2] : values[n];
      kept[n] += __shfl_xor_sync(0xffffffffu, given, GROUP / 2);
    }
    Butterfly<COUNT / 2, GROUP / 2>::add(kept, lane);
    values[0] = kept[0];
  }
};
template <int GROUP> struct Butterfly<1, GROUP> {
  static DEVICE void add(REAL* values, int lane) {
#pragma unroll
    for (int offset = GROUP / 2; offset > 0; offset /= 2)
      values[0] += __shfl_xor_sync(0xffffffffu, values[0], offset);
  }
};
template <> struct Butterfly<1, 1> {
  static DEVICE void add(REAL*, int) {}
};

__device__ constexpr int power_of_two_from(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

// harmonic_gradient[z][m] = or += sum of terms[m] over the lanes of one group of this centre in this warp, m = 1 .. M
// (OVERWRITE or accumulates). What is added to is loaded in advance, for little stands between its use and the end of an
// edge. All lanes of a warp call `add`; only rows where has_edge is true are touched.
template <bool OVERWRITE> struct HarmonicShare {
  static constexpr int GROUP = LANES < 32 ? LANES : 32;
  static constexpr int WANTED = power_of_two_from(M - 1);
  static constexpr int BATCH = WANTED < GROUP ? WANTED : GROUP;
  static constexpr int BATCHES = (M + BATCH - 2) / BATCH;

  REAL before[BATCHES > 0 ? BATCHES : 1];

  static DEVICE int component(int batch) { return 1 + batch * BATCH + (int)threadIdx.x % GROUP / (GROUP / BATCH); }
  static DEVICE bool has_component(int batch) {
    return threadIdx.x % (GROUP / BATCH) == 0 && component(batch) < M;
  }

  DEVICE void load(const REAL* harmonic_gradient, int z, bool has_edge) {
    const REAL* const row = row_of(harmonic_gradient, z, MP);
#pragma unroll
    for (int batch = 0; batch < BATCHES; ++batch)
      before[batch] = !OVERWRITE && has_edge && has_component(batch) ? row[component(batch)] : (REAL)0;
  }

  DEVICE void add(const REAL (&terms)[M], REAL* harmonic_gradient, int z, bool has_edge) const {
    REAL* const row = row_of(harmonic_gradient, z, MP);
#pragma unroll
    for (int batch = 0; batch < BATCHES; ++batch) {
      REAL values[BATCH];
#pragma unroll
      for (int n = 0; n < BATCH; ++n) {
        const int m = 1 + batch * BATCH + n;
        values[n] = m < M ? terms[m < M ? m : 0] : (REAL)0;
      }
      Butterfly<BATCH, GROUP>::add(values, threadIdx.x % 32);
      if (has_edge && has_component(batch))
        row[component(batch)] = OVERWRITE ? values[0] : before[batch] + values[0];
    }
  }
};
