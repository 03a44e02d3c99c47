"""CUDA text of the tensor products of a centre: the sparse lists of `contraction_list`, fully unrolled.

For one centre and channel, with A_j the environment of layer j (components b), N_k,j a vector of V_j's components
(chain of layer k, equations in `allegro_sim/model/reference_identity.py`), and weights w_p:
    forward    N_k,j[a] = sum_p w_p sum_{b,c} C_p[a,b,c] A_j[b] N_k,j+1[c]
               N_k,k[a] = sum_p w_p sum_b C_p[a,b,0] A_k[b]
    backward   t = C_p[a,b,c] w_p G_j[a]:   dA_j[b] += t N_k,j+1[c],   G_j+1[c] += t A_j[b];   G_0 is given
as straight-line code: every index and value is a literal, so all numbers of a channel stay in registers. N_k,k is a few
multiples of A_k and computed anew where it is needed; N_k,j with j < k are kept in memory by the forward pass.

    struct Contraction<k>:
      forward(result, own, A, layer_size, chain, max_centers, center, weights)      result = N_k (overwrites), chain
      vector(result, A, ..)                                                          result = N_k again
      backward(own_gradient, gradient, A, dA, layer_size, chain, ...)                dA_0 .. dA_{k-1} in memory, dA_k in
                                                                                     own_gradient (overwrites)
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import numpy as np

from allegro_sim.model.description import AllegroModel
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.cuda.center_header import chain_dims
from allegro_sim.potential.folding import contraction_list

Entry = tuple[int, int, int, int, float]
"""a, b, c, path, value."""


def contraction_code(model: AllegroModel) -> str:
    """The `Contraction` structs of all layers; stands between channel.cuh and centers.cu."""
    structs = [_layer_text(model, k) for k in range(model.num_layers)]
    return "\n".join(["template <int LAYER> struct Contraction;", *structs, ""])


def path_starts(model: AllegroModel) -> list[int]:
    """First row of each layer's paths in `path_weights`, and at the end their number."""
    return [0, *np.cumsum([len(layer.paths) for layer in model.layers]).tolist()]


def list_entries(model: AllegroModel, k: int, invariant_only: bool) -> list[Entry]:
    contraction = contraction_list(model, k, invariant_only)
    rows = zip(contraction.indices.tolist(), contraction.values.tolist(), strict=True)
    return [(a, b, c, p, value) for (a, b, c, p), value in rows]


def _literal(value: float) -> str:
    """The value with all digits; the compiler rounds it once."""
    return f"(REAL){value!r}"


class _Writer:
    """Lines of one function."""

    def __init__(self, model: AllegroModel) -> None:
        self.lines: list[str] = []
        self.starts = path_starts(model)

    def add(self, *lines: str) -> None:
        self.lines += lines

    def by_path(self, entries: list[Entry], k: int) -> Iterable[list[list[Entry]]]:
        """Scopes of a path each, its weight in `weight`; gives the path's groups of equal a."""
        for path, of_path in groupby(entries, key=lambda entry: entry[3]):
            self.add("{", f"const REAL weight = weights[{self.starts[k] + path} * UP];")
            yield [list(group) for _, group in groupby(of_path, key=lambda entry: entry[0])]
            self.add("}")


def contract(model: AllegroModel, k: int, entries: list[Entry], dim: int, with_right: bool) -> list[str]:
    """result[a] = sum_p sum value (w_p left[b]) right[c]; without `right`, its only component is the number 1.

    The weight goes to the left operand first: so no product is common to two paths, which a compiler would keep.
    """
    writer = _Writer(model)
    seen: set[int] = set()
    for groups in writer.by_path(entries, k):
        needed = sorted({b for group in groups for _, b, _, _, _ in group})
        writer.add(*(f"const REAL left_{b} = weight * left[{b}];" for b in needed))
        for a, b, c, _, value in (entry for group in groups for entry in group):
            factors = (f"{_literal(value)} * left_{b}", f"right[{c}]") if with_right else (_literal(value), f"left_{b}")
            writer.add(f"result[{a}] = multiply_add({factors[0]}, {factors[1]}, result[{a}]);" if a in seen
                       else f"result[{a}] = {factors[0]} * {factors[1]};")  # fmt: skip
            seen.add(a)
    writer.add(*(f"result[{a}] = 0;" for a in range(dim) if a not in seen))
    return writer.lines


def contract_backward(model: AllegroModel, k: int, entries: list[Entry], dim: int, right: dict[int, str]) -> list[str]:
    """t = value w_p gradient[a]: left_gradient[b] += t right[c], right_gradient[c] = sum t left[b].

    right: how each component c is read; a path ends in one irrep, whose components are read there and not held longer.
    dim: number of components of right_gradient.
    """
    writer = _Writer(model)
    seen: set[int] = set()
    for groups in writer.by_path(entries, k):
        needed = sorted({c for group in groups for _, _, c, _, _ in group})
        writer.add(*(f"const REAL right_{c} = {right[c]};" for c in needed))
        for group in groups:
            writer.add("{", f"const REAL scaled = weight * gradient[{group[0][0]}];")
            for _, b, c, _, value in group:
                writer.add("{", f"const REAL term = {_literal(value)} * scaled;")
                writer.add(f"left_gradient[{b}] = multiply_add(term, right_{c}, left_gradient[{b}]);")
                writer.add(f"right_gradient[{c}] = multiply_add(term, left[{b}], right_gradient[{c}]);" if c in seen
                           else f"right_gradient[{c}] = term * left[{b}];", "}")  # fmt: skip
                seen.add(c)
            writer.add("}")
    writer.add(*(f"right_gradient[{c}] = 0;" for c in range(dim) if c not in seen))
    return writer.lines


def end_backward(model: AllegroModel, k: int, entries: list[Entry]) -> list[str]:
    """left_gradient[b] += sum value w_p gradient[a]."""
    writer = _Writer(model)
    for groups in writer.by_path(entries, k):
        for a, b, _, _, value in (entry for group in groups for entry in group):
            term = f"multiply_add({_literal(value)}, weight * gradient[{a}], left_gradient[{b}])"
            writer.add(f"left_gradient[{b}] = {term};")
    return writer.lines


def _right_operand(model: AllegroModel, k: int, j: int, dim: int) -> dict[int, str]:
    """How N_k,j+1 is read, by component: from `right`, which points to it, or for j = k - 1 to A_k."""
    if j + 1 < k:
        return {c: f"right[{c} * UP]" for c in range(dim)}
    terms: dict[int, str] = {}
    for a, b, _, path, value in list_entries(model, k, True):
        product = f"weights[{path_starts(model)[k] + path} * UP] * right[{b} * UP]"
        factor = f"{_literal(value)}"
        terms[a] = f"multiply_add({factor}, {product}, {terms[a]})" if a in terms else f"{factor} * ({product})"
    return terms


def function(head: str, body: list[str]) -> list[str]:
    return [f"static DEVICE void {head} {{", *body, "}"]


def _layer_text(model: AllegroModel, k: int) -> str:
    """Contraction<k>. Members on one channel: `left` is A_j, `right` N_k,j+1, `gradient` dE/dN_k,j."""
    components = model.harmonic_components
    dims = [components, *(total_dim(layer.irreps_in) for layer in model.layers[1:])]
    ends = list_entries(model, k, True)
    support = {entry[0] for entry in ends}  # components where N_k,k is not zero by symmetry
    steps = []
    for j in range(k):
        entries = list_entries(model, j, False)
        # Entries that meet a zero of N_k,k add nothing, forward or backward.
        steps.append([entry for entry in entries if j + 1 < k or entry[2] in support])
    text = [f"template <> struct Contraction<{k}> {{"]
    end_head = f"end(REAL (&result)[{dims[k]}], const REAL (&left)[M], const REAL* __restrict__ weights)"
    text += function(end_head, contract(model, k, ends, dims[k], False))
    for j, entries in enumerate(steps):
        head = (
            f"step_{j}(REAL (&result)[{dims[j]}], const REAL (&left)[M], const REAL (&right)[{dims[j + 1]}], "
            "const REAL* __restrict__ weights)"
        )
        text += function(head, contract(model, j, entries, dims[j], True))
        head = (
            f"step_backward_{j}(REAL (&left_gradient)[M], REAL (&right_gradient)[{dims[j + 1]}], "
            f"const REAL (&gradient)[{dims[j]}], const REAL (&left)[M], const REAL* __restrict__ right, "
            "const REAL* __restrict__ weights)"
        )
        right = _right_operand(model, k, j, dims[j + 1])
        text += function(head, contract_backward(model, j, entries, dims[j + 1], right))
    head = (
        f"end_backward(REAL (&left_gradient)[M], const REAL (&gradient)[{dims[k]}], const REAL* __restrict__ weights)"
    )
    text += function(head, end_backward(model, k, ends))
    text += _forward_text(model, k, dims)
    text += _vector_text(model, k, dims)
    text += _backward_text(model, k, dims)
    return "\n".join([*text, "};"])


def _chain_place(model: AllegroModel, k: int, j: int) -> str:
    """Address of N_k,j of this centre and channel."""
    at = 0
    for key, dim in chain_dims(model).items():
        if key == (k, j):
            return f"chain + ((long long){at} * max_centers + (long long){dim} * center) * UP"
        at += dim
    raise KeyError((k, j))


_PLACES = (
    "const REAL* __restrict__ A, long long layer_size, {chain}REAL* __restrict__ chain, int max_centers, int center, "
    "const REAL* __restrict__ weights"
)


def _forward_text(model: AllegroModel, k: int, dims: list[int]) -> list[str]:
    body = [f"REAL vector_{k}[{dims[k]}];" if k else "", f"end({f'vector_{k}' if k else 'result'}, own, weights);"]
    for j in range(k - 1, -1, -1):
        name = f"vector_{j}" if j else "result"
        if j:
            body.append(f"REAL {name}[{dims[j]}];")
        body += [
            f"{{ REAL left[M]; load_channel(left, A + {j} * layer_size);",
            f"step_{j}({name}, left, vector_{j + 1}, weights); }}",
            f"store_channel({_chain_place(model, k, j)}, {name});",
        ]
    return function(f"forward(REAL (&result)[M], const REAL (&own)[M], {_PLACES.format(chain='')})", body)


def _vector_text(model: AllegroModel, k: int, dims: list[int]) -> list[str]:
    if k:
        body = [f"load_channel(result, {_chain_place(model, k, 0)});"]
    else:
        body = ["REAL left[M];", "load_channel(left, A);", "end(result, left, weights);"]
    return function(f"vector(REAL (&result)[M], {_PLACES.format(chain='const ')})", body)


def _backward_text(model: AllegroModel, k: int, dims: list[int]) -> list[str]:
    last = k == model.num_layers - 1
    body = []
    for j in range(k):
        given = f"gradient_{j}" if j else "gradient"
        # dA_j: the last layer is the first to write it.
        start = "zero_channel(left_gradient);" if last else f"load_channel(left_gradient, dA + {j} * layer_size);"
        right = _chain_place(model, k, j + 1) if j + 1 < k else f"A + {k} * layer_size"
        body += [
            f"REAL gradient_{j + 1}[{dims[j + 1]}];",
            "{",
            "REAL left[M], left_gradient[M];",
            f"load_channel(left, A + {j} * layer_size);",
            start,
            f"step_backward_{j}(left_gradient, gradient_{j + 1}, {given}, left, {right}, weights);",
            f"store_channel(dA + {j} * layer_size, left_gradient);",
            "}",
        ]
    body += [
        "zero_channel(own_gradient);" if last else f"load_channel(own_gradient, dA + {k} * layer_size);",
        f"end_backward(own_gradient, {f'gradient_{k}' if k else 'gradient'}, weights);",
    ]
    head = "backward(REAL (&own_gradient)[M], const REAL (&gradient)[M], REAL* __restrict__ dA, " + _PLACES.format(
        chain="const "
    )
    return function(head + ")", body)
