// A chunk's edges: from positions to radial basis and harmonics, and from edge gradients to forces; centres' energies.
#include "fixed_point.cuh"
#include "harmonics.cuh"
#include "radial.cuh"
#include "vectors.cuh"

// A thread a row. Geometry of the chunk's edges (overwrites all outputs; edge_center and edge_neighbor are read, and
// overwritten only in padding rows, where everything becomes zero).
//
// vectors f64[3][E], A; pairs i32[E]; basis, basis_slopes REAL[NB][E], the radial basis and its slope by x;
// harmonics REAL[E][MP]; pair_terms f64[2][E], the pair term and its slope by d (eV, eV/A), only with PAIR_TERM.
DEVICE void geometry_of_edge(
    double* __restrict__ vectors, int* __restrict__ pairs, REAL* __restrict__ basis, REAL* __restrict__ basis_slopes,
    REAL* __restrict__ harmonics, double* __restrict__ pair_terms, int* __restrict__ edge_center,
    int* __restrict__ edge_neighbor, const double* __restrict__ positions, const int* __restrict__ images,
    const int* __restrict__ types, const double* __restrict__ cell, const double* __restrict__ cutoffs,
    const double* __restrict__ frequencies, const double* __restrict__ pair_table, const int* __restrict__ first,
    const int* __restrict__ chunk_centers, int chunk, int capacity) {
  const int z = blockIdx.x * blockDim.x + threadIdx.x;
  if (z >= capacity) return;
  const long long rows = capacity;
  REAL* const row = row_of(harmonics, z, MP);
  if (z >= edge_count(first, chunk_centers, chunk)) {
    edge_center[z] = edge_neighbor[z] = pairs[z] = 0;
#pragma unroll
    for (int c = 0; c < 3; ++c) vectors[c * rows + z] = 0.0;
    for (int n = 0; n < NB; ++n) basis[n * rows + z] = basis_slopes[n * rows + z] = 0;
#pragma unroll
    for (int m = 0; m < MP; ++m) row[m] = 0;
#if PAIR_TERM
    pair_terms[z] = pair_terms[rows + z] = 0.0;
#endif
    return;
  }

  const int i = chunk_centers[chunk] + edge_center[z], j = edge_neighbor[z];
  const double n0 = images[3LL * j] - images[3LL * i], n1 = images[3LL * j + 1] - images[3LL * i + 1];
  const double n2 = images[3LL * j + 2] - images[3LL * i + 2];
  const double rx = component_of_edge(positions, cell, i, j, 0, n0, n1, n2);
  const double ry = component_of_edge(positions, cell, i, j, 1, n0, n1, n2);
  const double rz = component_of_edge(positions, cell, i, j, 2, n0, n1, n2);
  vectors[z] = rx;
  vectors[rows + z] = ry;
  vectors[2 * rows + z] = rz;
  const int pair = types[i] * NT + types[j];
  pairs[z] = pair;

  const double d = sqrt(__dadd_rn(__dadd_rn(__dmul_rn(rx, rx), __dmul_rn(ry, ry)), __dmul_rn(rz, rz)));
  const double cutoff = cutoffs[pair], inverse_cutoff = 1.0 / cutoff, inverse = 1.0 / d;
  const double* const own_frequencies = PAIR_FREQUENCIES ? frequencies + pair * BESSELS : frequencies;
  radial_basis(d * inverse_cutoff, cutoff * inverse, own_frequencies, [&](int n, double value, double slope) {
    basis[n * rows + z] = (REAL)value;
    basis_slopes[n * rows + z] = (REAL)slope;
  });
#if PAIR_TERM
  double energy, slope;
  pair_term(energy, slope, d, inverse_cutoff, pair_table + pair);
  pair_terms[z] = energy;
  pair_terms[rows + z] = slope;
#endif

  double values[HARMONICS];
  harmonics_of(values, rx * inverse, ry * inverse, rz * inverse);
#pragma unroll
  for (int m = 0; m < MP; m += REALS_16) {
    REAL some[REALS_16];
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) some[n] = m + n < M ? (REAL)values[m + n < M ? ORIGINAL_OF(m + n) : 0] : (REAL)0;
    store_wide(row + m, some);
  }
}

// dE/dr_ij = (dE/dd) n + (1 - n n^T) (sum_a dE/dY_a dY_a/dn) / d of edge z (overwrites `gradient`, eV/A).
DEVICE void gradient_of_edge(
    double (&gradient)[3], const double (&r)[3], const double* __restrict__ radial_slope,
    const REAL* __restrict__ harmonic_gradient, const int* __restrict__ pairs, const double* __restrict__ pair_terms,
    const double* __restrict__ cutoffs, int z, int capacity) {
  const double inverse = 1.0 / sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
  const double n[3] = {r[0] * inverse, r[1] * inverse, r[2] * inverse};
  double radial = radial_slope[z] / cutoffs[pairs[z]];
#if PAIR_TERM
  radial += pair_terms[(long long)capacity + z];
#endif
#if L_MAX == 0
#pragma unroll
  for (int c = 0; c < 3; ++c) gradient[c] = radial * n[c];
#else
  double slopes[HARMONICS];
  slopes[0] = 0.0;
#pragma unroll
  for (int slot = 0; slot < WARPS; ++slot) {
    const REAL* const row = row_of(harmonic_gradient + (long long)slot * capacity * MP, z, MP);
#pragma unroll
    for (int m = 0; m < MP; m += REALS_16) {
      REAL some[REALS_16];
      load_wide(some, row + m);
#pragma unroll
      for (int n = 0; n < REALS_16; ++n) {
        const int a = m + n;
        if (a == 0 || a >= M) continue;
        double& slope = slopes[a < M ? ORIGINAL_OF(a) : 0];
        slope = slot == 0 && a < HARMONICS ? (double)some[n] : slope + (double)some[n];
      }
    }
  }
  double by[3];
  harmonics_gradient(by[0], by[1], by[2], slopes, n[0], n[1], n[2]);
  const double along = by[0] * n[0] + by[1] * n[1] + by[2] * n[2];
#pragma unroll
  for (int c = 0; c < 3; ++c) gradient[c] = radial * n[c] + (by[c] - along * n[c]) * inverse;
#endif
}

// A thread a row. Forces and virials of the chunk's edges in fixed point (accumulates).
//
// The force on the centre is +dE_i/dr_ij and on the neighbour the negative of the same integer. Rows of one centre
// follow each other: the integers of a warp are summed first, then added once a centre. W = -sum r (x) dE/dr; atom
// virials go to the neighbour. A centre with a term or a sum not finite or out of range is marked in `faults` and in
// status[1]. harmonic_gradient REAL[WARPS][E][MP]: dE/dY_a for a > 0, a share from each warp of the centre.
DEVICE void forces_of_edge(
    long long* __restrict__ forces, long long* __restrict__ virial_words, long long* __restrict__ atom_virials,
    unsigned char* __restrict__ faults, int* __restrict__ status, const double* __restrict__ radial_slope,
    const REAL* __restrict__ harmonic_gradient, const double* __restrict__ vectors, const int* __restrict__ pairs,
    const double* __restrict__ pair_terms, const int* __restrict__ edge_center, const int* __restrict__ edge_neighbor,
    const double* __restrict__ cutoffs, const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk,
    int capacity, int want_virial, int want_atom_virials, int block, int) {
  const int z = block * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
  const int count = edge_count(first, chunk_centers, chunk);
  if (z - lane >= count) return;  // the whole warp
  const bool real = z < count;
  const int number = real ? edge_center[z] : -1;  // of the centre; -1 in padding rows, which add zeros
  const int i = chunk_centers[chunk] + number, j = real ? edge_neighbor[z] : 0;
  double r[3] = {0.0, 0.0, 0.0}, gradient[3] = {0.0, 0.0, 0.0};
  if (real) {
#pragma unroll
    for (int c = 0; c < 3; ++c) r[c] = vectors[(long long)c * capacity + z];
    gradient_of_edge(gradient, r, radial_slope, harmonic_gradient, pairs, pair_terms, cutoffs, z, capacity);
  }

  bool good = true;
  const int before = __shfl_up_sync(0xffffffffu, number, 1);
  const bool is_head = real && (lane == 0 || before != number);  // the first row of its centre in this warp
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    long long shared_term = 0;
    if (real) {
      const bool in_range = below(gradient[c], FORCE_LIMIT);
      const long long term = in_range ? to_fixed(gradient[c]) : 0;
      good = good && in_range;
      good = add_in_range(forces + 3LL * j + c, -term) && good;
      if (below(gradient[c], SHARED_LIMIT)) {
        shared_term = term;
      } else {  // many of these would leave the range inside the warp
        good = add_in_range(forces + 3LL * i + c, term) && good;
      }
    }
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int their_number = __shfl_down_sync(0xffffffffu, number, offset);
      const long long theirs = __shfl_down_sync(0xffffffffu, shared_term, offset);
      if (lane + offset < 32 && their_number == number) shared_term += theirs;
    }
    if (is_head) good = add_in_range(forces + 3LL * i + c, shared_term) && good;
  }

  if (want_virial || want_atom_virials) {
#pragma unroll
    for (int a = 0; a < 3; ++a) {
#pragma unroll
      for (int b = 0; b < 3; ++b) {
        const double share = -(r[a] * gradient[b]);
        if (real && want_atom_virials) {
          const bool in_range = below(share, FORCE_LIMIT);
          const long long term = in_range ? to_fixed(share) : 0;
          good = add_in_range(atom_virials + 9LL * j + 3 * a + b, term) && in_range && good;
        }
        if (want_virial) {
          long long high, low;
          good = to_words(high, low, share) && good;
#pragma unroll
          for (int offset = 16; offset > 0; offset /= 2) {
            high += __shfl_xor_sync(0xffffffffu, high, offset);
            low += __shfl_xor_sync(0xffffffffu, low, offset);
          }
          if (lane == 0) {
            add_atomically(virial_words + 2 * (3 * a + b), high);
            add_atomically(virial_words + 2 * (3 * a + b) + 1, low);
          }
        }
      }
    }
  }
  if (real && !good) mark_fault(faults, status, i);
}

// The sum over the lanes of a centre, in their order, in all of them. All lanes of a warp call it.
DEVICE double sum_of_energy_lanes(double value) {
  const int start = (threadIdx.x & 31) / ENERGY_LANES * ENERGY_LANES;
  double sum = __shfl_sync(0xffffffffu, value, start);
#pragma unroll
  for (int n = 1; n < ENERGY_LANES; ++n) sum += __shfl_sync(0xffffffffu, value, start + n);
  return sum;
}

// ENERGY_LANES threads a centre: lane n sums edges n, n + ENERGY_LANES, ... of it in order, and the sums are added in
// the order of lanes. E_i = (shift + factor sum_z e_z) + pair terms (overwrites energies, marks faults, but in a step
// that does not go on).
DEVICE void energy_of_center(
    double* __restrict__ energies, unsigned char* __restrict__ faults, int* __restrict__ status,
    const long long* __restrict__ control, const double* __restrict__ edge_energies, const double* __restrict__ pair_terms, const int* __restrict__ types,
    const double* __restrict__ energy_factors, const double* __restrict__ shifts, const int* __restrict__ first,
    const int* __restrict__ chunk_centers, int chunk, int capacity, int block, int) {
  const int thread = block * blockDim.x + threadIdx.x, number = thread / ENERGY_LANES;
  const int lane = thread % ENERGY_LANES;
  if (control[CONTROL_FOUND] != 0) return;
  const bool exists = number < chunk_size(chunk_centers, chunk);
  const int begin = exists ? first[number] : 0, end = exists ? first[number + 1] : 0;
  double total = 0.0, pair_total = 0.0;
#pragma unroll 4
  for (int z = begin + lane; z < end; z += ENERGY_LANES) {
    total += edge_energies[z];
#if PAIR_TERM
    pair_total += pair_terms[z];
#endif
  }
  total = sum_of_energy_lanes(total);
#if PAIR_TERM
  pair_total = sum_of_energy_lanes(pair_total);
#endif
  if (!exists || lane != 0) return;
  const int i = chunk_centers[chunk] + number, type = types[i];
  const double energy = (shifts[type] + energy_factors[type] * total) + pair_total;
  energies[i] = energy;
  if (!isfinite(energy)) mark_fault(faults, status, i);
}
