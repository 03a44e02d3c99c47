// The MLPs on tiles of rows, forward and backward. One block computes one tile.
//
// An MLP begins with the two-body table (embedding) or rows of features, and ends in columns of features or in energies
// (read-out, whose way back begins there and then). Its hidden features stay in shared memory, but for those that others
// read, too; what the backward pass needs of them are the slopes f' of the activations, kept in memory. Every number of
// an edge is computed from that edge's row alone, in an order that does not depend on the row's place. Each MLP is a struct of constants written by mlp_header.py (`Mlp`, with the chains
// Mlp::Forward and Mlp::Backward), and so are the entry points that call the functions below, and the structs that know
// where features stand (mlp_parts.py): `Rows` with at(z, k), `Columns` with store(z, column, pair), which rounds operands
// as the MLP's parts say, and there(z, column, exists), to which a result is added where they say so.
#pragma once
#include "activations.cuh"
#include "chain.cuh"
#include "two_body.cuh"

// Slopes f'(x) of an MLP's activations, REAL (capacity, Mlp::WIDTH[n]) each; null after the identity.
template <class Mlp> struct Slopes {
  REAL* of[Mlp::ACTIVATIONS];

  template <int N> DEVICE REAL* at(int z, int column) const { return row_of(of[N], z, Mlp::WIDTH[N]) + column; }
  template <int N> DEVICE REAL2 times(int z, int column, REAL2 pair) const {
    if constexpr (Mlp::ACTIVATION[N] == IDENTITY) return pair;
    const REAL2 slope = load_pair(at<N>(z, column));
    return pair_of(pair.x * slope.x, pair.y * slope.y);
  }
};

struct NoRows {
  DEVICE const REAL* at(int, int) const { return nullptr; }
};
struct NoColumns {
  DEVICE void store(int, int, REAL2) const {}
};

// A gradient and what other readers of the same features have left of theirs.
template <class Rows> DEVICE REAL2 plus_kept(const Rows& kept, int z, int column, REAL2 pair) {
  const REAL2 there = load_pair(kept.at(z, column));
  return pair_of(pair.x + there.x, pair.y + there.y);
}
DEVICE REAL2 plus_kept(const NoRows&, int, int, REAL2 pair) { return pair; }

// ---- Two-body features: y[z, c] = sum_n basis[n, z] T[pair of z, n, c], or with many types (SEPARABLE)
// sum_n basis[n, z] W[n, c] C[t_i, c] N[t_j, c].

// sums <- the columns of eights FIRST .. of this thread's rows. offsets: where T of a row's pair of types begins, or the
// pair itself.
template <class Mlp, class Chain, int NJ>
DEVICE void two_body_sums(Sums<Place<Chain>::MI, NJ>& sums, const REAL* __restrict__ basis,
                         const REAL* __restrict__ two_body, const int (&offsets)[Place<Chain>::MI][2],
                         const Place<Chain>& place, int column, int capacity) {
  constexpr int MI = Place<Chain>::MI;
  const int start = blockIdx.x * Chain::TILE;
  sums.clear();
#pragma unroll(NJ == 1 && PRECISION_MIXED ? 4 : 1)  // with registers to spare: loads of several functions together
  for (int n = 0; n < NB; ++n) {
    REAL radial[MI][2];
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) radial[i][half] = row_of(basis, n, capacity)[start + place.row(i, half)];
#pragma unroll
    for (int j = 0; j < NJ; ++j) {
      if (Mlp::TABLE_N % (8 * NJ * Chain::WARPS_N) != 0 && column + 8 * j >= Mlp::TABLE_N) continue;
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int table = Mlp::SEPARABLE ? 0 : offsets[i][half];
          const REAL2 right = load_pair(two_body + table + n * Mlp::TABLE_N + column + 8 * j);
          REAL* sum = &sums.of[i][j][2 * half];
          sum[0] = multiply_add(radial[i][half], right.x, sum[0]);
          sum[1] = multiply_add(radial[i][half], right.y, sum[1]);
        }
    }
  }
  if constexpr (Mlp::SEPARABLE) {
#pragma unroll
    for (int j = 0; j < NJ; ++j) {
      if (Mlp::TABLE_N % (8 * NJ * Chain::WARPS_N) != 0 && column + 8 * j >= Mlp::TABLE_N) continue;
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const REAL2 factor = type_factors<Mlp::TABLE_N>(two_body, offsets[i][half], column + 8 * j);
          REAL* sum = &sums.of[i][j][2 * half];
          sum[0] *= factor.x;
          sum[1] *= factor.y;
        }
    }
  }
}

template <class Mlp, class Chain>
DEVICE void two_body_offsets(int (&offsets)[Place<Chain>::MI][2], const int* __restrict__ pairs,
                             const Place<Chain>& place) {
#pragma unroll
  for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      offsets[i][half] = pairs[blockIdx.x * Chain::TILE + place.row(i, half)] * (Mlp::SEPARABLE ? 1 : NB * Mlp::TABLE_N);
}

// part[row] += sum_c gradient[c] (sum_n basis_slopes[n, z] T[pair, n, c]): dE/dx from dE/dy. Eight columns at a time.
template <class Mlp, class Chain>
DEVICE void add_radial_slope(REAL (&part)[Place<Chain>::MI][2], int column,
                             const REAL2 (&gradient)[Place<Chain>::MI][2], const REAL* __restrict__ basis_slopes,
                             const REAL* __restrict__ two_body, const int (&offsets)[Place<Chain>::MI][2],
                             const Place<Chain>& place, int capacity) {
  Sums<Place<Chain>::MI, 1> slopes;
  two_body_sums<Mlp, Chain, 1>(slopes, basis_slopes, two_body, offsets, place, column, capacity);
#pragma unroll
  for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      part[i][half] = multiply_add(gradient[i][half].x, slopes.of[i][0][2 * half], part[i][half]);
      part[i][half] = multiply_add(gradient[i][half].y, slopes.of[i][0][2 * half + 1], part[i][half]);
    }
}

// ---- Forward

// What forward passes that end in features have in common: activations between products, results in columns. Features
// behind the last activation are given, too, if `kept` has a place for them, or alone, if no product follows.
template <class Mlp, class Columns, class Kept> struct ForwardEpilogue {
  using Chain = typename Mlp::Forward;
  static constexpr bool ADDS = Columns::ADDS, TURNS = false;
  const Slopes<Mlp>& slopes;
  Columns columns;
  Kept kept;

  DEVICE REAL2 there(int z, int column, bool exists) const { return columns.there(z, column, exists); }
  template <int P> DEVICE REAL2 hidden(int z, int column, REAL2 pair) const {
    constexpr int N = Mlp::FIRST + P;
    pair = activate_pair<Mlp::ACTIVATION[N]>(pair, slopes.template at<N>(z, column));
    if constexpr (P == Chain::PRODUCTS - 2) kept.store(z, column, pair);
    return rounded_if<reads_tf32<Chain, P + 1>()>(pair);
  }
  DEVICE void last(int, int, int z, int column, REAL2 pair) const {
    constexpr int N = Mlp::FIRST + Chain::PRODUCTS - 1;
    if constexpr (Mlp::ACTIVATION[N] != IDENTITY)
      pair = activate_pair<Mlp::ACTIVATION[N]>(pair, slopes.template at<N>(z, column));
    columns.store(z, column, pair);
  }
};

// columns <- the embedding MLP of basis and pairs; slopes kept.
template <class Mlp, class Columns, class Kept>
DEVICE void embedding_tile_forward(const Columns columns, const Kept kept, const Slopes<Mlp>& slopes,
                                   const REAL* basis, const int* pairs, const REAL* two_body, const REAL* weights,
                                   int capacity, REAL* shared) {
  using Chain = typename Mlp::Forward;
  const Place<Chain> place;
  ForwardEpilogue<Mlp, Columns, Kept> epilogue{slopes, columns, kept};
  ChainRun<Chain, NoRows, decltype(epilogue)> chain(place, NoRows(), epilogue, weights, shared);
  if constexpr (Chain::PRODUCTS > 0) chain.begin();
  int offsets[Place<Chain>::MI][2];
  two_body_offsets<Mlp, Chain>(offsets, pairs, place);
#pragma unroll 1
  for (int block = 0; block < Mlp::TABLE_BLOCKS; ++block) {
    Sums<Place<Chain>::MI, Mlp::TABLE_NJ> sums;
    two_body_sums<Mlp, Chain, Mlp::TABLE_NJ>(sums, basis, two_body, offsets, place,
                                            place.column(block, Mlp::TABLE_NJ, 0), capacity);
    for_each_pair<Chain, Mlp::TABLE_NJ, Mlp::TABLE_N>(
        place, sums, block, [&](int, int, int row, int column, REAL2 pair) {
          const int z = chain.start + row;
          if constexpr (Chain::PRODUCTS == 0) {
            static_assert(!Columns::ADDS, "nothing is there before the embedding");
            epilogue.columns.store(z, column, pair);
          } else {
            pair = activate_pair<Mlp::ACTIVATION[0]>(pair, slopes.template at<0>(z, column));
            if constexpr (Chain::PRODUCTS == 1) kept.store(z, column, pair);
            store_pair(shared + row * Chain::TILE_STRIDE + column, rounded_if<reads_tf32<Chain, 0>()>(pair));
          }
        });
  }
  if constexpr (Chain::PRODUCTS > 0) chain.run();
}

// columns <- the MLP of rows; slopes kept.
template <class Mlp, class Columns, class Kept, class Rows>
DEVICE void rows_tile_forward(const Columns columns, const Kept kept, const Slopes<Mlp>& slopes, const Rows rows,
                              const REAL* weights, REAL* shared) {
  using Chain = typename Mlp::Forward;
  const Place<Chain> place;
  ForwardEpilogue<Mlp, Columns, Kept> epilogue{slopes, columns, kept};
  ChainRun<Chain, Rows, decltype(epilogue)> chain(place, rows, epilogue, weights, shared);
  chain.begin();
  chain.run();
}

// The numbers of rows, as if a product had made them.
template <class Chain, int NJ, int N, class Rows>
DEVICE void load_rows(Sums<Place<Chain>::MI, NJ>& sums, const Rows& rows, const Place<Chain>& place, int block) {
#pragma unroll
  for (int j = 0; j < NJ; ++j) {
    const int column = place.column(block, NJ, j);
    if (column >= N) continue;
#pragma unroll
    for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const REAL2 pair = load_pair(rows.at(blockIdx.x * Chain::TILE + place.row(i, half), column));
        sums.of[i][j][2 * half] = pair.x;
        sums.of[i][j][2 * half + 1] = pair.y;
      }
  }
}

// ---- Backward

// Between the products of a backward chain: the gradient by an activation's result times its slope. Product P goes back
// through the forward product DENSE - 1 - P. kept: where gradients by the features behind the last activation already are.
template <class Mlp, class Kept = NoRows> struct BackwardEpilogue {
  using Chain = typename Mlp::Backward;
  const Slopes<Mlp>& slopes;
  const Kept kept;

  template <int P> DEVICE REAL2 hidden(int z, int column, REAL2 pair) const {
    if constexpr (P == 0) pair = plus_kept(kept, z, column, pair);
    pair = slopes.template times<Mlp::FIRST + Chain::PRODUCTS - 2 - P>(z, column, pair);
    return rounded_if<reads_tf32<Chain, P + 1>()>(pair);
  }
};

template <class Mlp, class Columns, class Kept = NoRows> struct GradientEpilogue : BackwardEpilogue<Mlp, Kept> {
  static constexpr bool ADDS = Columns::ADDS, TURNS = false;
  const Columns columns;
  DEVICE GradientEpilogue(const Slopes<Mlp>& slopes, const Columns columns, const Kept kept = Kept())
      : BackwardEpilogue<Mlp, Kept>{slopes, kept}, columns(columns) {}
  DEVICE REAL2 there(int z, int column, bool exists) const { return columns.there(z, column, exists); }
  DEVICE void last(int, int, int z, int column, REAL2 pair) const { columns.store(z, column, pair); }
};

// columns <- dE/d(features) from rows = dE/d(result).
template <class Mlp, class Columns, class Kept, class Rows>
DEVICE void rows_tile_backward(const Columns columns, const Kept kept, const Slopes<Mlp>& slopes, const Rows rows,
                               const REAL* weights, REAL* shared) {
  using Chain = typename Mlp::Backward;
  const Place<Chain> place;
  GradientEpilogue<Mlp, Columns, Kept> epilogue(slopes, columns, kept);
  ChainRun<Chain, Rows, decltype(epilogue)> chain(place, rows, epilogue, weights, shared);
  chain.begin();
  chain.run();
}

// The same of an MLP that ends in an activation.
template <class Mlp, class Columns, class Rows>
DEVICE void activated_tile_backward(const Columns columns, const Slopes<Mlp>& slopes, const Rows rows,
                                    const REAL* weights, REAL* shared) {
  using Chain = typename Mlp::Backward;
  const Place<Chain> place;
  GradientEpilogue<Mlp, Columns> epilogue(slopes, columns);
  ChainRun<Chain, NoRows, decltype(epilogue)> chain(place, NoRows(), epilogue, weights, shared);
  chain.begin();
  for (int n = threadIdx.x; n < Chain::TILE * (Chain::K[0] / 2); n += Place<Chain>::THREADS) {
    const int row = n / (Chain::K[0] / 2), column = n % (Chain::K[0] / 2) * 2, z = chain.start + row;
    const REAL2 pair = slopes.template times<Mlp::ACTIVATIONS - 1>(z, column, load_pair(rows.at(z, column)));
    store_pair(shared + row * Chain::TILE_STRIDE + column, rounded_if<reads_tf32<Chain, 0>()>(pair));
  }
  chain.run();
}

template <class Mlp, class Kept> struct RadialSlope : BackwardEpilogue<Mlp, Kept> {
  using Chain = typename Mlp::Backward;
  static constexpr bool ADDS = false, TURNS = false;
  const REAL *basis_slopes, *two_body;
  const Place<Chain>& place;
  int capacity;
  int offsets[Place<Chain>::MI][2];
  REAL part[Place<Chain>::MI][2] = {};
  REAL2 gradient[Place<Chain>::MI][2];

  DEVICE RadialSlope(const Kept kept, const Slopes<Mlp>& slopes, const REAL* basis_slopes, const REAL* two_body,
                     const int* pairs, const Place<Chain>& place, int capacity)
      : BackwardEpilogue<Mlp, Kept>{slopes, kept},
        basis_slopes(basis_slopes),
        two_body(two_body),
        place(place),
        capacity(capacity) {
    two_body_offsets<Mlp, Chain>(offsets, pairs, place);
  }
  // Called for all rows of eight columns, then for the next eight.
  DEVICE void last(int i, int half, int z, int column, REAL2 pair) {
    if constexpr (Chain::PRODUCTS == 1) pair = plus_kept(this->kept, z, column, pair);
    gradient[i][half] = this->slopes.template times<0>(z, column, pair);
    if (i == Place<Chain>::MI - 1 && half == 1)
      add_radial_slope<Mlp, Chain>(part, column, gradient, basis_slopes, two_body, offsets, place, capacity);
  }
};

// radial_slope[z] <- dE/dx of the embedding (overwritten), from rows = dE/d(result).
template <class Mlp, class Kept, class Rows>
DEVICE void embedding_tile_backward(double* radial_slope, const Kept kept, const Slopes<Mlp>& slopes,
                                    const Rows rows, const REAL* basis_slopes, const int* pairs, const REAL* two_body,
                                    const REAL* weights, int capacity, REAL* shared) {
  using Chain = typename Mlp::Backward;
  const Place<Chain> place;
  RadialSlope<Mlp, Kept> epilogue(kept, slopes, basis_slopes, two_body, pairs, place, capacity);
  ChainRun<Chain, Rows, RadialSlope<Mlp, Kept>> chain(place, rows, epilogue, weights, shared);
  if constexpr (Chain::PRODUCTS > 0) {
    chain.begin();
    chain.run();
  } else {
#pragma unroll 1
    for (int block = 0; block < Mlp::TABLE_BLOCKS; ++block) {
      Sums<Place<Chain>::MI, Mlp::TABLE_NJ> sums;
      load_rows<Chain, Mlp::TABLE_NJ, Mlp::TABLE_N>(sums, rows, place, block);
      for_each_pair<Chain, Mlp::TABLE_NJ, Mlp::TABLE_N>(
          place, sums, block,
          [&](int i, int half, int row, int column, REAL2 pair) {
            epilogue.last(i, half, chain.start + row, column, pair);
          });
    }
  }
  sum_over_columns<Chain>(radial_slope, epilogue.part, place, reinterpret_cast<double*>(shared));
}

// ---- Read-out, both ways: the end of the way forward is the beginning of the way back

// edge_energies = energy_weights . result; dE/d(result) = seeds (rows of its width) by type of the centre, or by pair of
// types (SEED_PAIRS).
struct Energy {
  const double* energy_weights;
  const REAL* seeds;
  const int* pairs;

  DEVICE void add(double& part, int column, REAL2 pair) const {
    part = fma((double)pair.x, energy_weights[column], part);
    part = fma((double)pair.y, energy_weights[column + 1], part);
  }
  DEVICE REAL2 gradient(int z, int width, int column) const {
    return load_pair(seeds + seed_row(pairs[z]) * width + column);
  }
};

// Slopes of the last activation stay in registers: its gradient takes the place of what the tile held.
template <class Mlp, class Back> struct TurnEpilogue {
  using Chain = typename Mlp::Forward;
  static constexpr bool ADDS = false, TURNS = true;
  const Slopes<Mlp>& slopes;
  const Energy& energy;
  Back& back;
  double part[Place<Chain>::MI][2] = {};

  template <int P> DEVICE REAL2 hidden(int z, int column, REAL2 pair) const {
    pair = activate_pair<Mlp::ACTIVATION[P]>(pair, slopes.template at<P>(z, column));
    return rounded_if<reads_tf32<Chain, P + 1>()>(pair);
  }
  DEVICE void turn() const { __syncthreads(); }  // all have read the tile
  DEVICE void last(int i, int half, int z, int column, REAL2 pair) {
    constexpr int N = Chain::PRODUCTS - 1;
    REAL2 gradient = energy.gradient(z, Chain::N[N], column);
    if constexpr (Mlp::ACTIVATION[N] != IDENTITY) {
      REAL2 slope;
      activate<Mlp::ACTIVATION[N]>(pair.x, pair.x, slope.x);
      activate<Mlp::ACTIVATION[N]>(pair.y, pair.y, slope.y);
      gradient = pair_of(gradient.x * slope.x, gradient.y * slope.y);
    }
    energy.add(part[i][half], column, pair);
    store_pair(back.tile + (z - back.start) * Chain::TILE_STRIDE + column,
               rounded_if<reads_tf32<typename Mlp::Backward, 0>()>(gradient));
  }
};

// edge_energies[z] <- the read-out of rows (overwritten); columns <- dE/d(features). Slopes of activations before the
// last are kept in between.
template <class Mlp, class Columns, class Rows>
DEVICE void readout_tile(double* edge_energies, const Columns columns, const Slopes<Mlp>& slopes, const Rows rows,
                         const Energy energy, const REAL* weights, REAL* shared) {
  using Chain = typename Mlp::Forward;
  using Backward = typename Mlp::Backward;
  const Place<Chain> place;
  double* totals = reinterpret_cast<double*>(shared + Mlp::TOTALS);
  static_assert(!Columns::ADDS, "nothing is there before the read-out's way back");
  if constexpr (Chain::PRODUCTS > 0) {
    static_assert(Chain::TILE == Backward::TILE && Chain::TILE_STRIDE == Backward::TILE_STRIDE, "one tile both ways");
    const Place<Backward> place_back;
    GradientEpilogue<Mlp, Columns> gradients(slopes, columns);
    ChainRun<Backward, NoRows, decltype(gradients)> back(place_back, NoRows(), gradients, weights, shared);
    TurnEpilogue<Mlp, decltype(back)> epilogue{slopes, energy, back};
    ChainRun<Chain, Rows, decltype(epilogue)> chain(place, rows, epilogue, weights, shared);
    chain.begin();
    chain.run();
    back.begin();  // not before: what it takes to send for matrices has no registers beside the sums
    sum_over_columns<Chain>(edge_energies, epilogue.part, place, totals);
    back.run();
  } else {
    double part[Place<Chain>::MI][2] = {};
#pragma unroll 1
    for (int block = 0; block < Mlp::INPUT_BLOCKS; ++block) {
      Sums<Place<Chain>::MI, Mlp::INPUT_NJ> sums;
      load_rows<Chain, Mlp::INPUT_NJ, Mlp::INPUT>(sums, rows, place, block);
      for_each_pair<Chain, Mlp::INPUT_NJ, Mlp::INPUT>(
          place, sums, block,
          [&](int i, int half, int row, int column, REAL2 pair) {
            const int z = blockIdx.x * Chain::TILE + row;
            energy.add(part[i][half], column, pair);
            columns.store(z, column, energy.gradient(z, Mlp::INPUT, column));
          });
    }
    sum_over_columns<Chain>(edge_energies, part, place, totals);
  }
}
