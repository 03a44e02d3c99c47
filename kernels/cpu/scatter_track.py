"""The tensor features of models with `scatter_features`, by vectors of the centre alone.

There the tensor features are what is summed, B_k = norm sum_z V_k[z], and each edge brings its weighted harmonics,
    V_{k+1}[z,u,c] = sum_p w_k[u,p] sum_{a,b} C_p[a,b,c] B_k[u,a] (env_k Y)[z,u,b].
That is linear in env_k Y. So the next sum needs no V_{k+1}[z], and neither do the invariants, its column c = 0:
    B_0[u,a] = norm sum_z w[z,u,l(a)] Y[z,a]       A_k[u,b] = norm sum_z env_k[z,u,l(b)] Y[z,b]
    B_{k+1}[u,c] = sum_p w_k[u,p] sum_{a,b} C_p[a,b,c] B_k[u,a] A_k[u,b]
    n_k[u,b] = sum_p w_k[u,p] sum_a C_p[a,b,0] B_k[u,a]
    t_k[z,u,l] = sum_m Y[z,lm] n_k[u,lm]           scal_k[z,u] = sum_l env_k[z,u,l] t_k[z,u,l]
The last layer forms no A_k, since nothing reads B_L. Backward, per centre, dn_k[u,b] = sum_z dscal_k[z,u] (env_k
Y)[z,u,b], and the lists transposed give dB_k from dn_k and dB_{k+1}, and dA_k from dB_{k+1}.

Derivation and a test in float64: `allegro_sim/model/reference_identity.py`. Letters and slots as in `tensor_track.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .edge_tensors import add_harmonic_share
from .inner import inner_kernel
from .simd import fma, load, store, times, zeros
from .tensor_track import (
    add_harmonic_gradient,
    contract,
    contract_backward,
    fill,
    scale,
    spread_to_edges,
    sum_over_edges,
)


class ScatterTrack(NamedTuple):
    """Constants of the track; floats of the features' dtype. Places and lengths in elements."""

    channels: int  # U, padded to whole vectors
    environment_slots: np.ndarray  # int64 (slots + 1,): first component of each slot of env
    tensor_slots: np.ndarray  # int64 (slots + 1,): the same for w
    environment_columns: np.ndarray  # int64 (1 + a multiple of 8,): column of env for each component, 0 beyond the last
    tensor_columns: np.ndarray  # int64: the same for w
    # Contractions as in `TensorTrack`: list 2 k gives B_{k+1} from A_k (entry_second) and B_k (entry_out), list 2 k + 1
    # gives n_k from B_k and the number 1.
    list_groups: np.ndarray  # int64 (2 L + 1,)
    group_entries: np.ndarray  # int64 (groups + 1,)
    group_paths: np.ndarray  # int64 (groups,)
    group_first: np.ndarray  # int64 (groups,)
    entry_second: np.ndarray  # int64 (entries,)
    entry_out: np.ndarray  # int64 (entries,)
    entry_values: np.ndarray  # float (entries,)
    path_weights: np.ndarray  # float (paths of all layers, U)
    # Places of the vectors of one centre within its block of `centers`.
    sum_at: np.ndarray  # int64 (L,): B_k
    sum_dims: np.ndarray  # int64 (L,): its components
    environment_at: np.ndarray  # int64 (L - 1,): A_k
    vector_at: np.ndarray  # int64 (L,): n_k
    one_at: int  # the number 1 in all channels
    sum_gradient_at: np.ndarray  # int64 (2,): dB_k, by turns
    environment_gradient_at: int  # dA_k of the layer at work
    vector_gradient_at: int  # dn_k of the layer at work
    unused_at: int  # the derivative by the number 1
    block: int  # elements a centre
    # Buffers of the features (places and elements a row), as in network.py.
    environment_buffers: np.ndarray  # int64 (L, 2): env_k
    environment_gradient: np.ndarray  # int64 (2,): denv of the layer at work
    tensor_weights: np.ndarray  # int64 (2,): w
    tensor_weight_gradient: np.ndarray  # int64 (2,): dw
    inner_buffers: np.ndarray  # int64 (L, 2): t_k
    weighted_gradient: np.ndarray  # int64 (2,): dscal_k env_k
    invariants: np.ndarray  # int64 (2,): scal of the layer at work
    invariant_gradient: np.ndarray  # int64 (2,): dscal of the layer at work
    harmonic_gradient: np.ndarray  # int64 (2,): dE/dY_a in column a - 1


@inner_kernel
def scatter_forward(track, layer, last_layer, features, centers, norms, edges, num_centers):
    """n_k, the edges' invariants scal_k, and B_{k+1} for the next layer, for a chunk (overwrites).

    Arguments as of `tensor_track.tensor_forward`.
    """
    channels = track.channels
    components, length = edges.harmonics.shape
    weights, inner, out = track.environment_buffers[layer], track.inner_buffers[layer], track.invariants
    num_slots = len(track.environment_slots) - 1
    for number in range(num_centers):
        first, last = edges.first[number], edges.first[number + 1]
        if first == last:
            continue
        block = number * track.block
        norm = norms[edges.center_types[first]]
        summed, vector, one = block + track.sum_at[layer], block + track.vector_at[layer], block + track.one_at
        if layer == 0:
            sum_over_edges(
                track.tensor_slots, channels, centers, summed, features, track.tensor_weights, edges.flat_harmonics,
                length, first, last,
            )  # fmt: skip
            scale(centers, summed, components * channels, norm)
            fill(centers, one, channels, 1.0)
        contract(track, 2 * layer + 1, centers, vector, summed, one, components)
        spread_to_edges(
            track.environment_slots, channels, features, inner, edges.flat_harmonics, length, centers, vector, first,
            last,
        )  # fmt: skip
        for z in range(first, last):
            for u in range(0, channels, 64 // features.itemsize):
                total = zeros(features)
                for slot in range(num_slots):
                    w = load(features, weights[0] + z * weights[1] + slot * channels + u)
                    t = load(features, inner[0] + z * inner[1] + slot * channels + u)
                    total = fma(w, t, total)
                store(features, out[0] + z * out[1] + u, total)

        if layer < last_layer:
            environment = block + track.environment_at[layer]
            sum_over_edges(
                track.environment_slots, channels, centers, environment, features, weights, edges.flat_harmonics,
                length, first, last,
            )  # fmt: skip
            scale(centers, environment, components * channels, norm)
            following = block + track.sum_at[layer + 1]
            contract(track, 2 * layer, centers, following, environment, summed, track.sum_dims[layer + 1])


@inner_kernel
def scatter_backward(track, layer, last_layer, features, centers, norms, edges, num_centers):
    """From dscal_k and dB_{k+1} to denv_k, dB_k and this layer's share in dY, for a chunk; layer 0 makes dw, too.

    Layers are called from the last to the first: the last one overwrites dY, the others accumulate.
    """
    channels = track.channels
    lanes = 64 // features.itemsize
    components, length = edges.harmonics.shape
    size = components * channels
    num_slots = len(track.environment_slots) - 1
    weights, inner = track.environment_buffers[layer], track.inner_buffers[layer]
    given, weighted, gradients = track.invariant_gradient, track.weighted_gradient, track.environment_gradient
    for number in range(num_centers):
        first, last = edges.first[number], edges.first[number + 1]
        if first == last:
            continue
        block = number * track.block
        norm = norms[edges.center_types[first]]
        summed, vector_gradient = block + track.sum_at[layer], block + track.vector_gradient_at
        sum_gradient = block + track.sum_gradient_at[layer % 2]
        environment_gradient = block + track.environment_gradient_at
        fill(centers, sum_gradient, track.sum_dims[layer] * channels, 0.0)
        fill(centers, environment_gradient, size, 0.0)
        if layer < last_layer:
            contract_backward(
                track, 2 * layer, centers, block + track.sum_gradient_at[(layer + 1) % 2],
                block + track.environment_at[layer], summed, environment_gradient, sum_gradient,
            )  # fmt: skip
            scale(centers, environment_gradient, size, norm)

        spread_to_edges(
            track.environment_slots, channels, features, gradients, edges.flat_harmonics, length, centers,
            environment_gradient, first, last,
        )  # fmt: skip
        for z in range(first, last):
            for u in range(0, channels, lanes):
                gradient = load(features, given[0] + z * given[1] + u)
                for slot in range(num_slots):
                    column = slot * channels + u
                    w = load(features, weights[0] + z * weights[1] + column)
                    store(features, weighted[0] + z * weighted[1] + column, times(gradient, w))
                    t = load(features, inner[0] + z * inner[1] + column)
                    place = gradients[0] + z * gradients[1] + column
                    store(features, place, fma(gradient, t, load(features, place)))

        sum_over_edges(
            track.environment_slots, channels, centers, vector_gradient, features, weighted, edges.flat_harmonics,
            length, first, last,
        )  # fmt: skip
        contract_backward(
            track, 2 * layer + 1, centers, vector_gradient, summed, block + track.one_at, sum_gradient,
            block + track.unused_at,
        )  # fmt: skip
        add_harmonic_gradient(
            features, track.harmonic_gradient, weighted, track.environment_columns, weights, track.environment_columns,
            centers, block + track.vector_at[layer], environment_gradient, channels, first, last, layer < last_layer,
        )  # fmt: skip
        if layer == 0:
            scale(centers, sum_gradient, size, norm)
            spread_to_edges(
                track.tensor_slots, channels, features, track.tensor_weight_gradient, edges.flat_harmonics, length,
                centers, sum_gradient, first, last,
            )  # fmt: skip
            add_harmonic_share(
                features, track.harmonic_gradient[0], track.harmonic_gradient[1], track.tensor_weights[0],
                track.tensor_weights[1], track.tensor_columns, channels, centers, sum_gradient, 0, components, first,
                last,
            )  # fmt: skip
