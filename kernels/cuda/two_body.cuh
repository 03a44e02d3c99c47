// Two-body features of models with many types: no table of all pairs of types, but one matrix and factors of the types.
#pragma once
#include "common.cuh"

// Factors C[t_i, c] N[t_j, c] of two columns c of a separable two-body table: W (NB, WIDTH), then C and N (NT, WIDTH).
template <int WIDTH> DEVICE REAL2 type_factors(const REAL* two_body, int pair, int column) {
  const REAL2 center = load_pair(two_body + (NB + pair / NT) * WIDTH + column);
  const REAL2 neighbor = load_pair(two_body + (NB + NT + pair % NT) * WIDTH + column);
  return pair_of(center.x * neighbor.x, center.y * neighbor.y);
}
