// The MLPs on tiles of edges, forward and backward: embedding, latents, read-out. One block computes one tile.
//
// Rows of x and dx: [scal or dscal | s_0 | s_1 | ... | s_L], UP + (L + 1) SP columns. An MLP reads and writes columns
// in place; its hidden features stay in shared memory; what the backward pass needs of them are the slopes f' of the
// activations, kept in memory. Every number of an edge is computed from that edge's row alone, in an order that does
// not depend on the row's place. Each MLP is a struct of constants written by mlp_header.py (`Mlp`, with the chains
// Mlp::Forward and Mlp::Backward), and so are the entry points that call the functions below.
#pragma once
#include "activations.cuh"
#include "chain.cuh"

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

// Columns FIRST .. of x.
template <int FIRST> struct FeatureRows {
  const REAL* x;
  DEVICE const REAL* at(int z, int k) const { return row_of(x, z, LDX) + FIRST + k; }
};

// Gradients of a result: s columns FIRST .. FIRST + SP of dx, then denv (NE columns), then dw (NW columns).
template <int FIRST> struct GradientRows {
  const REAL *dx, *denv, *dw;
  DEVICE const REAL* at(int z, int k) const {
    if (k < SP) return row_of(dx, z, LDX) + FIRST + k;
    if (k < SP + NE) return row_of(denv, z, NE) + (k - SP);
    return row_of(dw, z, NW) + (k - SP - NE);
  }
};

// Results of embedding and latents: s columns FIRST .. of x, then env, then w.
template <int FIRST, bool ROUND> struct ResultColumns {
  REAL *x, *env, *w;
  DEVICE void store(int z, int column, REAL2 pair) const {
    if (column < SP)
      store_pair(row_of(x, z, LDX) + FIRST + column, rounded_if<ROUND>(pair));
    else if (column < SP + NE)
      store_pair(row_of(env, z, NE) + (column - SP), pair);
    else
      store_pair(row_of(w, z, NW) + (column - SP - NE), pair);
  }
};

// ---- Two-body features: y[z, c] = sum_n basis[n, z] T[pair of z, n, c].

// sums += the columns of eights FIRST .. of this thread's rows. offsets: where T of a row's pair of types begins.
template <class Mlp, class Chain, int NJ>
DEVICE void add_two_body(Sums<Place<Chain>::MI, NJ>& sums, const REAL* __restrict__ basis,
                         const REAL* __restrict__ two_body, const int (&offsets)[Place<Chain>::MI][2],
                         const Place<Chain>& place, int column, int capacity) {
  constexpr int MI = Place<Chain>::MI;
  const int start = blockIdx.x * Chain::TILE;
#pragma unroll 1
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
          const REAL2 right = load_pair(two_body + offsets[i][half] + n * Mlp::TABLE_N + column + 8 * j);
          REAL* sum = &sums.of[i][j][2 * half];
          sum[0] = multiply_add(radial[i][half], right.x, sum[0]);
          sum[1] = multiply_add(radial[i][half], right.y, sum[1]);
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
      offsets[i][half] = pairs[blockIdx.x * Chain::TILE + place.row(i, half)] * (NB * Mlp::TABLE_N);
}

// part[row] += sum_c gradient[c] (sum_n basis_slopes[n, z] T[pair, n, c]): dE/dx from dE/dy. Eight columns at a time.
template <class Mlp, class Chain>
DEVICE void add_radial_slope(REAL (&part)[Place<Chain>::MI][2], int column,
                             const REAL2 (&gradient)[Place<Chain>::MI][2], const REAL* __restrict__ basis_slopes,
                             const REAL* __restrict__ two_body, const int (&offsets)[Place<Chain>::MI][2],
                             const Place<Chain>& place, int capacity) {
  Sums<Place<Chain>::MI, 1> slopes;
  slopes.clear();
  add_two_body<Mlp, Chain, 1>(slopes, basis_slopes, two_body, offsets, place, column, capacity);
#pragma unroll
  for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      part[i][half] = multiply_add(gradient[i][half].x, slopes.of[i][0][2 * half], part[i][half]);
      part[i][half] = multiply_add(gradient[i][half].y, slopes.of[i][0][2 * half + 1], part[i][half]);
    }
}

// ---- Forward

// What the forward passes of embedding and latents have in common: activations between products, results in columns.
template <class Mlp, class Columns> struct ForwardEpilogue {
  using Chain = typename Mlp::Forward;
  const Slopes<Mlp>& slopes;
  Columns columns;

  template <int P> DEVICE REAL2 hidden(int z, int column, REAL2 pair) const {
    constexpr int N = Mlp::FIRST + P;
    pair = activate_pair<Mlp::ACTIVATION[N]>(pair, slopes.template at<N>(z, column));
    return rounded_if<reads_tf32<Chain, P + 1>()>(pair);
  }
  DEVICE void last(int, int, int z, int column, REAL2 pair) const { columns.store(z, column, pair); }
};

// x[:, s_0], env, w <- the embedding MLP of basis and pairs (overwritten); slopes kept.
template <class Mlp>
DEVICE void embedding_tile_forward(REAL* x, REAL* env, REAL* w, const Slopes<Mlp>& slopes, const REAL* basis,
                                   const int* pairs, const REAL* two_body, const REAL* weights, int capacity,
                                   REAL* shared) {
  using Chain = typename Mlp::Forward;
  using Columns = ResultColumns<UP, Mlp::ROUND_RESULT>;
  const Place<Chain> place;
  ForwardEpilogue<Mlp, Columns> epilogue{slopes, {x, env, w}};
  ChainRun<Chain, NoRows, decltype(epilogue)> chain(place, NoRows(), epilogue, weights, shared);
  if constexpr (Chain::PRODUCTS > 0) chain.begin();
  int offsets[Place<Chain>::MI][2];
  two_body_offsets<Mlp, Chain>(offsets, pairs, place);
#pragma unroll 1
  for (int block = 0; block < Mlp::TABLE_BLOCKS; ++block) {
    Sums<Place<Chain>::MI, Mlp::TABLE_NJ> sums;
    sums.clear();
    add_two_body<Mlp, Chain, Mlp::TABLE_NJ>(sums, basis, two_body, offsets, place,
                                            place.column(block, Mlp::TABLE_NJ, 0), capacity);
    for_each_pair<Chain, Mlp::TABLE_NJ, Mlp::TABLE_N>(
        place, sums, block, [&](int, int, int row, int column, REAL2 pair) {
          const int z = chain.start + row;
          if constexpr (Chain::PRODUCTS == 0) {
            epilogue.columns.store(z, column, pair);
          } else {
            pair = activate_pair<Mlp::ACTIVATION[0]>(pair, slopes.template at<0>(z, column));
            store_pair(shared + row * Chain::TILE_STRIDE + column, rounded_if<reads_tf32<Chain, 0>()>(pair));
          }
        });
  }
  if constexpr (Chain::PRODUCTS > 0) chain.run();
}

// x[:, s_{k+1}], env_{k+1} <- latent MLP k of x[:, scal_k .. s_k] (overwritten); slopes kept. The last has no env.
template <class Mlp>
DEVICE void latent_tile_forward(REAL* x, REAL* env, const Slopes<Mlp>& slopes, const REAL* weights, int capacity,
                                REAL* shared) {
  using Chain = typename Mlp::Forward;
  using Columns = ResultColumns<UP + (Mlp::LAYER + 1) * SP, Mlp::ROUND_RESULT>;
  const Place<Chain> place;
  const FeatureRows<0> rows{x};
  if (env != nullptr) env += (long long)(Mlp::LAYER + 1) * capacity * NE;
  ForwardEpilogue<Mlp, Columns> epilogue{slopes, {x, env, nullptr}};
  ChainRun<Chain, FeatureRows<0>, decltype(epilogue)> chain(place, rows, epilogue, weights, shared);
  chain.begin();
  chain.run();
}

template <class Mlp> struct EnergyEpilogue {
  using Chain = typename Mlp::Forward;
  const Slopes<Mlp>& slopes;
  const double* energy_weights;
  double part[Place<Chain>::MI][2] = {};

  template <int P> DEVICE REAL2 hidden(int z, int column, REAL2 pair) const {
    pair = activate_pair<Mlp::ACTIVATION[P]>(pair, slopes.template at<P>(z, column));
    return rounded_if<reads_tf32<Chain, P + 1>()>(pair);
  }
  DEVICE void last(int i, int half, int z, int column, REAL2 pair) {
    constexpr int N = Chain::PRODUCTS == 0 ? 0 : Chain::PRODUCTS - 1;
    if constexpr (Chain::PRODUCTS > 0) pair = activate_pair<Mlp::ACTIVATION[N]>(pair, slopes.template at<N>(z, column));
    part[i][half] = fma((double)pair.x, energy_weights[column], part[i][half]);
    part[i][half] = fma((double)pair.y, energy_weights[column + 1], part[i][half]);
  }
};

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

// edge_energies[z] <- energy_weights . read-out MLP of x[:, s_0 .. s_L] (overwritten); slopes kept.
template <class Mlp>
DEVICE void readout_tile_forward(double* edge_energies, const Slopes<Mlp>& slopes, const REAL* x, const REAL* weights,
                                 const double* energy_weights, REAL* shared) {
  using Chain = typename Mlp::Forward;
  const Place<Chain> place;
  const FeatureRows<UP> rows{x};
  EnergyEpilogue<Mlp> epilogue{slopes, energy_weights};
  ChainRun<Chain, FeatureRows<UP>, EnergyEpilogue<Mlp>> chain(place, rows, epilogue, weights, shared);
  if constexpr (Chain::PRODUCTS > 0) {
    chain.begin();
    chain.run();
  } else {
#pragma unroll 1
    for (int block = 0; block < Mlp::INPUT_BLOCKS; ++block) {
      Sums<Place<Chain>::MI, Mlp::INPUT_NJ> sums;
      load_rows<Chain, Mlp::INPUT_NJ, Mlp::INPUT>(sums, rows, place, block);
      for_each_pair<Chain, Mlp::INPUT_NJ, Mlp::INPUT>(
          place, sums, block,
          [&](int i, int half, int row, int column, REAL2 pair) {
            epilogue.last(i, half, chain.start + row, column, pair);
          });
    }
  }
  sum_over_columns<Chain>(edge_energies, epilogue.part, place, reinterpret_cast<double*>(shared));
}

// ---- Backward

// Between the products of a backward chain: the gradient by an activation's result times its slope. Product P goes back
// through the forward product DENSE - 1 - P.
template <class Mlp> struct BackwardEpilogue {
  using Chain = typename Mlp::Backward;
  const Slopes<Mlp>& slopes;

  template <int P> DEVICE REAL2 hidden(int z, int column, REAL2 pair) const {
    pair = slopes.template times<Mlp::FIRST + Chain::PRODUCTS - 2 - P>(z, column, pair);
    return rounded_if<reads_tf32<Chain, P + 1>()>(pair);
  }
};

// dx[:, s_0 .. s_L] <- dE/d(features) of the read-out (overwritten). seeds (NT, columns): dE/d(last activation's
// result) by type of the centre.
template <class Mlp> struct ReadoutGradient : BackwardEpilogue<Mlp> {
  REAL* dx;
  DEVICE ReadoutGradient(const Slopes<Mlp>& slopes, REAL* dx) : BackwardEpilogue<Mlp>{slopes}, dx(dx) {}
  DEVICE void last(int, int, int z, int column, REAL2 pair) const {
    // s_L's gradient is complete, and is an operand next.
    if (column >= LAYERS * SP) pair = rounded_if<Mlp::ROUND_GRADIENT>(pair);
    store_pair(row_of(dx, z, LDX) + UP + column, pair);
  }
};

template <class Mlp>
DEVICE void readout_tile_backward(REAL* dx, const Slopes<Mlp>& slopes, const REAL* seeds, const int* pairs,
                                  const REAL* weights, REAL* shared) {
  using Chain = typename Mlp::Backward;
  const Place<Chain> place;
  ReadoutGradient<Mlp> epilogue(slopes, dx);
  ChainRun<Chain, NoRows, ReadoutGradient<Mlp>> chain(place, NoRows(), epilogue, weights, shared);
  constexpr int COLUMNS = Chain::PRODUCTS > 0 ? Chain::K[0] : Mlp::INPUT;
  if constexpr (Chain::PRODUCTS > 0) chain.begin();
  for (int n = threadIdx.x; n < Chain::TILE * (COLUMNS / 2); n += Place<Chain>::THREADS) {
    const int row = n / (COLUMNS / 2), column = n % (COLUMNS / 2) * 2, z = chain.start + row;
    REAL2 pair = load_pair(seeds + pairs[z] / NT * COLUMNS + column);
    if constexpr (Chain::PRODUCTS > 0) {
      pair = slopes.template times<Mlp::ACTIVATIONS - 1>(z, column, pair);
      store_pair(shared + row * Chain::TILE_STRIDE + column, rounded_if<reads_tf32<Chain, 0>()>(pair));
    } else {
      epilogue.last(0, 0, z, column, pair);
    }
  }
  if constexpr (Chain::PRODUCTS > 0) chain.run();
}

template <class Mlp> struct LatentGradient : BackwardEpilogue<Mlp> {
  REAL* dx;
  DEVICE LatentGradient(const Slopes<Mlp>& slopes, REAL* dx) : BackwardEpilogue<Mlp>{slopes}, dx(dx) {}
  DEVICE void last(int, int, int z, int column, REAL2 pair) const {
    REAL* to = row_of(dx, z, LDX) + column;
    if (column >= UP) {
      const REAL2 before = load_pair(to);
      pair = pair_of(before.x + pair.x, before.y + pair.y);
      // s_k's gradient is complete, and is an operand next.
      if (column >= UP + Mlp::LAYER * SP) pair = rounded_if<Mlp::ROUND_GRADIENT>(pair);
    }
    store_pair(to, pair);
  }
};

// dx[:, dscal_k] <- (overwritten), dx[:, s_0 .. s_k] += dE/d(features) from dx[:, s_{k+1}] and denv = dE/d(env_{k+1}).
template <class Mlp>
DEVICE void latent_tile_backward(REAL* dx, const Slopes<Mlp>& slopes, const REAL* denv, const REAL* weights,
                                 REAL* shared) {
  using Chain = typename Mlp::Backward;
  using Rows = GradientRows<UP + (Mlp::LAYER + 1) * SP>;
  const Place<Chain> place;
  const Rows rows{dx, denv, nullptr};
  LatentGradient<Mlp> epilogue(slopes, dx);
  ChainRun<Chain, Rows, LatentGradient<Mlp>> chain(place, rows, epilogue, weights, shared);
  chain.begin();
  chain.run();
}

template <class Mlp> struct RadialSlope : BackwardEpilogue<Mlp> {
  using Chain = typename Mlp::Backward;
  const REAL *basis_slopes, *two_body;
  const Place<Chain>& place;
  int capacity;
  int offsets[Place<Chain>::MI][2];
  REAL part[Place<Chain>::MI][2] = {};
  REAL2 gradient[Place<Chain>::MI][2];

  DEVICE RadialSlope(const Slopes<Mlp>& slopes, const REAL* basis_slopes, const REAL* two_body, const int* pairs,
                     const Place<Chain>& place, int capacity)
      : BackwardEpilogue<Mlp>{slopes},
        basis_slopes(basis_slopes),
        two_body(two_body),
        place(place),
        capacity(capacity) {
    two_body_offsets<Mlp, Chain>(offsets, pairs, place);
  }
  // Called for all rows of eight columns, then for the next eight.
  DEVICE void last(int i, int half, int z, int column, REAL2 pair) {
    gradient[i][half] = this->slopes.template times<0>(z, column, pair);
    if (i == Place<Chain>::MI - 1 && half == 1)
      add_radial_slope<Mlp, Chain>(part, column, gradient, basis_slopes, two_body, offsets, place, capacity);
  }
};

// radial_slope[z] <- dE/dx of the embedding (overwritten), from dx[:, s_0], denv = dE/d(env_0) and dw.
template <class Mlp>
DEVICE void embedding_tile_backward(double* radial_slope, const Slopes<Mlp>& slopes, const REAL* dx,
                                    const REAL* denv, const REAL* dw, const REAL* basis_slopes, const int* pairs,
                                    const REAL* two_body, const REAL* weights, int capacity, REAL* shared) {
  using Chain = typename Mlp::Backward;
  using Rows = GradientRows<UP>;
  const Place<Chain> place;
  const Rows rows{dx, denv, dw};
  RadialSlope<Mlp> epilogue(slopes, basis_slopes, two_body, pairs, place, capacity);
  ChainRun<Chain, Rows, RadialSlope<Mlp>> chain(place, rows, epilogue, weights, shared);
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
