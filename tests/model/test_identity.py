"""The tensor track by per-centre vectors equals the direct form with per-edge tensors, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_models import random_model, random_structure

from allegro_sim.model import reference_identity as identity
from allegro_sim.model.reference import brute_force_edges, forward
from allegro_sim.model.reference_layers import (
    environment_forward,
    tensor_product_backward,
    weighted_harmonics_backward,
)

# Two orders of the same float64 sums: a few hundred terms a number, chained over up to four layers.
RELATIVE = 1e-12


def _close(actual: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(actual - expected).max() <= RELATIVE * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_center_vectors_equal_the_direct_tensor_products(num_layers, l_max, parity):
    model = random_model(7, num_layers=num_layers, l_max=l_max, parity=parity, num_tensor_features=3)
    positions, cell, pbc, types = random_structure(8, model, num_atoms=5)
    centers, neighbors, _, vectors = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
    trace = forward(model, types, centers, neighbors, vectors)
    rng = np.random.default_rng(9)
    grad_invariants = [rng.standard_normal(trace.tensors[0].shape[:2]) for _ in model.layers]

    # Direct form: back through the per-edge tensors, all layers' invariants at once.
    direct_environments = []
    grad_tensors = np.zeros_like(trace.tensors[-1])
    ones = np.ones(len(types))
    for k in reversed(range(num_layers)):
        grad_tensors[:, :, 0] += grad_invariants[k]
        grad_tensors, per_edge = tensor_product_backward(
            grad_tensors, model.layers[k], trace.tensors[k], trace.environments[k][centers], l_max
        )
        direct_environments.insert(0, environment_forward(per_edge, centers, ones))
    direct_weights, direct_harmonics = weighted_harmonics_backward(grad_tensors, trace.tensor_weights, trace.harmonics)

    # By vectors of the centres, layer by layer.
    grad_environments = [np.zeros_like(environment) for environment in trace.environments]
    grad_weights, grad_harmonics = np.zeros_like(trace.tensor_weights), np.zeros_like(trace.harmonics)
    for k in range(num_layers):
        layers, environments = model.layers[: k + 1], trace.environments[: k + 1]
        vector, partial = identity.center_vector_forward(layers, environments, l_max)
        invariants = identity.invariants_forward(trace.tensor_weights, trace.harmonics, vector, centers)
        assert _close(invariants, trace.tensors[k + 1][:, :, 0])
        more_weights, more_harmonics, grad_vector = identity.invariants_backward(
            grad_invariants[k], trace.tensor_weights, trace.harmonics, vector, centers
        )
        grad_weights += more_weights
        grad_harmonics += more_harmonics
        for total, more in zip(
            grad_environments,
            identity.center_vector_backward(grad_vector, layers, environments, partial, l_max),
            strict=False,
        ):
            total += more
    assert _close(grad_weights, direct_weights)
    assert _close(grad_harmonics, direct_harmonics)
    for actual, expected in zip(grad_environments, direct_environments, strict=True):
        assert _close(actual, expected)
