"""The reference's forces and virials are derivatives of its energy, and its energy has the symmetries of nature."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_models import random_model, random_structure

from allegro_sim.model.reference import brute_force_edges, evaluate, evaluate_structure

OPTIONS = {
    "plain": {},
    "deep with parity": {"l_max": 3, "num_layers": 3, "num_tensor_features": 2},
    "deep without parity": {"l_max": 2, "num_layers": 4, "parity": False, "activation": "mish"},
    "splines, pair cutoffs, ZBL": {"spline": True, "zbl": True, "per_pair_cutoffs": True, "num_types": 3},
    "one weight for all degrees": {"individual_irreps": False, "num_layers": 1, "activation": "gelu"},
    "sums of tensor features": {"scatter_features": True, "l_max": 1, "num_tensor_features": 3},
    "scalars only, linear": {"l_max": 0, "activation": "identity", "hidden_depth": 2},
    "high degree": {"l_max": 5, "num_layers": 1, "activation": "ssp", "cutoff_exponent": 8.0},
}


@pytest.fixture(scope="module", params=OPTIONS.values(), ids=OPTIONS.keys())
def model(request):
    return random_model(11, **request.param)


def _derivative(function, step):
    """Fourth-order central difference of a scalar function at 0."""
    return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)


# Differences with h = 2e-4: rounding 1e-15 E / h = 1e-10 with energies of some 10 eV; truncation h^4/30 f^(5) is less.
STEP = 2e-4
TOLERANCE = 2e-8


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_forces_are_minus_the_gradient(model, pbc):
    positions, cell, pbc, types = random_structure(12, model, num_atoms=8, pbc=pbc)
    result = evaluate_structure(model, positions, cell, pbc, types)
    rng = np.random.default_rng(13)
    scale = max(1.0, np.abs(result.forces).max())
    for _ in range(3):
        direction = rng.standard_normal(positions.shape)
        expected = -_derivative(
            lambda h, d=direction: evaluate_structure(model, positions + h * d, cell, pbc, types).energy, STEP
        )
        assert abs(float((result.forces * direction).sum()) - expected) < TOLERANCE * scale * direction.size


def test_virial_is_minus_the_derivative_by_strain(model):
    positions, cell, pbc, types = random_structure(14, model, num_atoms=8)
    result = evaluate_structure(model, positions, cell, pbc, types)
    scale = max(1.0, np.abs(result.virial).max())
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5

        def energy(h, strain=strain):
            deformation = np.eye(3) + h * strain
            return evaluate_structure(model, positions @ deformation, cell @ deformation, pbc, types).energy

        assert abs(result.virial[a, b] + _derivative(energy, STEP)) < 10 * TOLERANCE * scale


def test_atom_virials_sum_to_the_virial_and_belong_to_the_neighbour(model):
    positions, cell, pbc, types = random_structure(15, model, num_atoms=6)
    result = evaluate_structure(model, positions, cell, pbc, types)
    # Rotations leave each E_i as it is, so even the sum before symmetrising is symmetric, to rounding.
    np.testing.assert_allclose(result.atom_virials.sum(axis=0), result.virial, rtol=0, atol=1e-11)
    centers, neighbors, _, vectors = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
    gradients = evaluate(model, types, centers, neighbors, vectors).edge_gradients
    expected = -sum(np.outer(r, g) for r, g, j in zip(vectors, gradients, neighbors, strict=True) if j == 2)
    np.testing.assert_allclose(result.atom_virials[2], expected, rtol=0, atol=1e-12)


# Sums of a few hundred terms in another order, or of rotated coordinates: 1e-12 relative is a thousand roundings.
def _close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * max(1.0, np.abs(expected).max()))


def test_translation_and_choice_of_images(model):
    positions, cell, pbc, types = random_structure(16, model)
    before = evaluate_structure(model, positions, cell, pbc, types)
    shifts = np.random.default_rng(0).integers(-2, 3, (len(positions), 3))
    after = evaluate_structure(model, positions + np.array([1.0, -2.0, 3.5]) + shifts @ cell, cell, pbc, types)
    _close(after.energies, before.energies)
    _close(after.forces, before.forces)


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_rotation_and_reflection(model, determinant):
    positions, cell, pbc, types = random_structure(17, model)
    before = evaluate_structure(model, positions, cell, pbc, types)
    orthogonal, _ = np.linalg.qr(np.random.default_rng(18).standard_normal((3, 3)))
    orthogonal *= determinant * np.sign(np.linalg.det(orthogonal))
    after = evaluate_structure(model, positions @ orthogonal.T, cell @ orthogonal.T, pbc, types)
    _close(after.energies, before.energies)
    _close(after.forces, before.forces @ orthogonal.T)
    _close(after.virial, orthogonal @ before.virial @ orthogonal.T)
    _close(after.atom_virials, orthogonal @ before.atom_virials @ orthogonal.T)


def test_permutation(model):
    positions, cell, pbc, types = random_structure(19, model)
    before = evaluate_structure(model, positions, cell, pbc, types)
    order = np.random.default_rng(0).permutation(len(types))
    after = evaluate_structure(model, positions[order], cell, pbc, types[order])
    _close(after.energies, before.energies[order])
    _close(after.forces, before.forces[order])


def test_replication(model):
    positions, cell, pbc, types = random_structure(20, model, num_atoms=4)
    before = evaluate_structure(model, positions, cell, pbc, types)
    twice = np.concatenate([positions, positions + cell[1]])
    after = evaluate_structure(model, twice, cell * np.array([[1.0], [2.0], [1.0]]), pbc, np.tile(types, 2))
    _close(after.energies, np.tile(before.energies, 2))
    _close(after.forces, np.tile(before.forces, (2, 1)))
    _close(after.virial, 2.0 * before.virial)


def test_energy_forces_and_their_slope_are_continuous_across_a_cutoff(model):
    """Three atoms; one crosses a cutoff. u_p(x) ~ (1-x)^3: 1e-4 Å before it, the force is of order 1e-8 of its usual
    size, its slope of order 1e-4, and beyond it both are zero."""
    types = np.array([0, model.num_types - 1, 0])
    reach = model.cutoffs[types[1], types[0]]
    start = np.array([[0.0, 0.0, 0.0], [1.1, 0.0, 0.2], [0.0, 0.0, 0.0]])
    start[2] = start[1] + np.array([0.6, 0.8, 0.0]) * reach
    direction = np.array([0.6, 0.8, 0.0])

    def at(offset):
        positions = start.copy()
        positions[2] += offset * direction
        return evaluate_structure(model, positions, None, np.zeros(3, bool), types)

    inside, outside, beyond = at(-1e-4), at(1e-4), at(2e-4)
    far = evaluate_structure(model, start[:2], None, np.zeros(3, bool), types[:2])
    scale = max(1.0, np.abs(far.forces).max(), np.abs(at(-0.5 * reach).forces).max())
    assert abs(inside.energies[1] - outside.energies[1]) < 1e-9 * scale
    assert np.abs(inside.forces[2] - outside.forces[2]).max() < 1e-5 * scale
    slope_inside = np.abs(at(-1e-4).forces - at(-2e-4).forces).max() / 1e-4
    slope_outside = np.abs(beyond.forces - outside.forces).max() / 1e-4
    assert abs(slope_inside - slope_outside) < 2e-2 * scale


def test_edges_beyond_the_cutoff_take_no_part():
    model = random_model(21, per_pair_cutoffs=True, activation="sigmoid")
    positions, cell, pbc, types = random_structure(22, model)
    inside = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
    more = brute_force_edges(positions, cell, pbc, types, model.cutoffs + 1.0)
    assert len(more[0]) > len(inside[0])
    few = evaluate(model, types, inside[0], inside[1], inside[3])
    many = evaluate(model, types, more[0], more[1], more[3])
    kept = np.linalg.norm(more[3], axis=1) < model.cutoffs[types[more[0]], types[more[1]]]
    assert np.array_equal(few.energies, many.energies)
    assert np.array_equal(few.edge_gradients, many.edge_gradients[kept])
    assert not many.edge_gradients[~kept].any()


def test_an_isolated_atom_has_its_types_energy(model):
    result = evaluate_structure(model, np.zeros((1, 3)), None, np.zeros(3, bool), np.array([1]))
    assert result.energies[0] == model.shifts[1]
    assert not result.forces.any()
    assert not result.virial.any()


def test_energy_belongs_to_centres_within_one_cutoff_alone(model):
    """Strict locality: an atom beyond the cutoff of a centre changes nothing of that centre's energy."""
    positions = np.array([[0.0, 0.0, 0.0], [1.5, 0.3, 0.0], [4.9, 0.0, 0.4]])
    types = np.array([0, 1, 0])
    with_it = evaluate_structure(model, positions, None, np.zeros(3, bool), types)
    without = evaluate_structure(model, positions[:2], None, np.zeros(3, bool), types[:2])
    assert with_it.energies[0] == pytest.approx(without.energies[0], rel=1e-14)
