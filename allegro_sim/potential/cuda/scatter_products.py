"""CUDA text of the products of a centre in models with `scatter_features`: sparse lists, fully unrolled.

For one centre and channel, with B_k the sum of V_k (components a), A_k the environment (b), and weights w_p (equations
in `kernels/cpu/scatter_track.py`):
    product           B_k[c] = sum_p w_p sum_{a,b} C_p[a,b,c] B_{k-1}[a] A_{k-1}[b]           the paths of layer k - 1
    product_backward  dA_{k-1}[b] += C w dB_k[c] B_{k-1}[a],   dB_{k-1}[a] = sum C w dB_k[c] A_{k-1}[b]
    vector            n_k[b] = sum_p w_p sum_a C_p[a,b,0] B_k[a]                              the paths of layer k
    vector_backward   dB_k[a] += C w dn_k[b]
as straight-line code, by the same rules as that of `contractions`.

    struct Sum<k>:
      DIM, BEFORE, AT    components of B_k, of B_{k-1}, and of all sums before B_k
      product(result, A_{k-1}, B_{k-1}, weights), vector(result, B_k, weights)           (overwrite)
      vector_backward(dB_k, dn_k, weights)                                               (accumulates)
      product_backward(dA_{k-1}, dB_{k-1}, dB_k, A_{k-1}, B_{k-1} in memory, weights)    (accumulates dA)
"""

from __future__ import annotations

from allegro_sim.model.description import AllegroModel
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.cuda.contractions import (
    Entry,
    contract,
    contract_backward,
    end_backward,
    function,
    list_entries,
)


def sum_dims(model: AllegroModel) -> list[int]:
    """Components of B_0 .. B_{L-1}."""
    return [total_dim(layer.irreps_in) for layer in model.layers]


def scatter_code(model: AllegroModel) -> str:
    """The `Sum` structs of all layers; stands between channel.cuh and scatter.cu."""
    structs = [_layer_text(model, k) for k in range(model.num_layers)]
    return "\n".join(["template <int LAYER> struct Sum;", *structs, ""])


def _product_entries(model: AllegroModel, k: int) -> list[Entry]:
    """Entries of B_{k+1}: what is given (c), left operand (b), right operand (a), path, value; by path and c."""
    turned = ((c, b, a, p, value) for a, b, c, p, value in list_entries(model, k, False))
    return sorted(turned, key=lambda entry: (entry[3], entry[0]))


def _vector_entries(model: AllegroModel, k: int) -> list[Entry]:
    """Entries of n_k: what is given (b), left operand (a), 0, path, value; by path and b."""
    turned = ((b, a, 0, p, value) for a, b, _, p, value in list_entries(model, k, True))
    return sorted(turned, key=lambda entry: (entry[3], entry[0]))


def _layer_text(model: AllegroModel, k: int) -> str:
    dims, weights = sum_dims(model), "const REAL* __restrict__ weights"
    numbers = {"DIM": dims[k], "BEFORE": dims[k - 1] if k else 0, "AT": sum(dims[:k])}
    text = [f"template <> struct Sum<{k}> {{"]
    text += [f"static constexpr int {name} = {value};" for name, value in numbers.items()]
    ends = _vector_entries(model, k)
    head = f"vector(REAL (&result)[M], const REAL (&left)[DIM], {weights})"
    text += function(head, contract(model, k, ends, model.harmonic_components, False))
    head = f"vector_backward(REAL (&left_gradient)[DIM], const REAL (&gradient)[M], {weights})"
    text += function(head, end_backward(model, k, ends))
    if k:
        entries = _product_entries(model, k - 1)
        head = f"product(REAL (&result)[DIM], const REAL (&left)[M], const REAL (&right)[BEFORE], {weights})"
        text += function(head, contract(model, k - 1, entries, dims[k], True))
        head = (
            "product_backward(REAL (&left_gradient)[M], REAL (&right_gradient)[BEFORE], const REAL (&gradient)[DIM], "
            f"const REAL (&left)[M], const REAL* __restrict__ right, {weights})"
        )
        right = {a: f"right[{a} * UP]" for a in range(dims[k - 1])}
        text += function(head, contract_backward(model, k - 1, entries, dims[k - 1], right))
    return "\n".join([*text, "};"])
