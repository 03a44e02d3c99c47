"""Self-checks: right results pass, deviations beyond the bounds and NaN do not."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_models import random_model

from allegro_sim.model.reference import brute_force_edges
from allegro_sim.model.self_check import check_structures, compare, make_reference_self_checks


@pytest.fixture(scope="module")
def model():
    return random_model(31, num_types=3, per_pair_cutoffs=True)


@pytest.fixture(scope="module")
def checks(model):
    return make_reference_self_checks(model)


def _compare(model, check, precision="double", **changed):
    results = {"energies": check.energies, "forces": check.forces, "virial": check.virial, **changed}
    return compare(model, check, precision=precision, **results)


@pytest.mark.parametrize("r_max", [2.5, 4.0, 6.0])
def test_structures_are_sensible_for_any_cutoff(r_max):
    model = random_model(1, num_types=3, r_max=r_max, per_pair_cutoffs=True)
    (periodic, cluster), again = check_structures(model), check_structures(model)
    assert np.array_equal(periodic[0], again[0][0])
    assert np.array_equal(cluster[0], again[1][0])
    assert cluster[1] is None
    for positions, cell, pbc, types in (periodic, cluster):
        assert set(types.tolist()) == {0, 1, 2}
        centers, _, shifts, vectors = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
        assert np.linalg.norm(vectors, axis=1).min() > 0.7
        assert 4 < len(centers) / len(positions) < 40
        assert shifts.any() == pbc.all()


def test_the_reference_passes_its_own_checks(model, checks):
    assert len(checks) >= 2
    assert all(check.source.startswith("reference") for check in checks)
    for check in checks:
        assert check.energy == pytest.approx(check.energies.sum(), rel=1e-14)
        for precision in ("double", "single", "mixed"):
            deviations = _compare(model, check, precision)
            assert [deviation.largest for deviation in deviations[1:]] == [0.0, 0.0, 0.0]
            assert all(deviation.passed for deviation in deviations)


@pytest.mark.parametrize("precision", ["double", "single", "mixed"])
def test_deviations_beyond_a_bound_fail(model, checks, precision):
    check = checks[0]
    bounds = {deviation.quantity: deviation.bound for deviation in _compare(model, check, precision)}
    shifted = check.energies.copy()
    shifted[3] += 1.5 * bounds["atomic energies"]
    assert [d.quantity for d in _compare(model, check, precision, energies=shifted) if not d.passed] == [
        "atomic energies"
    ]
    forces = next(name for name in bounds if name.startswith("forces"))
    for factor, passed in ((0.9, True), (1.1, False)):
        found = _compare(model, check, precision, forces=check.forces + factor * bounds[forces])
        assert all(deviation.passed for deviation in found) == passed
    found = _compare(model, check, precision, virial=check.virial - 1.1 * bounds["virial"])
    assert [deviation.quantity for deviation in found if not deviation.passed] == ["virial"]


def test_results_that_are_not_numbers_fail(model, checks):
    forces = checks[0].forces.copy()
    forces[0, 0] = np.nan
    for precision in ("double", "single"):
        assert not all(d.passed for d in _compare(model, checks[0], precision, forces=forces))


def test_bounds_hold_the_promise_of_double(model, checks):
    check = checks[0]
    bounds = {deviation.quantity: deviation.bound for deviation in _compare(model, check)}
    assert bounds["atomic energies"] == 1e-10 * max(1.0, np.abs(check.energies).max())
    assert bounds["forces"] == 1e-9 * max(1.0, np.abs(check.forces).max())
    assert bounds["virial"] == 1e-9 * max(1.0, np.abs(check.virial).max())
