"""Models with many types: no table of matrices for each pair of types, and the same numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.cuda_harness import cuda_potential, evaluate
from support.random_models import random_model, random_structure
from support.stage_reference import over_bounds, replay

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.model.summary import summary
from allegro_sim.model.weight_file import load_model, read_provenance
from allegro_sim.potential import folding
from allegro_sim.potential.folding import SeparableTable, fold_model, pair_basis
from allegro_sim.tools.benchmark_legacy import many_types_model
from allegro_sim.tools.importing.self_checks import run_script, upstream_self_checks
from allegro_sim.tools.importing.source import open_source
from allegro_sim.tools.main import main


@pytest.fixture
def no_pair_tables(monkeypatch):
    """Every table of pairs of types counts as large."""
    monkeypatch.setattr(folding, "PAIR_TABLE_BYTES", 0)


@pytest.mark.parametrize("options", [{}, {"hidden_depth": 0}, {"num_scalar_features": 18, "hidden_width": 33}], ids=str)
def test_separable_two_body_features_are_those_of_the_tables(options, no_pair_tables, precision):
    model = random_model(8, num_types=3, **options)
    assert isinstance(fold_model(model).separable, SeparableTable)
    positions, cell, pbc, types = random_structure(4, model, num_atoms=12)
    reference = evaluate_structure(model, positions, cell, pbc, types)
    result = Evaluator(model, precision=precision, threads=1).evaluate(types, positions, Cell(cell, pbc))
    # Double: the project's bounds against upstream. Single: some sixty products of float32 a feature.
    energies, forces = (1e-10, 1e-9) if precision == "double" else (1e-5, 1e-5)
    assert np.abs(result.energies - reference.energies).max() <= energies * max(1.0, np.abs(reference.energies).max())
    assert np.abs(result.forces - reference.forces).max() <= forces * max(1.0, np.abs(reference.forces).max())


@pytest.mark.simulator
@pytest.mark.parametrize("precision", ["double", "single", "mixed"])
@pytest.mark.parametrize("hidden_width", [20, 264], ids=["fused", "wide"])
def test_separable_two_body_features_on_cuda(hidden_width, precision, no_pair_tables):
    """Widths of both product paths; a skewed cell of three types, so that every ordered pair of them occurs."""
    model = random_model(8, num_types=3, num_layers=1, l_max=1, num_scalar_features=18, hidden_width=hidden_width)
    structure = random_structure(4, model, num_atoms=8)
    reference = evaluate_structure(model, *structure)
    potential = cuda_potential(model, precision, optimize="-O0")
    assert potential.engine.layout.dimensions.separable
    assert potential.engine.layout.fused == (hidden_width < 264)
    result = evaluate(model, precision, *structure, potential=potential)
    # As for models with tables: float64 sums; float32 features; operands of ten bits.
    bound = {"double": 1e-9, "single": 1e-5, "mixed": 4e-3}[precision]
    rms = np.sqrt(np.mean(reference.forces**2))
    assert np.sqrt(np.mean((result.forces - reference.forces) ** 2)) <= bound * rms
    assert np.abs(result.energies - reference.energies).max() <= bound * max(1.0, np.abs(reference.energies).max())
    assert np.abs(result.virial - reference.virial).max() <= bound * max(1.0, np.abs(reference.virial).max())
    assert not over_bounds(replay(potential), precision)


def few_of_an_alloy(count):
    """The first atoms of a shaken fcc lattice of five elements of the benchmark models' list, as a cluster."""
    positions, _, _, types = alloy(3.6)
    nearest = np.argsort(np.linalg.norm(positions - positions[0], axis=1))[:count]
    return positions[nearest], None, np.zeros(3, bool), types[nearest]


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"l_max": 2, "num_layers": 2, "scalars": 48, "channels": 8, "hidden": (20,), "readout": 16}, "mixed"),
        *(
            pytest.param({}, precision, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))
            for precision in ("double", "single", "mixed")
        ),
    ],
    ids=["small", "double", "single", "mixed"],
)
def test_the_shape_of_a_foundation_model_on_cuda(options, precision):
    """89 types, so that the two-body table is kept apart by itself; by default narrow, slow at the true widths."""
    model = many_types_model(**options)
    structure = few_of_an_alloy(8 if options else 4)
    potential = cuda_potential(model, precision, optimize="-O0")
    assert potential.engine.layout.dimensions.separable
    result, reference = (
        evaluate(model, precision, *structure, potential=potential),
        evaluate_structure(model, *structure),
    )
    bound = {"double": 1e-9, "single": 1e-5, "mixed": 4e-3}[precision]
    rms = np.sqrt(np.mean(reference.forces**2))
    assert np.sqrt(np.mean((result.forces - reference.forces) ** 2)) <= bound * rms
    assert np.abs(result.energies - reference.energies).max() <= bound * max(1.0, np.abs(reference.energies).max())
    assert not over_bounds(replay(potential), precision, deep_embedding=not options)


def test_the_form_depends_on_the_size_alone(no_pair_tables):
    model = random_model(8, num_types=3)
    folded = fold_model(model)
    assert folded.separable is not None
    assert all(linear.matrix.ndim == 2 for linear in folded.embedding)
    i, j, basis = 2, 1, np.random.default_rng(0).standard_normal(len(folded.separable.basis))
    table = folded.separable
    types = np.concatenate([table.center_types[i], table.neighbor_types[j]])
    assert np.allclose((basis @ table.basis) * types, basis @ pair_basis(model.radial)[3 * i + j], rtol=1e-13)


def test_small_tables_stay_tables_and_splines_are_not_enlarged(monkeypatch):
    assert fold_model(random_model(8, num_types=3)).separable is None
    model = random_model(8, num_types=3, spline=True, num_scalar_features=4, hidden_width=64)
    size = model.radial.weights.size * 8
    monkeypatch.setattr(folding, "PAIR_TABLE_BYTES", size)
    first = fold_model(model).embedding[0]
    assert first.matrix.shape == (9, 8, 4)


ALLOY = ("Cr", "Mn", "Fe", "Co", "Ni")


def large_config() -> dict:
    """The shape of Allegro-OAM-L: 89 types, l_max 3, four layers, MLPs of 2 x 1,024."""
    from ase.data import chemical_symbols

    mlp = {"hidden_layers_depth": 2, "hidden_layers_width": 1024}
    config = {
        "_target_": "allegro.model.AllegroModel", "seed": 7, "model_dtype": "float32",
        "type_names": chemical_symbols[1:90], "r_max": 7.0, "l_max": 3, "parity": False, "num_layers": 4,
        "num_scalar_features": 256, "num_tensor_features": 64, "avg_num_neighbors": 60.0,
        "radial_chemical_embed": {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 12, "bessel_trainable": True,
            "polynomial_cutoff_p": 8,
        },
        "per_type_energy_scales": 1.0, "per_type_energy_shifts": dict.fromkeys(chemical_symbols[1:90], -5.0),
        "per_type_energy_scales_trainable": False, "per_type_energy_shifts_trainable": False,
        **{f"{name}_mlp_{key}": value for name in ("scalar_embed", "allegro") for key, value in mlp.items()},
        "readout_mlp_hidden_layers_depth": 1, "readout_mlp_hidden_layers_width": 128,
    }  # fmt: skip
    change = {"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": -3.0}}
    return {"_target_": "nequip.model.modify", "model": config, "modifiers": [change]}


def alloy(lattice_constant: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """64 atoms of five elements, shaken off an fcc lattice in a cell below two cutoffs; lattice constant in Å."""
    rng = np.random.default_rng(0)
    primitive = lattice_constant * np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = grid @ primitive + rng.normal(0.0, 0.1, (64, 3))
    numbers = rng.permutation(np.arange(64) % 5)
    return positions, 4 * primitive, np.ones(3, bool), numbers + 23  # Cr is type 23 of H, He, ...


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_large_foundation_model_is_upstreams(tmp_path: Path) -> None:
    """The shape of Allegro-OAM-L with random weights, made by upstream with averages: imported, checked against
    upstream, and evaluated on 64 atoms of a five-element alloy at a metal's density (150 edges an atom)."""
    python = os.environ.get("ALLEGRO_UPSTREAM_PYTHON")
    if not python:
        pytest.skip("needs ALLEGRO_UPSTREAM_PYTHON, an interpreter with nequip-allegro")
    checkpoint, path = tmp_path / "large.ckpt", tmp_path / "large.h5"
    job = {
        "config": large_config(), "run_config": {}, "training_module": "nequip.train.EMALightningModule",
        "output": str(checkpoint),
    }  # fmt: skip
    run_script(Path(python), "build", job, tmp_path, ())
    assert main(["import", str(checkpoint), "-o", str(path), "--upstream-python", python]) == 0
    assert main(["check", str(path)]) == 0
    model = load_model(path)
    assert read_provenance(path)["weights"] == "averaged (EMA)" and int(summary(model)["num_weights"]) > 1e7
    assert model.shifts[model.type_names.index("Cu")] == -3.0 and model.num_types == 89
    assert fold_model(model).separable is not None
    structure = alloy(3.6)
    source = open_source(checkpoint)
    (expected,) = upstream_self_checks(Path(python), source, [structure], raw_weights=False, pair_term=None)
    positions, cell, pbc, types = structure
    assert [model.type_names[t] for t in sorted(set(types.tolist()))] == list(ALLOY)
    for precision, energies, forces in (("double", 1e-10, 1e-9), ("single", 2e-5, 2e-5)):
        result = Evaluator(model, precision=precision).evaluate(types, positions, Cell(cell, pbc))
        scale = max(1.0, np.abs(expected.energies).max())
        assert np.abs(result.energies - expected.energies).max() <= energies * scale
        assert np.abs(result.forces - expected.forces).max() <= forces * max(1.0, np.abs(expected.forces).max())
        bound = forces * max(1.0, np.abs(expected.virial).max())
        assert np.abs(result.virial - expected.virial).max() <= bound
