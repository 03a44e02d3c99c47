// Which edges a chunk holds: the pairs of the neighbour list that are within their reach now, in the list's order. And
// what an evaluation adds up, set to zero before it.
//
// Same comparison as kernels/cpu/edges.py, same order of operations, nothing fused: both back ends, at every place, take
// the same edges. Counting first and writing after needs two passes over the list but no memory over all edges beyond it.
//
// positions f64[C][3], A; images i32[C][3]; types i32[C]; cell f64[3][3], A; reaches f64[NT][NT], A, by type of centre
// and neighbour; row_offsets i64[owned + 1]; indices i32, the list.
#include "common.cuh"
#include "vectors.cuh"

static constexpr int PAIRS_A_LANE = 2;  // of a row, at a time: their loads overlap

// A warp: calls visit(j, votes) in all lanes, for 32 pairs (i, j) of the list at a time, in order; bit n of `votes` says
// whether the pair of lane n is an edge: d^2 < reach^2, written so that a NaN is one (and shows).
template <class Visit>
DEVICE void visit_pairs(
    const double* __restrict__ positions, const int* __restrict__ images, const int* __restrict__ types,
    const double* __restrict__ cell, const double* __restrict__ reaches, const long long* __restrict__ row_offsets,
    const int* __restrict__ indices, int i, Visit visit) {
  const int lane = threadIdx.x & 31;
  const long long end = row_offsets[i + 1];
  const double* const own_reaches = reaches + types[i] * NT;
  for (long long start = row_offsets[i]; start < end; start += 32 * PAIRS_A_LANE) {
    int j[PAIRS_A_LANE];
    bool is[PAIRS_A_LANE];
#pragma unroll
    for (int n = 0; n < PAIRS_A_LANE; ++n) {
      const long long place = start + 32 * n + lane;
      is[n] = place < end;
      j[n] = is[n] ? indices[place] : i;
    }
#pragma unroll
    for (int n = 0; n < PAIRS_A_LANE; ++n) {
      const double n0 = images[3LL * j[n]] - images[3LL * i], n1 = images[3LL * j[n] + 1] - images[3LL * i + 1];
      const double n2 = images[3LL * j[n] + 2] - images[3LL * i + 2];
      const double x = component_of_edge(positions, cell, i, j[n], 0, n0, n1, n2);
      const double y = component_of_edge(positions, cell, i, j[n], 1, n0, n1, n2);
      const double z = component_of_edge(positions, cell, i, j[n], 2, n0, n1, n2);
      const double squared = __dadd_rn(__dadd_rn(__dmul_rn(x, x), __dmul_rn(y, y)), __dmul_rn(z, z));
      const double reach = own_reaches[types[j[n]]];
      is[n] = !(squared >= __dmul_rn(reach, reach)) && is[n];
    }
#pragma unroll
    for (int n = 0; n < PAIRS_A_LANE; ++n) visit(j[n], __ballot_sync(0xffffffffu, is[n]));
  }
}

// A warp a centre, all centres there are: its number of edges now (overwrites counts, i32[owned]).
DEVICE void count_edges_of_center(
    int* __restrict__ counts, const double* __restrict__ positions, const int* __restrict__ images,
    const int* __restrict__ types, const double* __restrict__ cell, const double* __restrict__ reaches,
    const long long* __restrict__ row_offsets, const int* __restrict__ indices, int owned, int block, int) {
  const int i = block * (blockDim.x / 32) + threadIdx.x / 32;
  if (i >= owned) return;
  int number = 0;
  visit_pairs(positions, images, types, cell, reaches, row_offsets, indices, i, [&](int, unsigned votes) {
    number += __popc(votes);
  });
  if ((threadIdx.x & 31) == 0) counts[i] = number;
}

// A warp a centre of one chunk: its edges (overwrites the rows in use of edge_center and edge_neighbor, i32[E]: number of
// the centre within the chunk, row of the neighbour). first i32: the first edge of each centre, cut at the capacity, and
// so are the edges.
DEVICE void fill_edges_of_center(
    int* __restrict__ edge_center, int* __restrict__ edge_neighbor, const double* __restrict__ positions,
    const int* __restrict__ images, const int* __restrict__ types, const double* __restrict__ cell,
    const double* __restrict__ reaches, const long long* __restrict__ row_offsets, const int* __restrict__ indices,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk) {
  const int number = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x & 31;
  if (number >= chunk_size(chunk_centers, chunk)) return;
  const int end = first[number + 1];
  int next = first[number];
  if (next >= end) return;  // and so in a step that does not go on
  visit_pairs(
      positions, images, types, cell, reaches, row_offsets, indices, chunk_centers[chunk] + number,
      [&](int j, unsigned votes) {
        const int z = next + __popc(votes & ((1u << lane) - 1));
        if ((votes >> lane & 1) != 0 && z < end) {
          edge_center[z] = number;
          edge_neighbor[z] = j;
        }
        next += __popc(votes);
      });
}

// All threads of so many blocks: zeros, neighbours by neighbours.
template <class T> DEVICE void clear_array(T* array, long long count, int block, int blocks) {
  const long long threads = (long long)blocks * blockDim.x;
  for (long long n = (long long)block * blockDim.x + threadIdx.x; n < count; n += threads) array[n] = 0;
}

// Zero what an evaluation adds up (overwrites), but in a step that does not go on (control[CONTROL_FOUND]).
//
// forces i64[rows][3]; virial_words i64[9][2]; atom_virials i64[virial_rows][9]: rows, or a single one that is not used;
// faults u8[rows]; status i32[8].
DEVICE void clear_arrays(
    long long* __restrict__ forces, long long* __restrict__ virial_words, long long* __restrict__ atom_virials,
    unsigned char* __restrict__ faults, int* __restrict__ status, const long long* __restrict__ control, int rows,
    int virial_rows, int block, int blocks) {
  if (control[CONTROL_FOUND] != 0) return;
  clear_array(forces, 3LL * rows, block, blocks);
  clear_array(virial_words, 18, block, blocks);
  clear_array(atom_virials, 9LL * virial_rows, block, blocks);
  clear_array(faults, rows, block, blocks);
  clear_array(status, 8, block, blocks);
}
