"""Models and structures of the physics tests: small, random, over the options of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from support.random_models import random_model, random_structure

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluation, Evaluator

OPTIONS = {
    "two layers, ordered cutoffs, ZBL": {"per_pair_cutoffs": True, "zbl": True},
    "three layers, l_max 3, spline": {"num_layers": 3, "l_max": 3, "spline": True, "parity": True},
    "one layer, l_max 1, shared weights": {
        "num_layers": 1,
        "l_max": 1,
        "individual_irreps": False,
        "activation": "mish",
        "num_types": 3,
    },
}


@dataclass(frozen=True)
class Case:
    """A structure to be evaluated: positions (N, 3), cell vectors (3, 3), pbc (3,), types (N,)."""

    positions: np.ndarray
    vectors: np.ndarray
    pbc: np.ndarray
    types: np.ndarray

    def changed(self, **changes: np.ndarray) -> Case:
        return replace(self, **changes)


@pytest.fixture(scope="package", params=list(OPTIONS), ids=lambda name: name.replace(" ", "_"))
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    """A random model, ready, in double precision on the CPU; its environment of 4 Å holds some 30 edges an atom."""
    return Evaluator(random_model(11, **OPTIONS[request.param]), device="cpu", precision="double")


@pytest.fixture(
    params=[(True, True, True), (True, True, False), (False, False, False)], ids=["bulk", "slab", "cluster"]
)
def case(request: pytest.FixtureRequest, evaluator: Evaluator) -> Case:
    """Twelve atoms in a skewed cell hardly larger than the cutoff."""
    return Case(*random_structure(5, evaluator.model, num_atoms=12, pbc=request.param))


@pytest.fixture
def evaluate(evaluator: Evaluator) -> Callable[..., Evaluation]:
    """evaluate(case, want_atom_virials=False) -> Evaluation"""

    def call(case: Case, **options: bool) -> Evaluation:
        return evaluator.evaluate(case.types, case.positions, Cell(case.vectors, case.pbc), **options)

    return call
