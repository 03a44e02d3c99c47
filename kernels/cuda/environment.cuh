// The threads of a centre, and the sum over its edges that all tensor tracks begin with.
//
// A centre has GROUPS groups of LANES threads, a thread a channel: group g takes edges begin + g, begin + g + GROUPS, ..
// in turn, for a single thread that goes round all edges of a centre waits for memory most of the time. A sum over edges
// is that of the groups' sums in the order of g, each in the order of its edges. GROUPS follows from the model alone
// (groups_of_center in allegro_sim/potential/cuda/center_header.py), and so does every bit. With more than one group,
// the threads of a centre are a block.
#pragma once
#include "channel.cuh"

// Which centre, group and channel a thread has, and the centre's edges begin .. end, the same for a whole warp, and with
// more than one group for a whole block.
struct CenterPlace {
  int center, group, lane, channel, begin, end;
  bool exists;  // false beyond the last channel or the last centre: the numbers are then those of another place
};

DEVICE CenterPlace place_of_thread(const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk) {
  const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long center = thread / (GROUPS * LANES);
  const int number = (int)(thread % (GROUPS * LANES)), centers = chunk_size(chunk_centers, chunk);
  CenterPlace place;
  place.group = number / LANES;
  place.lane = number % LANES;
  place.exists = center < centers && place.lane < UP;
  place.center = center < centers ? (int)center : 0;
  place.channel = place.lane < UP ? place.lane : 0;
  place.begin = center < centers ? first[place.center] : 0;
  place.end = center < centers ? first[place.center + 1] : 0;
  return place;
}

// What the groups of a centre exchange, a few components at a time.
static constexpr int EXCHANGED = M < 16 ? M : 16;
typedef REAL GroupRoom[GROUPS][EXCHANGED][LANES];

// values[m] of the first group become the sum over all groups, in their order; those of the others have no meaning
// then. All threads of a block call it.
DEVICE void sum_over_groups(REAL (&values)[M], GroupRoom& room, const CenterPlace& place) {
  if constexpr (GROUPS > 1) {
#pragma unroll
    for (int start = 0; start < M; start += EXCHANGED) {
#pragma unroll
      for (int n = 0; n < EXCHANGED; ++n)
        if (start + n < M) room[place.group][n][place.lane] = values[start + n < M ? start + n : 0];
      __syncthreads();
      for (int n = place.group; n < EXCHANGED && start + n < M; n += GROUPS) {
        REAL sum = room[0][n][place.lane];
#pragma unroll
        for (int group = 1; group < GROUPS; ++group) sum += room[group][n][place.lane];
        room[0][n][place.lane] = sum;
      }
      __syncthreads();
      if (place.group == 0) {
#pragma unroll
        for (int n = 0; n < EXCHANGED; ++n)
          if (start + n < M) values[start + n < M ? start + n : 0] = room[0][n][place.lane];
      }
    }
  }
}

// values[m] of all groups become those of the first. All threads of a block call it, after sum_over_groups.
DEVICE void copy_to_groups(REAL (&values)[M], GroupRoom& room, const CenterPlace& place) {
  if constexpr (GROUPS > 1) {
#pragma unroll
    for (int start = 0; start < M; start += EXCHANGED) {
      if (start > 0) __syncthreads();
      if (place.group == 0) {
#pragma unroll
        for (int n = 0; n < EXCHANGED; ++n)
          if (start + n < M) room[0][n][place.lane] = values[start + n < M ? start + n : 0];
      }
      __syncthreads();
      if (place.group != 0) {
#pragma unroll
        for (int n = 0; n < EXCHANGED; ++n)
          if (start + n < M) values[start + n < M ? start + n : 0] = room[0][n][place.lane];
      }
    }
  }
}

// A[m] = norm sum_z env[l(m)] Y[m] over the centre's edges (overwrites), complete in the first group; own_env: env of
// this channel, or another row of SLOTS weights a channel. All threads of a block call it.
template <int SLOTS = ENV_SLOTS> DEVICE void sum_environment(
    REAL (&environment)[M], GroupRoom& room, const REAL* __restrict__ own_env, const REAL* __restrict__ harmonics,
    const CenterPlace& place, REAL norm) {
  zero_channel(environment);
#pragma unroll 2
  for (int z = place.begin + place.group; z < place.end; z += GROUPS) {
    REAL weights[SLOTS], Y[MP];
    load_slots(weights, row_of(own_env, z, SLOTS * UP));
    load_harmonics(Y, harmonics, z);
#pragma unroll
    for (int m = 0; m < M; ++m) environment[m] = multiply_add(weights[slot_of(m, SLOTS)], Y[m], environment[m]);
  }
  sum_over_groups(environment, room, place);
#pragma unroll
  for (int m = 0; m < M; ++m) environment[m] *= norm;
}
