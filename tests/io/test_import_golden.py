"""Imported models compute what upstream computes: every option, over every kind of structure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.golden import MODELS, STRUCTURES, assert_agrees, golden_model, golden_structure

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.description import LENNARD_JONES_STYLES, BesselEmbedding, LennardJones, SplineEmbedding, Zbl
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.tools.golden_models import FACTORS, pairwise_models, pairwise_rows


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", MODELS)
def test_reference_agrees_with_upstream(name: str, structure: str) -> None:
    model, expected = golden_model(name), golden_structure(name, structure)
    found = evaluate_structure(model, expected.positions, expected.cell, expected.pbc, expected.types)
    assert_agrees(expected, energies=found.energies, forces=found.forces, virial=found.virial)
    assert abs(found.energy - expected.energy) <= 1e-10 * len(expected.types) * max(1, np.abs(expected.energies).max())


@pytest.mark.parametrize("name", MODELS)
def test_whole_program_agrees_with_upstream(name: str, backend: str) -> None:
    model = golden_model(name)
    double = Evaluator(model, device=backend, precision="double", threads=1)
    single = Evaluator(model, device=backend, precision="single", threads=1)
    for kind in STRUCTURES:
        expected = golden_structure(name, kind)
        structure = expected.types, expected.positions, Cell(expected.cell, expected.pbc)
        found = double.evaluate(*structure)
        assert_agrees(expected, energies=found.energies, forces=found.forces, virial=found.virial)
        error = single.evaluate(*structure).forces - found.forces
        # 1e-8 eV/Å: what float32 resolves of the slopes that cancel where forces are a thousand times smaller
        assert np.sqrt(np.mean(error**2)) <= 1e-5 * np.sqrt(np.mean(found.forces**2)) + 1e-8, kind


def test_golden_models_span_the_options() -> None:
    models = [golden_model(name) for name in MODELS]
    assert len(models) >= 24 + 4  # and four of nequip 0.7
    assert {model.l_max for model in models} >= {0, 1, 2, 3}
    assert {model.num_layers for model in models} >= {1, 2, 3}
    assert {model.parity for model in models} == {True, False}
    assert {model.trained_dtype for model in models} == {"float32", "float64"}
    assert {type(model.radial) for model in models} == {BesselEmbedding, SplineEmbedding}
    terms = [model.pair_term for model in models if model.pair_term is not None]
    assert {round(term.coulomb) for term in terms if isinstance(term, Zbl)} == {14, 332}
    assert {term.style for term in terms if isinstance(term, LennardJones)} == set(LENNARD_JONES_STYLES)
    assert any(not np.array_equal(model.cutoffs, model.cutoffs.T) for model in models)
    assert any(len(set(model.environment_norms)) > 1 for model in models)
    irreps = {irrep for model in models for layer in model.layers for irrep in layer.irreps_in}
    assert any(irrep.parity != (-1) ** irrep.degree for irrep in irreps)
    activations = {
        mlp.activation for model in models for mlp in (model.embed_mlp, model.layers[0].latent, model.readout)
    }
    assert activations == {"identity", "silu", "mish", "gelu", "ssp", "tanh", "sigmoid", "softplus"}


def test_any_two_options_occur_together_in_a_golden_model() -> None:
    rows, models = pairwise_rows(), pairwise_models()
    assert {f"pairwise_{index:02d}" for index in range(len(rows))} == {n for n in MODELS if n.startswith("pairwise")}
    for (first, levels), (second, others) in itertools.combinations(FACTORS.items(), 2):
        for pair in itertools.product(levels, others):
            assert any((row[first], row[second]) == pair for row in rows), (first, second, pair)
    for name in models:
        stored = golden_model(name).hyperparameters
        while "model" in stored:
            stored = stored["model"]
        for option, value in models[name].items():
            if option not in ("training", "modified") and value is not None and option in stored:
                assert stored[option] == value, (name, option)


def test_golden_structures_are_of_five_kinds() -> None:
    for name in MODELS:
        reach = golden_model(name).cutoffs.max()
        structures = {kind: golden_structure(name, kind) for kind in STRUCTURES}
        triclinic, small = structures["triclinic"].cell, structures["small_cell"].cell
        assert triclinic is not None and np.count_nonzero(triclinic - np.diag(np.diag(triclinic))) > 0
        assert small is not None and np.linalg.norm(small, axis=1).min() < reach
        assert structures["cluster"].cell is None and len(structures["pair"].types) == 2
        isolated = structures["isolated"]
        assert np.linalg.norm(isolated.positions[:-1] - isolated.positions[-1], axis=1).min() > reach
        assert np.all(isolated.forces[-1] == 0.0)
