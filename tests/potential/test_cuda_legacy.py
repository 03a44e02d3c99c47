"""The CUDA potential on the legacy generation: upstream's numbers, and bits that are a function of positions alone.

Where forces are compared, every stage is held to what it should make of its own inputs, too (support.stage_reference):
that is sharp, where `mixed` against float64 is not.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.bits import bits, by_atom, cluster, relative_rms, same
from support.cuda_harness import cuda_potential, evaluate
from support.golden import assert_agrees
from support.legacy import MODELS, STRUCTURES, legacy_model, legacy_results, legacy_structure, resized_model
from support.potential import make_system
from support.random_models import random_structure
from support.stage_reference import over_bounds, replay

from allegro_sim.model.reference import evaluate_structure
from allegro_sim.tools.importing.legacy import read_legacy_model
from allegro_sim.tools.importing.legacy_source import read_legacy

pytestmark = pytest.mark.simulator

FAST_BUILD = "-O0"

ALWAYS = {
    # Mixing before the product and collected features; frequencies of pairs; cutoffs of layers, scales of pairs;
    # features kept beyond cutoffs.
    ("uvvp_collected_so3", "double"), ("pair_cutoffs_zbl", "single"), ("cosine_layer_cutoffs", "mixed"),
    ("replaced_layer_cutoffs", "double"),
}  # fmt: skip
PRECISIONS = ("double", "single", "mixed")
BOUND = {"double": 1e-9, "single": 1e-5, "mixed": 4e-3}
"""Relative RMS of the forces: sums of float64; float32 features; operands of ten bits."""


def rms_of(forces):
    return np.sqrt(np.mean(forces**2))


def cases():
    for name in MODELS:
        for precision in PRECISIONS:
            marks = () if (name, precision) in ALWAYS else (pytest.mark.slow,)
            yield pytest.param(name, precision, marks=marks)


@pytest.mark.parametrize(("name", "precision"), list(cases()))
def test_forces_are_upstreams(name, precision):
    model = legacy_model(name)
    potential = cuda_potential(model, precision, optimize=FAST_BUILD)
    strongest = max(rms_of(legacy_results(name, structure)["forces"]) for structure in STRUCTURES)
    for structure in STRUCTURES:
        wanted = legacy_results(name, structure)
        found = evaluate(model, precision, *legacy_structure(name, structure), potential=potential)
        if structure == STRUCTURES[0]:
            assert not over_bounds(replay(potential), precision, few_channels=model.num_tensor_features < 4)
        if precision == "double":
            assert_agrees(wanted, energies=found.energies, forces=found.forces, virial=found.virial)
            continue
        # A pair of atoms near its equilibrium has forces that are the difference of much larger ones.
        rms = max(rms_of(wanted["forces"]), 0.1 * strongest)
        assert rms_of(found.forces - wanted["forces"]) <= BOUND[precision] * rms
        assert np.abs(found.forces - wanted["forces"]).max() <= {"single": 1e-4, "mixed": 2e-2}[precision] * rms
        scale = max(1.0, np.abs(wanted["energies"]).max())
        assert np.abs(found.energies - wanted["energies"]).max() <= BOUND[precision] * scale


def agrees_with_reference(model, precision, structure, **options):
    wanted = evaluate_structure(model, *structure)
    potential = cuda_potential(model, precision, optimize=FAST_BUILD, **options)
    found = evaluate(model, precision, *structure, potential=potential)
    assert not over_bounds(replay(potential), precision)
    rms = np.sqrt(np.mean(wanted.forces**2))
    assert relative_rms(found.forces, wanted.forces) <= BOUND[precision]
    assert np.abs(found.forces - wanted.forces).max() <= 5 * BOUND[precision] * max(1.0, rms)
    for name in ("energies", "virial", "atom_virials"):
        expected = getattr(wanted, name)
        assert np.abs(getattr(found, name) - expected).max() <= BOUND[precision] * max(1.0, np.abs(expected).max())


# Channels of more than a warp, in no multiple of eight; mixing on the matrix units (rounding what it reads in `mixed`);
# the environment mixed, in centres; latents collected and rounded by who writes them.
RESIZED = [
    ("cosine_layer_cutoffs", 36, 20, "double"),
    ("pair_cutoffs_zbl", 20, 20, "mixed"),
    ("environment_linear", 18, 17, "single"),
    ("uvvp_collected_so3", 17, 20, "mixed"),
]


@pytest.mark.parametrize(("name", "channels", "scalars", "precision"), RESIZED)
def test_other_widths_agree_with_the_reference(name, channels, scalars, precision):
    model = resized_model(name, channels=channels, scalars=scalars, hidden=24)
    agrees_with_reference(model, precision, random_structure(7, model, num_atoms=6))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param("cosine_layer_cutoffs", "double", marks=pytest.mark.slow),
        ("cosine_layer_cutoffs", "mixed"),
        ("pair_cutoffs_zbl", "mixed"),
        pytest.param("p_l3_collected", "single", marks=pytest.mark.slow),
        pytest.param("p_l3_collected", "mixed", marks=pytest.mark.slow),
        pytest.param("so3_replaced", "mixed", marks=pytest.mark.slow),
        pytest.param("replaced_layer_cutoffs", "mixed", marks=pytest.mark.slow),
    ],
)
def test_wide_mlps_agree_with_the_reference(name, precision):
    """Products by a library, element-wise kernels between them, and who writes an operand rounds it; latents apart from
    the scalar features they are added to, and in one place with them."""
    model = resized_model(name, channels=4, scalars=20, hidden=264)
    agrees_with_reference(model, precision, random_structure(7, model, num_atoms=6))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_large_model_of_sc23_runs(precision):
    """Its 7.85 million weights on ten atoms of five elements, with ordered cutoffs and ZBL."""
    model, wanted = legacy_model("sc23_shape"), legacy_results("sc23_shape", "triclinic")
    potential = cuda_potential(model, precision)
    found = evaluate(model, precision, *legacy_structure("sc23_shape", "triclinic"), potential=potential)
    assert not over_bounds(replay(potential), precision)
    if precision == "double":
        assert_agrees(wanted, energies=found.energies, forces=found.forces, virial=found.virial)
    assert relative_rms(found.forces, wanted["forces"]) <= BOUND[precision]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["si-deployed-neq060dp", "water-gra-film-double", "z020_L2_l1_so3_noresnet",
                                  "z020_L2_l3_restricted", "z030_p_self", "z030_uuup"])  # fmt: skip
def test_deployed_models_are_upstreams(name: str, shared: Path):
    folder = shared / "checkpoints" / "legacy"
    model, _ = read_legacy_model(read_legacy(folder / f"{name}.pth"), {}, [])
    potential = cuda_potential(model, "double", optimize=FAST_BUILD)
    with np.load(folder / f"{name}_golden.npz") as golden:
        for structure in sorted({key.split("/")[0] for key in golden}):
            values = {key.split("/")[1]: golden[key] for key in golden if key.startswith(f"{structure}/")}
            cell = values.get("cell") if values["pbc"].any() else None
            geometry = values["pos"], cell, values["pbc"], values["types"]
            found = evaluate(model, "double", *geometry, potential=potential)
            for result, wanted, bound in (
                (found.energies, values["energies"], 1e-10),
                (found.forces, values["forces"], 1e-9),
            ):
                bound = 2e-5 if model.trained_dtype == "float32" else bound
                assert np.abs(result - wanted).max() <= bound * max(1.0, np.abs(wanted).max())


# --- bits -------------------------------------------------------------------------------------------------------------


@cache
def mixing_model():
    """Sixteen channels and more, so that `mixed` mixes on the matrix units; edges do not see themselves; ZBL."""
    return resized_model("pair_cutoffs_zbl", channels=18, scalars=20, hidden=20)


@cache
def dense(name):
    return random_structure(2, model_of(name), num_atoms=20)


def model_of(name):
    return mixing_model() if name == "mixing" else legacy_model(name)


@cache
def reference_bits(name, precision):
    """One chunk, threads and blocks in order."""
    return bits(cuda_potential(model_of(name), precision, chunk_edges=4096, optimize=FAST_BUILD), dense(name))


@pytest.mark.parametrize(
    "options",
    [{"chunk_edges": 128}, {"chunk_edges": 256}, {"order": "reverse"}, {"order": "random:3", "block_order": "reverse"}],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("mixing", "mixed"),
        pytest.param("mixing", "single", marks=pytest.mark.slow),
        pytest.param("mixing", "double", marks=pytest.mark.slow),
        ("uvvp_collected_so3", "double"),
        pytest.param("environment_linear", "double", marks=pytest.mark.slow),
        pytest.param("three_layer_cutoffs", "single", marks=pytest.mark.slow),
        pytest.param("replaced_layer_cutoffs", "mixed", marks=pytest.mark.slow),
    ],
)
def test_bits_do_not_depend_on_chunks_or_on_the_order_of_threads(name, precision, options):
    potential = cuda_potential(model_of(name), precision, optimize=FAST_BUILD, **{"chunk_edges": 4096, **options})
    assert same(bits(potential, dense(name)), reference_bits(name, precision))
    assert (potential.engine.table.num_chunks > 1) == ("chunk_edges" in options)


def test_bits_do_not_depend_on_the_skin():
    potential = cuda_potential(mixing_model(), "mixed", chunk_edges=512, optimize=FAST_BUILD)
    assert same(bits(potential, dense("mixing"), skin=0.7), reference_bits("mixing", "mixed"))


def test_bits_of_a_cluster_do_not_depend_on_another_one_far_away():
    model, (positions, _, _, types) = mixing_model(), dense("mixing")
    open_pbc = np.zeros(3, bool)
    potential = cuda_potential(model, "mixed", optimize=FAST_BUILD)
    alone = bits(potential, (positions, None, open_pbc, types))
    both = np.concatenate([positions[:3] + 1000.0, positions])
    together = bits(potential, (both, None, open_pbc, np.concatenate([types[:3], types])))
    assert np.array_equal(together[0][3:], alone[0])
    assert np.array_equal(together[1][3:], alone[1])


def test_an_overflow_is_found_and_forces_are_recomputed():
    """A cluster contracts after its list was built, so that chunks of 128 rows are too small."""
    model = legacy_model("uuup_self_edge")
    before, after = cluster(1.9), cluster(1.45)
    system, neighbors = make_system(model, before, 1.5)
    potential = cuda_potential(model, "double", chunk_edges=128, optimize=FAST_BUILD)
    potential.compute(system, neighbors, want_atom_virials=True)
    earlier = potential.engine.table
    system.positions[:64] = after[0][system.ids[:64]]
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert potential.engine.margin > 1.0
    assert potential.engine.table.edges > earlier.edges
    fresh = cuda_potential(model, "double", chunk_edges=4096, optimize=FAST_BUILD)
    assert same(by_atom(system), bits(fresh, after))


def test_isolated_atoms_have_their_shift_and_nothing_is_nothing():
    model = legacy_model("uvvp_collected_so3")
    potential = cuda_potential(model, "double", optimize=FAST_BUILD)
    positions = np.array([[0.0, 0, 0], [50.0, 0, 0], [51.2, 0, 0]])
    forces, energies, *_ = bits(potential, (positions, None, np.zeros(3, bool), np.array([0, 1, 0])))
    assert energies[0] == model.shifts[0]
    assert not forces[0].any() and forces[1:].any()
    nothing = bits(potential, (np.zeros((0, 3)), None, np.zeros(3, bool), np.zeros(0, np.int64)))
    assert len(nothing[1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_sanitizers_find_nothing_in_a_whole_evaluation(sanitizer):
    structure = random_structure(2, mixing_model(), num_atoms=3)
    watched = cuda_potential(mixing_model(), "mixed", chunk_edges=128, sanitize=sanitizer)
    assert same(bits(watched, structure), bits(cuda_potential(mixing_model(), "mixed", chunk_edges=128), structure))
