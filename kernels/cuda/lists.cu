// The neighbour list: rows in bins, and for every owned row the rows near it, in canonical order. Independent of the model.
//
// Bins are boxes of the brick and its halo in fractional coordinates, at least as wide as the list reaches, so that a
// row's neighbours lie in its own bin and the 26 around it. A bin is a number; rows are sorted by it (by CuPy, between
// the kernels), and a bin's rows are found by bisection: memory follows the atoms, not the volume.
//
// positions f64[C][3], A, unwrapped; images i32[C][3]; types i32[C]; cell f64[3][3]; a row's copy sits at
// positions + images . cell. order_keys i64[C]: place of a row in the canonical order (id of the atom, then images).
#include "fixed_point.cuh"

static constexpr int BIN_BITS = 21;
static constexpr int ROW_WARPS = 4;    // a warp a row of the list
static constexpr int ROW_ROOM = 512;   // neighbours of a row that are put in order in shared memory

DEVICE double squared_distance(
    const double* __restrict__ positions, const int* __restrict__ images, const double* __restrict__ cell, int i, int j) {
  const double n0 = images[3LL * j] - images[3LL * i], n1 = images[3LL * j + 1] - images[3LL * i + 1];
  const double n2 = images[3LL * j + 2] - images[3LL * i + 2];
  double total = 0.0;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const double shift = (n0 * cell[c] + n1 * cell[3 + c]) + n2 * cell[6 + c];
    const double r = (positions[3LL * j + c] - positions[3LL * i + c]) + shift;
    total += r * r;
  }
  return total;
}

// A thread a row: its bin (overwrites keys, i64[rows]); -1 where the position is not finite. bins f64[2][3]: the corner
// of the first bin, and widths, fractional.
DEVICE void bin_of_row(
    long long* __restrict__ keys, const double* __restrict__ positions, const int* __restrict__ images,
    const double* __restrict__ inverse, const double* __restrict__ bins, int rows) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const double x = positions[3LL * row], y = positions[3LL * row + 1], z = positions[3LL * row + 2];
  const double last = (double)((1 << BIN_BITS) - 4);
  long long key = 0;
  bool finite = true;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const double place = ((x * inverse[c] + y * inverse[3 + c]) + z * inverse[6 + c]) + (double)images[3LL * row + c];
    const double bin = floor((place - bins[c]) / bins[3 + c]);
    finite = finite && isfinite(bin);
    // One empty bin on each side, so that neighbours of the outermost have numbers too.
    key = (key << BIN_BITS) | ((long long)fmin(fmax(bin, 0.0), last) + 1);
  }
  keys[row] = finite ? key : -1;
}

// A thread a key: rows in the order of their keys, equal ones in their own (overwrites order, i64[rows]), and the keys in
// that order (overwrites sorted_keys). Every thread looks at every key: for few.
DEVICE void sort_key(
    long long* __restrict__ order, long long* __restrict__ sorted_keys, const long long* __restrict__ keys, int rows) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const long long own = keys[row];
  int before = 0;
#pragma unroll 8
  for (int n = 0; n < rows; ++n) {
    const long long key = keys[n];
    before += key < own || (key == own && n < row);
  }
  order[before] = row;
  sorted_keys[before] = own;
}

// First place of sorted keys (ascending) that is at least `wanted`.
DEVICE int lower_bound(const long long* __restrict__ sorted, int count, long long wanted) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (sorted[middle] < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// A warp: calls visit(j, is) in all lanes, for every row j that may be near row i; `is`: whether it belongs to the list.
template <class Visit>
DEVICE void visit_neighbors(
    const double* __restrict__ positions, const int* __restrict__ images, const int* __restrict__ types,
    const double* __restrict__ cell, const double* __restrict__ limits_squared, const long long* __restrict__ keys,
    const long long* __restrict__ sorted_keys, const long long* __restrict__ order, int num_types, int rows, int i,
    Visit visit) {
  const int lane = threadIdx.x & 31;
  const long long key = keys[i];
  if (key < 0) return;
  // Bins along the last direction follow each other: nine runs of three. Lanes 2n and 2n + 1 find both ends of run n.
  const int run = lane < 18 ? lane / 2 : 0;
  const long long middle = key + (run / 3 - 1) * (1LL << (2 * BIN_BITS)) + (run % 3 - 1) * (1LL << BIN_BITS);
  const int found = lower_bound(sorted_keys, rows, (lane & 1) == 0 ? middle - 1 : middle + 2);
  for (int n = 0; n < 9; ++n) {
    const int begin = __shfl_sync(0xffffffffu, found, 2 * n), end = __shfl_sync(0xffffffffu, found, 2 * n + 1);
    for (int s = begin; s < end; s += 32) {
      const int place = s + lane;
      const int j = place < end ? (int)order[place] : i;
      const bool is =
          j != i && squared_distance(positions, images, cell, i, j) < limits_squared[types[i] * num_types + types[j]];
      visit(j, is);
    }
  }
}

// Neighbours of every owned row (overwrites counts, i64[owned]). limits_squared f64[nt][nt], A^2: cutoff and skin;
// sorted_keys, order i64[rows]: the keys in ascending order, and the rows they are of.
DEVICE void count_row(
    long long* __restrict__ counts, const double* __restrict__ positions, const int* __restrict__ images,
    const int* __restrict__ types, const double* __restrict__ cell, const double* __restrict__ limits_squared,
    const long long* __restrict__ keys, const long long* __restrict__ sorted_keys, const long long* __restrict__ order,
    int num_types, int owned, int rows) {
  const int i = blockIdx.x * ROW_WARPS + threadIdx.x / 32;
  if (i >= owned) return;
  int number = 0;
  visit_neighbors(
      positions, images, types, cell, limits_squared, keys, sorted_keys, order, num_types, rows, i,
      [&](int, bool is) { number += __popc(__ballot_sync(0xffffffffu, is)); });
  if ((threadIdx.x & 31) == 0) counts[i] = number;
}

// Put `count` rows in the order of their keys where they lie: a heap, by one thread. For rows with very many neighbours.
DEVICE void sort_in_place(int* __restrict__ rows, const long long* __restrict__ order_keys, int count) {
  for (int size = count, start = count / 2; size > 1;) {
    int parent = 0;
    if (start > 0) {
      parent = --start;
    } else {
      --size;
      const int top = rows[0];
      rows[0] = rows[size];
      rows[size] = top;
    }
    const int moved = rows[parent];
    const long long key = order_keys[moved];
    for (int child = 2 * parent + 1; child < size; child = 2 * parent + 1) {
      if (child + 1 < size && order_keys[rows[child + 1]] > order_keys[rows[child]]) ++child;
      if (order_keys[rows[child]] <= key) break;
      rows[parent] = rows[child];
      parent = child;
    }
    rows[parent] = moved;
  }
}

// The list (overwrites indices, i32): neighbours of i at [row_offsets[i], row_offsets[i + 1]), i64[owned + 1], by
// ascending order_keys, which are all different.
DEVICE void fill_row(
    int* __restrict__ indices, const long long* __restrict__ row_offsets, const long long* __restrict__ order_keys,
    const double* __restrict__ positions, const int* __restrict__ images, const int* __restrict__ types,
    const double* __restrict__ cell, const double* __restrict__ limits_squared, const long long* __restrict__ keys,
    const long long* __restrict__ sorted_keys, const long long* __restrict__ order, int num_types, int owned, int rows) {
  __shared__ long long all_keys[ROW_WARPS][ROW_ROOM];
  __shared__ int all_found[ROW_WARPS][ROW_ROOM];
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, i = blockIdx.x * ROW_WARPS + warp;
  if (i >= owned) return;
  int* const out = indices + row_offsets[i];
  const int count = (int)(row_offsets[i + 1] - row_offsets[i]);
  int number = 0;
  visit_neighbors(
      positions, images, types, cell, limits_squared, keys, sorted_keys, order, num_types, rows, i,
      [&](int j, bool is) {
        const unsigned votes = __ballot_sync(0xffffffffu, is);
        const int place = number + __popc(votes & ((1u << lane) - 1u));
        number += __popc(votes);
        if (!is) return;
        if (count > ROW_ROOM) {
          out[place] = j;
        } else {
          all_keys[warp][place] = order_keys[j];
          all_found[warp][place] = j;
        }
      });
  __syncwarp();
  if (count > ROW_ROOM) {
    if (lane == 0) sort_in_place(out, order_keys, count);
    return;
  }
  for (int e = lane; e < count; e += 32) {
    const long long key = all_keys[warp][e];
    int smaller = 0;
    for (int n = 0; n < count; ++n) smaller += all_keys[warp][n] < key;
    out[smaller] = all_found[warp][e];
  }
}

// A thread an owned row: its closest neighbour (overwrites): squared f64[owned], A^2, infinity for none; closest
// i32[owned]. Of equally close ones that with the smallest id.
DEVICE void closest_of_row(
    double* __restrict__ squared, int* __restrict__ closest, const long long* __restrict__ row_offsets,
    const int* __restrict__ indices, const long long* __restrict__ ids, const double* __restrict__ positions,
    const int* __restrict__ images, const double* __restrict__ cell, int owned) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= owned) return;
  double best = 1.0 / 0.0;
  int best_j = -1;
  for (long long place = row_offsets[i]; place < row_offsets[i + 1]; ++place) {
    const int j = indices[place];
    const double d2 = squared_distance(positions, images, cell, i, j);
    if (d2 < best || (d2 == best && best_j >= 0 && ids[j] < ids[best_j])) {
      best = d2;
      best_j = j;
    }
  }
  squared[i] = best;
  closest[i] = best_j;
}

// A thread an owned row: sets the control word CONTROL_DISTANCE where a pair is closer than its least distance.
// limits_squared f64[nt][nt], A^2, 0 where anything is allowed.
DEVICE void look_at_distances_of_row(
    long long* __restrict__ control, const long long* __restrict__ row_offsets, const int* __restrict__ indices,
    const int* __restrict__ types, const double* __restrict__ positions, const int* __restrict__ images,
    const double* __restrict__ cell, const double* __restrict__ limits_squared, int num_types, int owned) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (control[CONTROL_FOUND] != 0 || i >= owned) return;
  for (long long place = row_offsets[i]; place < row_offsets[i + 1]; ++place) {
    const int j = indices[place];
    const double limit = limits_squared[types[i] * num_types + types[j]];
    if (squared_distance(positions, images, cell, i, j) < limit) control[CONTROL_DISTANCE] = 1;
  }
}
