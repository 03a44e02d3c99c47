"""The reference on the legacy generation: upstream's numbers, and forces that are derivatives of the energy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.golden import assert_agrees
from support.legacy import MODELS, STRUCTURES, legacy_model, legacy_results, legacy_source, legacy_structure

from allegro_sim.model.reference import brute_force_edges, evaluate, evaluate_structure
from allegro_sim.tools.importing.legacy import read_legacy_model
from allegro_sim.tools.importing.legacy_source import read_legacy

# One of each way to mix channels, to update scalar features and to cut off.
VARIED = (
    "cosine_layer_cutoffs", "replaced_layer_cutoffs", "environment_linear", "so3_replaced", "pair_cutoffs_zbl",
    "uvvp_collected_so3",
)  # fmt: skip


def test_there_are_models_enough():
    assert len(MODELS) >= 12


@pytest.mark.parametrize("name", MODELS)
def test_energies_forces_and_virial_are_upstreams(name):
    model = legacy_model(name)
    assert model.is_legacy
    for structure in STRUCTURES:
        result = evaluate_structure(model, *legacy_structure(name, structure))
        assert_agrees(
            legacy_results(name, structure), energies=result.energies, forces=result.forces, virial=result.virial
        )


def test_the_large_model_of_sc23_is_upstreams():
    """7.85 million weights, ordered cutoffs and ZBL; ten atoms of five elements."""
    model, num_weights = read_legacy_model(legacy_source("sc23_shape"), {}, [])
    assert 7.8e6 < num_weights < 7.9e6
    assert model.layers[0].latent.weights[-1].shape == (1024, 1024)
    result = evaluate_structure(model, *legacy_structure("sc23_shape", "triclinic"))
    expected = legacy_results("sc23_shape", "triclinic")
    assert_agrees(expected, energies=result.energies, forces=result.forces, virial=result.virial)


@pytest.mark.parametrize("name", VARIED)
def test_edge_gradients_are_derivatives(name):
    """Central differences of the energy by each edge vector of one centre, step 1e-4: errors of some 1e-8."""
    model = legacy_model(name)
    positions, cell, pbc, types = legacy_structure(name, "triclinic")
    centers, neighbors, _, vectors = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
    gradients = evaluate(model, types, centers, neighbors, vectors).edge_gradients
    edges = np.flatnonzero(centers == 3)[::5]
    assert len(edges) > 2
    for z in edges:
        for c in range(3):
            moved = np.array([vectors, vectors])
            moved[0, z, c] += 1e-4
            moved[1, z, c] -= 1e-4
            up, down = (evaluate(model, types, centers, neighbors, v).energies.sum() for v in moved)
            assert abs((up - down) / 2e-4 - gradients[z, c]) < 1e-6 * max(1.0, np.abs(gradients).max())


@pytest.mark.parametrize("name", ["uuulin_self_edge", "so3_replaced", "uuup_five_layers", "environment_linear"])
def test_an_edge_at_its_cutoff_contributes_nothing(name):
    """Where no layer has a cutoff of its own, energy and forces are continuous as an atom leaves."""
    model = legacy_model(name)
    near = model.cutoffs[0, 0] * (1.0 - 1e-7)
    positions = np.array([[0.0, 0.0, 0.0], [-1.1, 0.3, -0.2], [near, 0.0, 0.0]])
    types = np.zeros(3, np.int64)
    inside = evaluate_structure(model, positions, None, np.zeros(3, bool), types)
    outside = evaluate_structure(model, positions * [[1.0], [1.0], [1.0 + 2e-7]], None, np.zeros(3, bool), types)
    assert np.abs(inside.energies[0] - outside.energies[0]) < 1e-12
    assert np.abs(inside.forces[0] - outside.forces[0]).max() < 1e-9


@pytest.mark.parametrize("name", ["si-deployed-neq060dp", "water-gra-film-double", "z020_L2_l1_so3_noresnet",
                                  "z020_L2_l3_restricted", "z030_p_self", "z030_uuup", "gra-water-deployed-neq060sp",
                                  "legacy020_deployed"])  # fmt: skip
def test_deployed_models_are_upstreams(name: str, shared: Path):
    """Published models and others; float32 ones against upstream's float32 numbers, to 2e-5 of the scale."""
    folder = shared / "checkpoints" / "legacy"
    model, _ = read_legacy_model(read_legacy(folder / f"{name}.pth"), {}, [])
    with np.load(folder / f"{name}_golden.npz") as golden:
        for structure in sorted({key.split("/")[0] for key in golden}):
            values = {key.split("/")[1]: golden[key] for key in golden if key.startswith(f"{structure}/")}
            cell = values.get("cell") if values["pbc"].any() else None
            result = evaluate_structure(model, values["pos"], cell, values["pbc"], values["types"])
            for found, wanted, bound in (
                (result.energies, values["energies"], 1e-10),
                (result.forces, values["forces"], 1e-9),
                (result.virial, values.get("virial"), 1e-9),
            ):
                if wanted is not None:
                    bound = 2e-5 if model.trained_dtype == "float32" else bound
                    assert np.abs(found - wanted).max() <= bound * max(1.0, np.abs(wanted).max())


def test_a_training_folder_is_the_model_deployed_from_it(shared: Path):
    folder = shared / "checkpoints" / "legacy"
    trained, _ = read_legacy_model(read_legacy(folder / "training_folder_020"), {}, [])
    deployed, _ = read_legacy_model(read_legacy(folder / "legacy020_deployed.pth"), {}, [])
    assert np.array_equal(trained.layers[0].latent.weights[0], deployed.layers[0].latent.weights[0])
    assert np.array_equal(trained.scales, deployed.scales)
