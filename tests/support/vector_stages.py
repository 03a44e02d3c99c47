"""The centre stages of the current generation computed again, for `stage_reference`; letters as there.

Functions of a chunk (`stage_reference._Chunk`) and a layer: name -> (found, wanted, whether `mixed` rounds it).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.model import reference_identity as identity
from allegro_sim.model import reference_layers as stages


def center_forward(chunk: Any, k: int) -> dict:
    model, before = chunk._model, chunk._before
    harmonics = chunk._harmonics(before).astype(np.float64)
    terms = stages.weighted_harmonics_forward(
        chunk._weights(before["env"][k]).astype(np.float64), harmonics, model.repeated_harmonics
    )
    norms = model.environment_norms[chunk._types].astype(chunk._real).astype(np.float64)
    environment = chunk._cast(stages.environment_forward(terms, chunk._centers, norms))
    used = chunk._has_edges()
    environments = [np.where(used, chunk._of_centers(before["A"][n]), 0.0) for n in range(k)] + [environment]
    vector, _ = identity.center_vector_forward(
        model.layers[: k + 1], environments, model.l_max, model.repeated_harmonics
    )
    weights = chunk._weights(before["w"]).astype(np.float64)
    invariants = identity.invariants_forward(weights, harmonics, vector, chunk._centers, model.repeated_harmonics)
    return {
        f"A_{k}": (np.where(used, chunk._of_centers(chunk._after["A"][k]), 0.0), environment),
        f"scal_{k}": chunk._written(chunk._invariants(chunk._after["x"]), invariants, chunk._rounding.invariants[k]),
    }


def center_backward(chunk: Any, k: int) -> dict:
    model, before, after, used = chunk._model, chunk._before, chunk._after, chunk._has_edges()
    last = k == model.num_layers - 1
    harmonics = chunk._harmonics(before).astype(np.float64)
    weights = chunk._weights(before["w"]).astype(np.float64)
    own = chunk._weights(before["env"][k]).astype(np.float64)
    environments = [np.where(used, chunk._of_centers(before["A"][n]), 0.0) for n in range(k + 1)]
    vector, partial = identity.center_vector_forward(
        model.layers[: k + 1], environments, model.l_max, model.repeated_harmonics
    )
    by_weights, by_harmonics, by_vector = identity.invariants_backward(
        chunk._invariants(before["dx"]).astype(np.float64),
        weights,
        harmonics,
        vector,
        chunk._centers,
        model.repeated_harmonics,
    )
    into = identity.center_vector_backward(
        by_vector, model.layers[: k + 1], environments, partial, model.l_max, model.repeated_harmonics
    )
    if not last:
        earlier = chunk._environment_gradients(before)
        into = [grad + np.where(used, chunk._of_centers(earlier[n]), 0.0) for n, grad in enumerate(into)]
    norms = model.environment_norms[chunk._types].astype(chunk._real).astype(np.float64)
    terms = stages.environment_backward(into[k], chunk._centers, norms)
    by_env, more = stages.weighted_harmonics_backward(terms, own, harmonics, model.repeated_harmonics)
    by_harmonics = (by_harmonics + more)[:, 1:]
    if not last:
        by_weights = by_weights + chunk._weights(before["dw"])
        by_harmonics = by_harmonics + chunk._harmonic_gradient(before)
    found = {
        "denv": chunk._written(chunk._weights(after["denv"]), by_env, chunk._rounding.environments[k]),
        "dw": chunk._written(chunk._weights(after["dw"]), by_weights, k == 0 and chunk._rounding.tensor),
        "dY": (chunk._harmonic_gradient(after), by_harmonics),
    }
    written = chunk._environment_gradients(after)
    for n in range(k):
        found[f"dA_{n}"] = (np.where(used, chunk._of_centers(written[n]), 0.0), chunk._cast(into[n]))
    return found
