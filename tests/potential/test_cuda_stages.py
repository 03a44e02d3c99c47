"""Every stage of the CUDA kernels does what it says with the very numbers that it was given; see stage_reference.

Models of the legacy generation are held to it where test_cuda_legacy evaluates them; here is what would be found.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import ase.io
import numpy as np
import pytest
from support.cuda_golden import FAST_BUILD, golden_cases
from support.cuda_harness import cuda_potential
from support.golden import golden_model, golden_structure
from support.legacy import legacy_model, legacy_structure, resized_model
from support.potential import make_system
from support.random_models import random_model, random_structure
from support.stage_reference import BOUNDS, MIXED_MLP, over_bounds, replay

from allegro_sim.model.weight_file import load_model
from allegro_sim.tools.benchmark_models import benchmark_model

pytestmark = pytest.mark.simulator


def computed(model, structure, precision, *, source=None):
    """A potential that has evaluated a structure; source: what to do with the text of the kernels."""
    potential = cuda_potential(model, precision, optimize=FAST_BUILD)
    if source is not None:
        potential.engine.layout.__dict__["source"] = source(potential.engine.layout.source)
    system, neighbors = make_system(model, structure, 0.0)
    potential.compute(system, neighbors)
    return potential


def stage_cases():
    """`mixed` by default: in the other precisions forces alone are sharp."""
    yield from golden_cases("mixed")
    yield from (pytest.param(*case.values, marks=pytest.mark.slow) for case in golden_cases("double", "single"))


@pytest.mark.parametrize(("name", "precision"), list(stage_cases()))
def test_every_stage_of_the_golden_models(name, precision):
    model = golden_model(name)
    wanted = golden_structure(name, "triclinic")
    structure = (wanted.positions, wanted.cell, wanted.pbc, wanted.types)
    assert not over_bounds(replay(computed(model, structure, precision)), precision)


@cache
def deep_model(name):
    options = {
        "deep": {"hidden_depth": 3, "num_layers": 3, "hidden_width": 64, "num_scalar_features": 32, "l_max": 2},
        "wide": {"hidden_depth": 2, "num_layers": 3, "hidden_width": 264, "num_scalar_features": 24, "l_max": 1},
    }[name]
    return random_model(4, num_tensor_features=20, **options)


@pytest.mark.parametrize("precision", [pytest.param("double", marks=pytest.mark.slow), "single", "mixed"])
@pytest.mark.parametrize("name", ["deep", "wide"])
def test_every_stage_of_deep_and_wide_models(name, precision):
    model = deep_model(name)
    assert not over_bounds(replay(computed(model, random_structure(8, model, num_atoms=8), precision)), precision)


@pytest.mark.parametrize("name", ["bundled", pytest.param("medium", marks=pytest.mark.slow)])
def test_every_stage_of_the_benchmark_models(name, inputs: Path, repository: Path):
    model = load_model(inputs / "water" / "water.h5") if name == "bundled" else benchmark_model(name)
    atoms = ase.io.read(repository / "tests" / "data" / "water24.xyz")
    types = np.array([model.type_names.index(symbol) for symbol in atoms.get_chemical_symbols()])
    structure = (atoms.positions, np.array(atoms.cell), atoms.pbc, types)
    assert not over_bounds(replay(computed(model, structure, "mixed")), "mixed")


def without_rounding(source):
    """The kernels as they would be if they gave raw float32 to the matrix units, which cut it off."""
    whole = "return __uint_as_float(round_tf32(value));"
    assert whole in source
    return source.replace(whole, "return value;")


@pytest.mark.parametrize("name", ["deep", "wide"])
def test_operands_that_are_cut_off_would_be_found(name):
    """Numbers that are to be operands must be TF32 numbers; and products that read others are off by 1e-3."""
    model = deep_model(name)
    potential = computed(model, random_structure(8, model, num_atoms=8), "mixed", source=without_rounding)
    with pytest.raises(AssertionError, match="not TF32 numbers"):
        replay(potential)
    deviations = replay(potential, must_be_operands=False)
    for layer in range(model.num_layers):
        for result in (f"s_{layer + 1}", f"dscal_{layer}"):
            of_latent = [key for key in deviations if key.startswith(f"latent_{layer}_") and key.endswith(result)]
            assert min(deviations[key] for key in of_latent) > 5 * MIXED_MLP


def without_rounding_readers(source):
    """Besides, products that round what they read would not."""
    whole = "nearest = round_tf32(whole);"
    assert whole in source
    return without_rounding(source).replace(whole, "nearest = __float_as_uint(whole);")


@pytest.mark.parametrize(
    "name",
    [
        "pair_cutoffs_zbl",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("uvvp_collected_so3", "cosine_layer_cutoffs")),
    ],
)
def test_operands_of_the_legacy_generation_that_are_cut_off_would_be_found(name):
    """Mixing products are off by hundreds of times their bound, and every MLP by five, in what it adds, too."""
    model = resized_model(name, channels=20, scalars=20, hidden=24)
    structure = random_structure(7, model, num_atoms=6)
    potential = computed(model, structure, "mixed", source=without_rounding_readers)
    with pytest.raises(AssertionError, match="not TF32 numbers"):
        replay(potential)
    deviations = replay(potential, must_be_operands=False)
    mixing = [value for stage, value in deviations.items() if stage.startswith("mix_")]
    assert min(mixing) > 100 * BOUNDS["mixed"]
    for layer in range(model.num_layers):
        assert deviations[f"environment_{layer}_forward: env_{layer}"] > 5 * MIXED_MLP
        assert deviations[f"latent_{layer}_backward: dscal_{layer}"] > 5 * MIXED_MLP
    added = [value for stage, value in deviations.items() if stage.endswith(", added")]
    assert min(added) > 5 * MIXED_MLP


# What is changed in the kernels, and the stage whose result is then another.
SPOILED = {
    "slope of a gate": ("slope /= radius;", ";", "latent_gates: gate_slopes POLYNOMIAL_GATE 0"),
    "kept features": ("before[n] *= keep;", ";", "update_1_forward: s_1"),
    "gradients by kept features": ("kept[n] = keep * value[n];", "kept[n] = value[n];", "update_1_backward: ds_1"),
    "slopes of cutoffs": ("ADD ? latent_slope[z] + share : share;", "share;", "slope_1_backward: latent_slope"),
    "edges beyond a radius": (
        "for (int n = 0; n < REALS_16; ++n) value[n] *= gate;\n    store_wide(row_of(rows",
        "store_wide(row_of(rows",
        "inside_2_backward: denv",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["double", "single", "mixed"])
@pytest.mark.parametrize("what", SPOILED)
def test_a_wrong_gate_would_be_found(what, precision):
    right, wrong, stage = SPOILED[what]
    model = legacy_model("replaced_layer_cutoffs")

    def spoiled(source):
        assert right in source
        return source.replace(right, wrong)

    potential = computed(model, legacy_structure("replaced_layer_cutoffs", "triclinic"), precision, source=spoiled)
    assert stage in over_bounds(replay(potential), precision)


def test_a_write_outside_of_an_array_is_found_at_its_launch():
    model = deep_model("deep")

    def spoiled(source):
        right = "  pairs[z] = pair;\n"
        assert right in source
        return source.replace(right, right + "  if (z == 0) pairs[capacity] = pair;\n")

    with pytest.raises(AssertionError, match=r"edge_geometry.* wrote outside of pairs"):
        computed(model, random_structure(8, model, num_atoms=8), "single", source=spoiled)
