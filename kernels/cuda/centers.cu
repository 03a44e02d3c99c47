// The tensor track by vectors of the centre (kernels/cpu/tensor_track.py), one layer a kernel, forward and backward.
//
// Groups of LANES threads share the edges of a centre (environment.cuh), a thread a channel u, all numbers of a channel
// in registers. Their sums over edges meet in shared memory, the first group makes the products within the centre, and
// all go over their edges again. Those products are generated text (allegro_sim/potential/cuda/contractions.py), struct
// Contraction<k>, which stands between channel.cuh and this file.
#include "environment.cuh"

// Environment, vector of the centre and invariants of layer LAYER.
//
// An edge reads NE + NW + MP numbers and writes UP (the harmonics come twice, the second time from the cache), in
// 2 M + W_SLOTS multiply-adds a channel; a centre reads LAYER M UP of A, writes M UP of A and its part of the chain.
//
// x REAL[E][LDX]: columns 0 .. UP become scal[u] = sum_l w[l,u] sum_m Y[lm] N[lm,u], rounded as operands (overwrites);
// A REAL[LAYERS][C][M][UP]: A_LAYER (overwrites), those before are read; chain: see contractions.py (overwrites).
template <int LAYER, bool ROUND_SCAL> DEVICE void forward_of_center(
    REAL* __restrict__ x, REAL* __restrict__ A, REAL* __restrict__ chain, const REAL* __restrict__ env,
    const REAL* __restrict__ w, const REAL* __restrict__ harmonics, const REAL* __restrict__ path_weights,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ first,
    const int* __restrict__ chunk_centers, int chunk, int capacity, int max_centers) {
  const CenterPlace place = place_of_thread(first, chunk_centers, chunk);
  if (place.begin == place.end) return;  // the whole warp, and a block with barriers
  const int u = place.channel;
  const REAL* const own_env = env + (long long)LAYER * capacity * NE + u;
  __shared__ GroupRoom room;

  REAL environment[M];
  sum_environment(
      environment, room, own_env, harmonics, place, environment_norms[types[chunk_centers[chunk] + place.center]]);

  REAL vector[M];
  if (place.exists && place.group == 0) {
    const long long layer_size = (long long)max_centers * M * UP;
    REAL* const own_A = row_of(A, place.center, M * UP) + u;
    store_channel(own_A + LAYER * layer_size, environment);
    Contraction<LAYER>::forward(
        vector, environment, own_A, layer_size, chain + u, max_centers, place.center, path_weights + u);
  } else {
    zero_channel(vector);
  }
  copy_to_groups(vector, room, place);
  if (!place.exists) return;

#pragma unroll 2
  for (int z = place.begin + place.group; z < place.end; z += GROUPS) {
    REAL weights[W_SLOTS], Y[MP], inner[W_SLOTS];
    load_slots(weights, row_of(w + u, z, NW));
    load_harmonics(Y, harmonics, z);
    product_by_slots(inner, Y, vector);
    REAL invariant = weights[0] * inner[0];
#pragma unroll
    for (int l = 1; l < W_SLOTS; ++l) invariant = multiply_add(weights[l], inner[l], invariant);
    row_of(x, z, LDX)[u] = ROUND_SCAL ? round_operand(invariant) : invariant;
  }
}

// Gradients of layer LAYER, called from the last layer to the first.
//
// An edge reads UP + NE + 2 NW + MP + WARPS (M - 1) numbers and writes NE + NW + WARPS (M - 1) (the last layer reads
// NW and WARPS (M - 1) less: it overwrites), in 5 M + 2 W_SLOTS multiply-adds a channel and M shuffles a warp; dscal,
// w and the harmonics come twice. A centre reads (LAYER + 1) M UP of A, its part of the chain, and, but for the last
// layer, (LAYER + 1) M UP of dA; it writes LAYER M UP of dA.
//
// denv REAL[E][NE]: by env_LAYER, rounded as operands (overwrites); dw REAL[E][NW] and harmonic_gradient
// REAL[WARPS][E][MP], columns 1 .. M (the last layer overwrites, the others accumulate; dw is rounded by layer 0);
// dA REAL[LAYERS - 1][C][M][UP]: by A_0 .. A_{LAYER-1} (the same); dx REAL[E][LDX]: columns 0 .. UP are dE/dscal, read,
// and then set to zero where ZERO_DSCAL is 1.
template <int LAYER, bool ROUND_DENV, bool ROUND_DW> DEVICE void backward_of_center(
    REAL* __restrict__ denv, REAL* __restrict__ dw, REAL* __restrict__ harmonic_gradient, REAL* __restrict__ dA,
    REAL* __restrict__ dx, const REAL* __restrict__ env, const REAL* __restrict__ w,
    const REAL* __restrict__ harmonics, const REAL* __restrict__ A, const REAL* __restrict__ chain,
    const REAL* __restrict__ path_weights, const REAL* __restrict__ environment_norms, const int* __restrict__ types,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity, int max_centers) {
  constexpr bool is_last = LAYER == LAYERS - 1;
  const CenterPlace place = place_of_thread(first, chunk_centers, chunk);
  if (place.begin == place.end) return;  // the whole warp, and a block with barriers
  const int u = place.channel;
  __shared__ GroupRoom room;

  REAL gradient[M];  // by N: sum_z dscal w Y
  zero_channel(gradient);
#pragma unroll 2
  for (int z = place.begin + place.group; z < place.end; z += GROUPS) {
    REAL weights[W_SLOTS], Y[MP];
    const REAL given = row_of(dx, z, LDX)[u];
    load_slots(weights, row_of(w + u, z, NW));
    load_harmonics(Y, harmonics, z);
#pragma unroll
    for (int l = 0; l < W_SLOTS; ++l) weights[l] *= given;
#pragma unroll
    for (int m = 0; m < M; ++m) gradient[m] = multiply_add(weights[slot_of(m, W_SLOTS)], Y[m], gradient[m]);
  }
  sum_over_groups(gradient, room, place);

  const long long layer_size = (long long)max_centers * M * UP;
  const REAL* const own_A = row_of(A, place.center, M * UP) + u;
  REAL environment_gradient[M], vector[M];
  zero_channel(environment_gradient);
  zero_channel(vector);
  if (place.exists && place.group == 0) {
    Contraction<LAYER>::backward(
        environment_gradient, gradient, row_of(dA, place.center, M * UP) + u, own_A, layer_size, chain + u, max_centers,
        place.center, path_weights + u);
    const REAL norm = environment_norms[types[chunk_centers[chunk] + place.center]];
#pragma unroll
    for (int m = 0; m < M; ++m) environment_gradient[m] *= norm;
  }
  if (place.exists) {  // the other groups meanwhile
    Contraction<LAYER>::vector(
        vector, own_A, layer_size, chain + u, max_centers, place.center, path_weights + u);
  }
  copy_to_groups(environment_gradient, room, place);

  const REAL* const own_env = env + (long long)LAYER * capacity * NE + u;
  REAL* const own_harmonic_gradient = harmonic_gradient + (long long)(place.lane / 32) * capacity * MP;
  for (int z = place.begin + place.group; z - place.group < place.end; z += GROUPS) {
    const bool has_edge = z < place.end;
    HarmonicShare<is_last> share;
    share.load(own_harmonic_gradient, z, has_edge);
    REAL terms[M];  // of this channel in dE/dY
    zero_channel(terms);
    if (has_edge && place.exists) {
      REAL weights[W_SLOTS], env_weights[ENV_SLOTS], Y[MP], by_weights[W_SLOTS], by_env[ENV_SLOTS];
      REAL* const given_at = row_of(dx, z, LDX) + u;
      const REAL given = *given_at;
      load_slots(weights, row_of(w + u, z, NW));
      load_slots(env_weights, row_of(own_env, z, NE));
      load_harmonics(Y, harmonics, z);
      product_by_slots(by_weights, Y, vector);
      product_by_slots(by_env, Y, environment_gradient);
      REAL* const dw_row = row_of(dw, z, NW) + u;
      REAL* const denv_row = row_of(denv, z, NE) + u;
#pragma unroll
      for (int l = 0; l < W_SLOTS; ++l) {
        const REAL sum = is_last ? given * by_weights[l] : multiply_add(given, by_weights[l], dw_row[l * UP]);
        dw_row[l * UP] = LAYER == 0 && ROUND_DW ? round_operand(sum) : sum;
      }
#pragma unroll
      for (int l = 0; l < ENV_SLOTS; ++l) denv_row[l * UP] = ROUND_DENV ? round_operand(by_env[l]) : by_env[l];
#if ZERO_DSCAL
      *given_at = 0;
#endif
#pragma unroll
      for (int l = 0; l < W_SLOTS; ++l) weights[l] *= given;
#pragma unroll
      for (int m = 1; m < M; ++m) {
        const REAL through_env = env_weights[slot_of(m, ENV_SLOTS)] * environment_gradient[m];
        terms[m] = multiply_add(weights[slot_of(m, W_SLOTS)], vector[m], through_env);
      }
    }
    share.add(terms, own_harmonic_gradient, z, has_edge);
  }
}
