"""What the legacy tensor track does edge by edge: weighted harmonics, the environment seen, couplings, and backward.

Each function runs over some edges of one centre. `name_at` and `name_row` of an array are the place of the first edge's
part and the distance to the next edge's, in elements; a distance of 0 is a part that all edges share. Letters and rows
as in `direct_track.py`. Arrays come one by one: a tuple of many is slow to hand on.
"""

from __future__ import annotations

from .inner import inner_kernel
from .simd import fma, load, splat, store, sum_lanes, times, zeros


@inner_kernel
def weigh_harmonics(
    features, out_at, out_row, weights_at, weights_row, columns, channels, harmonics, length, first, last
):
    """V[z, a, u] = w[z, l(a), u] Y[z, a] for the edges first .. last (overwrites); places of edge 0 of the chunk."""
    for z in range(first, last):
        for a in range(len(harmonics) // length):
            for u in range(0, channels, 64 // features.itemsize):
                w = load(features, weights_at + z * weights_row + columns[a] + u)
                store(features, out_at + z * out_row + a * channels + u, times(w, splat(harmonics, a * length + z)))


@inner_kernel
def see_others(
    scratch, at, minus_norm_at, centers, environment, features, weights_at, weights_row, columns, channels, harmonics,
    length, first, last,
):  # fmt: skip
    """A[z, a, u] = A_i[a, u] - norm env[z, l(a), u] Y[z, a] for the edges first .. last (overwrites).

    A goes to `scratch` from `at`; scratch[minus_norm_at] = -norm; weights: env, the place of edge 0 of the chunk.
    """
    components = len(harmonics) // length
    minus_norm = splat(scratch, minus_norm_at)
    for z in range(first, last):
        out = at + (z - first) * components * channels
        for a in range(components):
            for u in range(0, channels, 64 // scratch.itemsize):
                w = load(features, weights_at + z * weights_row + columns[a] + u)
                own = times(w, splat(harmonics, a * length + z))
                whole = load(centers, environment + a * channels + u)
                store(scratch, out + a * channels + u, fma(own, minus_norm, whole))


@inner_kernel
def couple(
    channels, first_group, last_group, group_entries, group_rows, group_paths, entry_first, entry_second, entry_values,
    path_weights, out, out_at, out_row, left, left_at, left_row, right, right_at, right_row, rows,
):  # fmt: skip
    """T[t, u] = sum_p w[p, u] sum_{a,b} C_p[a,b,t] X[a, u] A[b, u] for `rows` edges (overwrites). Groups of equal t
    follow each other."""
    for z in range(rows):
        target, x, y = out_at + z * out_row, left_at + z * left_row, right_at + z * right_row
        for u in range(0, channels, 64 // out.itemsize):
            before = -1
            for group in range(first_group, last_group):
                total = zeros(out)
                for entry in range(group_entries[group], group_entries[group + 1]):
                    a = load(left, x + entry_first[entry] * channels + u)
                    b = load(right, y + entry_second[entry] * channels + u)
                    total = fma(times(splat(entry_values, entry), a), b, total)
                row = group_rows[group]
                place = target + row * channels + u
                weight = load(path_weights, group_paths[group] * channels + u)
                others = zeros(out) if row != before else load(out, place)
                store(out, place, fma(weight, total, others))
                before = row


@inner_kernel
def couple_backward(
    channels, first_group, last_group, group_entries, group_rows, group_paths, entry_first, entry_second, entry_values,
    path_weights, given, given_at, given_row, left, left_at, left_row, right, right_at, right_row, left_gradient,
    left_gradient_at, left_gradient_row, right_gradient, right_gradient_at, right_gradient_row, rows,
):  # fmt: skip
    """dX and dA from dT (at `given`) for `rows` edges, one after the other (accumulates)."""
    for z in range(rows):
        source, x, y = given_at + z * given_row, left_at + z * left_row, right_at + z * right_row
        dx, dy = left_gradient_at + z * left_gradient_row, right_gradient_at + z * right_gradient_row
        for u in range(0, channels, 64 // given.itemsize):
            for group in range(first_group, last_group):
                weight = load(path_weights, group_paths[group] * channels + u)
                gradient = times(weight, load(given, source + group_rows[group] * channels + u))
                for entry in range(group_entries[group], group_entries[group + 1]):
                    scaled = times(splat(entry_values, entry), gradient)
                    a, b = entry_first[entry] * channels + u, entry_second[entry] * channels + u
                    store(left_gradient, dx + a, fma(scaled, load(right, y + b), load(left_gradient, dx + a)))
                    store(right_gradient, dy + b, fma(scaled, load(left, x + a), load(right_gradient, dy + b)))


@inner_kernel
def add_harmonic_share(
    features, out_at, out_row, weights_at, weights_row, columns, channels, vectors, at, row, components, first, last
):
    """dE/dY[z, a] += sum_u f[z, l(a), u] vectors[z, a, u] for a > 0 and the edges first .. last.

    Places of the output and the weights f: of edge 0 of the chunk; of `vectors`: of edge `first`.
    """
    for z in range(first, last):
        vector = at + (z - first) * row
        for a in range(1, components):
            total = zeros(features)
            for u in range(0, channels, 64 // features.itemsize):
                w = load(features, weights_at + z * weights_row + columns[a] + u)
                total = fma(w, load(vectors, vector + a * channels + u), total)
            features[out_at + z * out_row + a - 1] += sum_lanes(total)


@inner_kernel
def contract_harmonics(slots, channels, features, out_at, out_row, vectors, at, row, harmonics, length, first, last):
    """f[z, l, u] = sum_m Y[z, lm] vectors[z, lm, u] for the edges first .. last (overwrites); places as there."""
    for z in range(first, last):
        vector = at + (z - first) * row
        for slot in range(len(slots) - 1):
            for u in range(0, channels, 64 // features.itemsize):
                total = zeros(features)
                for a in range(slots[slot], slots[slot + 1]):
                    total = fma(splat(harmonics, a * length + z), load(vectors, vector + a * channels + u), total)
                store(features, out_at + z * out_row + slot * channels + u, total)
