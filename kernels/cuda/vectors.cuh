// The vector of an edge, for whoever needs it.
#pragma once
#include "common.cuh"

// r_ij = (x_j - x_i) + (n_j - n_i) . cell, each operation rounded on its own: the bits of kernels/cpu/edges.py.
DEVICE double component_of_edge(
    const double* __restrict__ positions, const double* __restrict__ cell, int i, int j, int c, double n0, double n1,
    double n2) {
  const double shift =
      __dadd_rn(__dadd_rn(__dmul_rn(n0, cell[c]), __dmul_rn(n1, cell[3 + c])), __dmul_rn(n2, cell[6 + c]));
  return __dadd_rn(__dadd_rn(positions[3LL * j + c], -positions[3LL * i + c]), shift);
}
