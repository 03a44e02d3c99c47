// What lies between the products of MLPs too wide for shared memory, whose products are cuBLAS's: element-wise kernels.
//
// Features of a layer are rows of WIDTH numbers, STRIDE numbers apart, both multiples of 8. A block takes ROWS edges, a
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

// 16 bytes of a row.
struct Piece {
  REAL of[REALS_16];
};

DEVICE Piece piece_at(const REAL* address) {
  Piece piece;
  load_wide(piece.of, address);
  return piece;
}

// store(z, column, load(z, column)) for every 16 bytes of the block's rows, each once: several are loaded before the first
// is stored, so that a thread waits for memory once for all of them. What is stored must not be what another loads.
template <int ROWS, int WIDTH, class Load, class Store> DEVICE void for_pieces_together(Load load, Store store) {
  constexpr int PIECES = WIDTH / REALS_16, COUNT = ROWS * PIECES, TOGETHER = 4;
  constexpr bool WHOLE = COUNT % (TOGETHER * WIDE_THREADS) == 0;
  for (int first = threadIdx.x; first < COUNT; first += TOGETHER * WIDE_THREADS) {
    decltype(load(0, 0)) loaded[TOGETHER];
#pragma unroll
    for (int t = 0; t < TOGETHER; ++t) {
      const int own = first + t * WIDE_THREADS;
      const int n = WHOLE || own < COUNT ? own : first;  // a branch would make one load wait for another
      loaded[t] = load((int)blockIdx.x * ROWS + n / PIECES, n % PIECES * REALS_16);
    }
#pragma unroll
    for (int t = 0; t < TOGETHER; ++t) {
      const int n = first + t * WIDE_THREADS;
      if (WHOLE || n < COUNT) store((int)blockIdx.x * ROWS + n / PIECES, n % PIECES * REALS_16, loaded[t]);
    }
  }
}

// The sum over columns of term(column), of two neighbours each, in every lane of the warp.
template <int WIDTH, class Term> DEVICE double sum_of_row(Term term) {
  double sum = 0.0;
  for (int column = threadIdx.x % 32 * 2; column < WIDTH; column += 64) sum += term(column);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// The numbers of one piece, or of one pair: f(before), rounded as an operand if asked for.
template <int FUNCTION, bool ROUND, int COUNT> DEVICE void activate_numbers(REAL (&value)[COUNT]) {
#pragma unroll
  for (int n = 0; n < COUNT; ++n) {
    REAL slope;
    activate<FUNCTION>(value[n], value[n], slope);
    if constexpr (ROUND) value[n] = round_operand(value[n]);
  }
}

// gradient * f'(before)
template <int FUNCTION> DEVICE REAL times_slope(REAL gradient, REAL before) {
  if constexpr (FUNCTION == IDENTITY) return gradient;
  REAL value, slope;
  activate<FUNCTION>(before, value, slope);
  return gradient * slope;
}

// features <- f(before). before: what a product made, kept for the backward pass, which computes f' from it: so a product
// writes it where it stays, and only f goes through memory besides.
template <int ROWS, int WIDTH, int STRIDE, int FUNCTION, bool ROUND>
DEVICE void wide_activate(REAL* features, const REAL* before) {
  for_pieces_together<ROWS, WIDTH>(
      [&](int z, int column) { return piece_at(row_of(before, z, WIDTH) + column); },
      [&](int z, int column, Piece piece) {
        activate_numbers<FUNCTION, ROUND>(piece.of);
        store_wide(row_of(features, z, STRIDE) + column, piece.of);
      });
}

struct TwoPieces {
  Piece gradient, before;
};

// out <- gradient * f'(before) of a piece
template <int FUNCTION, bool ROUND> DEVICE void store_times_slope(REAL* out, TwoPieces pieces) {
#pragma unroll
  for (int n = 0; n < REALS_16; ++n) {
    REAL& value = pieces.gradient.of[n];
    value = times_slope<FUNCTION>(value, pieces.before.of[n]);
    if constexpr (ROUND) value = round_operand(value);
  }
  store_wide(out, pieces.gradient.of);
}

// out <- gradient * f'(before); gradient: rows STRIDE apart, or `out` itself
template <int ROWS, int WIDTH, int STRIDE, int FUNCTION, bool ROUND>
DEVICE void wide_multiply(REAL* out, const REAL* gradient, const REAL* before) {
  for_pieces_together<ROWS, WIDTH>(
      [&](int z, int column) {
        return TwoPieces{piece_at(row_of(gradient, z, STRIDE) + column), piece_at(row_of(before, z, WIDTH) + column)};
      },
      [&](int z, int column, const TwoPieces& pieces) {
        store_times_slope<FUNCTION, ROUND>(row_of(out, z, WIDTH) + column, pieces);
      });
}

// Rows become TF32 numbers.
template <int ROWS, int STRIDE, int WIDTH> DEVICE void wide_round(REAL* array) {
  const auto place = [&](int z, int column) { return row_of(array, z, STRIDE) + column; };
  for_pieces_together<ROWS, WIDTH>(
      [&](int z, int column) { return piece_at(place(z, column)); },
      [&](int z, int column, Piece piece) {
        activate_numbers<IDENTITY, true>(piece.of);
        store_wide(place(z, column), piece.of);
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

// before <- two-body features, features <- f(before); before null: the identity.
template <int ROWS, int WIDTH, int STRIDE, int FUNCTION, bool ROUND, bool SEPARABLE>
DEVICE void wide_two_body(REAL* features, REAL* before, const REAL* basis, const int* pairs, const REAL* two_body,
                          int capacity) {
  for_each_piece<ROWS, WIDTH>([&](int z, int column) {
    const int pair = pairs[z];
    REAL value[REALS_16];
#pragma unroll
    for (int n = 0; n < REALS_16; n += 2) {
      const REAL2 numbers = two_body_pair<WIDTH, SEPARABLE>(basis, two_body, pair, z, column + n, capacity);
      value[n] = numbers.x;
      value[n + 1] = numbers.y;
    }
    if constexpr (FUNCTION != IDENTITY) store_wide(row_of(before, z, WIDTH) + column, value);
    activate_numbers<FUNCTION, ROUND>(value);
    store_wide(row_of(features, z, STRIDE) + column, value);
  });
}

// radial_slope[z] <- sum_c gradient[z, c] f'(before[z, c]) (basis_slopes[:, z] T[pair of z])[c]
template <int ROWS, int WIDTH, int STRIDE, int FUNCTION, bool SEPARABLE>
DEVICE void wide_radial_slope(double* radial_slope, const REAL* gradient, const REAL* before, const REAL* basis_slopes,
                              const int* pairs, const REAL* two_body, int capacity) {
  for (int row = threadIdx.x / 32; row < ROWS; row += WIDE_THREADS / 32) {
    const int z = blockIdx.x * ROWS + row;
    const int pair = pairs[z];
    const double sum = sum_of_row<WIDTH>([&](int column) {
      const REAL2 features = two_body_pair<WIDTH, SEPARABLE>(basis_slopes, two_body, pair, z, column, capacity);
      REAL2 by = load_pair(row_of(gradient, z, STRIDE) + column);
      if constexpr (FUNCTION != IDENTITY) {
        const REAL2 numbers = load_pair(row_of(before, z, WIDTH) + column);
        by = pair_of(times_slope<FUNCTION>(by.x, numbers.x), times_slope<FUNCTION>(by.y, numbers.y));
      }
      return (double)multiply_add(by.x, features.x, by.y * features.y);
    });
    if (threadIdx.x % 32 == 0) radial_slope[z] = sum;
  }
}

// edge_energies[z] <- sum_c energy_weights[c] f(before[z, c])
template <int ROWS, int WIDTH, int FUNCTION>
DEVICE void wide_energies(double* edge_energies, const REAL* before, const double* energy_weights) {
  for (int row = threadIdx.x / 32; row < ROWS; row += WIDE_THREADS / 32) {
    const int z = blockIdx.x * ROWS + row;
    const double sum = sum_of_row<WIDTH>([&](int column) {
      const REAL2 numbers = load_pair(row_of(before, z, WIDTH) + column);
      REAL value[2] = {numbers.x, numbers.y};
      activate_numbers<FUNCTION, false>(value);
      return fma((double)value[0], energy_weights[column], (double)value[1] * energy_weights[column + 1]);
    });
    if (threadIdx.x % 32 == 0) edge_energies[z] = sum;
  }
}

// gradient[z, c] <- seeds[type of z's centre, c] f'(before[z, c])
template <int ROWS, int WIDTH, int FUNCTION, bool ROUND>
DEVICE void wide_seeds(REAL* gradient, const REAL* before, const REAL* seeds, const int* pairs) {
  for_pieces_together<ROWS, WIDTH>(
      [&](int z, int column) {
        TwoPieces pieces = {piece_at(seeds + seed_row(pairs[z]) * WIDTH + column), {}};
        if constexpr (FUNCTION != IDENTITY) pieces.before = piece_at(row_of(before, z, WIDTH) + column);
        return pieces;
      },
      [&](int z, int column, const TwoPieces& pieces) {
        store_times_slope<FUNCTION, ROUND>(row_of(gradient, z, WIDTH) + column, pieces);
      });
}
