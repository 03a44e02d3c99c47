"""The CPU potential on the legacy generation: upstream's numbers. Its bits: test_cpu_potential.py."""

from __future__ import annotations

import numpy as np
import pytest
from support.golden import assert_agrees
from support.legacy import MODELS, STRUCTURES, legacy_model, legacy_results, legacy_structure

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.potential.folding import fold_model, residual_scales


def _evaluate(evaluator: Evaluator, name: str, structure: str, **options: bool):
    positions, cell, pbc, types = legacy_structure(name, structure)
    return evaluator.evaluate(types, positions, Cell(cell, pbc), **options)


@pytest.mark.parametrize("name", MODELS)
def test_results_are_upstreams(name, precision):
    evaluator = Evaluator(legacy_model(name), precision=precision, threads=2)
    for structure in STRUCTURES:
        result, expected = _evaluate(evaluator, name, structure), legacy_results(name, structure)
        if precision == "double":
            assert_agrees(expected, energies=result.energies, forces=result.forces, virial=result.virial)
        else:  # float32 features: the size of single edges' energies, not of their sum, sets the error
            scale = max(1.0, np.abs(expected["forces"]).max())
            assert np.abs(result.forces - expected["forces"]).max() <= 1e-5 * scale
            assert np.abs(result.energies - expected["energies"]).max() <= 1e-5 * np.abs(expected["energies"]).max()


def test_the_large_model_of_sc23_runs(precision):
    """Its 7.85 million weights on ten atoms of five elements, with ordered cutoffs and ZBL."""
    evaluator = Evaluator(legacy_model("sc23_shape"), precision=precision, threads=2)
    result, expected = _evaluate(evaluator, "sc23_shape", "triclinic"), legacy_results("sc23_shape", "triclinic")
    if precision == "double":
        assert_agrees(expected, energies=result.energies, forces=result.forces, virial=result.virial)
    else:
        rms = np.sqrt(np.mean(expected["forces"] ** 2))
        assert np.sqrt(np.mean((result.forces - expected["forces"]) ** 2)) <= 1e-5 * rms


def test_atom_virials_are_the_references():
    model, structure = legacy_model("uuulin_self_edge"), legacy_structure("uuulin_self_edge", "triclinic")
    result = _evaluate(Evaluator(model, threads=1), "uuulin_self_edge", "triclinic", want_atom_virials=True)
    reference = evaluate_structure(model, *structure)
    assert np.abs(result.atom_virials - reference.atom_virials).max() <= 1e-9


def test_isolated_atoms_have_their_shift(precision):
    model = legacy_model("uuup_self_edge")
    evaluator = Evaluator(model, precision=precision)
    result = evaluator.evaluate(np.array([0, 1]), np.array([[0.0, 0, 0], [50.0, 0, 0]]), Cell(None, False))
    assert np.array_equal(result.energies, model.shifts)
    assert not result.forces.any()


def test_scaled_residuals_are_the_networks_scalar_features():
    """s_{k+1} = a s_k + b new, with c_{k+1} = a c_k: s_{k+1}/c_{k+1} = s_k/c_k + (b/c_{k+1}) new is what is kept."""
    model = legacy_model("five_layers")
    scales, folded = residual_scales(model), fold_model(model)
    a, b = model.latent_factors.T
    s, kept = 1.0, 1.0
    for k in range(model.num_layers):
        s, kept = a[k] * s + b[k] * 0.3, kept + (b[k] / scales[k + 1]) * 0.3
        assert kept * scales[k + 1] == pytest.approx(s, rel=1e-14)
    written, computed = folded.multiply_adds
    assert 0 < computed <= written
    assert len(folded.environments) == model.num_layers
