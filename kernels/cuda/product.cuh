// Products of a tile of edges with a matrix: what one warp does with a slab of the inner dimension in shared memory.
//
// A warp owns MI x NJ blocks of 16 rows by 8 columns. Its sums are spread over the lanes as mma.m16n8k8 spreads them,
// whatever makes the product, so that loads and stores around it are written once: lane = 4 g + t holds, of each block,
//     sums[0], sums[1]: row g,     columns 2 t, 2 t + 1
//     sums[2], sums[3]: row g + 8, the same columns.
// The methods, chosen when compiling:
//     MULTIPLY_ADD  REAL, one chain of fused multiply-adds in the order of k
//     SUMS_OF_EIGHT float32, every eight k summed in float64: of few numbers a product's own error is the last word
//     MATRIX_TF32   on the matrix units, from operands that are TF32 numbers (or are rounded here: ROUNDING_TF32)
//     SPLIT_TF32    float32 on the matrix units: each operand is the sum of two TF32 numbers; three products (the
//                   fourth, of the two remainders, is below float32's last bit). The units cut sums off instead of
//                   rounding them, so of every eight k the sum is added outside of them (Ootomo and Yokota, Int. J.
//                   High Perform. Comput. Appl. 36, 475, 2022): else `single` errs ten times as much as float32
//     MATRIX_F64    float64 on the matrix units
//
// Shared memory is read without bank conflicts: see `row_stride` and `slab_stride` in mlp_chain.py. With TF32 a lane
// reads the neighbours k = 2 t, 2 t + 1 of its row at once and takes them for the instruction's k = t and t + 4, in
// both operands, which leaves the sum what it is.
#pragma once
#include "common.cuh"

template <int ROWS, int COLUMNS> struct Sums {
  static constexpr int MI = ROWS, NJ = COLUMNS;
  REAL of[MI][NJ][4];

  DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int j = 0; j < NJ; ++j)
#pragma unroll
        for (int n = 0; n < 4; ++n) of[i][j][n] = REAL(0);
  }
};

// All take: sums += A B over 8 numbers k. a: A's number at the warp's first row and the first k; b: B's number at the
// first k and the warp's first column; LDA, LDB: numbers from a row to the next.
template <int LDA, int LDB, class Result>
DEVICE void multiply_by_fma(Result& sums, const REAL* a, const REAL* b, int g, int t) {
#pragma unroll
  for (int k = 0; k < 8; k += REALS_16) {
    REAL left[Result::MI][2][REALS_16];
#pragma unroll
    for (int i = 0; i < Result::MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) load_wide(left[i][half], a + (16 * i + 8 * half + g) * LDA + k);
#pragma unroll
    for (int n = 0; n < REALS_16; ++n)
#pragma unroll
      for (int j = 0; j < Result::NJ; ++j) {
        const REAL2 right = load_pair(b + (k + n) * LDB + 8 * j + 2 * t);
#pragma unroll
        for (int i = 0; i < Result::MI; ++i) {
          REAL(&sum)[4] = sums.of[i][j];
          sum[0] = multiply_add(left[i][0][n], right.x, sum[0]);
          sum[1] = multiply_add(left[i][0][n], right.y, sum[1]);
          sum[2] = multiply_add(left[i][1][n], right.x, sum[2]);
          sum[3] = multiply_add(left[i][1][n], right.y, sum[3]);
        }
      }
  }
}

template <int LDA, int LDB, class Result>
DEVICE void multiply_by_eights(Result& sums, const REAL* a, const REAL* b, int g, int t) {
  REAL left[Result::MI][2][8];
#pragma unroll
  for (int i = 0; i < Result::MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int k = 0; k < 8; ++k) left[i][half][k] = a[(16 * i + 8 * half + g) * LDA + k];
#pragma unroll
  for (int j = 0; j < Result::NJ; ++j) {
    double eight[Result::MI][4];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const REAL2 right = load_pair(b + k * LDB + 8 * j + 2 * t);
#pragma unroll
      for (int i = 0; i < Result::MI; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const double number = left[i][half][k];
          double* sum = &eight[i][2 * half];
          sum[0] = k == 0 ? number * right.x : fma(number, (double)right.x, sum[0]);
          sum[1] = k == 0 ? number * right.y : fma(number, (double)right.y, sum[1]);
        }
    }
#pragma unroll
    for (int i = 0; i < Result::MI; ++i)
#pragma unroll
      for (int n = 0; n < 4; ++n) sums.of[i][j][n] = (REAL)(sums.of[i][j][n] + eight[i][n]);
  }
}

#if PRECISION_DOUBLE

template <int LDA, int LDB, class Result>
DEVICE void multiply_by_f64(Result& sums, const REAL* a, const REAL* b, int g, int t) {
#pragma unroll
  for (int k = t; k < 8 + t; k += 4) {
    REAL left[Result::MI][2];
#pragma unroll
    for (int i = 0; i < Result::MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) left[i][half] = a[(16 * i + 8 * half + g) * LDA + k];
#pragma unroll
    for (int j = 0; j < Result::NJ; ++j) {
      const REAL right = b[k * LDB + 8 * j + g];
#pragma unroll
      for (int i = 0; i < Result::MI; ++i) {
        REAL(&sum)[4] = sums.of[i][j];
        REAL upper[2] = {sum[0], sum[1]}, lower[2] = {sum[2], sum[3]};
        mma_m8n8k4_f64(upper, left[i][0], right);
        mma_m8n8k4_f64(lower, left[i][1], right);
        sum[0] = upper[0], sum[1] = upper[1], sum[2] = lower[0], sum[3] = lower[1];
      }
    }
  }
}

#else

// A number as the nearest TF32 number and, if asked for, the nearest one to what remains.
template <bool SPLIT> DEVICE void split(float whole, unsigned& nearest, unsigned& rest) {
  nearest = round_tf32(whole);
  if constexpr (SPLIT) rest = round_tf32(whole - __uint_as_float(nearest));
}

template <int METHOD, int LDA, int LDB, class Result>
DEVICE void multiply_by_tf32(Result& sums, const REAL* a, const REAL* b, int g, int t) {
  constexpr bool SPLIT = METHOD == SPLIT_TF32, AS_IT_IS = METHOD == MATRIX_TF32;
  unsigned left[Result::MI][4], left_rest[Result::MI][4];
#pragma unroll
  for (int i = 0; i < Result::MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = load_pair(a + (16 * i + 8 * half + g) * LDA + 2 * t);
      if constexpr (AS_IT_IS) {
        left[i][half] = __float_as_uint(pair.x);
        left[i][half + 2] = __float_as_uint(pair.y);
      } else {
        split<SPLIT>(pair.x, left[i][half], left_rest[i][half]);
        split<SPLIT>(pair.y, left[i][half + 2], left_rest[i][half + 2]);
      }
    }
#pragma unroll
  for (int j = 0; j < Result::NJ; ++j) {
    unsigned right[2], right_rest[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float number = b[(2 * t + n) * LDB + 8 * j + g];
      if constexpr (SPLIT) {
        split<SPLIT>(number, right[n], right_rest[n]);
      } else {
        right[n] = __float_as_uint(number);
      }
    }
    if constexpr (SPLIT) {
#pragma unroll
      for (int i = 0; i < Result::MI; ++i) {
        float eight[4] = {};
        mma_m16n8k8_tf32(eight, left_rest[i], right);
        mma_m16n8k8_tf32(eight, left[i], right_rest);
        mma_m16n8k8_tf32(eight, left[i], right);
#pragma unroll
        for (int n = 0; n < 4; ++n) sums.of[i][j][n] += eight[n];
      }
    } else {
#pragma unroll
      for (int i = 0; i < Result::MI; ++i) mma_m16n8k8_tf32(sums.of[i][j], left[i], right);
    }
  }
}

#endif

template <int METHOD, int LDA, int LDB, class Result>
DEVICE void multiply(Result& sums, const REAL* a, const REAL* b, int g, int t) {
  if constexpr (METHOD == MULTIPLY_ADD) {
    multiply_by_fma<LDA, LDB>(sums, a, b, g, t);
  } else if constexpr (METHOD == SUMS_OF_EIGHT) {
    multiply_by_eights<LDA, LDB>(sums, a, b, g, t);
  } else {
#if PRECISION_DOUBLE
    static_assert(METHOD == MATRIX_F64, "this precision has no TF32");
    multiply_by_f64<LDA, LDB>(sums, a, b, g, t);
#else
    static_assert(METHOD != MATRIX_F64, "this precision has no float64 products");
    multiply_by_tf32<METHOD, LDA, LDB>(sums, a, b, g, t);
#endif
  }
}
