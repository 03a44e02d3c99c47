"""Every backward stage of the reference is the derivative of its forward stage."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from support.random_models import random_model

from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model import reference_layers as stages
from allegro_sim.model import reference_pairs as pairs
from allegro_sim.model.description import ACTIVATIONS, LennardJones, Mlp, Zbl

STEP = 1e-3
# Fourth-order central differences at 1e-3: truncation h^4/30 f^(5) is below 1e-9 here, rounding about 1e-13 / h.
TOLERANCE = 1e-8


def _check(function, gradient, *arguments, seed=0):
    """`gradient`, the derivatives of `function` by its arguments, against differences along random directions."""
    rng = np.random.default_rng(seed)
    directions = [rng.standard_normal(np.shape(argument)) for argument in arguments]

    def along(h):
        return function(*(argument + h * d for argument, d in zip(arguments, directions, strict=True)))

    expected = (8 * (along(STEP) - along(-STEP)) - (along(2 * STEP) - along(-2 * STEP))) / (12 * STEP)
    found = sum(float((g * d).sum()) for g, d in zip(gradient, directions, strict=True))
    assert abs(found - expected) < TOLERANCE * max(1.0, abs(expected))


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_lengths(rng):
    vectors, a, b = rng.standard_normal((5, 3)) + 2.0, rng.standard_normal(5), rng.standard_normal((5, 3))

    def energy(vectors):
        lengths, units = geometry.lengths_forward(vectors)
        return (a * lengths).sum() + (b * units).sum()

    _check(energy, [geometry.lengths_backward(a, b, *geometry.lengths_forward(vectors))], vectors)


@pytest.mark.parametrize("exponent", [2.0, 5.5, 6.0, 12.0])
def test_polynomial_cutoff(exponent):
    x = np.array([0.05, 0.3, 0.7, 0.95])
    _check(
        lambda x: geometry.polynomial_cutoff_forward(x, exponent).sum(),
        [geometry.polynomial_cutoff_backward(np.ones(4), x, exponent)],
        x,
    )
    edge = np.array([1.0 - 1e-4, 1.0, 1.5])
    # u vanishes like (1 - x)^3, its slope like (1 - x)^2.
    assert np.abs(geometry.polynomial_cutoff_forward(edge, exponent)).max() < 1e-9
    assert np.abs(geometry.polynomial_cutoff_backward(np.ones(3), edge, exponent)).max() < 1e-4
    assert geometry.polynomial_cutoff_forward(np.zeros(1), exponent) == 1.0


@pytest.mark.parametrize("spline", [False, True])
def test_radial_embedding(rng, spline):
    radial = random_model(1, spline=spline).radial
    # Bumps of splines join with continuous third derivatives only: stay off the joints at multiples of 1/8.
    x, grad = np.array([0.07, 0.21, 0.55, 0.83, 0.99]), rng.standard_normal((5, 8))
    i, j = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    _check(
        lambda x: (grad * geometry.radial_forward(radial, x, i, j)).sum(),
        [geometry.radial_backward(grad, radial, x, i, j)],
        x,
    )


def test_all_activations_of_the_description_are_here():
    assert tuple(stages.ACTIVATION_FUNCTIONS) == ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    x = np.linspace(-6.0, 6.0, 49)
    function, slope = stages.ACTIVATION_FUNCTIONS[name]
    _check(lambda x: function(x).sum(), [slope(x)], x)
    far = np.array([-800.0, 800.0])
    assert np.isfinite(function(far)).all()
    assert np.isfinite(slope(far)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("silu", 0.7310585786300049),
        ("mish", 0.8650983882673103),
        ("gelu", 0.8413447460685429),
        ("ssp", 0.6201145069582775),
        ("tanh", 0.7615941559557649),
        ("sigmoid", 0.7310585786300049),
        ("softplus", 1.3132616875182228),
        ("identity", 1.0),
    ],
)
def test_activations_at_one(name, value):
    assert stages.ACTIVATION_FUNCTIONS[name][0](np.ones(1))[0] == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_mlp(rng, depth):
    sizes = [4, *[5] * depth, 3]
    mlp = Mlp(tuple(rng.standard_normal(pair) for pair in pairwise(sizes)), "silu")
    x, grad = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    _, before = stages.mlp_forward(mlp, x)
    _check(lambda x: (grad * stages.mlp_forward(mlp, x)[0]).sum(), [stages.mlp_backward(grad, mlp, before)], x)


@pytest.mark.parametrize("num_weights", [1, 3])
def test_weighted_harmonics(rng, num_weights):
    weights, harmonics = rng.standard_normal((5, 2, num_weights)), rng.standard_normal((5, 9))
    grad = rng.standard_normal((5, 2, 9))
    _check(
        lambda weights, harmonics: (grad * stages.weighted_harmonics_forward(weights, harmonics)).sum(),
        stages.weighted_harmonics_backward(grad, weights, harmonics),
        weights,
        harmonics,
    )


def test_environment(rng):
    terms, centers, norms = rng.standard_normal((5, 2, 9)), np.array([0, 2, 2, 0, 2]), rng.random(3)
    grad = rng.standard_normal((3, 2, 9))
    _check(
        lambda terms: (grad * stages.environment_forward(terms, centers, norms)).sum(),
        [stages.environment_backward(grad, centers, norms)],
        terms,
    )


def test_tensor_product(rng):
    for layer in random_model(2, l_max=2, num_layers=3).layers:
        size_in, size_out = (sum(irrep.dim for irrep in irreps) for irreps in (layer.irreps_in, layer.irreps_out))
        v, environment = rng.standard_normal((3, 4, size_in)), rng.standard_normal((3, 4, 9))
        grad = rng.standard_normal((3, 4, size_out))
        _check(
            lambda v, a, layer=layer, grad=grad: (grad * stages.tensor_product_forward(layer, v, a, 2)).sum(),
            stages.tensor_product_backward(grad, layer, v, environment, 2),
            v,
            environment,
        )


def test_edge_sum(rng):
    edges, centers, factors, grad = rng.standard_normal(5), np.array([0, 2, 2, 0, 2]), rng.random(3), rng.random(3)
    _check(
        lambda edges: (grad * stages.edge_sum_forward(edges, centers, factors)).sum(),
        [stages.edge_sum_backward(grad, centers, factors)],
        edges,
    )


SIGMA, EPSILON = np.array([[0.7, 0.9], [0.9, 1.1]]), np.array([[0.2, 0.1], [0.1, 0.3]])
DELTA = np.array([[0.05, 0.0], [1.3, 0.0]])  # the second of the lengths below is closer than its delta
PAIR_TERMS = {
    "ZBL": Zbl(np.array([1.0, 8.0]), 14.399645, 6.0),
    "Lennard-Jones": LennardJones(0.7, 0.2, 5.0),
    "Lennard-Jones, sharp": LennardJones(0.7, 0.2, None),
    "Lennard-Jones of pairs": LennardJones(SIGMA, EPSILON, 5.0, None, DELTA),
    "Lennard-Jones of pairs, odd power": LennardJones(SIGMA, EPSILON, 5.0, None, DELTA, 5.0),
    "repulsive part": LennardJones(SIGMA, EPSILON, 5.0, None, 0.3 * DELTA, 4.5, "lj_repulsive_only"),
    "repulsive": LennardJones(SIGMA, EPSILON, 5.0, None, DELTA, 3.0, "repulsive"),
    "repulsive, any power": LennardJones(SIGMA, EPSILON, 5.0, None, 0.3 * DELTA, 7.25, "repulsive"),
}


@pytest.mark.parametrize("term", PAIR_TERMS.values(), ids=PAIR_TERMS)
def test_pair_terms(term, rng):
    lengths, x = np.array([0.4, 0.9, 0.5, 3.0]), np.array([0.1, 0.3, 0.5, 0.9])
    i, j, grad = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), rng.standard_normal(4)
    _check(
        lambda lengths, x: (grad * pairs.pair_forward(term, lengths, x, i, j)).sum(),
        pairs.pair_backward(grad, term, lengths, x, i, j),
        lengths,
        x,
    )


def test_zbl_tends_to_the_bare_coulomb_energy():
    """Two directed edges of H-O at 1e-6 Å carry together K 1 8 / d, less screening of the order d / 0.1 Å."""
    zbl = Zbl(np.array([1.0, 8.0]), 14.399645, 6.0)
    both = pairs.pair_forward(zbl, np.full(2, 1e-6), np.full(2, 1e-6), np.array([0, 1]), np.array([1, 0])).sum()
    # The published amplitudes sum to 0.99999.
    assert both == pytest.approx(14.399645 * 8.0 / 1e-6 * 0.99999, rel=1e-4)


def test_lennard_jones_has_its_well_where_it_should():
    """Two directed edges at 2^(1/6) sigma carry -epsilon together, and no force."""
    term, distance = LennardJones(0.7, 0.2, None), np.full(2, 2.0 ** (1 / 6) * 0.7)
    types = np.zeros(2, np.int64)
    assert pairs.pair_forward(term, distance, distance, types, types).sum() == pytest.approx(-0.2, rel=1e-14)
    slope, _ = pairs.pair_backward(np.ones(2), term, distance, distance, types, types)
    assert np.abs(slope).max() < 1e-14


def test_the_forms_of_lennard_jones_are_upstreams():
    """Both edges of a pair together, without a cutoff function, against the formulas written out."""
    d, sigma, epsilon, delta, n = 1.15, 0.9, 0.3, 0.2, 4.5
    y, q = d - delta, (sigma / (d - delta)) ** n
    for style, wanted in {
        "lj": 4.0 * epsilon * (q * q - q),
        "lj_repulsive_only": 4.0 * epsilon * (q * q - q) + 2.0 * epsilon,
        "repulsive": epsilon * (sigma * y) ** -n,
    }.items():
        term = LennardJones(sigma, epsilon, None, None, delta, n, style)
        assert _of_both_edges(term, d) == pytest.approx(wanted, rel=1e-13), style


def test_the_repulsive_part_of_lennard_jones_ends_where_upstreams_does():
    """2^(1/n) Å beyond delta whatever sigma, with a jump of epsilon ((sigma^n - 1)^2 + 1)."""
    term = LennardJones(1.2, 0.3, None, None, 0.25, 6.0, "lj_repulsive_only")
    end = 2.0 ** (1.0 / 6.0) + 0.25
    assert _of_both_edges(term, end) == 0.0
    jump = _of_both_edges(term, np.nextafter(end, 0.0))
    assert jump == pytest.approx(0.3 * ((1.2**6 - 1.0) ** 2 + 1.0), rel=1e-12)


def test_closer_than_delta_powers_of_negative_numbers_are_what_they_are():
    for power, found in ((6.0, 0.8**-12 - 0.8**-6), (5.0, 0.8**-10 + 0.8**-5), (5.5, np.nan)):
        term = LennardJones(1.0, 0.25, None, None, 1.5, power)
        assert _of_both_edges(term, 0.7) == pytest.approx(found, rel=1e-13, nan_ok=True)


def _of_both_edges(term: LennardJones, distance: float) -> float:
    lengths, types = np.full(2, distance), np.zeros(2, np.int64)
    return pairs.pair_forward(term, lengths, lengths, types, types).sum()
