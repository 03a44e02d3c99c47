// The environment of a centre, the sum over its edges that both tensor tracks begin with: a thread a centre and channel.
#pragma once
#include "channel.cuh"

// Which centre and channel a thread has, and the centre's edges begin .. end.
struct CenterPlace {
  int center, channel, begin, end;
  bool exists;  // false beyond the last channel or the last centre: the numbers are then those of another place
};

DEVICE CenterPlace place_of_thread(const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk) {
  const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long center = thread / LANES;
  const int channel = (int)(thread % LANES), centers = chunk_size(chunk_centers, chunk);
  CenterPlace place;
  place.exists = center < centers && channel < UP;
  place.center = center < centers ? (int)center : 0;
  place.channel = channel < UP ? channel : 0;
  place.begin = center < centers ? first[place.center] : 0;
  place.end = center < centers ? first[place.center + 1] : 0;
  return place;
}

// A[m] = norm sum_z env[l(m)] Y[m] over the centre's edges, in their order (overwrites); own_env: env of this channel.
DEVICE void sum_environment(
    REAL (&environment)[M], const REAL* __restrict__ own_env, const REAL* __restrict__ harmonics,
    const CenterPlace& place, REAL norm) {
  zero_channel(environment);
#pragma unroll 2
  for (int z = place.begin; z < place.end; ++z) {
    REAL weights[ENV_SLOTS], Y[MP];
    load_slots(weights, row_of(own_env, z, NE));
    load_harmonics(Y, harmonics, z);
#pragma unroll
    for (int m = 0; m < M; ++m) environment[m] = multiply_add(weights[slot_of(m, ENV_SLOTS)], Y[m], environment[m]);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) environment[m] *= norm;
}
