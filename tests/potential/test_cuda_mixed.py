"""The kernels of `mixed`, end to end on a CPU, round what the rounding reference rounds, and as it does."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from support import mixed_reference as mixed
from support.cuda_harness import evaluate
from support.random_models import random_model, random_structure

from allegro_sim.model.weight_file import load_model

pytestmark = pytest.mark.simulator


def relative_rms(found, expected, scale):
    return np.sqrt(np.mean((found.forces - expected.forces) ** 2) / np.mean(scale.forces**2))


# Every product of these has more than 16 rows and columns; they are so few that hardly a number changes sides.
@pytest.mark.parametrize(
    "options",
    [{"num_layers": 1, "l_max": 1}, {"num_layers": 2, "l_max": 1, "hidden_depth": 0}, {"num_layers": 2, "l_max": 2}],
    ids=["one_layer", "linear", "two_layers"],
)
def test_forces_are_those_of_the_rounding_reference(options):
    model = random_model(5, num_scalar_features=20, num_tensor_features=16, hidden_width=20, **options)
    structure = random_structure(3, model, num_atoms=14)
    exact, rounded, truncated = (
        mixed.evaluate_structure(model, *structure, way) for way in (mixed.EXACT, mixed.MIXED, mixed.TRUNCATED)
    )
    found = evaluate(model, "mixed", *structure, optimize="-O0")
    assert relative_rms(found, rounded, exact) <= 1e-4
    # Neither unrounded operands nor truncated ones would pass for it.
    assert relative_rms(exact, rounded, exact) > 2 * relative_rms(found, rounded, exact)
    assert relative_rms(truncated, rounded, exact) > 3e-4


def test_the_water_model_stays_within_its_bounds(inputs: Path, repository: Path):
    model = load_model(inputs / "water" / "water.h5")
    atoms = ase.io.read(repository / "tests" / "data" / "water24.xyz")
    types = np.array([model.type_names.index(symbol) for symbol in atoms.get_chemical_symbols()])
    structure = (atoms.positions, np.array(atoms.cell), atoms.pbc, types)
    ways = (mixed.EXACT, mixed.MIXED, *map(mixed.disturbed, range(3)))
    exact, rounded, *disturbed = (mixed.evaluate_structure(model, *structure, way) for way in ways)
    found = evaluate(model, "mixed", *structure)
    assert relative_rms(found, exact, exact) <= 4e-3
    assert np.abs(found.forces - exact.forces).max() <= 2e-2 * np.sqrt(np.mean(exact.forces**2))
    assert abs(found.energy - exact.energy) <= 5e-4 * len(types)
    # Nine products deep, float32's last bit decides often which way a number is rounded: see mixed_reference.
    assert relative_rms(found, rounded, exact) <= 1.5 * max(relative_rms(one, rounded, exact) for one in disturbed)
