// The tensor track of the legacy generation: tensors of edges (kernels/cpu/direct_track.py), forward and backward.
//
// That generation mixes channels between products and may take an edge out of the environment it sees, so that its
// layers are no linear maps of the centre's own. LANES threads an edge (or a centre), one a channel u; the mixing is
// made by the chains of mlp.cu on rows (edge, component). The products are generated text
// (allegro_sim/potential/cuda/couplings.py), struct Coupling<k>: rows of X that it reads (LEFT_ROWS), of T that it makes
// (OUT_ROWS), and whether T goes to memory (HAS_OUT). Rows are UP numbers long.
#include "environment.cuh"

// Which edge and channel a thread has, and the edge's centre.
struct EdgePlace {
  int edge, channel, center;
  bool exists;  // false beyond the last channel or the last edge: the numbers are then those of another place
};

DEVICE EdgePlace edge_of_thread(
    const int* __restrict__ edge_center, const int* __restrict__ first, const int* __restrict__ chunk_centers,
    int chunk) {
  const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long edge = thread / LANES;
  const int channel = (int)(thread % LANES);
  const bool real = edge < edge_count(first, chunk_centers, chunk);
  EdgePlace place;
  place.exists = real && channel < UP;
  place.edge = real ? (int)edge : 0;
  place.channel = channel < UP ? channel : 0;
  place.center = real ? edge_center[place.edge] : 0;
  return place;
}

// The sum over this edge's channels of terms[m], m = 1 .. M, in the place of its warps (OVERWRITE or accumulates). All
// lanes of a warp call it.
template <bool OVERWRITE> DEVICE void add_harmonic_share(
    REAL* __restrict__ harmonic_gradient, const REAL (&terms)[M], const EdgePlace& place,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity) {
  const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const bool has_edge = thread / LANES < edge_count(first, chunk_centers, chunk);
  REAL* const own = harmonic_gradient + thread / 32 % WARPS * capacity * MP;
  HarmonicShare<OVERWRITE> share;
  share.load(own, place.edge, has_edge);
  share.add(terms, own, place.edge, has_edge);
}

// A[m] = norm sum_z env[l(m)] Y[m] of layer LAYER, before any mixing.
//
// An edge reads NE + MP numbers; a centre writes M UP. A REAL[C][M][UP] (overwrites).
template <int LAYER> DEVICE void environment_of_center(
    REAL* __restrict__ A, const REAL* __restrict__ env, const REAL* __restrict__ harmonics,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ first,
    const int* __restrict__ chunk_centers, int chunk, int capacity) {
  const CenterPlace place = place_of_thread(first, chunk_centers, chunk);
  if (place.begin == place.end) return;  // the whole warp, and a block with barriers
  __shared__ GroupRoom room;
  REAL environment[M];
  sum_environment(
      environment, room, env + (long long)LAYER * capacity * NE + place.channel, harmonics, place,
      environment_norms[types[chunk_centers[chunk] + place.center]]);
  if (place.exists && place.group == 0)
    store_channel(row_of(A, place.center, M * UP) + place.channel, environment);
}

// V_0[m] = w[l(m)] Y[m]. An edge reads NW + MP numbers and writes M UP: tensors REAL[E][M][UP] (overwrites).
DEVICE void first_tensors_of_edge(
    REAL* __restrict__ tensors, const REAL* __restrict__ w, const REAL* __restrict__ harmonics,
    const int* __restrict__ edge_center, const int* __restrict__ first, const int* __restrict__ chunk_centers,
    int chunk) {
  const EdgePlace place = edge_of_thread(edge_center, first, chunk_centers, chunk);
  if (!place.exists) return;
  REAL weights[W_SLOTS], Y[MP], tensor[M];
  load_slots(weights, row_of(w, place.edge, NW) + place.channel);
  load_harmonics(Y, harmonics, place.edge);
#pragma unroll
  for (int m = 0; m < M; ++m) tensor[m] = weights[slot_of(m, W_SLOTS)] * Y[m];
  store_channel(row_of(tensors, place.edge, M * UP) + place.channel, tensor);
}

// The environment that an edge sees: A of its centre, without SELF_EDGE less the edge's own term (overwrites).
template <int LAYER> DEVICE void environment_seen(
    REAL (&seen)[M], const REAL* __restrict__ A, const REAL* __restrict__ env, const REAL* __restrict__ harmonics,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ chunk_centers,
    int chunk, int capacity, const EdgePlace& place) {
  load_channel(seen, row_of(A, place.center, M * UP) + place.channel);
#if !SELF_EDGE
  REAL weights[ENV_SLOTS], Y[MP];
  load_slots(weights, row_of(env + (long long)LAYER * capacity * NE, place.edge, NE) + place.channel);
  load_harmonics(Y, harmonics, place.edge);
  const REAL norm = environment_norms[types[chunk_centers[chunk] + place.center]];
#pragma unroll
  for (int m = 0; m < M; ++m) seen[m] = multiply_add(weights[slot_of(m, ENV_SLOTS)] * Y[m], -norm, seen[m]);
#endif
}

// T[t] = sum_p w_p sum_ab C_p[a,b,t] X[a] A[b] of layer LAYER, and its invariants.
//
// An edge reads LEFT_ROWS UP numbers (once a path, from the cache after the first), M UP of its centre's A, and without
// SELF_EDGE NE + MP; it writes its invariants, UP each, and OUT_ROWS UP where T goes on.
//
// x REAL[E][LDX]: columns t UP .. are invariant t, rounded as operands (overwrites); out REAL[E][OUT_ROWS][UP]: T
// (overwrites); left REAL[E][LEFT_ROWS][UP]: X.
template <int LAYER, bool ROUND_SCAL> DEVICE void tensors_of_edge(
    REAL* __restrict__ x, REAL* __restrict__ out, const REAL* __restrict__ left, const REAL* __restrict__ A,
    const REAL* __restrict__ env, const REAL* __restrict__ harmonics, const REAL* __restrict__ path_weights,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ edge_center,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity) {
  typedef Coupling<LAYER> Layer;
  const EdgePlace place = edge_of_thread(edge_center, first, chunk_centers, chunk);
  if (!place.exists) return;
  const int u = place.channel;
  REAL seen[M];
  environment_seen<LAYER>(
      seen, A, env, harmonics, environment_norms, types, chunk_centers, chunk, capacity, place);
  Layer::template forward<ROUND_SCAL>(
      row_of(x, place.edge, LDX) + u, Layer::HAS_OUT ? row_of(out, place.edge, Layer::OUT_ROWS * UP) + u : nullptr,
      row_of(left, place.edge, Layer::LEFT_ROWS * UP) + u, seen, path_weights + u);
}

// dE/dX and dE/dA[z] of layer LAYER from dE/dT and the invariants' gradients.
//
// An edge reads what the forward pass does, its invariants' gradients, and OUT_ROWS UP of `given` where T went on; it
// writes LEFT_ROWS UP and M UP.
//
// left_gradient REAL[E][LEFT_ROWS][UP], seen_gradient REAL[E][M][UP] (overwrites); dx REAL[E][LDX]: columns t UP ..
template <int LAYER> DEVICE void tensor_gradients_of_edge(
    REAL* __restrict__ left_gradient, REAL* __restrict__ seen_gradient, const REAL* __restrict__ dx,
    const REAL* __restrict__ given, const REAL* __restrict__ left, const REAL* __restrict__ A,
    const REAL* __restrict__ env, const REAL* __restrict__ harmonics, const REAL* __restrict__ path_weights,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ edge_center,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity) {
  typedef Coupling<LAYER> Layer;
  const EdgePlace place = edge_of_thread(edge_center, first, chunk_centers, chunk);
  if (!place.exists) return;
  const int u = place.channel;
  REAL seen[M], gradient[M];
  environment_seen<LAYER>(
      seen, A, env, harmonics, environment_norms, types, chunk_centers, chunk, capacity, place);
  zero_channel(gradient);
  Layer::backward(
      row_of(left_gradient, place.edge, Layer::LEFT_ROWS * UP) + u, gradient, row_of(dx, place.edge, LDX) + u,
      Layer::HAS_OUT ? row_of(given, place.edge, Layer::OUT_ROWS * UP) + u : nullptr,
      row_of(left, place.edge, Layer::LEFT_ROWS * UP) + u, seen, path_weights + u);
  store_channel(row_of(seen_gradient, place.edge, M * UP) + u, gradient);
}

// dE/dA_i = sum_z dE/dA[z] over the centre's edges. An edge reads M UP numbers, a centre writes M UP:
// dA REAL[C][M][UP] (overwrites).
DEVICE void environment_gradient_of_center(
    REAL* __restrict__ dA, const REAL* __restrict__ seen_gradient, const int* __restrict__ first,
    const int* __restrict__ chunk_centers, int chunk) {
  const CenterPlace place = place_of_thread(first, chunk_centers, chunk);
  if (place.begin == place.end) return;  // the whole warp, and a block with barriers
  __shared__ GroupRoom room;
  REAL sum[M];
  zero_channel(sum);
#pragma unroll 2
  for (int z = place.begin + place.group; z < place.end; z += GROUPS) {
    REAL term[M];
    load_channel(term, row_of(seen_gradient, z, M * UP) + place.channel);
#pragma unroll
    for (int m = 0; m < M; ++m) sum[m] += term[m];
  }
  sum_over_groups(sum, room, place);
  if (place.exists && place.group == 0) store_channel(row_of(dA, place.center, M * UP) + place.channel, sum);
}

// Gradients by env and Y through the environment of layer LAYER. An edge reads NE + MP + M UP numbers (without SELF_EDGE
// M UP more) and WARPS (M - 1) that it adds to, and writes NE + WARPS (M - 1) (the last layer overwrites).
//
// denv REAL[E][NE], rounded as operands (overwrites); harmonic_gradient REAL[WARPS][E][MP], columns 1 .. M.
template <int LAYER, bool ROUND_DENV> DEVICE void environment_gradients_of_edge(
    REAL* __restrict__ denv, REAL* __restrict__ harmonic_gradient, const REAL* __restrict__ env,
    const REAL* __restrict__ dA, const REAL* __restrict__ seen_gradient, const REAL* __restrict__ harmonics,
    const REAL* __restrict__ environment_norms, const int* __restrict__ types, const int* __restrict__ edge_center,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity) {
  const EdgePlace place = edge_of_thread(edge_center, first, chunk_centers, chunk);
  REAL terms[M];
  zero_channel(terms);
  if (place.exists) {
    const int u = place.channel;
    const REAL norm = environment_norms[types[chunk_centers[chunk] + place.center]];
    REAL gradient[M], weights[ENV_SLOTS], Y[MP], by_env[ENV_SLOTS];
    load_channel(gradient, row_of(dA, place.center, M * UP) + u);
#pragma unroll
    for (int m = 0; m < M; ++m) gradient[m] *= norm;
#if !SELF_EDGE
    REAL own[M];
    load_channel(own, row_of(seen_gradient, place.edge, M * UP) + u);
#pragma unroll
    for (int m = 0; m < M; ++m) gradient[m] = multiply_add(own[m], -norm, gradient[m]);
#endif
    load_slots(weights, row_of(env + (long long)LAYER * capacity * NE, place.edge, NE) + u);
    load_harmonics(Y, harmonics, place.edge);
    product_by_slots(by_env, Y, gradient);
    REAL* const row = row_of(denv, place.edge, NE) + u;
#pragma unroll
    for (int l = 0; l < ENV_SLOTS; ++l) row[l * UP] = ROUND_DENV ? round_operand(by_env[l]) : by_env[l];
#pragma unroll
    for (int m = 1; m < M; ++m) terms[m] = weights[slot_of(m, ENV_SLOTS)] * gradient[m];
  }
  add_harmonic_share<LAYER == LAYERS - 1>(harmonic_gradient, terms, place, first, chunk_centers, chunk, capacity);
}

// Gradients by w and Y through V_0. An edge reads NW + MP + M UP numbers and WARPS (M - 1) that it adds to, and writes
// NW + WARPS (M - 1). dw REAL[E][NW], rounded as operands (overwrites).
template <bool ROUND_DW> DEVICE void first_gradients_of_edge(
    REAL* __restrict__ dw, REAL* __restrict__ harmonic_gradient, const REAL* __restrict__ w,
    const REAL* __restrict__ tensor_gradient, const REAL* __restrict__ harmonics, const int* __restrict__ edge_center,
    const int* __restrict__ first, const int* __restrict__ chunk_centers, int chunk, int capacity) {
  const EdgePlace place = edge_of_thread(edge_center, first, chunk_centers, chunk);
  REAL terms[M];
  zero_channel(terms);
  if (place.exists) {
    const int u = place.channel;
    REAL gradient[M], weights[W_SLOTS], Y[MP], by_weights[W_SLOTS];
    load_channel(gradient, row_of(tensor_gradient, place.edge, M * UP) + u);
    load_slots(weights, row_of(w, place.edge, NW) + u);
    load_harmonics(Y, harmonics, place.edge);
    product_by_slots(by_weights, Y, gradient);
    REAL* const row = row_of(dw, place.edge, NW) + u;
#pragma unroll
    for (int l = 0; l < W_SLOTS; ++l) row[l * UP] = ROUND_DW ? round_operand(by_weights[l]) : by_weights[l];
#pragma unroll
    for (int m = 1; m < M; ++m) terms[m] = weights[slot_of(m, W_SLOTS)] * gradient[m];
  }
  add_harmonic_share<false>(harmonic_gradient, terms, place, first, chunk_centers, chunk, capacity);
}
