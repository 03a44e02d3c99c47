// Where the edges of each centre of a chunk start: exclusive sums of the counts.
#include "common.cuh"

// One block of SCAN_BLOCK threads. first[c] (centres of the chunk + 1), clamped to the capacity (overwrites); status[0]
// is raised to the chunk's number of edges where that exceeds the capacity. In a step that does not go on
// (control[CONTROL_FOUND]) every chunk is without edges, so that the kernels after this one have nothing to do.
DEVICE void scan_counts(
    int* __restrict__ first, int* __restrict__ status, const long long* __restrict__ control,
    const int* __restrict__ counts, const int* __restrict__ chunk_centers, int chunk, int capacity) {
  constexpr int EACH = 4;  // counts a thread takes in a round
  constexpr int SCAN_WARPS = SCAN_BLOCK / 32;
  __shared__ long long warp_sums[SCAN_WARPS];
  const int start = chunk_centers[chunk], centers = chunk_size(chunk_centers, chunk);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  if (control[CONTROL_FOUND] != 0) {
    for (int place = threadIdx.x; place <= centers; place += SCAN_BLOCK) first[place] = 0;
    return;
  }
  long long before_round = 0;
  for (int round = 0; round < centers; round += EACH * SCAN_BLOCK) {
    const int place = round + EACH * (int)threadIdx.x;
    int mine[EACH];
    long long own = 0;
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      mine[n] = place + n < centers ? counts[start + place + n] : 0;
      own += mine[n];
    }
    long long sum = own;  // of this lane and those before it
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const long long theirs = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += theirs;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    long long running = before_round + sum - own, total = 0;
#pragma unroll 8
    for (int n = 0; n < SCAN_WARPS; ++n) {
      const long long theirs = warp_sums[n];
      if (n < warp) running += theirs;
      total += theirs;
    }
    __syncthreads();
    before_round += total;
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      if (place + n < centers) first[place + n] = (int)(running < capacity ? running : capacity);
      running += mine[n];
    }
  }
  if (threadIdx.x == 0) {
    first[centers] = (int)(before_round < capacity ? before_round : capacity);
    if (before_round > capacity) atomicMax(status, before_round < 0x7fffffff ? (int)before_round : 0x7fffffff);
  }
}
