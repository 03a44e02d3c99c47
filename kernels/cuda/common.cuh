// What every kernel of the CUDA potential shares: the types of a precision, rows of a chunk, wide loads and stores.
//
// The generated header comes first and defines exactly one of PRECISION_DOUBLE, PRECISION_SINGLE, PRECISION_MIXED as 1
// (the others as 0). double: float64 throughout. single: float32 features and weights. mixed: the same, and operands of
// large matrix products are TF32 numbers (10 bits of fraction), rounded to nearest by whoever writes them.
#pragma once
#include "ptx.cuh"

#if PRECISION_DOUBLE + PRECISION_SINGLE + PRECISION_MIXED != 1
#error "define exactly one of PRECISION_DOUBLE, PRECISION_SINGLE, PRECISION_MIXED as 1 and the others as 0"
#endif

#if PRECISION_DOUBLE
#define REAL double
typedef double2 REAL2;  // two neighbours of a row
#else
#define REAL float
typedef float2 REAL2;
#endif

// How a product is made (product.cuh), and what follows it (activations.cuh).
enum Method { MULTIPLY_ADD, SUMS_OF_EIGHT, MATRIX_TF32, ROUNDING_TF32, SPLIT_TF32, MATRIX_F64 };
enum Activation { IDENTITY, SILU, MISH, GELU, SSP, TANH, SIGMOID, SOFTPLUS };

#define DEVICE __device__ __forceinline__

// Numbers of a REAL row that one 16-byte copy moves.
static constexpr int REALS_16 = 16 / (int)sizeof(REAL);

// Centres of a chunk. chunk_centers (chunks + 1): the first centre of each chunk, then the number of centres.
DEVICE int chunk_size(const int* __restrict__ chunk_centers, int chunk) {
  return chunk_centers[chunk + 1] - chunk_centers[chunk];
}

// Edges of a chunk, counted now. first (centres of the chunk + 1): the first edge of each centre, then their number.
DEVICE int edge_count(const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk) {
  return first[chunk_size(chunk_centers, chunk)];
}

// Start of row z of an array with `columns` numbers a row; products of the two may exceed 32 bits.
template <class T> DEVICE T* row_of(T* array, int z, int columns) { return array + (long long)z * columns; }

// A number that will be an operand of a product in TF32; itself in the other precisions.
DEVICE REAL round_operand(REAL value) {
#if PRECISION_MIXED
  return __uint_as_float(round_tf32(value));
#else
  return value;
#endif
}

DEVICE REAL2 pair_of(REAL first, REAL second) {
  REAL2 pair;
  pair.x = first;
  pair.y = second;
  return pair;
}

// Two numbers at once; the address is a multiple of their size.
DEVICE REAL2 load_pair(const REAL* address) { return *reinterpret_cast<const REAL2*>(address); }
DEVICE void store_pair(REAL* address, REAL2 pair) { *reinterpret_cast<REAL2*>(address) = pair; }


DEVICE void load_wide(float (&numbers)[4], const float* address) {
  const float4 wide = *reinterpret_cast<const float4*>(address);
  numbers[0] = wide.x, numbers[1] = wide.y, numbers[2] = wide.z, numbers[3] = wide.w;
}
DEVICE void load_wide(double (&numbers)[2], const double* address) {
  const double2 wide = *reinterpret_cast<const double2*>(address);
  numbers[0] = wide.x, numbers[1] = wide.y;
}
DEVICE void store_wide(float* address, const float (&numbers)[4]) {
  store_16(address, numbers);
}
DEVICE void store_wide(double* address, const double (&numbers)[2]) {
  *reinterpret_cast<double2*>(address) = make_double2(numbers[0], numbers[1]);
}

// Numbers as they are, or rounded as operands.
template <bool ROUND> DEVICE REAL2 rounded_if(REAL2 pair) {
  if constexpr (ROUND) return pair_of(round_operand(pair.x), round_operand(pair.y));
  return pair;
}

// Row of the seeds of the read-out's backward pass for an ordered pair of types: the type of the centre, or the pair.
#ifndef SEED_PAIRS
#define SEED_PAIRS 0
#endif
#ifdef NT
DEVICE int seed_row(int pair) { return SEED_PAIRS ? pair : pair / NT; }
#endif

// a * b + c with one rounding, never left to the compiler's choice.
DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double multiply_add(double a, double b, double c) { return fma(a, b, c); }
