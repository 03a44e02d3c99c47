"""The tensor track by per-centre vectors equals the direct form with per-edge tensors, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_models import random_model, random_structure

from allegro_sim.model import reference_identity as identity
from allegro_sim.model.reference import brute_force_edges, forward
from allegro_sim.model.reference_layers import (
    environment_backward,
    environment_forward,
    tensor_product_backward,
    tensor_product_forward,
    weighted_harmonics_backward,
    weighted_harmonics_forward,
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


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("num_layers, l_max", [(1, 2), (2, 0), (3, 2), (4, 1), (2, 3)])
def test_sums_of_centers_equal_the_direct_tensor_products_of_scatter_features(num_layers, l_max, parity):
    model = random_model(
        7, num_layers=num_layers, l_max=l_max, parity=parity, num_tensor_features=3, scatter_features=True
    )
    positions, cell, pbc, types = random_structure(8, model, num_atoms=5)
    centers, neighbors, _, vectors = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
    trace = forward(model, types, centers, neighbors, vectors)
    norms, ones, layers = model.environment_norms[types], np.ones(len(types)), range(num_layers)
    rng = np.random.default_rng(9)
    grad_invariants = [rng.standard_normal(trace.tensors[0].shape[:2]) for _ in layers]
    terms = [weighted_harmonics_forward(weights, trace.harmonics) for weights in trace.environment_weights]

    # Direct form: back through the tensors of the edges.
    direct_weights, direct_harmonics = [], np.zeros_like(trace.harmonics)
    grad_tensors = np.zeros_like(trace.tensors[-1])
    for k in reversed(layers):
        grad_tensors[:, :, 0] += grad_invariants[k]
        grad_sum, grad_terms = tensor_product_backward(
            grad_tensors, model.layers[k], trace.environments[k][centers], terms[k], l_max
        )
        more, harmonics = weighted_harmonics_backward(grad_terms, trace.environment_weights[k], trace.harmonics)
        direct_weights.insert(0, more)
        direct_harmonics += harmonics
        grad_tensors = environment_backward(environment_forward(grad_sum, centers, ones), centers, norms)
    more, harmonics = weighted_harmonics_backward(grad_tensors, trace.tensor_weights, trace.harmonics)
    direct_weights.append(more)
    direct_harmonics += harmonics

    # By vectors of the centres.
    sums, environments, vectors_of_centers = [trace.environments[0]], [], []
    for k in layers:
        vector = identity.scatter_vector_forward(model.layers[k], sums[k], l_max)
        invariants = identity.invariants_forward(trace.environment_weights[k], trace.harmonics, vector, centers)
        assert _close(invariants, trace.tensors[k + 1][:, :, 0])
        vectors_of_centers.append(vector)
        if k < num_layers - 1:
            environments.append(environment_forward(terms[k], centers, norms))
            sums.append(tensor_product_forward(model.layers[k], sums[k], environments[k], l_max))
            assert _close(sums[-1], trace.environments[k + 1])
    grad_sum, grad_harmonics = np.zeros((0,)), np.zeros_like(trace.harmonics)
    for k in reversed(layers):
        weights, harmonics, grad_vector = identity.invariants_backward(
            grad_invariants[k], trace.environment_weights[k], trace.harmonics, vectors_of_centers[k], centers
        )
        grad_harmonics += harmonics
        into_sum = identity.scatter_vector_backward(grad_vector, model.layers[k], l_max)
        if k < num_layers - 1:
            grad, grad_environment = tensor_product_backward(grad_sum, model.layers[k], sums[k], environments[k], l_max)
            into_sum = into_sum + grad
            more, harmonics = weighted_harmonics_backward(
                environment_backward(grad_environment, centers, norms), trace.environment_weights[k], trace.harmonics
            )
            weights = weights + more
            grad_harmonics += harmonics
        grad_sum = into_sum
        assert _close(weights, direct_weights[k])
    more, harmonics = weighted_harmonics_backward(
        environment_backward(grad_sum, centers, norms), trace.tensor_weights, trace.harmonics
    )
    assert _close(more, direct_weights[-1])
    assert _close(grad_harmonics + harmonics, direct_harmonics)
