// Sums over the atoms of a rank, as two-word integers, and extremes: the same bits in any order of threads, blocks and ranks.
//
// sums i64[6 + nt][2]: row 0 the number of terms that were not finite or out of range, row 1 potential energy (eV), rows
// 2 to 4 momentum (Da A/fs), row 5 heat of the bath (eV), then kinetic energy (eV) by type. Independent of the model.
#include "fixed_point.cuh"

static constexpr int SUM_FAULTS = 0, SUM_ENERGY = 1, SUM_MOMENTUM = 2, SUM_HEAT = 5, SUM_KINETIC = 6;

// Every thread of a warp gives a term (zero where it has no atom), the first adds their sum (accumulates).
DEVICE void add_term(long long* __restrict__ row, double value, bool& good) {
  long long high, low;
  good = to_words(high, low, value) && good;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    high += __shfl_xor_sync(0xffffffffu, high, offset);
    low += __shfl_xor_sync(0xffffffffu, low, offset);
  }
  if ((threadIdx.x & 31) == 0) {
    add_atomically(row, high);
    add_atomically(row + 1, low);
  }
}

DEVICE void report_terms(long long* __restrict__ sums, bool good) {
  if (!good) add_atomically(sums + 2 * SUM_FAULTS, 1);
}

// A thread an atom: kinetic energy by type, and momentum (accumulates). masses f64[nt], Da; energy_unit: eV per
// Da (A/fs)^2; velocities f64[C][3], A/fs. Where control[CONTROL_HALT] is set nothing is added.
DEVICE void kinetic_sums_of_atom(
    long long* __restrict__ sums, const long long* __restrict__ control, const double* __restrict__ velocities,
    const int* __restrict__ types, const double* __restrict__ masses, double energy_unit, int num_types, int owned) {
  if (control[CONTROL_HALT] != 0) return;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const bool real = i < owned;
  const int type = real ? types[i] : -1;
  const double mass = real ? masses[type] : 0.0;
  double v[3] = {0.0, 0.0, 0.0};
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    if (real) v[c] = velocities[3LL * i + c];
  }
  const double energy = 0.5 * energy_unit * mass * ((v[0] * v[0] + v[1] * v[1]) + v[2] * v[2]);
  bool good = true;
  for (int t = 0; t < num_types; ++t) {
    if (__any_sync(0xffffffffu, type == t)) add_term(sums + 2 * (SUM_KINETIC + t), type == t ? energy : 0.0, good);
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) add_term(sums + 2 * (SUM_MOMENTUM + c), mass * v[c], good);
  report_terms(sums, good);
}

// A thread a row: what the bath has given (accumulates). heat i64[rows], units of 2^-44 eV.
DEVICE void heat_sum_of_row(long long* __restrict__ sums, const long long* __restrict__ heat, int rows) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  long long high = row < rows ? heat[row] >> 32 : 0, low = row < rows ? heat[row] & 0xffffffffLL : 0;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    high += __shfl_xor_sync(0xffffffffu, high, offset);
    low += __shfl_xor_sync(0xffffffffu, low, offset);
  }
  if ((threadIdx.x & 31) == 0) {
    add_atomically(sums + 2 * SUM_HEAT, high);
    add_atomically(sums + 2 * SUM_HEAT + 1, low);
  }
}

// A thread an atom: the potential energy (accumulates). energies f64[owned], eV.
DEVICE void energy_sum_of_atom(long long* __restrict__ sums, const double* __restrict__ energies, int owned) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  bool good = true;
  add_term(sums + 2 * SUM_ENERGY, i < owned ? energies[i] : 0.0, good);
  report_terms(sums, good);
}

// The slope of a minimisation, i64[7][2]: row 0 the number of faults, rows 1 to 4 the two-word sums of energy (eV), F.v,
// F.F and v.v, forces and velocities times the powers of two that bring the largest of each near 1; row 5 the bits of the
// largest |F|^2 and |v|^2 as float64; row 6 what keeps a step from being one: FOUND (control words), edges that a chunk
// of the potential had no room for (status[0]). forces i64[C][3], units of 2^-40 eV/A; velocities f64[C][3], sqrt(eV).
static constexpr int SLOPE_ENERGY = 1, SLOPE_POWER = 2, SLOPE_FORCES = 3, SLOPE_VELOCITIES = 4;
static constexpr int SLOPE_LARGEST = 10, SLOPE_FOUND = 12, SLOPE_OVERFLOW = 13;

DEVICE double dot(const double (&a)[3], const double (&b)[3]) { return (a[0] * b[0] + a[1] * b[1]) + a[2] * b[2]; }

// A thread an atom: rows 5 (raises) and 6 (overwrites).
DEVICE void slope_maxima_of_atom(
    long long* __restrict__ slope, const long long* __restrict__ control, const int* __restrict__ status,
    const long long* __restrict__ forces, const double* __restrict__ velocities, int owned) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) {
    slope[SLOPE_FOUND] = control[CONTROL_FOUND];
    slope[SLOPE_OVERFLOW] = status[0];
  }
  double f[3] = {0.0, 0.0, 0.0}, v[3] = {0.0, 0.0, 0.0};
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    if (i < owned) f[c] = (double)forces[3LL * i + c] / FORCE_SCALE, v[c] = velocities[3LL * i + c];
  }
  const double squares[2] = {dot(f, f), dot(v, v)};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    // Numbers that are not negative are in the order of their bits; what is not a number is above all.
    unsigned long long largest = (unsigned long long)__double_as_longlong(fabs(squares[n]));
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const unsigned long long theirs = (unsigned long long)__shfl_xor_sync(0xffffffffu, (long long)largest, offset);
      largest = theirs > largest ? theirs : largest;
    }
    if ((threadIdx.x & 31) == 0 && largest) atomicMax((unsigned long long*)slope + SLOPE_LARGEST + n, largest);
  }
}

// 2^-e of sqrt(value) = m 2^e, 1/2 <= m < 1; 1 of what is 0 or not finite. bits: those of the value, as float64.
DEVICE double scale_of(long long bits) {
  const long long exponent = __double_as_longlong(sqrt(__longlong_as_double(bits))) >> 52 & 0x7ff;
  return exponent == 0 || exponent == 0x7ff ? 1.0 : __longlong_as_double((2045 - exponent) << 52);
}

// A thread an atom: rows 0 to 4 (accumulates), once row 5 is that of all atoms. energies f64[owned], eV.
DEVICE void slope_sums_of_atom(
    long long* __restrict__ slope, const int* __restrict__ status, const double* __restrict__ energies,
    const long long* __restrict__ forces, const double* __restrict__ velocities, int owned) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0 && status[1] != 0) report_terms(slope, false);
  const double force_scale = scale_of(slope[SLOPE_LARGEST]), velocity_scale = scale_of(slope[SLOPE_LARGEST + 1]);
  double f[3] = {0.0, 0.0, 0.0}, v[3] = {0.0, 0.0, 0.0};
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    if (i < owned) {
      f[c] = (double)forces[3LL * i + c] / FORCE_SCALE * force_scale;
      v[c] = velocities[3LL * i + c] * velocity_scale;
    }
  }
  bool good = true;
  add_term(slope + 2 * SLOPE_ENERGY, i < owned ? energies[i] : 0.0, good);
  add_term(slope + 2 * SLOPE_POWER, dot(f, v), good);
  add_term(slope + 2 * SLOPE_FORCES, dot(f, f), good);
  add_term(slope + 2 * SLOPE_VELOCITIES, dot(v, v), good);
  report_terms(slope, good);
}

// Where the atoms reach to, a thread an atom (raises): extremes u64[9] become the largest of minus each fractional
// coordinate (3), each of them (3) and |position| (3, A), over the atoms whose position is finite, as unsigned integers
// in the order of the numbers, 0 for none. inverse f64[3][3] of the cell, 1/A; products and sums as on the host.
DEVICE unsigned long long in_order(double value) {
  const long long bits = __double_as_longlong(value);
  return (unsigned long long)(bits < 0 ? ~bits : bits | (1ULL << 63));
}

DEVICE void extremes_of_atom(
    long long* __restrict__ extremes, const double* __restrict__ positions, const double* __restrict__ inverse,
    int owned) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  double x[3] = {0.0, 0.0, 0.0};
  bool counts = i < owned;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    if (i < owned) x[c] = positions[3LL * i + c];
    counts = counts && fabs(x[c]) <= 1.7976931348623157e308;
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const double place = (x[0] * inverse[c] + x[1] * inverse[3 + c]) + x[2] * inverse[6 + c];
    const double values[3] = {-place, place, fabs(x[c])};
#pragma unroll
    for (int n = 0; n < 3; ++n) {
      unsigned long long largest = counts ? in_order(values[n]) : 0;
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) {
        const unsigned long long theirs = (unsigned long long)__shfl_xor_sync(0xffffffffu, (long long)largest, offset);
        largest = theirs > largest ? theirs : largest;
      }
      if ((threadIdx.x & 31) == 0 && largest) atomicMax((unsigned long long*)extremes + 3 * n + c, largest);
    }
  }
}
