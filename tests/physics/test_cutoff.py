"""Energy, forces and the first derivative of forces are continuous where an atom crosses a cutoff."""

from __future__ import annotations

import numpy as np
import pytest
from support.random_models import random_model

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator

MODELS = {
    "bessel": {},
    "spline": {"spline": True, "l_max": 1},
    "ordered cutoffs and ZBL": {"per_pair_cutoffs": True, "zbl": True, "num_layers": 1},
    "tanh": {"activation": "tanh"},
}


@pytest.fixture(scope="module", params=list(MODELS))
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    return Evaluator(random_model(3, **MODELS[request.param]), device="cpu", precision="double")


def results_at(evaluator: Evaluator, types: np.ndarray, distance: float) -> np.ndarray:
    """Energy and all force components (10,) with atom 1 at `distance` from atom 0, and a third atom near both."""
    positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0], [1.6, 1.1, 0.3]])
    result = evaluator.evaluate(types, positions, Cell(None, False))
    return np.concatenate([[result.energy], result.forces.ravel()])


@pytest.mark.parametrize("types", [[0, 1, 1], [1, 0, 0], [0, 0, 1]])
def test_nothing_jumps_at_a_cutoff(evaluator: Evaluator, types: list[int]) -> None:
    types_array = np.array(types)
    for cutoff in {evaluator.model.cutoffs[types[0], types[1]], evaluator.model.cutoffs[types[1], types[0]]}:
        jumps, kinks = [], []
        for h in (1e-3, 1e-4):
            before, at, after = (results_at(evaluator, types_array, cutoff + s * h) for s in (-1, 0, 1))
            jumps.append(np.abs(after - before).max())
            kinks.append(np.abs((after - at) - (at - before)).max() / h)
        # A jump stays as h shrinks by ten, the change of a continuous function falls by ten; `kinks` is the same of
        # the first derivative. The next order adds some 1 %; rounding is 1e-12 / h.
        assert jumps[1] < 0.11 * jumps[0]
        assert kinks[1] < 0.11 * kinks[0] + 1e-7


def test_an_isolated_atom_has_its_shift_and_no_force(evaluator: Evaluator) -> None:
    for t in range(evaluator.model.num_types):
        result = evaluator.evaluate(np.array([t]), np.zeros((1, 3)), Cell(None, False))
        assert result.energy == pytest.approx(evaluator.model.shifts[t], abs=1e-12)  # the two-word sum rounds at 2^-45
        assert (result.forces == 0.0).all()
        assert (result.virial == 0.0).all()


def test_atoms_out_of_reach_do_not_feel_each_other(evaluator: Evaluator) -> None:
    reach = evaluator.model.cutoffs.max()
    result = evaluator.evaluate(np.array([0, 1]), np.array([[0.0, 0.0, 0.0], [reach, 0.0, 0.0]]), Cell(None, False))
    assert (result.forces == 0.0).all()
    assert result.energy == pytest.approx(evaluator.model.shifts.sum(), abs=1e-12)
