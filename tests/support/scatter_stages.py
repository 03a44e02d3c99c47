"""The centre stages of models with `scatter_features` computed again, for `stage_reference`; letters as there.

Functions of a chunk (`stage_reference._Chunk`) and a layer: name -> (found, wanted, whether `mixed` rounds it).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.model import reference_identity as identity
from allegro_sim.model import reference_layers as stages
from allegro_sim.potential.cuda.scatter_products import sum_dims


class _Layer:
    """What both directions of a layer read, in float64; vectors of centres without edges are zeros."""

    def __init__(self, chunk: Any, k: int) -> None:
        self.chunk, self.k, self.model = chunk, k, chunk._model
        self.irreps = self.model.l_max, self.model.repeated_harmonics
        self.last = k == self.model.num_layers - 1
        self.Y = chunk._harmonics(chunk._before).astype(np.float64)
        self.w = chunk._weights(chunk._before["w"]).astype(np.float64)
        self.norms = self.model.environment_norms[chunk._types].astype(chunk._real).astype(np.float64)

    def env(self, k: int) -> np.ndarray:
        return self.chunk._weights(self.chunk._before["env"][k]).astype(np.float64)

    def used(self, layer: np.ndarray) -> np.ndarray:
        """(max_centers, components, UP) as (centres, U, components)."""
        return np.where(self.chunk._has_edges(), self.chunk._of_centers(layer), 0.0)

    def B(self, values: dict[str, np.ndarray], k: int) -> np.ndarray:
        dims, rows = sum_dims(self.model), self.chunk._max_centers
        own = values["B"][sum(dims[:k]) * rows : sum(dims[: k + 1]) * rows]
        return self.used(own.reshape(rows, dims[k], -1))

    def environment(self, weights: np.ndarray) -> np.ndarray:
        """norm sum_z weights Y, as the kernels write it."""
        terms = stages.weighted_harmonics_forward(weights, self.Y, self.model.repeated_harmonics)
        return self.chunk._cast(stages.environment_forward(terms, self.chunk._centers, self.norms))


def scatter_forward(chunk: Any, k: int) -> dict:
    layer, model = _Layer(chunk, k), chunk._model
    found = {}
    if k == 0:
        wanted = layer.environment(layer.w)
    else:
        environment = layer.environment(layer.env(k - 1))
        found[f"A_{k - 1}"] = (layer.used(chunk._after["A"][k - 1]), environment)
        wanted = stages.tensor_product_forward(
            model.layers[k - 1], layer.B(chunk._before, k - 1), environment, *layer.irreps
        )
    found[f"B_{k}"] = (layer.B(chunk._after, k), chunk._cast(wanted))
    vector = identity.scatter_vector_forward(model.layers[k], wanted, *layer.irreps)
    invariants = identity.invariants_forward(layer.env(k), layer.Y, vector, chunk._centers, model.repeated_harmonics)
    found[f"scal_{k}"] = chunk._written(chunk._invariants(chunk._after["x"]), invariants, chunk._rounding.invariants[k])
    return found


def scatter_backward(chunk: Any, k: int) -> dict:
    layer, model, before, after = _Layer(chunk, k), chunk._model, chunk._before, chunk._after
    centers, repeated, env = chunk._centers, chunk._model.repeated_harmonics, layer.env(k)
    given = chunk._invariants(before["dx"]).astype(np.float64)
    vector = identity.scatter_vector_forward(model.layers[k], layer.B(before, k), *layer.irreps)
    by_env, by_harmonics, by_vector = identity.invariants_backward(given, env, layer.Y, vector, centers, repeated)
    by_sum = identity.scatter_vector_backward(by_vector, model.layers[k], *layer.irreps)
    dim = by_sum.shape[2]
    if not layer.last:
        by_sum = by_sum + layer.used(before["dB"])[:, :, :dim]
        terms = layer.used(before["dA"][k % 2])[centers]  # times the norm
        more_env, more = stages.weighted_harmonics_backward(terms, env, layer.Y, repeated)
        by_env, by_harmonics = by_env + more_env, by_harmonics + more
    found = {"denv": chunk._written(chunk._weights(after["denv"]), by_env, chunk._rounding.environments[k])}
    if k == 0:
        terms = stages.environment_backward(by_sum, centers, layer.norms)
        by_w, more = stages.weighted_harmonics_backward(terms, layer.w, layer.Y, repeated)
        by_harmonics = by_harmonics + more
        found["dw"] = chunk._written(chunk._weights(after["dw"]), by_w, chunk._rounding.tensor)
    else:
        by_before, by_environment = stages.tensor_product_backward(
            by_sum, model.layers[k - 1], layer.B(before, k - 1), layer.used(before["A"][k - 1]), *layer.irreps
        )
        found[f"dB_{k - 1}"] = (layer.used(after["dB"])[:, :, : by_before.shape[2]], chunk._cast(by_before))
        by_environment = layer.norms[:, None, None] * by_environment
        found[f"dA_{k - 1}"] = (layer.used(after["dA"][(k - 1) % 2]), chunk._cast(by_environment))
    by_harmonics = by_harmonics[:, 1:] + (0.0 if layer.last else chunk._harmonic_gradient(before))
    return {**found, "dY": (chunk._harmonic_gradient(after), by_harmonics)}
