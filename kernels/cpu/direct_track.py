"""The tensor features of the legacy generation, one tensor an edge and layer.

That generation mixes channels between products and may take an edge out of the environment it sees, so that its layers
are no linear maps of the centre's own (`tensor_track.py`), and tensors are formed edge by edge, for a panel of edges at
a time. For edge z of centre i in layer k, with a, b, c components, u and v channels, p paths:

    A_i[b,u] = norm_i sum_z env_k[z,l(b),u] Y[z,b],  then A_i[lm,:] <- A_i[lm,:] E_l where the layer mixes it
    A[z] = A_i, or A_i - norm_i env_k[z] Y[z] where an edge does not see itself
    T[t,u] = sum_p w[p,u] sum_{a,b} C_p[a,b,t] X[z,x_p(a),u] A[z,b,u]
with X = V_k, or X[x_p(a),:] = V_k[a,:] B_p for layers that mix before the product. Rows t are the components c of
V_{k+1}, or, for layers that mix after it, (irrep, component, path): V_{k+1}[c,:] = sum_p T[(c,p),:] D_p. The first
rows, of the irrep 0e, are the invariants. Backward, the same products transposed.

Channels are fastest in memory. Sums over the edges of a centre run in the order of the edges, and everything else
belongs to one edge, so that no result depends on panels or chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .edge_tensors import (
    add_harmonic_share,
    contract_harmonics,
    couple,
    couple_backward,
    see_others,
    weigh_harmonics,
)
from .inner import inner_kernel
from .product import TILE_ROWS, product
from .simd import fma, load, plus, splat, store, zeros
from .tensor_track import fill, scale, spread_to_edges, sum_over_edges

TENSOR_PANEL = 2 * TILE_ROWS
"""Edges whose products are formed together."""


class DirectTrack(NamedTuple):
    """Constants of the legacy tensor track; floats of the features' dtype. Places and lengths in elements."""

    channels: int  # U, padded to whole vectors
    self_edge: int  # 1: an edge sees the whole environment of its centre
    environment_slots: np.ndarray  # int64 (slots + 1,): first component of each slot of env
    tensor_slots: np.ndarray  # int64 (slots + 1,): the same for w
    environment_columns: np.ndarray  # int64: column of env for each component
    tensor_columns: np.ndarray  # int64: the same for w
    # Couplings of layer k: groups layer_groups[k] .. layer_groups[k + 1], each of one row t and one path.
    layer_groups: np.ndarray  # int64 (L + 1,)
    group_entries: np.ndarray  # int64 (groups + 1,): first entry of each group
    group_rows: np.ndarray  # int64 (groups,): t
    group_paths: np.ndarray  # int64 (groups,): row of `path_weights`
    entry_first: np.ndarray  # int64 (entries,): x_p(a), a row of X
    entry_second: np.ndarray  # int64 (entries,): b
    entry_values: np.ndarray  # float (entries,)
    path_weights: np.ndarray  # float (paths of all layers, U)
    # Rows of U channels an edge has of each quantity, for layer k.
    tensor_rows: np.ndarray  # int64 (L + 1,): V_k; V_L: rows of T of the last layer
    left_rows: np.ndarray  # int64 (L,): X
    product_rows: np.ndarray  # int64 (L,): T
    invariant_rows: np.ndarray  # int64 (L,): rows of T that are invariants, the first ones
    # Mixing of layer k: rows starts[k] .. starts[k + 1] of each table, columns FROM, TO, COUNT, MATRIX, TRANSPOSED (the
    # last two: places in `matrices`). before: COUNT rows of V_k to X; after: COUNT rows of T to one row of V_{k+1}.
    before_starts: np.ndarray  # int64 (L + 1,)
    before: np.ndarray  # int64 (n, 5)
    after_starts: np.ndarray  # int64 (L + 1,)
    after: np.ndarray  # int64 (n, 5)
    environment_mix: np.ndarray  # int64 (L, degrees, 2): places of E_l and of its transpose; -1 for none
    matrices: np.ndarray  # float, all of them
    # Places of a centre's vectors within its block of `centers`.
    environment_at: np.ndarray  # int64 (L,): A_k
    gradient_at: int  # dA_k of the layer at work
    scratch_at: int  # as large as A
    block: int  # elements a centre
    # Places in the scratch of a panel, rows of one edge after the other.
    left_at: int
    left_gradient_at: int
    product_at: int
    product_gradient_at: int
    seen_at: int
    norm_at: int  # norm_i of the centre at work, and -norm_i
    # Buffers of the features (places and elements a row), as in network.py.
    tensors: np.ndarray  # int64 (L, 2): V_k
    tensor_gradients: np.ndarray  # int64 (2, 2): dV_k of layers k, by turns
    seen_gradient: np.ndarray  # int64 (2,): dE/dA[z], kept where an edge does not see itself
    environment_buffers: np.ndarray  # int64 (L, 2): env_k
    environment_gradient: np.ndarray  # int64 (2,)
    tensor_weights: np.ndarray  # int64 (2,): w
    tensor_weight_gradient: np.ndarray  # int64 (2,)
    invariants: np.ndarray  # int64 (2,)
    invariant_gradient: np.ndarray  # int64 (2,)
    harmonic_gradient: np.ndarray  # int64 (2,): dE/dY_a in column a - 1


FROM, TO, COUNT, MATRIX, TRANSPOSED = range(5)


@inner_kernel
def mix_environment(track, layer, centers, at, scratch_at, transposed):
    """A[lm, :] <- A[lm, :] E_l of one centre, or with E_l transposed; unchanged where the layer mixes nothing."""
    channels = track.channels
    degrees = track.environment_mix.shape[1]
    if track.environment_mix[layer, 0, 0] < 0:
        return
    for degree in range(degrees):
        row = degree * degree
        product(
            centers, scratch_at + row * channels, channels, centers, at + row * channels, channels, 1, track.matrices,
            track.environment_mix[layer, degree, transposed], channels, 2 * degree + 1, channels, channels, False,
        )  # fmt: skip
    copy(centers, at, centers, scratch_at, degrees * degrees * channels)


@inner_kernel
def copy(out, out_at, source, source_at, count):
    """out[out_at : + count] = source[source_at : + count], whole vectors."""
    for u in range(0, count, 64 // out.itemsize):
        store(out, out_at + u, load(source, source_at + u))


@inner_kernel
def left_and_seen(track, layer, features, scratch, centers, environment, harmonics, length, first, last):
    """X[x_p(a), :] = V_k[a, :] B_p of a panel where a layer mixes before its product, and A where edges see others."""
    channels = track.channels
    source, row = track.tensors[layer], track.left_rows[layer] * channels
    for n in range(track.before_starts[layer], track.before_starts[layer + 1]):
        step = track.before[n]
        for r in range(step[COUNT]):
            product(
                scratch, track.left_at + (step[TO] + r) * channels, row,
                features, source[0] + first * source[1] + (step[FROM] + r) * channels, source[1], 1,
                track.matrices, step[MATRIX], channels, last - first, channels, channels, False,
            )  # fmt: skip
    if track.self_edge == 0:
        weights = track.environment_buffers[layer]
        see_others(
            scratch, track.seen_at, track.norm_at + 1, centers, environment, features, weights[0], weights[1],
            track.environment_columns, channels, harmonics, length, first, last,
        )  # fmt: skip


@inner_kernel
def couple_panel(track, layer, features, scratch, centers, environment, size, first, last):
    """T of a panel from X and A, wherever this layer has them; size: elements of A."""
    channels, rows = track.channels, last - first
    begin, end = track.layer_groups[layer], track.layer_groups[layer + 1]
    mixed = track.before_starts[layer] < track.before_starts[layer + 1]
    left, left_at, left_row = (
        features,
        track.tensors[layer, 0] + first * track.tensors[layer, 1],
        track.tensors[layer, 1],
    )
    if mixed:
        left, left_at, left_row = scratch, track.left_at, track.left_rows[layer] * channels
    right, right_at, right_row = scratch, track.seen_at, size
    if track.self_edge == 1:
        right, right_at, right_row = centers, environment, 0
    couple(
        channels, begin, end, track.group_entries, track.group_rows, track.group_paths, track.entry_first,
        track.entry_second, track.entry_values, track.path_weights, scratch, track.product_at,
        track.product_rows[layer] * channels, left, left_at, left_row, right, right_at, right_row, rows,
    )  # fmt: skip


@inner_kernel
def couple_panel_backward(track, layer, features, scratch, centers, environment, gradient, size, first, last):
    """dX and dA of a panel from dT: dX to where X came from, dA to the centre's sum or to the place of each edge."""
    channels, rows = track.channels, last - first
    begin, end = track.layer_groups[layer], track.layer_groups[layer + 1]
    target, kept = track.tensor_gradients[layer % 2], track.seen_gradient
    left, left_at, left_row = (
        features,
        track.tensors[layer, 0] + first * track.tensors[layer, 1],
        track.tensors[layer, 1],
    )
    dx, dx_at, dx_row = features, target[0] + first * target[1], target[1]
    if track.before_starts[layer] < track.before_starts[layer + 1]:
        left, left_at, left_row = scratch, track.left_at, track.left_rows[layer] * channels
        dx, dx_at, dx_row = scratch, track.left_gradient_at, left_row
    right, right_at, right_row = scratch, track.seen_at, size
    dy, dy_at, dy_row = features, kept[0] + first * kept[1], kept[1]
    if track.self_edge == 1:
        right, right_at, right_row = centers, environment, 0
        dy, dy_at, dy_row = centers, gradient, 0
    couple_backward(
        channels, begin, end, track.group_entries, track.group_rows, track.group_paths, track.entry_first,
        track.entry_second, track.entry_values, track.path_weights, scratch, track.product_gradient_at,
        track.product_rows[layer] * channels, left, left_at, left_row, right, right_at, right_row, dx, dx_at, dx_row,
        dy, dy_at, dy_row, rows,
    )  # fmt: skip


@inner_kernel
def direct_forward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):
    """env_k -> A_k, the products, V_{k+1} and the invariants of a chunk (overwrites).

    features, scratch, centers: float arrays of one dtype, see `DirectTrack`; norms: float (num_types,); edges: the
    chunk's `edges.Edges`.
    """
    channels, harmonics = track.channels, edges.flat_harmonics
    components, length = edges.harmonics.shape
    size, row = components * channels, track.product_rows[layer] * channels
    mixes_after = track.after_starts[layer] < track.after_starts[layer + 1]
    for number in range(num_centers):
        begin, end = edges.first[number], edges.first[number + 1]
        if begin == end:
            continue
        block = number * track.block
        environment = block + track.environment_at[layer]
        norm = norms[edges.center_types[begin]]
        scratch[track.norm_at], scratch[track.norm_at + 1] = norm, -norm
        sum_over_edges(
            track.environment_slots, channels, centers, environment, features, track.environment_buffers[layer],
            harmonics, length, begin, end,
        )  # fmt: skip
        scale(centers, environment, size, norm)
        mix_environment(track, layer, centers, environment, block + track.scratch_at, 0)
        if layer == 0:
            out, weights = track.tensors[0], track.tensor_weights
            weigh_harmonics(
                features, out[0], out[1], weights[0], weights[1], track.tensor_columns, channels, harmonics, length,
                begin, end,
            )  # fmt: skip
        for first in range(begin, end, TENSOR_PANEL):
            last = min(first + TENSOR_PANEL, end)
            left_and_seen(track, layer, features, scratch, centers, environment, harmonics, length, first, last)
            couple_panel(track, layer, features, scratch, centers, environment, size, first, last)
            out, count = track.invariants, track.invariant_rows[layer] * channels
            for z in range(first, last):
                copy(features, out[0] + z * out[1], scratch, track.product_at + (z - first) * row, count)
            if layer == last_layer:
                continue
            out = track.tensors[layer + 1]
            if not mixes_after:
                for z in range(first, last):
                    copy(features, out[0] + z * out[1], scratch, track.product_at + (z - first) * row, row)
            for n in range(track.after_starts[layer], track.after_starts[layer + 1]):
                step = track.after[n]
                product(
                    features, out[0] + first * out[1] + step[TO] * channels, out[1],
                    scratch, track.product_at + step[FROM] * channels, row, 1,
                    track.matrices, step[MATRIX], channels, last - first, channels, step[COUNT] * channels, False,
                )  # fmt: skip


@inner_kernel
def products_backward(track, layer, last_layer, features, scratch, first, last):
    """dT of the edges first .. last (a panel) from dV_{k+1} and the invariants' gradient, in `scratch` (overwrites)."""
    channels = track.channels
    row = track.product_rows[layer] * channels
    given, tensors = track.invariant_gradient, track.tensor_gradients[(layer + 1) % 2]
    plain = layer < last_layer and track.after_starts[layer] == track.after_starts[layer + 1]
    invariants = track.invariant_rows[layer] * channels
    for z in range(first, last):
        at = track.product_gradient_at + (z - first) * row
        for u in range(0, row, 64 // scratch.itemsize):
            gradient = zeros(scratch)
            if u < invariants:
                gradient = load(features, given[0] + z * given[1] + u)
            if plain:
                gradient = plus(gradient, load(features, tensors[0] + z * tensors[1] + u))
            store(scratch, at + u, gradient)
    for n in range(track.after_starts[layer], track.after_starts[layer + 1]):
        step = track.after[n]
        width = step[COUNT] * channels
        product(
            scratch, track.product_gradient_at + step[FROM] * channels, row,
            features, tensors[0] + first * tensors[1] + step[TO] * channels, tensors[1], 1,
            track.matrices, step[TRANSPOSED], width, last - first, width, channels, True,
        )  # fmt: skip


@inner_kernel
def direct_backward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):
    """From dV_{k+1} and the invariants' gradient to dV_k, denv_k and the share of the layer in dY, for a chunk.

    Layers are called from the last to the first; the last one sets dY, the others add to it. The first one also makes
    dw.
    """
    channels, harmonics = track.channels, edges.flat_harmonics
    components, length = edges.harmonics.shape
    size = components * channels
    target, kept, share = track.tensor_gradients[layer % 2], track.seen_gradient, track.harmonic_gradient
    left_row = track.left_rows[layer] * channels
    mixes_before = track.before_starts[layer] < track.before_starts[layer + 1]
    for number in range(num_centers):
        begin, end = edges.first[number], edges.first[number + 1]
        if begin == end:
            continue
        block = number * track.block
        environment, gradient = block + track.environment_at[layer], block + track.gradient_at
        norm = norms[edges.center_types[begin]]
        scratch[track.norm_at], scratch[track.norm_at + 1] = norm, -norm
        fill(centers, gradient, size, 0.0)
        for z in range(begin, end):
            fill(features, target[0] + z * target[1], track.tensor_rows[layer] * channels, 0.0)
            if layer == last_layer:
                fill(features, share[0] + z * share[1], components - 1, 0.0)
            if track.self_edge == 0:
                fill(features, kept[0] + z * kept[1], size, 0.0)
        for first in range(begin, end, TENSOR_PANEL):
            last = min(first + TENSOR_PANEL, end)
            products_backward(track, layer, last_layer, features, scratch, first, last)
            left_and_seen(track, layer, features, scratch, centers, environment, harmonics, length, first, last)
            if mixes_before:
                fill(scratch, track.left_gradient_at, (last - first) * left_row, 0.0)
            couple_panel_backward(track, layer, features, scratch, centers, environment, gradient, size, first, last)
            for n in range(track.before_starts[layer], track.before_starts[layer + 1]):
                step = track.before[n]
                for r in range(step[COUNT]):
                    product(
                        features, target[0] + first * target[1] + (step[FROM] + r) * channels, target[1],
                        scratch, track.left_gradient_at + (step[TO] + r) * channels, left_row, 1,
                        track.matrices, step[TRANSPOSED], channels, last - first, channels, channels, True,
                    )  # fmt: skip
        if track.self_edge == 0:
            for z in range(begin, end):
                for u in range(0, size, 64 // features.itemsize):
                    own = load(features, kept[0] + z * kept[1] + u)
                    store(centers, gradient + u, plus(load(centers, gradient + u), own))
        mix_environment(track, layer, centers, gradient, block + track.scratch_at, 1)
        scale(centers, gradient, size, norm)
        environment_gradients(
            track, layer, features, scratch, centers, gradient, harmonics, length, components, begin, end
        )
        if layer == 0:
            weight_gradients(track, features, harmonics, length, components, begin, end)


@inner_kernel
def environment_gradients(
    track, layer, features, scratch, centers, gradient, harmonics, length, components, begin, end
):
    """denv_k and the environment's share in dY, from norm dA_i (at `gradient`), less norm dA[z] where that is kept."""
    channels, columns = track.channels, track.environment_columns
    kept, weights, share = track.seen_gradient, track.environment_buffers[layer], track.harmonic_gradient
    if track.self_edge == 1:
        spread_to_edges(
            track.environment_slots, channels, features, track.environment_gradient, harmonics, length, centers,
            gradient, begin, end,
        )  # fmt: skip
        add_harmonic_share(
            features, share[0], share[1], weights[0], weights[1], columns, channels, centers, gradient, 0, components,
            begin, end,
        )  # fmt: skip
        return
    minus_norm = splat(scratch, track.norm_at + 1)
    for z in range(begin, end):
        at = kept[0] + z * kept[1]
        for u in range(0, components * channels, 64 // features.itemsize):
            store(features, at + u, fma(load(features, at + u), minus_norm, load(centers, gradient + u)))
    at, out = kept[0] + begin * kept[1], track.environment_gradient
    contract_harmonics(
        track.environment_slots,
        channels,
        features,
        out[0],
        out[1],
        features,
        at,
        kept[1],
        harmonics,
        length,
        begin,
        end,
    )
    add_harmonic_share(
        features, share[0], share[1], weights[0], weights[1], columns, channels, features, at, kept[1], components,
        begin, end,
    )  # fmt: skip


@inner_kernel
def weight_gradients(track, features, harmonics, length, components, begin, end):
    """dw and the share of V_0 in dY, from dV_0."""
    source, out = track.tensor_gradients[0], track.tensor_weight_gradient
    weights, share = track.tensor_weights, track.harmonic_gradient
    at = source[0] + begin * source[1]
    contract_harmonics(
        track.tensor_slots, track.channels, features, out[0], out[1], features, at, source[1], harmonics, length, begin,
        end,
    )  # fmt: skip
    add_harmonic_share(
        features, share[0], share[1], weights[0], weights[1], track.tensor_columns, track.channels, features, at,
        source[1], components, begin, end,
    )  # fmt: skip
