"""CUDA text of the tensor products of an edge in the legacy generation: sparse lists, fully unrolled.

For one edge and channel, with X the rows that a path reads, A the environment seen, and weights w_p:
    forward    T[t] = sum_p w_p sum_{a,b} C_p[a,b,t] X[a] A[b]
    backward   g = w_p dT[t]:   dX[a] += C g A[b],   dA[b] += C g X[a]
as straight-line code like `contractions`: every index and value is a literal. X are the components of V_k, or where the
layer mixes before the product (irrep, component, path); T those of V_{k+1}, or where it mixes after it (irrep,
component, path). The first rows of T are the invariants.

    struct Coupling<k>:
      LEFT_ROWS, OUT_ROWS   rows of X and T;  HAS_OUT: whether T goes on (not from the last layer)
      forward<ROUND>(invariants, out, left, seen, weights)                        (overwrites invariants and out)
      backward(left_gradient, seen_gradient, invariant_gradient, given, left, seen, weights)
                                              (overwrites left_gradient, accumulates seen_gradient, M numbers)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.model.description import AllegroModel, Layer
from allegro_sim.model.irreps import component_slices, total_dim
from allegro_sim.model.wigner import product_coefficients
from allegro_sim.potential.cuda.contractions import path_starts
from allegro_sim.potential.cuda.mlp_legacy import left_starts, product_starts


@dataclass(frozen=True)
class PathEntries:
    """One path: rows of X (by component a), and for each row t of T the entries (a, b, value)."""

    left: tuple[int, ...]
    entries: tuple[tuple[int, tuple[tuple[int, int, float], ...]], ...]

    @property
    def count(self) -> int:
        return sum(len(entries) for _, entries in self.entries)


def left_rows(layer: Layer) -> int:
    """Rows of X."""
    return left_starts(layer)[-1] if layer.mix_in is not None else total_dim(layer.irreps_in)


def product_rows(layer: Layer) -> int:
    """Rows of T."""
    return product_starts(layer)[-1]


def path_entries(model: AllegroModel, k: int) -> list[PathEntries]:
    """The paths of layer k in order."""
    layer, found = model.layers[k], []
    ins, lefts, outs = component_slices(layer.irreps_in), left_starts(layer), product_starts(layer)
    for p, path in enumerate(layer.paths):
        first, out = layer.irreps_in[path.first], layer.irreps_out[path.out]
        left = [ins[path.first].start + a for a in range(first.dim)]
        if layer.mix_in is not None:
            place, count = _place(layer, p, "first")
            left = [lefts[path.first] + a * count + place for a in range(first.dim)]
        place, count = _place(layer, p, "out") if layer.separate_paths else (0, 1)
        coefficients = product_coefficients(first.degree, path.second, out.degree)
        entries: dict[int, list[tuple[int, int, float]]] = {}
        for a, b, c in np.argwhere(coefficients).tolist():
            row = outs[path.out] + c * count + place
            entries.setdefault(row, []).append((a, path.second**2 + b, float(coefficients[a, b, c])))
        found.append(PathEntries(tuple(left), tuple((row, tuple(entries[row])) for row in sorted(entries))))
    return found


def _place(layer: Layer, p: int, end: str) -> tuple[int, int]:
    """Which of the paths with the same end path p is, and how many there are."""
    siblings = [n for n, path in enumerate(layer.paths) if getattr(path, end) == getattr(layer.paths[p], end)]
    return siblings.index(p), len(siblings)


def coupling_code(model: AllegroModel) -> str:
    """The `Coupling` structs of all layers; stands between channel.cuh and tensors.cu."""
    structs = [_layer_text(model, k) for k in range(model.num_layers)]
    return "\n".join(["template <int LAYER> struct Coupling;", *structs, ""])


def _layer_text(model: AllegroModel, k: int) -> str:
    layer, goes_on = model.layers[k], k < model.num_layers - 1
    numbers = {"LEFT_ROWS": left_rows(layer), "OUT_ROWS": product_rows(layer)}
    return "\n".join(
        [
            f"template <> struct Coupling<{k}> {{",
            *(f"static constexpr int {name} = {value};" for name, value in numbers.items()),
            f"static constexpr bool HAS_OUT = {'true' if goes_on else 'false'};",
            "template <bool ROUND> static DEVICE void forward(",
            "    REAL* __restrict__ invariants, REAL* __restrict__ out, const REAL* __restrict__ left,",
            "    const REAL (&seen)[M], const REAL* __restrict__ weights) {",
            *_forward(model, k, goes_on),
            "}",
            "static DEVICE void backward(",
            "    REAL* __restrict__ left_gradient, REAL (&seen_gradient)[M],",
            "    const REAL* __restrict__ invariant_gradient, const REAL* __restrict__ given,",
            "    const REAL* __restrict__ left, const REAL (&seen)[M], const REAL* __restrict__ weights) {",
            *_backward(model, k, goes_on),
            "}",
            "};",
        ]
    )


def _literal(value: float) -> str:
    return f"(REAL){value!r}"


def _scope(model: AllegroModel, k: int, p: int, path: PathEntries) -> list[str]:
    """The beginning of a path: its weight, and its rows of X."""
    weight = f"const REAL weight = weights[{path_starts(model)[k] + p} * UP];"
    return ["{", weight, *(f"const REAL left_{a} = left[{row} * UP];" for a, row in enumerate(path.left))]


def _forward(model: AllegroModel, k: int, goes_on: bool) -> list[str]:
    """Rows that several paths end in are added up in registers, the others written at once."""
    layer, lines = model.layers[k], []
    shared = not layer.separate_paths
    if shared:
        lines.append(f"REAL rows[{product_rows(layer)}];")
        lines.append("zero_channel(rows);")
    for p, path in enumerate(path_entries(model, k)):
        lines += _scope(model, k, p, path)
        for row, entries in path.entries:
            lines.append("{")
            for n, (a, b, value) in enumerate(entries):
                product = f"{_literal(value)} * left_{a}"
                lines.append(
                    f"total = multiply_add({product}, seen[{b}], total);"
                    if n
                    else f"REAL total = {product} * seen[{b}];"
                )
            if shared:
                lines.append(f"rows[{row}] = multiply_add(weight, total, rows[{row}]);")
            else:
                lines += _store(layer, row, "weight * total", goes_on)
            lines.append("}")
        lines.append("}")
    if shared:
        for row in range(product_rows(layer)):
            lines += ["{", *_store(layer, row, f"rows[{row}]", goes_on), "}"]
    return lines


def _store(layer: Layer, row: int, value: str, goes_on: bool) -> list[str]:
    lines = [f"const REAL value = {value};"]
    if row < layer.num_invariants:
        lines.append(f"invariants[{row} * UP] = ROUND ? round_operand(value) : value;")
    if goes_on:
        lines.append(f"out[{row} * UP] = value;")
    return lines


def _backward(model: AllegroModel, k: int, goes_on: bool) -> list[str]:
    """dX of rows that several paths read is added up in registers, that of a path's own rows written at its end."""
    layer, lines = model.layers[k], []
    shared = layer.mix_in is None
    if shared:
        lines += [f"REAL sums[{left_rows(layer)}];", "zero_channel(sums);"]
    for p, path in enumerate(path_entries(model, k)):
        lines += _scope(model, k, p, path)
        if not shared:
            lines += [f"REAL sum_{a} = 0;" for a in range(len(path.left))]
        sums = [f"sums[{row}]" if shared else f"sum_{a}" for a, row in enumerate(path.left)]
        for row, entries in path.entries:
            parts = [f"invariant_gradient[{row} * UP]"] * (row < layer.num_invariants)
            parts += [f"given[{row} * UP]"] * goes_on
            lines += ["{", f"const REAL gradient = weight * ({' + '.join(parts)});"]
            for a, b, value in entries:
                lines += ["{", f"const REAL term = {_literal(value)} * gradient;"]
                lines.append(f"{sums[a]} = multiply_add(term, seen[{b}], {sums[a]});")
                lines += [f"seen_gradient[{b}] = multiply_add(term, left_{a}, seen_gradient[{b}]);", "}"]
            lines.append("}")
        if not shared:
            lines += [f"left_gradient[{row} * UP] = sum_{a};" for a, row in enumerate(path.left)]
        lines.append("}")
    if shared:
        lines += [f"left_gradient[{row} * UP] = sums[{row}];" for row in range(left_rows(layer))]
    return lines
