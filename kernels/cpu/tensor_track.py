"""The tensor features, by vectors of the centre alone: no edge ever holds a tensor.

Every layer's product is linear in V_0 with matrices that belong to the centre,
    V_{k+1}[z,u,c] = sum_a V_k[z,u,a] M_k[u,a,c],   M_k[u,a,c] = sum_p w_k[u,p] sum_b C_p[a,b,c] A_k[u,b],
and only the invariant column of each V_{k+1} is read. So scal_k[z,u] = sum_a V_0[z,u,a] N_k[u,a] with
    N_k = M_0 M_1 .. M_{k-1} m_k,   m_k[u,a] = M_k[u,a,0],
made right to left by the sparse lists C. With V_0[z,u,a] = w[z,u,l(a)] Y[z,a] an edge costs
    t_k[z,u,l] = sum_m Y[z,lm] N_k[u,lm],   scal_k[z,u] = sum_l w[z,u,l] t_k[z,u,l].
Backward, per centre: G_k[u,a] = sum_z dscal_k[z,u] V_0[z,u,a], and the lists transposed give dA_0 .. dA_k.

Letters: i centre, z edge, u channel (fastest in memory), a, b, c components, p path, k layer. "Slots": the ranges of
components that share one weight w (or env) a channel, one for each degree or a single one for all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compilation import kernel
from .inner import inner_kernel
from .product import product
from .simd import fma, load, plus, splat, store, sum_lanes_of_eight, times, zeros


class TensorTrack(NamedTuple):
    """Constants of the tensor track; floats of the features' dtype. Places and lengths in elements."""

    channels: int  # U, padded to whole vectors
    environment_slots: np.ndarray  # int64 (slots + 1,): first component of each slot of env
    tensor_slots: np.ndarray  # int64 (slots + 1,): the same for w
    environment_columns: (
        np.ndarray
    )  # int64 (1 + a multiple of 8,): column of env for each component, 0 beyond the last one
    tensor_columns: np.ndarray  # int64: the same for w
    # Contractions, one list for each (layer, only c = 0): list q = 2 k for M_k, 2 k + 1 for m_k. Groups of one (path,
    # a) each.
    list_groups: np.ndarray  # int64 (2 L + 1,): first group of each list
    group_entries: np.ndarray  # int64 (groups + 1,): first entry of each group
    group_paths: np.ndarray  # int64 (groups,): row of `path_weights`
    group_first: np.ndarray  # int64 (groups,): a
    entry_second: np.ndarray  # int64 (entries,): b
    entry_out: np.ndarray  # int64 (entries,): c
    entry_values: np.ndarray  # float (entries,): C_p[a,b,c]
    path_weights: np.ndarray  # float (paths of all layers, U): w_k[u,p]
    # Places of the vectors of one centre within its block of `centers`: A_k and dA_k; n^(k)_j for j = 0..k+1, n^(k)_0
    # = N_k.
    environment_at: np.ndarray  # int64 (L,)
    environment_gradient_at: np.ndarray  # int64 (L,)
    chain_at: np.ndarray  # int64 (L, L + 1)
    chain_dims: np.ndarray  # int64 (L, L + 1): components of n^(k)_j
    gradient_at: np.ndarray  # int64 (2,): two places for dn_j and dn_{j+1}
    block: int  # elements a centre
    # Buffers of the features (places and elements a row), as in network.py.
    environment_buffers: np.ndarray  # int64 (L, 2): env_k
    environment_gradient: np.ndarray  # int64 (2,): denv of the layer at work
    tensor_weights: np.ndarray  # int64 (2,): w
    tensor_weight_gradient: np.ndarray  # int64 (2,): dw
    inner_buffers: np.ndarray  # int64 (L, 2): t_k
    weighted_gradient: np.ndarray  # int64 (2,): dscal_k w
    invariants: np.ndarray  # int64 (2,): scal of the layer at work
    invariant_gradient: np.ndarray  # int64 (2,): dscal of the layer at work
    harmonic_gradient: np.ndarray  # int64 (2,): dE/dY_a in column a - 1


@kernel(inline="always")
def contract(track, which, centers, out_at, environment_at, right_at, out_dim):
    """out[a] = sum_p w_p sum_{b,c} C_p[a,b,c] A[b] n[c], for all channels: M n (overwrites)."""
    channels = track.channels
    lanes = 64 // centers.itemsize
    for u in range(0, channels, lanes):
        for a in range(out_dim):
            store(centers, out_at + a * channels + u, zeros(centers))
        for group in range(track.list_groups[which], track.list_groups[which + 1]):
            total = zeros(centers)
            for entry in range(track.group_entries[group], track.group_entries[group + 1]):
                b = load(centers, environment_at + track.entry_second[entry] * channels + u)
                c = load(centers, right_at + track.entry_out[entry] * channels + u)
                total = fma(times(splat(track.entry_values, entry), b), c, total)
            place = out_at + track.group_first[group] * channels + u
            weight = load(track.path_weights, track.group_paths[group] * channels + u)
            store(centers, place, fma(weight, total, load(centers, place)))


@kernel(inline="always")
def contract_backward(
    track, which, centers, gradient_at, environment_at, right_at, environment_gradient_at, right_gradient_at
):
    """dA[b] += sum C w dout[a] n[c] and dn[c] += sum C w dout[a] A[b], for all channels (accumulates)."""
    channels = track.channels
    lanes = 64 // centers.itemsize
    for u in range(0, channels, lanes):
        for group in range(track.list_groups[which], track.list_groups[which + 1]):
            weight = load(track.path_weights, track.group_paths[group] * channels + u)
            gradient = times(weight, load(centers, gradient_at + track.group_first[group] * channels + u))
            for entry in range(track.group_entries[group], track.group_entries[group + 1]):
                scaled = times(splat(track.entry_values, entry), gradient)
                b = track.entry_second[entry] * channels + u
                c = track.entry_out[entry] * channels + u
                right, left = load(centers, right_at + c), load(centers, environment_at + b)
                place = environment_gradient_at + b
                store(centers, place, fma(scaled, right, load(centers, place)))
                place = right_gradient_at + c
                store(centers, place, fma(scaled, left, load(centers, place)))


@inner_kernel
def scale(values, at, count, factor):
    """values[at : at + count] *= factor."""
    for n in range(at, at + count):
        values[n] *= factor


@inner_kernel
def fill(values, at, count, value):
    """values[at : at + count] = value."""
    for n in range(at, at + count):
        values[n] = value


@inner_kernel
def sum_over_edges(slots, channels, centers, at, features, buffer, harmonics, length, first, last):
    """result[a, u] = sum_z f[z, l(a), u] Y[z, a] over the edges first .. last of a centre (overwrites).

    harmonics: Y[z, a] at a length + z. Arrays come one by one, here and below: a tuple of many arrays is slow to hand
    on.
    """
    for slot in range(len(slots) - 1):
        a = slots[slot]
        product(
            centers, at + a * channels, channels, harmonics, a * length + first, length, 1,
            features, buffer[0] + first * buffer[1] + slot * channels, buffer[1],
            slots[slot + 1] - a, channels, last - first, False,
        )  # fmt: skip


@inner_kernel
def spread_to_edges(slots, channels, features, buffer, harmonics, length, centers, at, first, last):
    """f[z, l, u] = sum_m Y[z, lm] vector[lm, u] for the edges first .. last of a centre (overwrites)."""
    for slot in range(len(slots) - 1):
        a = slots[slot]
        product(
            features, buffer[0] + first * buffer[1] + slot * channels, buffer[1],
            harmonics, a * length + first, 1, length, centers, at + a * channels, channels,
            last - first, channels, slots[slot + 1] - a, False,
        )  # fmt: skip


@kernel(inline="always")
def _add_component(total, features, w, w_at, env, env_at, centers, vector, gradient, channels, a, u):
    """total + (dscal w)[u] N[a, u] + env[u] dA[a, u] for component a and the vector of channels that starts at u."""
    total = fma(load(features, w + w_at[a] + u), load(centers, vector + a * channels + u), total)
    return fma(load(features, env + env_at[a] + u), load(centers, gradient + a * channels + u), total)


@inner_kernel
def add_harmonic_gradient(
    features, out, weighted, w_at, environment, env_at, centers, vector, gradient, channels, first, last, accumulate
):
    """dY[z, a] (+)= sum_u (dscal w)[z, l(a), u] N[a, u] + env[z, l(a), u] dA[a, u] for the edges of a centre.

    Edges first .. last. Buffers out, weighted, environment; N at `vector`, dA at `gradient`. Component a > 0 stands in
    column a - 1 (Y_0 is constant); components come in eights, and beyond the last one N and dA hold zeros. w_at,
    env_at: first column of each component's slot.
    """
    for z in range(first, last):
        w, env = weighted[0] + z * weighted[1], environment[0] + z * environment[1]
        for a in range(1, len(w_at), 8):
            t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = zeros(features)
            for u in range(0, channels, 64 // features.itemsize):
                t0 = _add_component(t0, features, w, w_at, env, env_at, centers, vector, gradient, channels, a, u)
                t1 = _add_component(t1, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 1, u)
                t2 = _add_component(t2, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 2, u)
                t3 = _add_component(t3, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 3, u)
                t4 = _add_component(t4, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 4, u)
                t5 = _add_component(t5, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 5, u)
                t6 = _add_component(t6, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 6, u)
                t7 = _add_component(t7, features, w, w_at, env, env_at, centers, vector, gradient, channels, a + 7, u)
            total = sum_lanes_of_eight(t0, t1, t2, t3, t4, t5, t6, t7)
            place = out[0] + z * out[1] + a - 1
            store(features, place, plus(load(features, place), total) if accumulate else total)


@inner_kernel
def tensor_forward(track, layer, features, centers, norms, edges, num_centers):
    """Environments A_k, vectors N_k, and the edges' invariants scal_k, for a chunk (overwrites).

    features: float, one-dimensional, all buffers; centers: float, `track.block` elements a centre; norms: float
    (num_types,) by type of the centre; edges: the chunk's `edges.Edges`.
    """
    channels = track.channels
    lanes = 64 // features.itemsize
    components, length = edges.harmonics.shape
    weights, inner, out = track.tensor_weights, track.inner_buffers[layer], track.invariants
    num_slots = len(track.tensor_slots) - 1
    for number in range(num_centers):
        first, last = edges.first[number], edges.first[number + 1]
        if first == last:
            continue
        block = number * track.block
        environment = block + track.environment_at[layer]
        sum_over_edges(
            track.environment_slots, channels, centers, environment, features, track.environment_buffers[layer],
            edges.flat_harmonics, length, first, last,
        )  # fmt: skip
        scale(centers, environment, components * channels, norms[edges.center_types[first]])

        right = block + track.chain_at[layer, layer + 1]
        fill(centers, right, channels, 1.0)
        for j in range(layer, -1, -1):
            here = block + track.chain_at[layer, j]
            which = 2 * j + (1 if j == layer else 0)
            environment = block + track.environment_at[j]
            contract(track, which, centers, here, environment, right, track.chain_dims[layer, j])
            right = here

        spread_to_edges(
            track.tensor_slots, channels, features, inner, edges.flat_harmonics, length, centers, right, first, last
        )
        for z in range(first, last):
            for u in range(0, channels, lanes):
                total = zeros(features)
                for slot in range(num_slots):
                    w = load(features, weights[0] + z * weights[1] + slot * channels + u)
                    t = load(features, inner[0] + z * inner[1] + slot * channels + u)
                    total = fma(w, t, total)
                store(features, out[0] + z * out[1] + u, total)


@inner_kernel
def tensor_backward(track, layer, last_layer, features, centers, norms, edges, num_centers):
    """From dscal_k to denv_k, and the shares of this layer in dw and dY, for a chunk.

    Layers are called from the last to the first: the last one overwrites dw, dY and the centres' dA, the others
    accumulate.
    """
    channels = track.channels
    lanes = 64 // features.itemsize
    components, length = edges.harmonics.shape
    size = components * channels
    num_slots = len(track.tensor_slots) - 1
    weights, weight_gradient, weighted = track.tensor_weights, track.tensor_weight_gradient, track.weighted_gradient
    inner, given = track.inner_buffers[layer], track.invariant_gradient
    is_last = layer == last_layer
    for number in range(num_centers):
        first, last = edges.first[number], edges.first[number + 1]
        if first == last:
            continue
        block = number * track.block
        if is_last:
            for k in range(last_layer + 1):
                fill(centers, block + track.environment_gradient_at[k], size, 0.0)

        for z in range(first, last):
            for u in range(0, channels, lanes):
                gradient = load(features, given[0] + z * given[1] + u)
                for slot in range(num_slots):
                    column = slot * channels + u
                    w = load(features, weights[0] + z * weights[1] + column)
                    store(features, weighted[0] + z * weighted[1] + column, times(gradient, w))
                    t = load(features, inner[0] + z * inner[1] + column)
                    place = weight_gradient[0] + z * weight_gradient[1] + column
                    store(features, place, times(gradient, t) if is_last else fma(gradient, t, load(features, place)))

        here, following = block + track.gradient_at[0], block + track.gradient_at[1]
        sum_over_edges(
            track.tensor_slots, channels, centers, here, features, weighted, edges.flat_harmonics, length, first, last
        )
        for j in range(layer + 1):
            fill(centers, following, track.chain_dims[layer, j + 1] * channels, 0.0)
            contract_backward(
                track, 2 * j + (1 if j == layer else 0), centers, here, block + track.environment_at[j],
                block + track.chain_at[layer, j + 1], block + track.environment_gradient_at[j], following,
            )  # fmt: skip
            here, following = following, here

        # dA_k is complete: the layers before have no part in it.
        gradient_at = block + track.environment_gradient_at[layer]
        scale(centers, gradient_at, size, norms[edges.center_types[first]])
        spread_to_edges(
            track.environment_slots, channels, features, track.environment_gradient, edges.flat_harmonics, length,
            centers, gradient_at, first, last,
        )  # fmt: skip
        add_harmonic_gradient(
            features, track.harmonic_gradient, weighted, track.tensor_columns, track.environment_buffers[layer],
            track.environment_columns, centers, block + track.chain_at[layer, 0], gradient_at, channels, first, last,
            not is_last,
        )  # fmt: skip
