"""The tensor track of the legacy generation computed again, for `stage_reference`; letters as there.

Functions of a chunk (`stage_reference._Chunk`), a layer and, where channels mix, a degree or an irrep, by the name of
the stage without its numbers: name -> (found, wanted, whether `mixed` rounds it). All in float64 from what the kernels
read, rounded once. Mixing products of 16 channels and more take TF32 numbers in `mixed`, and round what they read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from support.legacy_stages import Found, by_weights_rounded, invariants_of
from support.mixed_reference import LEAST_WIDTH, round_to_tf32

from allegro_sim.model import reference_layers as stages
from allegro_sim.model.description import Layer
from allegro_sim.model.irreps import component_slices, total_dim
from allegro_sim.potential.cuda.mlp_legacy import left_starts, product_starts

# --- parts of buffers -------------------------------------------------------------------------------------------------


def _tensors(chunk: Any, values: dict, buffer: str, rows: int) -> np.ndarray:
    """(Z, U, rows) in float64, of a buffer that holds so many rows of an edge in this layer."""
    d = chunk._dimensions
    own = values[buffer].reshape(-1)[: chunk._edges * rows * d.UP].reshape(chunk._edges, rows, d.UP)
    return own[:, :, : d.channels].transpose(0, 2, 1).astype(np.float64)


def _of_centers(chunk: Any, values: dict, buffer: str) -> np.ndarray:
    """(centres, U, M) in float64; zeros for centres without edges."""
    return np.where(chunk._has_edges(), chunk._of_centers(values[buffer]), 0.0).astype(np.float64)


def _seen_gradient(chunk: Any, values: dict) -> np.ndarray:
    return _tensors(chunk, values, "dseen", chunk._model.harmonic_components)


def _harmonics(chunk: Any) -> np.ndarray:
    return chunk._harmonics(chunk._before).astype(np.float64)


def _environment_weights(chunk: Any, k: int) -> np.ndarray:
    return chunk._weights(chunk._before["env"][k]).astype(np.float64)


def _norms(chunk: Any) -> np.ndarray:
    """(centres,)"""
    return chunk._stored(chunk._model.environment_norms)[chunk._types]


def _path_rows(layer: Layer, end: str) -> list[slice]:
    """Rows of each path in X (end "first") or T ("out"): every so many, or all of an irrep where paths add up."""
    found, counted = [], dict[int, int]()
    apart = layer.mix_in is not None if end == "first" else layer.separate_paths
    irreps = layer.irreps_in if end == "first" else layer.irreps_out
    numbers = [getattr(path, end) for path in layer.paths]
    starts = left_starts(layer) if end == "first" else product_starts(layer)
    if not apart:
        slices = component_slices(irreps)
        return [slices[number] for number in numbers]
    for number in numbers:
        count, place = numbers.count(number), counted.get(number, 0)
        counted[number] = place + 1
        first = starts[number] + place
        found.append(slice(first, first + (irreps[number].dim - 1) * count + 1, count))
    return found


def _left(chunk: Any, values: dict, k: int, gradient: bool = False) -> np.ndarray:
    """X of layer k, or its gradient: V_k itself where channels do not mix before the product."""
    layer = chunk._model.layers[k]
    if layer.mix_in is not None:
        return _tensors(chunk, values, "dleft" if gradient else "left", left_starts(layer)[-1])
    return _tensors(chunk, values, f"dtensors_{k % 2}" if gradient else f"tensors_{k}", total_dim(layer.irreps_in))


def _products(chunk: Any, values: dict, k: int, gradient: bool = False) -> np.ndarray:
    """T of layer k, or its gradient: V_{k+1} itself where channels do not mix after the product."""
    layer = chunk._model.layers[k]
    plain = f"dtensors_{(k + 1) % 2}" if gradient else f"tensors_{k + 1}"
    return _tensors(chunk, values, plain if layer.mix_out is None else "products", product_starts(layer)[-1])


# --- the environment --------------------------------------------------------------------------------------------------


def first_tensors(chunk: Any) -> Found:
    weights = chunk._weights(chunk._before["w"]).astype(np.float64)
    wanted = stages.weighted_harmonics_forward(weights, _harmonics(chunk))
    return {"V_0": (_tensors(chunk, chunk._after, "tensors_0", wanted.shape[2]), chunk._cast(wanted))}


def first_gradients(chunk: Any) -> Found:
    weights, after = chunk._weights(chunk._before["w"]).astype(np.float64), chunk._after
    gradient = _tensors(chunk, chunk._before, "dtensors_0", chunk._model.harmonic_components)
    by_weights, by_harmonics = stages.weighted_harmonics_backward(gradient, weights, _harmonics(chunk))
    return {
        "dw": chunk._written(chunk._weights(after["dw"]), by_weights, by_weights_rounded(chunk, 0)),
        "dY": (chunk._harmonic_gradient(after), by_harmonics[:, 1:] + chunk._harmonic_gradient(chunk._before)),
    }


def environment_sum(chunk: Any, k: int) -> Found:
    terms = stages.weighted_harmonics_forward(_environment_weights(chunk, k), _harmonics(chunk))
    wanted = stages.environment_forward(terms, chunk._centers, _norms(chunk))
    name = f"A_{k}" if chunk._model.layers[k].environment_mix is None else "environment"
    return {f"A_{k}": (_of_centers(chunk, chunk._after, name), chunk._cast(wanted))}


def environment_gradient_sum(chunk: Any) -> Found:
    ones = np.ones(chunk._num_centers)
    wanted = stages.environment_forward(_seen_gradient(chunk, chunk._before), chunk._centers, ones)
    return {"dA": (_of_centers(chunk, chunk._after, "dA"), chunk._cast(wanted))}


def environment_gradients(chunk: Any, k: int) -> Found:
    model, before, after = chunk._model, chunk._before, chunk._after
    name = "dA" if model.layers[k].environment_mix is None else "denvironment"
    terms = stages.environment_backward(_of_centers(chunk, before, name), chunk._centers, _norms(chunk))
    if not model.self_edge:
        terms = terms - _norms(chunk)[chunk._centers, None, None] * _seen_gradient(chunk, before)
    by_weights, by_harmonics = stages.weighted_harmonics_backward(
        terms, _environment_weights(chunk, k), _harmonics(chunk)
    )
    by_harmonics = by_harmonics[:, 1:]
    if k < model.num_layers - 1:
        by_harmonics = by_harmonics + chunk._harmonic_gradient(before)
    return {
        "denv": chunk._written(chunk._weights(after["denv"]), by_weights, by_weights_rounded(chunk, k)),
        "dY": (chunk._harmonic_gradient(after), by_harmonics),
    }


# --- tensor products --------------------------------------------------------------------------------------------------


def _seen(chunk: Any, k: int) -> np.ndarray:
    """The environment that each edge sees: (Z, U, M)."""
    seen = _of_centers(chunk, chunk._before, f"A_{k}")[chunk._centers]
    if chunk._model.self_edge:
        return seen
    own = stages.weighted_harmonics_forward(_environment_weights(chunk, k), _harmonics(chunk))
    return seen - _norms(chunk)[chunk._centers, None, None] * own


def _couplings(chunk: Any, k: int) -> list[tuple]:
    """Of each path: weights, rows of X, components of A, rows of T, coefficients."""
    layer = chunk._model.layers[k]
    paths = stages.couplings(layer, chunk._model.l_max)
    rows = zip(paths, _path_rows(layer, "first"), _path_rows(layer, "out"), strict=True)
    return [(chunk._stored(w)[:, None], x, m, t, coefficients) for (w, _, m, _, coefficients), x, t in rows]


def tensor_products(chunk: Any, k: int) -> Found:
    layer, left, seen = chunk._model.layers[k], _left(chunk, chunk._before, k), _seen(chunk, k)
    wanted = np.zeros((*left.shape[:2], product_starts(layer)[-1]))
    for weights, x, m, t, coefficients in _couplings(chunk, k):
        wanted[:, :, t] += weights * np.einsum("amc,zua,zum->zuc", coefficients, left[:, :, x], seen[:, :, m])
    invariants = wanted[:, :, : layer.num_invariants].reshape(chunk._edges, -1)
    rounded = bool(chunk._shapes[f"latent_{k}"].large[0])
    found = {f"scal_{k}": chunk._written(invariants_of(chunk, chunk._after["x"], k), invariants, rounded)}
    if k < chunk._model.num_layers - 1:
        found[f"T_{k}"] = (_products(chunk, chunk._after, k), chunk._cast(wanted))
    return found


def tensor_gradients(chunk: Any, k: int) -> Found:
    layer, left, seen = chunk._model.layers[k], _left(chunk, chunk._before, k), _seen(chunk, k)
    shape = (*left.shape[:2], product_starts(layer)[-1])
    gradient = np.zeros(shape)
    if k < chunk._model.num_layers - 1:
        gradient += _products(chunk, chunk._before, k, gradient=True)
    invariants = invariants_of(chunk, chunk._before["dx"], k)
    gradient[:, :, : layer.num_invariants] += invariants.reshape(*shape[:2], -1)
    by_left, by_seen = np.zeros_like(left), np.zeros_like(seen)
    for weights, x, m, t, coefficients in _couplings(chunk, k):
        given = weights * gradient[:, :, t]
        by_left[:, :, x] += np.einsum("amc,zuc,zum->zua", coefficients, given, seen[:, :, m])
        by_seen[:, :, m] += np.einsum("amc,zuc,zua->zum", coefficients, given, left[:, :, x])
    return {
        f"dX_{k}": (_left(chunk, chunk._after, k, gradient=True), chunk._cast(by_left)),
        "dseen": (_seen_gradient(chunk, chunk._after), chunk._cast(by_seen)),
    }


# --- mixing of channels -----------------------------------------------------------------------------------------------


def _operands(chunk: Any, *arrays: np.ndarray) -> list[np.ndarray]:
    """As the product takes them, in float64."""
    arrays = tuple(map(chunk._cast, arrays))
    if chunk._layout.precision == "mixed" and chunk._dimensions.channels >= LEAST_WIDTH:
        arrays = tuple(map(round_to_tf32, arrays))
    return [array.astype(np.float64) for array in arrays]


def _mix(chunk: Any, tensors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """sum_u matrix[u,v] tensors[z,u,c]"""
    return np.einsum("zuc,uv->zvc", *_operands(chunk, tensors, matrix))


def _paths_of(layer: Layer, end: str, number: int) -> list[int]:
    """Those that begin or end in an irrep."""
    return [p for p, path in enumerate(layer.paths) if getattr(path, end) == number]


def mix_environment_forward(chunk: Any, k: int, degree: int) -> Found:
    part, matrix = _degree(degree), chunk._model.layers[k].environment_mix[degree]
    wanted = _mix(chunk, _of_centers(chunk, chunk._before, "environment")[:, :, part], matrix)
    return {f"A_{k}": (_of_centers(chunk, chunk._after, f"A_{k}")[:, :, part], chunk._cast(wanted))}


def mix_environment_backward(chunk: Any, k: int, degree: int) -> Found:
    part, matrix = _degree(degree), chunk._model.layers[k].environment_mix[degree]
    wanted = _mix(chunk, _of_centers(chunk, chunk._before, "dA")[:, :, part], matrix.T)
    return {"dA": (_of_centers(chunk, chunk._after, "denvironment")[:, :, part], chunk._cast(wanted))}


def _degree(degree: int) -> slice:
    return slice(degree**2, (degree + 1) ** 2)


def mix_in_forward(chunk: Any, k: int, number: int) -> Found:
    layer, rows, found = chunk._model.layers[k], _path_rows(chunk._model.layers[k], "first"), {}
    tensors = _tensors(chunk, chunk._before, f"tensors_{k}", total_dim(layer.irreps_in))
    part, left = component_slices(layer.irreps_in)[number], _left(chunk, chunk._after, k)
    for p in _paths_of(layer, "first", number):
        found[f"X_{k} {p}"] = (left[:, :, rows[p]], chunk._cast(_mix(chunk, tensors[:, :, part], layer.mix_in[p])))
    return found


def mix_in_backward(chunk: Any, k: int, number: int) -> Found:
    layer, rows = chunk._model.layers[k], _path_rows(chunk._model.layers[k], "first")
    left, part = _left(chunk, chunk._before, k, gradient=True), component_slices(layer.irreps_in)[number]
    wanted = sum(_mix(chunk, left[:, :, rows[p]], layer.mix_in[p].T) for p in _paths_of(layer, "first", number))
    after = _tensors(chunk, chunk._after, f"dtensors_{k % 2}", total_dim(layer.irreps_in))
    return {f"dV_{k}": (after[:, :, part], chunk._cast(wanted))}


def mix_out_forward(chunk: Any, k: int, number: int) -> Found:
    layer, rows = chunk._model.layers[k], _path_rows(chunk._model.layers[k], "out")
    products, part = _products(chunk, chunk._before, k), component_slices(layer.irreps_out)[number]
    wanted = sum(_mix(chunk, products[:, :, rows[p]], layer.mix_out[p]) for p in _paths_of(layer, "out", number))
    after = _tensors(chunk, chunk._after, f"tensors_{k + 1}", total_dim(layer.irreps_out))
    return {f"V_{k + 1}": (after[:, :, part], chunk._cast(wanted))}


def mix_out_backward(chunk: Any, k: int, number: int) -> Found:
    layer, rows, found = chunk._model.layers[k], _path_rows(chunk._model.layers[k], "out"), {}
    tensors = _tensors(chunk, chunk._before, f"dtensors_{(k + 1) % 2}", total_dim(layer.irreps_out))
    part, products = component_slices(layer.irreps_out)[number], _products(chunk, chunk._after, k, gradient=True)
    for p in _paths_of(layer, "out", number):
        found[f"dT_{k} {p}"] = (
            products[:, :, rows[p]],
            chunk._cast(_mix(chunk, tensors[:, :, part], layer.mix_out[p].T)),
        )
    return found
