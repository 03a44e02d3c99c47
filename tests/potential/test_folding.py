"""Folding linear layers: the same function of fewer multiply-adds, and no fold that costs more."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.random_models import random_model

from allegro_sim.potential.folding import (
    Linear,
    contraction_list,
    fold,
    fold_into_readers,
    fold_layers,
    fold_model,
    pair_basis,
)


def _apply(chain, x: np.ndarray) -> np.ndarray:
    for linear in chain:
        x = x @ linear.matrix
        x = np.tanh(x) if linear.activated else x
    return x


def _chain(*sizes: int, activated: tuple[int, ...] = ()) -> list[Linear]:
    rng = np.random.default_rng(sum(sizes))
    return [Linear(rng.standard_normal(shape), n in activated) for n, shape in enumerate(pairwise(sizes))]


@pytest.mark.parametrize(
    ("sizes", "activated", "length"),
    [
        ((8, 32, 32), (), 1),
        ((32, 4, 32), (), 2),  # a bottleneck is cheaper as it is
        ((8, 32, 32, 32, 16), (1,), 2),
        ((8, 32, 32), (0,), 2),
        ((8, 64, 4, 64, 1), (), 1),
    ],
)
def test_fold_keeps_the_function_and_saves_work(sizes, activated, length):
    chain = _chain(*sizes, activated=activated)
    folded = fold(chain)
    assert len(folded) == length
    assert sum(linear.cost for linear in folded) <= sum(linear.cost for linear in chain)
    x = np.random.default_rng(1).standard_normal((5, sizes[0]))
    assert np.allclose(_apply(folded, x), _apply(chain, x), rtol=1e-12, atol=1e-10)


def test_two_body_basis_is_a_matrix_for_each_ordered_pair_of_types():
    model = random_model(2, num_types=3)
    matrices = pair_basis(model.radial)
    i, j = 2, 1
    types = np.concatenate([model.radial.center_types[i], model.radial.neighbor_types[j]])
    assert np.array_equal(matrices[i * 3 + j], model.radial.basis_linear * types)
    spline = random_model(2, num_types=3, spline=True)
    assert np.array_equal(pair_basis(spline.radial)[i * 3 + j], spline.radial.weights[i, j].T)


def test_counts_of_a_small_model():
    """By hand: S = U = width = 16, 8 Bessel functions, l_max 1, one layer."""
    model = random_model(
        1, l_max=1, num_layers=1, num_scalar_features=16, num_tensor_features=16, hidden_width=16, num_bessels=8
    )
    folded = fold_model(model)
    written, computed = folded.multiply_adds
    # Basis, embedding, both projections; latent; readout.
    dense = 8 * 16 + 2 * 16 * 16 + 16 * (16 + 2 * 32) + 32 * 16 + 16 * 16 + 32 * 16 + 16
    # Products 0 x 0 -> 0 and 1 x 1 -> 0 have 1 and 3 terms a channel; V_0 and the environment 4 each.
    assert written == dense + (1 + 3) * 16 + 2 * 4 * 16
    # The readout's last layer runs once an atom. Environment and invariants: 4, and 4 + 2, a channel.
    layers = 8 * 16 + 16 * (16 + 2 * 32) + 32 * 16 + 16 * 16 + 32 * 16 + (4 + 6) * 16
    assert fold_layers(model).multiply_adds == (written, layers)
    # s_0 and s_1 are not made: the readout takes the 16 features each is a product of.
    assert computed == layers - 2 * 16 * 16


@pytest.mark.parametrize("readout_depth", [0, 1])
def test_readers_of_what_features_are_made_of_have_the_same_results(readout_depth):
    """Chains of matrices with an activation between: s_k = h_k W, or h_k and W times the readers' own matrices."""
    rng, swish = np.random.default_rng(3), lambda x: x / (1.0 + np.exp(-x))
    model = random_model(5, num_layers=3, num_scalar_features=12, hidden_width=9, num_tensor_features=4)
    folded = fold_layers(model)
    if not readout_depth:
        folded = replace(folded, readout=(), energy_weights=rng.normal(size=4 * 12))
    other = fold_into_readers(folded)
    assert other.widths == (9, 9, 9, 9) and all(chain[-1].keeps for chain in (other.embedding, *other.latents))
    assert other.latents[-1][-1].matrix.shape == (9, 0)

    def run(chain, rows):
        for linear in chain:
            product = rows @ linear.matrix
            rows = np.concatenate([rows, product], axis=1) if linear.keeps else product
            rows = swish(rows) if linear.activated else rows
        return rows

    invariants, start = rng.normal(size=(3, 20, 4)), rng.normal(size=(20, folded.embedding[1].matrix.shape[0]))

    def everything(one):
        rows, scalars, weights = run(one.embedding[1:], start), [], []
        for k in range(4):
            features, more = np.split(rows, [one.widths[k]], axis=1)
            scalars.append(features)
            weights.append(more)
            if k < 3:
                rows = run(one.latents[k], np.concatenate([*scalars, invariants[k]], axis=1))
        energies = run(one.readout, np.concatenate(scalars, axis=1)) @ one.energy_weights
        return np.concatenate([*weights, energies[:, None]], axis=1)

    assert np.allclose(everything(other), everything(folded), rtol=1e-12, atol=1e-12)
    cost, other_cost = (
        sum(linear.cost for chain in (one.embedding, *one.latents, one.readout) for linear in chain)
        for one in (folded, other)
    )
    assert folded.multiply_adds[1] - other.multiply_adds[1] == cost - other_cost > 0


def test_features_that_are_fewer_than_what_they_are_made_of_are_made():
    model = random_model(5, num_layers=2, num_scalar_features=8, hidden_width=64)
    assert not any(chain[-1].keeps for chain in (fold_model(model).embedding, *fold_model(model).latents))


def test_invariant_lists_are_the_columns_of_the_full_ones():
    model = random_model(1, l_max=2, num_layers=3)
    full, invariant = contraction_list(model, 1, False), contraction_list(model, 1, True)
    chosen = full.indices[:, 2] == 0
    assert np.array_equal(full.indices[chosen], invariant.indices)
    assert np.array_equal(full.values[chosen], invariant.values)
    assert 0 < len(invariant.values) < len(full.values)
