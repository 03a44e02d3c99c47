"""The potentials against upstream's float64 results: all golden models over all their structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.golden import golden_model

from allegro_sim.cell import Cell
from allegro_sim.evaluation import Evaluator
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.source import open_source

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden"
MODELS = sorted(path.stem for path in GOLDEN.glob("*.ckpt"))
STRUCTURES = ("triclinic", "small_cell", "cluster", "pair", "isolated")


def test_there_are_models_enough() -> None:
    assert len(MODELS) >= 8


def assert_close(actual: np.ndarray, expected: np.ndarray, relative: float, what: str) -> None:
    bound = relative * max(1.0, float(np.abs(expected).max()))
    assert np.abs(actual - expected).max() <= bound, f"{what}: {np.abs(actual - expected).max():.2e} > {bound:.2e}"


@pytest.mark.parametrize("name", MODELS)
def test_double_precision_is_upstreams(name: str, backend: str) -> None:
    """Atomic energies to 1e-10, forces and virial to 1e-9, relative to the largest of the structure (at least 1)."""
    evaluator = Evaluator(golden_model(name), device=backend, precision="double")
    results = np.load(GOLDEN / f"{name}.npz")
    for structure in STRUCTURES:
        values = {key.split("/")[1]: results[key] for key in results.files if key.startswith(f"{structure}/")}
        cell = Cell(values.get("cell"), values["pbc"])
        result = evaluator.evaluate(values["types"], values["positions"], cell)
        assert_close(result.energies, values["energies"], 1e-10, f"energies of {structure}")
        assert_close(result.forces, values["forces"], 1e-9, f"forces of {structure}")
        assert_close(result.virial, values["virial"], 1e-9, f"virial of {structure}")
        assert abs(result.energy - float(values["energy"])) <= 1e-10 * max(1.0, np.abs(values["energies"]).sum())


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_follows(name: str, backend: str) -> None:
    """Relative RMS of forces below 1e-5 where the weights are of usual size: float32 carries 6e-8 an operation."""
    evaluator = Evaluator(golden_model(name), device=backend, precision="single")
    results = np.load(GOLDEN / f"{name}.npz")
    for structure in ("triclinic", "small_cell", "cluster"):
        values = {key.split("/")[1]: results[key] for key in results.files if key.startswith(f"{structure}/")}
        cell = Cell(values.get("cell"), values["pbc"])
        result = evaluator.evaluate(values["types"], values["positions"], cell)
        squares = (values["forces"] ** 2).mean()
        assert np.sqrt(((result.forces - values["forces"]) ** 2).mean() / squares) < 1e-5, structure


@pytest.mark.parametrize(
    ("folder", "checkpoint", "results"),
    [
        ("water_pbe0ts", "water.ckpt", "golden.npz"),
        ("water_pbe0ts", "water_short_cutoffs.ckpt", "water_short_cutoffs_golden.npz"),
        ("bio_gfn2", "bio.ckpt", "golden.npz"),
    ],
)
def test_trained_models_are_upstreams(folder: str, checkpoint: str, results: str, shared: Path, backend: str) -> None:
    """Real weights on frames of their test sets: upstream's float32 weights cast up, its constants in float64."""
    model = build_model(open_source(shared / "checkpoints" / folder / checkpoint)).model
    golden = np.load(shared / "checkpoints" / folder / results)
    numbers = model.atomic_numbers.tolist()
    evaluators = {p: Evaluator(model, device=backend, precision=p) for p in ("double", "single")}
    for frame in sorted({key.split("/")[0] for key in golden.files}):
        types = np.array([numbers.index(number) for number in golden[f"{frame}/numbers"]])
        vectors = golden[f"{frame}/cell"] if f"{frame}/cell" in golden.files else None
        cell = Cell(vectors, vectors is not None)
        result = evaluators["double"].evaluate(types, golden[f"{frame}/pos"], cell)
        forces = golden[f"{frame}/f64/forces"]
        assert_close(result.energies, golden[f"{frame}/f64/atomic_energy"], 1e-10, f"energies of frame {frame}")
        assert_close(result.forces, forces, 1e-9, f"forces of frame {frame}")
        assert_close(result.virial, golden[f"{frame}/f64/virial"], 1e-9, f"virial of frame {frame}")
        single = evaluators["single"].evaluate(types, golden[f"{frame}/pos"], cell)
        assert np.sqrt(((single.forces - forces) ** 2).mean() / (forces**2).mean()) < 1e-5
