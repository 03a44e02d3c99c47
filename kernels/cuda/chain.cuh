// A chain of matrix products on a tile of edges: rows come from memory once, hidden features stay in shared memory.
//
// A chain is a struct of constants that mlp_chain.py writes:
//     PRODUCTS; of each product K, N, WEIGHTS (place of the matrix (K, N) among the weights), METHOD, NJ, BLOCKS
//     TILE edges a block; WARPS_M x WARPS_N warps; SLAB numbers k at a time; STAGES slabs under way or in use
//     FROM_MEMORY (else somebody fills the tile before); TILE_STRIDE, SLAB_STRIDE, TILE_NUMBERS, STAGE_NUMBERS
// Warp (m, n) computes the rows m of the tile, 16 MI of them, and of each block of columns the part n, 8 NJ of them.
// Hidden products are one block, so that the tile is overwritten only when all of it has been read.
//
// Shared memory: the tile (or at first STAGES slabs of rows in its place), then STAGES slabs of weights. Slabs arrive
// by asynchronous copies, STAGES - 1 ahead; the slabs of all products are one stream, so that the weights of the next
// product are on their way while this one ends.
#pragma once
#include "product.cuh"

template <class Chain, int P> struct ProductOf {
  static constexpr int K = Chain::K[P], N = Chain::N[P], NJ = Chain::NJ[P], BLOCKS = Chain::BLOCKS[P];
  static constexpr int BLOCK = Chain::WARPS_N * NJ * 8;  // columns of a block
  static constexpr bool RAGGED = BLOCKS * BLOCK != N;    // the last block has fewer
  static constexpr int LDB = BLOCK + 4;
  static constexpr int SLABS = (K + Chain::SLAB - 1) / Chain::SLAB;  // of a block
  static constexpr bool FROM_MEMORY = P == 0 && Chain::FROM_MEMORY;
  static constexpr int LDA = FROM_MEMORY ? Chain::SLAB_STRIDE : Chain::TILE_STRIDE;
};

DEVICE constexpr int next_power_of_two(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

// How a block's threads copy rows of COUNT pieces: side by side along the row, so many rows at a time that a thread
// stays in its column and its addresses differ by constants.
template <int COUNT, int THREADS> struct Pieces {
  static constexpr int WIDE = next_power_of_two(COUNT), ROWS = THREADS / WIDE;
  static_assert(ROWS > 0, "rows longer than what all threads copy at once");

  static DEVICE int column() { return (int)(threadIdx.x % WIDE); }
  static DEVICE int row() { return (int)(threadIdx.x / WIDE); }
  static DEVICE bool has_column() { return WIDE == COUNT || column() < COUNT; }
};

// Where a thread stands in its block's tile.
template <class Chain> struct Place {
  static constexpr int MI = Chain::TILE / (16 * Chain::WARPS_M);
  static constexpr int THREADS = 32 * Chain::WARPS_M * Chain::WARPS_N;
  int g, t, warp_row, warp_column;  // warp_row: its first row; warp_column: its number among the warps of a row

  DEVICE Place() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    g = lane / 4;
    t = lane % 4;
    warp_row = warp / Chain::WARPS_N * (16 * MI);
    warp_column = warp % Chain::WARPS_N;
  }
  DEVICE int row(int i, int half) const { return warp_row + 16 * i + 8 * half + g; }
  // First of the two columns that this thread holds of the warp's j-th eight.
  DEVICE int column(int block, int nj, int j) const {
    return ((block * Chain::WARPS_N + warp_column) * nj + j) * 8 + 2 * t;
  }
};

// visit(i, half, row, column, pair) for the pairs of numbers of a block that this thread holds, of the eights of columns
// from FIRST on, before LAST.
template <class Chain, int NJ, int N, int FIRST = 0, int LAST = NJ, class Visit>
DEVICE void for_each_pair(const Place<Chain>& place, Sums<Place<Chain>::MI, NJ>& sums, int block, Visit visit) {
#pragma unroll
  for (int j = FIRST; j < LAST; ++j) {
    const int column = place.column(block, NJ, j);
    if (N % (Chain::WARPS_N * NJ * 8) != 0 && column >= N) continue;
#pragma unroll
    for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        REAL* pair = &sums.of[i][j][2 * half];
        visit(i, half, place.row(i, half), column, pair_of(pair[0], pair[1]));
      }
  }
}

// Runs a chain. Rows: `const REAL* at(int z, int k)`, 16 bytes of the input of edge z. Epilogue: `hidden<P>(z, column,
// pair) -> REAL2` gives what product P puts into the tile, `last(i, half, z, column, pair)` takes the last product, to
// which `there(z, column, exists) -> REAL2` was added if ADDS. If TURNS, `turn()` is called before, by all threads, and
// `last` may write over the tile once it returns.
template <class Chain, class Rows, class Epilogue> struct ChainRun {
  const Place<Chain>& place;
  const Rows rows;
  Epilogue& epilogue;
  const REAL* weights;
  REAL* tile;
  int start;  // first edge of the tile
  int stage = 0;

  DEVICE ChainRun(const Place<Chain>& place, const Rows rows, Epilogue& epilogue, const REAL* weights, REAL* tile)
      : place(place), rows(rows), epilogue(epilogue), weights(weights), tile(tile), start(blockIdx.x * Chain::TILE) {}

  // Sends for the first slabs: before the tile is filled, if it is.
  DEVICE void begin() {
#pragma unroll
    for (int n = 0; n < Chain::STAGES - 1; ++n) {
      fetch<0>(n, n);
      copy_async_commit();
    }
  }

  DEVICE void run() { product<0>(); }

 private:
  // Sends for slab number `slab`, counted from product P's first, into a stage.
  template <int P> DEVICE void fetch(int slab, int into) {
    using Shape = ProductOf<Chain, P>;
    constexpr int THREADS = Place<Chain>::THREADS, COUNT = Shape::BLOCKS * Shape::SLABS;
    if (slab < COUNT) {
      const int block = Shape::BLOCKS == 1 ? 0 : slab / Shape::SLABS;
      const int k = (slab - block * Shape::SLABS) * Chain::SLAB;
      using WeightPieces = Pieces<Shape::BLOCK / REALS_16, THREADS>;
      const REAL* matrix = weights + Chain::WEIGHTS[P] + k * Shape::N + block * Shape::BLOCK;
      REAL* to = tile + Chain::TILE_NUMBERS + into * Chain::STAGE_NUMBERS;
      const int column = WeightPieces::column() * REALS_16;
      const bool inside = WeightPieces::has_column() && (!Shape::RAGGED || block * Shape::BLOCK + column < Shape::N);
#pragma unroll
      for (int n = 0; n < Chain::SLAB; n += WeightPieces::ROWS) {
        const int row = WeightPieces::row() + n;
        if (inside && row < Chain::SLAB && (Shape::K % Chain::SLAB == 0 || k + row < Shape::K))
          copy_async_16(to + row * Shape::LDB + column, matrix + row * Shape::N + column);
      }
      if constexpr (Shape::FROM_MEMORY) {
        using RowPieces = Pieces<Chain::SLAB / REALS_16, THREADS>;
        REAL* rows_to = tile + into * (Chain::TILE * Chain::SLAB_STRIDE);
        const int first = RowPieces::column() * REALS_16;
        const bool exists = Shape::K % Chain::SLAB == 0 || k + first < Shape::K;
#pragma unroll
        for (int n = 0; n < Chain::TILE; n += RowPieces::ROWS) {
          const int row = RowPieces::row() + n;
          if (exists && row < Chain::TILE)
            copy_async_16(rows_to + row * Chain::SLAB_STRIDE + first, rows.at(start + row, k + first));
        }
      }
    } else if constexpr (P + 1 < Chain::PRODUCTS) {
      fetch<P + 1>(slab - COUNT, into);
    }
  }

  template <int P> DEVICE void product() {
    using Shape = ProductOf<Chain, P>;
    constexpr bool LAST = P + 1 == Chain::PRODUCTS;
    static_assert(LAST || Shape::BLOCKS == 1, "a hidden product overwrites the tile it reads");
#pragma unroll 1
    for (int block = 0; block < Shape::BLOCKS; ++block) {
      Sums<Place<Chain>::MI, Shape::NJ> sums;
      sums.clear();
#pragma unroll 1
      for (int slab = 0; slab < Shape::SLABS; ++slab) {
        copy_async_wait<Chain::STAGES - 2>();
        __syncthreads();  // the slab has arrived for all; all have done with the one before, whose place is free now
        fetch<P>(block * Shape::SLABS + slab + Chain::STAGES - 1, stage == 0 ? Chain::STAGES - 1 : stage - 1);
        copy_async_commit();
        const REAL* left = tile + place.warp_row * Shape::LDA +
                           (Shape::FROM_MEMORY ? stage * (Chain::TILE * Chain::SLAB_STRIDE) : slab * Chain::SLAB);
        const REAL* right =
            tile + Chain::TILE_NUMBERS + stage * Chain::STAGE_NUMBERS + place.warp_column * Shape::NJ * 8;
#pragma unroll 1
        for (int k = 0; k < Chain::SLAB; k += 8)
          if (Shape::K % Chain::SLAB == 0 || slab * Chain::SLAB + k < Shape::K)
            multiply<Chain::METHOD[P], Shape::LDA, Shape::LDB>(sums, left + k, right + k * Shape::LDB, place.g,
                                                               place.t);
        stage = stage + 1 == Chain::STAGES ? 0 : stage + 1;
      }
      if constexpr (LAST) {
        if constexpr (Epilogue::TURNS) {
          static_assert(Shape::BLOCKS == 1, "what is turned takes the place of what was read");
          epilogue.turn();
        }
        take_last<Shape, 0>(sums, block);
      } else {
        __syncthreads();  // all have read the tile
        store_hidden<P>(sums);
      }
    }
    if constexpr (!LAST) product<P + 1>();
  }

  // The results of a block, from the FIRST eight of columns on.
  template <class Shape, int FIRST> DEVICE void take_last(Sums<Place<Chain>::MI, Shape::NJ>& sums, int block) {
    constexpr int NJ = Shape::NJ, FEW = PRECISION_MIXED ? 4 : 2;  // as many loads as there are registers for
    constexpr int TOGETHER = Epilogue::ADDS || Epilogue::TURNS ? FEW : NJ;
    constexpr int LAST = FIRST + TOGETHER < NJ ? FIRST + TOGETHER : NJ;
    if constexpr (Epilogue::ADDS) add_what_is_there<Shape, FIRST, LAST>(sums, block);
    for_each_pair<Chain, NJ, Shape::N, FIRST, LAST>(
        place, sums, block,
        [&](int i, int half, int row, int column, REAL2 pair) {
          epilogue.last(i, half, start + row, column, pair);
        });
    if constexpr (Epilogue::TURNS) __syncwarp();  // no loads of the next ones yet: they would not fit
    if constexpr (LAST < NJ) take_last<Shape, LAST>(sums, block);
  }

  // Results are added to what stands in memory: before any of them is stored, so that these loads may be under way
  // together.
  template <class Shape, int FIRST, int LAST>
  DEVICE void add_what_is_there(Sums<Place<Chain>::MI, Shape::NJ>& sums, int block) {
#pragma unroll
    for (int j = FIRST; j < LAST; ++j) {
      const int column = place.column(block, Shape::NJ, j);
#pragma unroll
      for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool exists = !Shape::RAGGED || column < Shape::N;
          const REAL2 there = epilogue.there(start + place.row(i, half), column, exists);
          sums.of[i][j][2 * half] += there.x;
          sums.of[i][j][2 * half + 1] += there.y;
        }
    }
  }

  template <int P> DEVICE void store_hidden(Sums<Place<Chain>::MI, Chain::NJ[P]>& sums) {
    for_each_pair<Chain, Chain::NJ[P], Chain::N[P]>(
        place, sums, 0, [&](int, int, int row, int column, REAL2 pair) {
          store_pair(tile + row * Chain::TILE_STRIDE + column,
                     epilogue.template hidden<P>(start + row, column, pair));
        });
  }
};

// Whether the numbers that product P reads must be TF32 numbers when they are written.
template <class Chain, int P> DEVICE constexpr bool reads_tf32() { return Chain::METHOD[P] == MATRIX_TF32; }

// value f(x) of both numbers; slopes f'(x) are stored at `slopes`. The identity stores none.
template <int FUNCTION> DEVICE REAL2 activate_pair(REAL2 pair, REAL* slopes) {
  if constexpr (FUNCTION != IDENTITY) {
    REAL2 slope;
    activate<FUNCTION>(pair.x, pair.x, slope.x);
    activate<FUNCTION>(pair.y, pair.y, slope.y);
    store_pair(slopes, slope);
  }
  return pair;
}

// Adds a number of every column of an edge, over the threads that hold them, in an order of the columns alone:
// totals[z] = sum. part: this thread's sums for its rows. shared: WARPS_N TILE numbers that nobody else uses.
template <class Chain, class Number>
DEVICE void sum_over_columns(double* totals, Number (&part)[Place<Chain>::MI][2], const Place<Chain>& place,
                             double* shared) {
  __syncthreads();  // the shared memory was something else's
#pragma unroll
  for (int i = 0; i < Place<Chain>::MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      double sum = part[i][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (place.t == 0) shared[place.warp_column * Chain::TILE + place.row(i, half)] = sum;
    }
  __syncthreads();
  for (int row = threadIdx.x; row < Chain::TILE; row += Place<Chain>::THREADS) {
    double sum = shared[row];
#pragma unroll
    for (int n = 1; n < Chain::WARPS_N; ++n) sum += shared[n * Chain::TILE + row];
    totals[blockIdx.x * Chain::TILE + row] = sum;
  }
}
