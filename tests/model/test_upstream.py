"""The reference against upstream's stored results: every golden structure, and every stage of one model."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.model.irreps import component_slices, harmonic_irreps, total_dim
from allegro_sim.model.reference import brute_force_edges, evaluate_structure, forward
from allegro_sim.model.wigner import product_coefficients
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.source import open_source

ZOO = ("m00", "m10", "m18", "m26", "m29", "m33", "m45", "m48")


@pytest.fixture(scope="module")
def zoo(shared):
    """Model and golden file of one checkpoint of the zoo, by name."""

    def load(name):
        folder = shared / "checkpoints" / "zoo" / name
        return build_model(open_source(folder / "model.ckpt")).model, np.load(folder / "golden.npz")

    return load


def _within(actual, expected, relative):
    assert np.abs(actual - expected).max() <= relative * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ZOO)
def test_energies_forces_and_virials_are_upstreams(zoo, name):
    model, golden = zoo(name)
    # Upstream ran m48 in float32: its own rounding. The others in float64: the project's promise.
    energy_bound, force_bound = (1e-6, 5e-6) if model.trained_dtype == "float32" else (1e-10, 1e-9)
    structures = sorted({key.split("/")[0] for key in golden})
    assert len(structures) >= 5
    for structure in structures:
        values = {key.split("/")[1]: golden[key] for key in golden if key.startswith(f"{structure}/")}
        cell = values.get("cell")
        result = evaluate_structure(model, values["pos"], cell, values["pbc"], values["types"])
        edges = brute_force_edges(values["pos"], cell, values["pbc"], values["types"], model.cutoffs)
        assert len(edges[0]) == values["edge_index"].shape[1]
        _within(result.energies, values["energies"], energy_bound)
        _within(result.forces, values["forces"], force_bound)
        _within(result.virial, values["virial"], force_bound)


@pytest.mark.parametrize(
    ("folder", "checkpoint", "results"),
    [
        ("water_pbe0ts", "water_short_cutoffs.ckpt", "water_short_cutoffs_golden.npz"),
        ("bio_gfn2", "bio.ckpt", "golden.npz"),
    ],
)
def test_trained_float32_models_in_float64_are_upstreams(shared, folder, checkpoint, results):
    """Ordered cutoffs, ZBL, averaged weights; upstream's weights cast up, its constants computed in float64."""
    model = build_model(open_source(shared / "checkpoints" / folder / checkpoint)).model
    golden = np.load(shared / "checkpoints" / folder / results)
    types = np.array([model.atomic_numbers.tolist().index(number) for number in golden["0/numbers"]])
    cell = golden.get("0/cell")
    result = evaluate_structure(model, golden["0/pos"], cell, np.full(3, cell is not None), types)
    _within(result.energies, golden["0/f64/atomic_energy"], 1e-10)
    _within(result.forces, golden["0/f64/forces"], 1e-9)
    _within(result.virial, golden["0/f64/virial"], 1e-9)


@pytest.mark.parametrize("structure", ["cluster", "dimer"])
def test_every_stage_is_upstreams(zoo, shared, structure):
    model, golden = zoo("m00")
    stages = np.load(shared / "checkpoints" / "zoo" / "m00" / f"inter_{structure}.npz")
    centers, neighbors = golden[f"{structure}/edge_index"]
    trace = forward(model, golden[f"{structure}/types"], centers, neighbors, stages["edge_norm::edge_vectors"])
    weights = trace.environment_weights
    pairs = {
        "edge_norm::edge_lengths": trace.lengths[:, None],
        "edge_norm::normed_edge_lengths": trace.x[:, None],
        "tensor_embed::edge_attrs": trace.harmonics,
        "tensor_embed::edge_features": trace.tensors[0],
        "allegro.first_layer_env_embed_projection": np.hstack([trace.scalars[0], weights[0].reshape(len(centers), -1)]),
        "allegro.tps.0": trace.tensors[1],
        "allegro.latents.0": np.hstack([trace.scalars[1], weights[1].reshape(len(centers), -1)]),
        "allegro.tps.1": trace.tensors[2],
        "allegro.latents.1": trace.scalars[2],
        "allegro::edge_features": np.hstack(trace.scalars),
        "edge_readout::edge_energy": trace.edge_energies[:, None],
        "per_type_energy_scale_shift::atomic_energy": trace.energies[:, None],
    }
    for name, ours in pairs.items():
        _within(ours, stages[name], 1e-13)


@pytest.mark.parametrize("name", ["m00", "m10"])
def test_couplings_are_those_stored_by_upstream(zoo, shared, name):
    """m10 has 34 paths over l_max 3 with both parities. The last product is stored for its diagonal alone."""
    model, _ = zoo(name)
    source = open_source(shared / "checkpoints" / "zoo" / name / "model.ckpt")
    harmonics = harmonic_irreps(model.l_max)
    for k, layer in enumerate(model.layers):
        shape = (len(layer.paths), total_dim(layer.irreps_in), total_dim(harmonics), total_dim(layer.irreps_out))
        ours = np.zeros(shape)
        for p, path in enumerate(layer.paths):
            ours[
                p,
                component_slices(layer.irreps_in)[path.first],
                component_slices(harmonics)[path.second],
                component_slices(layer.irreps_out)[path.out],
            ] = product_coefficients(
                layer.irreps_in[path.first].degree, harmonics[path.second].degree, layer.irreps_out[path.out].degree
            )
        (stored,) = [tensor for key, tensor in source.state.items() if key.endswith(f"tps.{k}.w3j")]
        stored = stored.numpy()
        if stored.ndim == 3:
            ours = np.einsum("paac->pac", ours)
        _within(ours, stored, 1e-15)
