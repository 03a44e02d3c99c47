// The tensor track of models with scatter_features (kernels/cpu/scatter_track.py), one layer a kernel, both directions.
//
// What is summed over edges are the tensor features, and an edge brings its weighted harmonics: sums B_k and vectors n_k
// of the centre take the places of the environments A_k and vectors N_k of centers.cu. Groups of LANES threads share the
// edges of a centre (environment.cuh), a thread a channel u; the first group makes the products within the centre, which
// are generated text (allegro_sim/potential/cuda/scatter_products.py), struct Sum<k>.
#include "environment.cuh"

// Where B_k of a centre begins, in an array REAL[all their components, one k after the other][C][..][UP].
template <int LAYER> DEVICE long long place_of_sum(int center, int max_centers) {
  return ((long long)Sum<LAYER>::AT * max_centers + (long long)Sum<LAYER>::DIM * center) * UP;
}

// Sum, vector of the centre and invariants of layer LAYER:
//   B_0[m] = norm sum_z w[l(m)] Y[m];   A_k[m] = norm sum_z env_k[l(m)] Y[m];   B_k = product of B_{k-1} and A_{k-1}.
//
// An edge reads 2 NE + MP numbers (layer 0: NE + NW + MP) and writes UP (the harmonics come twice, the second time from
// the cache), in 2 M + ENV_SLOTS multiply-adds a channel; a centre reads B_{LAYER-1} and writes A_{LAYER-1} and B_LAYER.
//
// x REAL[E][LDX]: columns 0 .. UP become scal[u] = sum_l env[l,u] sum_m Y[lm] n[lm,u], rounded as operands (overwrites);
// A REAL[LAYERS - 1][C][M][UP]: A_{LAYER-1} (overwrites); B: see place_of_sum, B_LAYER (overwrites), B_{LAYER-1} is read.
template <int LAYER, bool ROUND_SCAL> DEVICE void scatter_forward_of_center(
    REAL* __restrict__ x, REAL* __restrict__ A, REAL* __restrict__ B, const REAL* __restrict__ env,
    const REAL* __restrict__ w, const REAL* __restrict__ harmonics, const REAL* __restrict__ path_weights,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ first,
    const int* __restrict__ chunk_centers, int chunk, int capacity, int max_centers) {
  const CenterPlace place = place_of_thread(first, chunk_centers, chunk);
  if (place.begin == place.end) return;  // the whole warp, and a block with barriers
  const int u = place.channel;
  const long long layer_size = (long long)capacity * NE;
  const REAL norm = environment_norms[types[chunk_centers[chunk] + place.center]];
  __shared__ GroupRoom room;

  REAL environment[M], vector[M];
  if constexpr (LAYER == 0)
    sum_environment<W_SLOTS>(environment, room, w + u, harmonics, place, norm);
  else
    sum_environment(environment, room, env + (LAYER - 1) * layer_size + u, harmonics, place, norm);
  zero_channel(vector);
  if (place.exists && place.group == 0) {
    REAL sum[Sum<LAYER>::DIM];
    if constexpr (LAYER == 0) {
#pragma unroll
      for (int m = 0; m < M; ++m) sum[m] = environment[m];
    } else {
      store_channel(A + ((long long)(LAYER - 1) * max_centers + place.center) * M * UP + u, environment);
      REAL before[Sum<LAYER>::BEFORE];
      load_channel(before, B + place_of_sum<LAYER - 1>(place.center, max_centers) + u);
      Sum<LAYER>::product(sum, environment, before, path_weights + u);
    }
    store_channel(B + place_of_sum<LAYER>(place.center, max_centers) + u, sum);
    Sum<LAYER>::vector(vector, sum, path_weights + u);
  }
  copy_to_groups(vector, room, place);
  if (!place.exists) return;

#pragma unroll 2
  for (int z = place.begin + place.group; z < place.end; z += GROUPS) {
    REAL weights[ENV_SLOTS], Y[MP], inner[ENV_SLOTS];
    load_slots(weights, row_of(env + LAYER * layer_size + u, z, NE));
    load_harmonics(Y, harmonics, z);
    product_by_slots(inner, Y, vector);
    REAL invariant = weights[0] * inner[0];
#pragma unroll
    for (int l = 1; l < ENV_SLOTS; ++l) invariant = multiply_add(weights[l], inner[l], invariant);
    row_of(x, z, LDX)[u] = ROUND_SCAL ? round_operand(invariant) : invariant;
  }
}

// Gradients of layer LAYER, called from the last layer to the first: through n_k and A_k by env_k and Y, and by B_k, from
// which A_{k-1} and B_{k-1} have theirs, or with layer 0 w.
//
// An edge reads UP + NE + MP + WARPS (M - 1) numbers and writes NE + WARPS (M - 1) (the last layer reads WARPS (M - 1)
// less: it overwrites; layer 0 reads and writes NW more), in 4 M + ENV_SLOTS multiply-adds a channel (layer 0: 6 M +
// ENV_SLOTS) and M shuffles a warp; dscal, env and the harmonics come twice. A centre reads B_LAYER, A_{LAYER-1},
// B_{LAYER-1} and, but for the last layer, dB_LAYER and dA_LAYER; it writes dB_{LAYER-1} and dA_{LAYER-1}.
//
// denv REAL[E][NE]: by env_LAYER, rounded as operands (overwrites); dw REAL[E][NW]: the same by w, written by layer 0;
// harmonic_gradient REAL[WARPS][E][MP], columns 1 .. M (the last layer overwrites, the others accumulate); dA
// REAL[2][C][M][UP], layers by turns: times the norm; dB REAL[C][DB_ROWS][UP]; dx REAL[E][LDX]: columns 0 .. UP are
// dE/dscal, read, and then set to zero where ZERO_DSCAL is 1.
template <int LAYER, bool ROUND_DENV, bool ROUND_DW> DEVICE void scatter_backward_of_center(
    REAL* __restrict__ denv, REAL* __restrict__ dw, REAL* __restrict__ harmonic_gradient, REAL* __restrict__ dA,
    REAL* __restrict__ dB, REAL* __restrict__ dx, const REAL* __restrict__ env, const REAL* __restrict__ w,
    const REAL* __restrict__ harmonics, const REAL* __restrict__ A, const REAL* __restrict__ B,
    const REAL* __restrict__ path_weights, const REAL* __restrict__ environment_norms, const int* __restrict__ types,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity, int max_centers) {
  constexpr bool is_last = LAYER == LAYERS - 1;
  const CenterPlace place = place_of_thread(first, chunk_centers, chunk);
  if (place.begin == place.end) return;  // the whole warp, and a block with barriers
  const int u = place.channel;
  __shared__ GroupRoom room;
  const REAL* const own_env = env + (long long)LAYER * capacity * NE + u;

  REAL gradient[M];  // by n: sum_z dscal env Y
  zero_channel(gradient);
#pragma unroll 2
  for (int z = place.begin + place.group; z < place.end; z += GROUPS) {
    REAL weights[ENV_SLOTS], Y[MP];
    const REAL given = row_of(dx, z, LDX)[u];
    load_slots(weights, row_of(own_env, z, NE));
    load_harmonics(Y, harmonics, z);
#pragma unroll
    for (int l = 0; l < ENV_SLOTS; ++l) weights[l] *= given;
#pragma unroll
    for (int m = 0; m < M; ++m) gradient[m] = multiply_add(weights[slot_of(m, ENV_SLOTS)], Y[m], gradient[m]);
  }
  sum_over_groups(gradient, room, place);

  // By A_k (not of the last layer) and, of layer 0, by the sum of w Y; both times the norm.
  REAL vector[M], environment_gradient[M], first_gradient[M];
  zero_channel(vector);
  zero_channel(environment_gradient);
  zero_channel(first_gradient);
  if (place.exists && place.group == 0) {
    const REAL norm = environment_norms[types[chunk_centers[chunk] + place.center]];
    REAL* const own_dB = row_of(dB, place.center, DB_ROWS * UP) + u;
    REAL sum_gradient[Sum<LAYER>::DIM];
    if (is_last)
      zero_channel(sum_gradient);
    else
      load_channel(sum_gradient, own_dB);
    Sum<LAYER>::vector_backward(sum_gradient, gradient, path_weights + u);
    if constexpr (LAYER == 0) {
#pragma unroll
      for (int m = 0; m < M; ++m) first_gradient[m] = sum_gradient[m] * norm;
    } else {
      REAL left[M], left_gradient[M], before_gradient[Sum<LAYER>::BEFORE];
      load_channel(left, A + ((long long)(LAYER - 1) * max_centers + place.center) * M * UP + u);
      zero_channel(left_gradient);
      Sum<LAYER>::product_backward(
          left_gradient, before_gradient, sum_gradient, left, B + place_of_sum<LAYER - 1>(place.center, max_centers) + u,
          path_weights + u);
#pragma unroll
      for (int m = 0; m < M; ++m) left_gradient[m] *= norm;
      store_channel(dA + ((long long)((LAYER - 1) % 2) * max_centers + place.center) * M * UP + u, left_gradient);
      store_channel(own_dB, before_gradient);
    }
  }
  if (place.exists) {  // the other groups meanwhile
    if (!is_last)
      load_channel(environment_gradient, dA + ((long long)(LAYER % 2) * max_centers + place.center) * M * UP + u);
    REAL sum[Sum<LAYER>::DIM];
    load_channel(sum, B + place_of_sum<LAYER>(place.center, max_centers) + u);
    Sum<LAYER>::vector(vector, sum, path_weights + u);
  }

  if constexpr (LAYER == 0) copy_to_groups(first_gradient, room, place);

  REAL* const own_harmonic_gradient = harmonic_gradient + (long long)(place.lane / 32) * capacity * MP;
  for (int z = place.begin + place.group; z - place.group < place.end; z += GROUPS) {
    const bool has_edge = z < place.end;
    HarmonicShare<is_last> share;
    share.load(own_harmonic_gradient, z, has_edge);
    REAL terms[M];  // of this channel in dE/dY
    zero_channel(terms);
    if (has_edge && place.exists) {
      REAL weights[ENV_SLOTS], Y[MP], by_env[ENV_SLOTS];
      REAL* const given_at = row_of(dx, z, LDX) + u;
      const REAL given = *given_at;
      load_slots(weights, row_of(own_env, z, NE));
      load_harmonics(Y, harmonics, z);
#pragma unroll
      for (int m = 0; m < M; ++m)  // by env Y of this edge
        terms[m] = is_last ? given * vector[m] : multiply_add(given, vector[m], environment_gradient[m]);
      product_by_slots(by_env, Y, terms);
      REAL* const denv_row = row_of(denv, z, NE) + u;
#pragma unroll
      for (int l = 0; l < ENV_SLOTS; ++l) denv_row[l * UP] = ROUND_DENV ? round_operand(by_env[l]) : by_env[l];
#if ZERO_DSCAL
      *given_at = 0;
#endif
#pragma unroll
      for (int m = 0; m < M; ++m) terms[m] *= weights[slot_of(m, ENV_SLOTS)];
      if constexpr (LAYER == 0) {
        REAL first_weights[W_SLOTS], by_weights[W_SLOTS];
        load_slots(first_weights, row_of(w + u, z, NW));
        product_by_slots(by_weights, Y, first_gradient);
        REAL* const dw_row = row_of(dw, z, NW) + u;
#pragma unroll
        for (int l = 0; l < W_SLOTS; ++l) dw_row[l * UP] = ROUND_DW ? round_operand(by_weights[l]) : by_weights[l];
#pragma unroll
        for (int m = 1; m < M; ++m)
          terms[m] = multiply_add(first_weights[slot_of(m, W_SLOTS)], first_gradient[m], terms[m]);
      }
    }
    share.add(terms, own_harmonic_gradient, z, has_edge);
  }
}
