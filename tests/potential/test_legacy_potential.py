"""The CPU potential on the legacy generation: upstream's numbers, and bits that are a function of positions alone."""

from __future__ import annotations

import numpy as np
import pytest
from support.golden import assert_agrees
from support.legacy import MODELS, STRUCTURES, legacy_model, legacy_results, legacy_structure
from support.potential import make_system
from support.random_models import random_structure

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.potential import create_potential
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


def _compute(model, structure, precision, *, skin=0.0, threads=1, chunk_edges=None):
    """Integer forces and virials by atom, energies, virial words: everything as bits."""
    system, neighbors = make_system(model, structure, skin)
    potential = create_potential(model, "cpu", precision, threads, chunk_edges)
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert len(system.bad_centres) == 0
    local = system.num_local
    forces, virials = np.zeros((system.num_global, 3), np.int64), np.zeros((system.num_global, 9), np.int64)
    np.add.at(forces, system.ids[:local], system.forces[:local])
    np.add.at(virials, system.ids[:local], system.atom_virials[:local])
    energies = np.empty(system.num_global)
    energies[system.ids[: system.num_owned]] = system.energies[: system.num_owned]
    return forces, energies, system.virial_words.copy(), virials


# Mixing after and before the product, the edge itself in and out, one that mixes environments, layers with own cutoffs.
@pytest.mark.parametrize(
    "name", ["pair_cutoffs_zbl", "uvvp_collected_so3", "uuulin_self_edge", "environment_linear", "three_layer_cutoffs"]
)
def test_bits_do_not_depend_on_threads_chunks_or_the_list(name, precision):
    model = legacy_model(name)
    structure = random_structure(2, model, num_atoms=24)
    expected = _compute(model, structure, precision, chunk_edges=10000)
    assert np.abs(expected[0]).max() > 1000
    for options in ({"threads": 3}, {"skin": 0.7}, {"chunk_edges": 1}, {"chunk_edges": 37}):
        result = _compute(model, structure, precision, **options)
        assert all(np.array_equal(a, b) for a, b in zip(expected, result, strict=True)), options


def test_an_atoms_bits_do_not_depend_on_others_far_away(precision):
    model = legacy_model("pair_cutoffs_zbl")
    positions, _, _, types = random_structure(3, model, num_atoms=9)
    open_pbc = np.zeros(3, bool)
    alone = _compute(model, (positions, None, open_pbc, types), precision)
    both = np.concatenate([positions[:4] + 1000.0, positions])
    together = _compute(model, (both, None, open_pbc, np.concatenate([types[:4], types])), precision)
    assert np.array_equal(together[0][4:], alone[0])
    assert np.array_equal(together[1][4:], alone[1])


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
