"""The dense part of the model: everything an edge does alone, as a short program over panels of edges.

Between two tensor products each edge runs through linear layers and activations only. A program is a table of steps,
one row a step, made when the model is loaded (potential/programs.py); the kernel below runs all steps for one panel
of edges before it goes on to the next, so that a panel's intermediate features stay in the first-level cache. Forward
and backward are programs alike.

Columns of a step: OPERATION, then (FLAG 1: accumulate, if nothing else is said)
    PRODUCT     out[z, :] (+)= in[z, :] @ W             OUT, OUT_COLUMN, IN, IN_COLUMN, WEIGHTS, WIDTH (of out), INNER,
                                                        FLAG
    PAIR        out[z, :] = basis[:, z] @ W_p           OUT, WEIGHTS, WIDTH; p the edge's pair of types
    PAIR_SLOPE  radial_slopes[z] (+)= sum_o in[z, o] (slopes of the basis[:, z] @ W_p)[o]   IN, WEIGHTS, WIDTH, FLAG
    ACTIVATE    out <- f(out), slopes <- f'             OUT, OUT_COLUMN, IN (the slopes' buffer, of this width), WIDTH,
                                                        FLAG (number of f)
    MULTIPLY    out *= in                               OUT, OUT_COLUMN, IN (a buffer of this width), WIDTH
    TOTAL       totals[centre of z, :] += in[z, :]      IN, IN_COLUMN, WIDTH
    SEED        out[z, :] = seeds[type of the centre of z, :]   OUT, WIDTH
    SEPARABLE, SEPARABLE_SLOPE  as PAIR and PAIR_SLOPE with W_p[n, o] = W[n, o] C[t_i, o] N[t_j, o]; INNER: number of
                                types. W, C, N follow each other in the weights
    GATE        out[z, :] (+)= factor[z] in[z, :]       OUT, OUT_COLUMN, IN, IN_COLUMN, WIDTH, INNER (row of the edges'
                                                        factors), FLAG
    GATE_SLOPE  radial_slopes[z] (+)= slope of the factor of (in[z, :] . out[z, :])   as GATE; reads out
    SCALE       out[z, :] *= factor[z]                  OUT, OUT_COLUMN, WIDTH, INNER (row)
Buffers are given by number; `buffers` holds for each BASE (place in `features`), ROW (elements a row) and KEPT (1: a
row for each edge of the chunk; 0: for each edge of the panel).
"""

from __future__ import annotations

from .activations import activate, multiply
from .inner import inner_kernel
from .product import TILE_ROWS, product
from .simd import add_widened, fma, load, splat, store, sum_lanes, times, zeros

PRODUCT, PAIR, PAIR_SLOPE, ACTIVATE, MULTIPLY, TOTAL, SEED = range(7)
SEPARABLE, SEPARABLE_SLOPE, GATE, GATE_SLOPE, SCALE = range(7, 12)
OPERATION, OUT, OUT_COLUMN, IN, IN_COLUMN, WEIGHTS, WIDTH, INNER, FLAG = range(9)
STEP_COLUMNS = 9
BASE, ROW, KEPT = range(3)

PANEL = 4 * TILE_ROWS if TILE_ROWS < 24 else 2 * TILE_ROWS
"""Edges of a panel."""


@inner_kernel
def pair_product(out, out_at, out_row, basis, start, rows, pairs, weights, weights_at, width):
    """out[z, :] = basis[:, z] @ W[pairs[z]] for edges start .. start + rows (overwrites).

    out: from `out_at`, rows of `out_row`; basis: float (num_basis, >= edges); pairs: int64 (edges,); W: (num_pairs,
    num_basis, width) in `weights` from `weights_at`; width: a multiple of `simd.lanes`.
    """
    num_basis, length = basis.shape
    for z in range(start, start + rows):
        matrix = weights_at + pairs[z] * num_basis * width
        line = out_at + (z - start) * out_row
        for column in range(0, width, 64 // out.itemsize):
            total = zeros(out)
            for n in range(num_basis):
                total = fma(splat(basis, n * length + z), load(weights, matrix + n * width + column), total)
            store(out, line + column, total)


@inner_kernel
def pair_slope(
    result, gradient, gradient_at, gradient_row, slopes, start, rows, pairs, weights, weights_at, width, accumulate
):
    """result[z] = sum_o gradient[z, o] (slopes[:, z] @ W[pairs[z]])[o], or += ..., for edges start .. start + rows.

    result: float64 (edges,), dE/dx from gradient = dE/d(out) of `pair_product` and slopes = d(basis)/dx; the rest as
    there.
    """
    num_basis, length = slopes.shape
    for z in range(start, start + rows):
        matrix = weights_at + pairs[z] * num_basis * width
        line = gradient_at + (z - start) * gradient_row
        sums = zeros(gradient)
        for column in range(0, width, 64 // gradient.itemsize):
            total = zeros(gradient)
            for n in range(num_basis):
                total = fma(splat(slopes, n * length + z), load(weights, matrix + n * width + column), total)
            sums = fma(load(gradient, line + column), total, sums)
        result[z] = (result[z] if accumulate else 0.0) + sum_lanes(sums)


@inner_kernel
def separable_product(
    out, out_at, out_row, basis, start, rows, center_types, pairs, num_types, weights, weights_at, width
):
    """out[z, o] = (basis[:, z] @ W)[o] C[t_i, o] N[t_j, o] for edges start .. start + rows (overwrites).

    out, basis, pairs, width: as in `pair_product`; center_types: int64 (edges,); in `weights` from `weights_at`:
    W (num_basis, width), C and N (num_types, width).
    """
    num_basis, length = basis.shape
    first_center = weights_at + num_basis * width
    first_neighbor = first_center + num_types * width
    for z in range(start, start + rows):
        center = first_center + center_types[z] * width
        neighbor = first_neighbor + (pairs[z] - num_types * center_types[z]) * width
        line = out_at + (z - start) * out_row
        for column in range(0, width, 64 // out.itemsize):
            total = zeros(out)
            for n in range(num_basis):
                total = fma(splat(basis, n * length + z), load(weights, weights_at + n * width + column), total)
            factor = times(load(weights, center + column), load(weights, neighbor + column))
            store(out, line + column, times(total, factor))


@inner_kernel
def separable_slope(
    result, gradient, gradient_at, gradient_row, slopes, start, rows, center_types, pairs, num_types, weights,
    weights_at, width, accumulate,
):  # fmt: skip
    """result[z] = sum_o gradient[z, o] (slopes[:, z] @ W)[o] C[t_i, o] N[t_j, o], or += ...: see `pair_slope`."""
    num_basis, length = slopes.shape
    first_center = weights_at + num_basis * width
    first_neighbor = first_center + num_types * width
    for z in range(start, start + rows):
        center = first_center + center_types[z] * width
        neighbor = first_neighbor + (pairs[z] - num_types * center_types[z]) * width
        line = gradient_at + (z - start) * gradient_row
        sums = zeros(gradient)
        for column in range(0, width, 64 // gradient.itemsize):
            total = zeros(gradient)
            for n in range(num_basis):
                total = fma(splat(slopes, n * length + z), load(weights, weights_at + n * width + column), total)
            factor = times(load(weights, center + column), load(weights, neighbor + column))
            sums = fma(times(load(gradient, line + column), factor), total, sums)
        result[z] = (result[z] if accumulate else 0.0) + sum_lanes(sums)


@inner_kernel
def gate(features, out_at, out_row, in_at, in_row, factors, start, rows, width, accumulate):
    """out[z, :] = factors[z] in[z, :], or += ..., for edges start .. start + rows; factors: dtype of `features`."""
    for z in range(start, start + rows):
        place, source = out_at + (z - start) * out_row, in_at + (z - start) * in_row
        factor = splat(factors, z)
        for column in range(0, width, 64 // features.itemsize):
            before = load(features, place + column) if accumulate else zeros(features)
            store(features, place + column, fma(factor, load(features, source + column), before))


@inner_kernel
def gate_slope(result, features, a_at, a_row, b_at, b_row, slopes, start, rows, width, accumulate):
    """result[z] = slopes[z] sum_o a[z, o] b[z, o], or += ...; result, slopes: float64 (edges,)."""
    for z in range(start, start + rows):
        a, b = a_at + (z - start) * a_row, b_at + (z - start) * b_row
        sums = zeros(features)
        for column in range(0, width, 64 // features.itemsize):
            sums = fma(load(features, a + column), load(features, b + column), sums)
        result[z] = (result[z] if accumulate else 0.0) + slopes[z] * sum_lanes(sums)


@inner_kernel
def run_program(steps, buffers, features, weights, seeds, edges, totals, count):
    """Run a program for edges 0 .. count, panel by panel.

    steps: int64 (n, STEP_COLUMNS); buffers: int64 (m, 3); features, weights: float arrays of one dtype, one-
    dimensional; seeds: float (num_types, width); edges: the chunk's `edges.Edges`; totals: float64 (centres, width).
    """
    for start in range(0, count, PANEL):
        rows = min(PANEL, count - start)
        for n in range(len(steps)):
            step = steps[n]
            operation, width = step[OPERATION], step[WIDTH]
            out_row, in_row = buffers[step[OUT], ROW], buffers[step[IN], ROW]
            out_at = buffers[step[OUT], BASE] + buffers[step[OUT], KEPT] * start * out_row + step[OUT_COLUMN]
            in_at = buffers[step[IN], BASE] + buffers[step[IN], KEPT] * start * in_row + step[IN_COLUMN]
            if operation == PRODUCT:
                product(
                    features, out_at, out_row, features, in_at, in_row, 1, weights, step[WEIGHTS], width,
                    rows, width, step[INNER], step[FLAG] == 1,
                )  # fmt: skip
            elif operation in (ACTIVATE, MULTIPLY):
                # Rows of a whole buffer are one line; of a part of one, each is a line of its own.
                lines, length = (1, rows * width) if out_row == width else (rows, width)
                for line in range(lines):
                    if operation == ACTIVATE:
                        activate(step[FLAG], features, out_at + line * out_row, features, in_at + line * width, length)
                    else:
                        multiply(features, out_at + line * out_row, features, in_at + line * width, length)
            elif operation == PAIR:
                pair_product(
                    features, out_at, out_row, edges.basis, start, rows, edges.pairs, weights, step[WEIGHTS], width
                )
            elif operation == PAIR_SLOPE:
                pair_slope(
                    edges.radial_slopes, features, in_at, in_row, edges.basis_slopes, start, rows, edges.pairs,
                    weights, step[WEIGHTS], width, step[FLAG] == 1,
                )  # fmt: skip
            elif operation == TOTAL:
                _add_to_centres(totals, features, in_at, in_row, start, rows, edges.centers, width)
            elif operation == SEED:
                _seed(features, out_at, out_row, seeds, edges.center_types, start, rows, width)
            elif operation == SEPARABLE:
                separable_product(
                    features, out_at, out_row, edges.basis, start, rows, edges.center_types, edges.pairs, step[INNER],
                    weights, step[WEIGHTS], width,
                )  # fmt: skip
            elif operation == SEPARABLE_SLOPE:
                separable_slope(
                    edges.radial_slopes, features, in_at, in_row, edges.basis_slopes, start, rows, edges.center_types,
                    edges.pairs, step[INNER], weights, step[WEIGHTS], width, step[FLAG] == 1,
                )  # fmt: skip
            elif operation == GATE:
                gate(
                    features, out_at, out_row, in_at, in_row, edges.factors[step[INNER]], start, rows, width,
                    step[FLAG] == 1,
                )  # fmt: skip
            elif operation == GATE_SLOPE:
                gate_slope(
                    edges.radial_slopes, features, out_at, out_row, in_at, in_row, edges.factor_slopes[step[INNER]],
                    start, rows, width, step[FLAG] == 1,
                )  # fmt: skip
            else:
                gate(features, out_at, out_row, out_at, out_row, edges.factors[step[INNER]], start, rows, width, False)


@inner_kernel
def _add_to_centres(totals, features, at, row, start, rows, centers, width):
    """totals[centers[z], :] += features[z, :], in the order of the edges; totals float64."""
    for z in range(start, start + rows):
        for column in range(0, width, 64 // features.itemsize):
            add_widened(totals, centers[z] * width + column, load(features, at + (z - start) * row + column))


@inner_kernel
def _seed(features, at, row, seeds, center_types, start, rows, width):
    """features[z, :] = seeds[type of the edge's centre, :]."""
    for z in range(start, start + rows):
        for column in range(0, width, 64 // features.itemsize):
            store(features, at + (z - start) * row + column, load(seeds, center_types[z] * width + column))
