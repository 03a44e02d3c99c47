// What lies between the products of MLPs too wide for shared memory, whose products are cuBLAS's: element-wise kernels.
//
// Features of a layer are rows of one array (capacity, WIDTH), WIDTH a multiple of 8. A block takes ROWS edges, a
// thread 16 bytes at a time; sums over the columns of an edge are made by one warp in an order of the columns alone.
#pragma once
#include "activations.cuh"
#include "two_body.cuh"

static constexpr int WIDE_THREADS = 256;

// visit(z, column) for every 16 bytes of the block's rows.
template <int ROWS, int WIDTH, class Visit> DEVICE void for_each_piece(Visit visit) {
  constexpr int PIECES = WIDTH / REALS_16;
  for (int n = threadIdx.x; n < ROWS * PIECES; n += WIDE_THREADS)
    visit((int)blockIdx.x * ROWS + n / PIECES, n % PIECES * REALS_16);
}

// The sum over columns of term(column), of two neighbours each, in every lane of the warp.
template <int WIDTH, class Term> DEVICE double sum_of_row(Term term) {
  double sum = 0.0;
  for (int column = threadIdx.x % 32 * 2; column < WIDTH; column += 64) sum += term(column);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// features <- f(features), slopes <- f'(features)
template <int FUNCTION, bool ROUND> DEVICE void activate_piece(REAL* features, REAL* slopes) {
  REAL value[REALS_16], slope[REALS_16];
  load_wide(value, features);
#pragma unroll
  for (int n = 0; n < REALS_16; ++n) {
    activate<FUNCTION>(value[n], value[n], slope[n]);
    if constexpr (ROUND) value[n] = round_operand(value[n]);
  }
  store_wide(features, value);
  if constexpr (FUNCTION != IDENTITY) store_wide(slopes, slope);
}

template <int ROWS, int WIDTH, int FUNCTION, bool ROUND> DEVICE void wide_activate(REAL* features, REAL* slopes) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    activate_piece<FUNCTION, ROUND>(row_of(features, z, WIDTH) + column, row_of(slopes, z, WIDTH) + column);
  });
}

// gradient <- gradient * slopes
template <int ROWS, int WIDTH, bool ROUND> DEVICE void wide_multiply(REAL* gradient, const REAL* slopes) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    REAL value[REALS_16], slope[REALS_16];
    REAL* place = row_of(gradient, z, WIDTH) + column;
    load_wide(value, place);
    load_wide(slope, row_of(slopes, z, WIDTH) + column);
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) {
      value[n] *= slope[n];
      if constexpr (ROUND) value[n] = round_operand(value[n]);
    }
    store_wide(place, value);
  });
}

// Columns FIRST .. FIRST + WIDTH of rows of STRIDE become TF32 numbers.
template <int ROWS, int STRIDE, int FIRST, int WIDTH> DEVICE void wide_round(REAL* array) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    activate_piece<IDENTITY, true>(row_of(array, z, STRIDE) + FIRST + column, nullptr);
  });
}

// Two-body features of an edge: columns column .. column + 1 of basis[:, z] T[pair of z], or of the separable table.
template <int WIDTH, bool SEPARABLE>
DEVICE REAL2 two_body_pair(const REAL* basis, const REAL* two_body, int pair, int z, int column, int capacity) {
  const REAL* table = SEPARABLE ? two_body : two_body + (long long)pair * (NB * WIDTH);
  REAL2 sum = pair_of(REAL(0), REAL(0));
#pragma unroll 4
  for (int n = 0; n < NB; ++n) {
    const REAL radial = row_of(basis, n, capacity)[z];
    const REAL2 right = load_pair(table + n * WIDTH + column);
    sum = pair_of(multiply_add(radial, right.x, sum.x), multiply_add(radial, right.y, sum.y));
  }
  if constexpr (SEPARABLE) {
    const REAL2 factor = type_factors<WIDTH>(two_body, pair, column);
    sum = pair_of(sum.x * factor.x, sum.y * factor.y);
  }
  return sum;
}

// features <- f(two-body features), slopes <- f'
template <int ROWS, int WIDTH, int FUNCTION, bool ROUND, bool SEPARABLE>
DEVICE void wide_two_body(REAL* features, REAL* slopes, const REAL* basis, const int* pairs, const REAL* two_body,
                          int capacity) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    const int pair = pairs[z];
    REAL* place = row_of(features, z, WIDTH) + column;
#pragma unroll
    for (int n = 0; n < REALS_16; n += 2)
      store_pair(place + n, two_body_pair<WIDTH, SEPARABLE>(basis, two_body, pair, z, column + n, capacity));
    activate_piece<FUNCTION, ROUND>(place, FUNCTION == IDENTITY ? nullptr : row_of(slopes, z, WIDTH) + column);
  });
}

// radial_slope[z] <- sum_c gradient[z, c] slopes[z, c] (basis_slopes[:, z] T[pair of z])[c]; slopes null: the identity.
template <int ROWS, int WIDTH, bool SEPARABLE>
DEVICE void wide_radial_slope(double* radial_slope, const REAL* gradient, const REAL* slopes, const REAL* basis_slopes,
                              const int* pairs, const REAL* two_body, int capacity) {
  for (int row = threadIdx.x / 32; row < ROWS; row += WIDE_THREADS / 32) {
    const int z = blockIdx.x * ROWS + row;
    const int pair = pairs[z];
    const double sum = sum_of_row<WIDTH>([&](int column) {
      const REAL2 features = two_body_pair<WIDTH, SEPARABLE>(basis_slopes, two_body, pair, z, column, capacity);
      REAL2 by = load_pair(row_of(gradient, z, WIDTH) + column);
      if (slopes != nullptr) {
        const REAL2 slope = load_pair(row_of(slopes, z, WIDTH) + column);
        by = pair_of(by.x * slope.x, by.y * slope.y);
      }
      return (double)multiply_add(by.x, features.x, by.y * features.y);
    });
    if (threadIdx.x % 32 == 0) radial_slope[z] = sum;
  }
}

// edge_energies[z] <- sum_c energy_weights[c] f(features[z, c]), slopes <- f'
template <int ROWS, int WIDTH, int FUNCTION>
DEVICE void wide_energies(double* edge_energies, REAL* slopes, const REAL* features, const double* energy_weights) {
  for (int row = threadIdx.x / 32; row < ROWS; row += WIDE_THREADS / 32) {
    const int z = blockIdx.x * ROWS + row;
    const double sum = sum_of_row<WIDTH>([&](int column) {
      REAL2 value = load_pair(row_of(features, z, WIDTH) + column), slope;
      activate<FUNCTION>(value.x, value.x, slope.x);
      activate<FUNCTION>(value.y, value.y, slope.y);
      if constexpr (FUNCTION != IDENTITY) store_pair(row_of(slopes, z, WIDTH) + column, slope);
      return fma((double)value.x, energy_weights[column], (double)value.y * energy_weights[column + 1]);
    });
    if (threadIdx.x % 32 == 0) edge_energies[z] = sum;
  }
}

// gradient[z, c] <- seeds[type of z's centre, c] slopes[z, c]; slopes null: the identity.
template <int ROWS, int WIDTH, bool ROUND>
DEVICE void wide_seeds(REAL* gradient, const REAL* slopes, const REAL* seeds, const int* pairs) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    REAL value[REALS_16], slope[REALS_16];
    load_wide(value, seeds + seed_row(pairs[z]) * WIDTH + column);
    if (slopes != nullptr) load_wide(slope, row_of(slopes, z, WIDTH) + column);
#pragma unroll
    for (int n = 0; n < REALS_16; ++n) {
      if (slopes != nullptr) value[n] *= slope[n];
      if constexpr (ROUND) value[n] = round_operand(value[n]);
    }
    store_wide(row_of(gradient, z, WIDTH) + column, value);
  });
}
