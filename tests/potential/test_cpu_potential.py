"""The CPU potential: equal to the readable reference, and its bits a function of the positions alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from support.bits import compute_bits
from support.legacy import legacy_model
from support.potential import make_system, pair_model_structure
from support.random_models import random_model, random_structure

from allegro_sim.cell import Cell
from allegro_sim.errors import DeviceError
from allegro_sim.evaluation import Evaluator
from allegro_sim.kernels.cpu.fixed_point import forces_to_float, words_to_float
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.potential import create_potential

MODELS = {
    "plain": {},
    "l_max 0, one layer": {"l_max": 0, "num_layers": 1},
    "l_max 1, four layers": {"l_max": 1, "num_layers": 4},
    "l_max 2, three layers": {"l_max": 2, "num_layers": 3},
    "l_max 3, three layers": {"l_max": 3, "num_layers": 3},
    "l_max 3, no parity": {"l_max": 3, "num_layers": 3, "parity": False},
    "spline": {"spline": True},
    "spline, repulsion, pair cutoffs": {"spline": True, "zbl": True, "per_pair_cutoffs": True, "num_types": 3},
    "repulsion, pair cutoffs": {"zbl": True, "per_pair_cutoffs": True, "num_types": 3, "cutoff_exponent": 5.5},
    "shared weights": {"individual_irreps": False, "l_max": 3},
    "scatter features": {"scatter_features": True, "num_layers": 4, "l_max": 1, "num_tensor_features": 19},
    "scatter features, shared weights": {"scatter_features": True, "individual_irreps": False, "l_max": 3},
    "scatter features, one layer": {"scatter_features": True, "l_max": 0, "num_layers": 1},
    "no hidden layers": {"hidden_depth": 0},
    "odd widths": {
        "hidden_depth": 2, "hidden_width": 33, "num_scalar_features": 18, "num_tensor_features": 19, "num_bessels": 9,
    },
    "linear": {"activation": "identity", "hidden_depth": 2},
    "wide linear": {"activation": "identity", "hidden_depth": 1, "hidden_width": 40},
    **{name: {"activation": name} for name in ("mish", "gelu", "ssp", "tanh", "sigmoid", "softplus")},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_reference(name, precision):
    model = random_model(7, **MODELS[name])
    positions, cell, pbc, types = random_structure(11, model, num_atoms=14)
    reference = evaluate_structure(model, positions, cell, pbc, types)
    evaluator = Evaluator(model, precision=precision, threads=2)
    result = evaluator.evaluate(types, positions, Cell(cell, pbc), want_atom_virials=True)
    scale = max(1.0, np.abs(reference.forces).max())
    if precision == "double":
        assert np.abs(result.energies - reference.energies).max() <= 1e-10 * max(1.0, np.abs(reference.energies).max())
        assert np.abs(result.forces - reference.forces).max() <= 1e-9 * scale
        assert np.abs(result.virial - reference.virial).max() <= 1e-9 * max(1.0, np.abs(reference.virial).max())
        assert np.abs(result.atom_virials - reference.atom_virials).max() <= 1e-9 * scale
    else:
        error = np.sqrt(np.mean((result.forces - reference.forces) ** 2) / np.mean(reference.forces**2))
        assert error <= 1e-5
        # float32 features: the size of single edges' energies, not of their sum, sets the error.
        assert np.abs(result.energies - reference.energies).max() <= 1e-5 * max(1.0, np.abs(reference.energies).max())
        assert np.abs(result.virial - reference.virial).max() <= 1e-5 * max(1.0, np.abs(reference.virial).max())


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_vectors_of_the_centre_equal_tensors_on_edges(l_max, num_layers):
    """The reference forms every tensor on every edge; the potential only vectors of the centre."""
    model = random_model(l_max, l_max=l_max, num_layers=num_layers, num_tensor_features=3, activation="tanh")
    positions, cell, pbc, types = random_structure(num_layers, model, num_atoms=8)
    reference = evaluate_structure(model, positions, cell, pbc, types)
    result = Evaluator(model, threads=1).evaluate(types, positions, Cell(cell, pbc))
    assert np.abs(result.energies - reference.energies).max() <= 1e-11 * max(1.0, np.abs(reference.energies).max())
    # Forces are sums of some thirty terms rounded to 2^-40 eV/Å each.
    assert np.abs(result.forces - reference.forces).max() <= 1e-10 * max(1.0, np.abs(reference.forces).max())


# Two of the current generation, one of them with `scatter_features`; of the legacy one: channels mixed after and before
# the product, the edge itself in and out, environments mixed, layers with cutoffs of their own (also such that
# an edge beyond one keeps its features), edges beyond cutoffs.
LEGACY = (
    "pair_cutoffs_zbl", "uvvp_collected_so3", "uuulin_self_edge", "environment_linear", "three_layer_cutoffs",
    "lj_beyond_cutoffs", "lj_fancy", "replaced_layer_cutoffs",
)  # fmt: skip


def _of_either_generation(name):
    if name in LEGACY:
        return legacy_model(name)
    return random_model(
        5, l_max=2, num_layers=2, zbl=True, per_pair_cutoffs=True, num_tensor_features=17,
        scatter_features=name == "scatter features",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["current", "scatter features", *LEGACY])
def test_bits_do_not_depend_on_threads_chunks_or_the_list(name, precision):
    model = _of_either_generation(name)
    structure = random_structure(2, model, num_atoms=24)
    expected = compute_bits(model, structure, precision, chunk_edges=10000)
    assert np.abs(expected[0]).max() > 1000
    for options in ({"threads": 3}, {"skin": 0.7}, {"chunk_edges": 1}, {"chunk_edges": 37}):
        result = compute_bits(model, structure, precision, **options)
        assert all(np.array_equal(a, b) for a, b in zip(expected, result, strict=True)), options


@pytest.mark.parametrize("name", ["current", "pair_cutoffs_zbl"])
def test_bits_of_a_cluster_do_not_depend_on_another_one_far_away(name, precision):
    """Other centres before it in the list move its edges to other places of a chunk."""
    model = _of_either_generation(name)
    positions, _, _, types = random_structure(2, model, num_atoms=20 if name == "current" else 9)
    open_pbc = np.zeros(3, bool)
    alone = compute_bits(model, (positions, None, open_pbc, types), precision)
    both = np.concatenate([positions[:3] + 1000.0, positions])
    together = compute_bits(model, (both, None, open_pbc, np.concatenate([types[:3], types])), precision)
    assert np.array_equal(together[0][3:], alone[0])
    assert np.array_equal(together[1][3:], alone[1])


def test_isolated_atoms_and_single_edges(precision):
    model = random_model(3, num_types=2)
    positions = np.array([[0.0, 0, 0], [50.0, 0, 0], [51.2, 0, 0], [90.0, 0, 0]])
    types = np.array([0, 1, 0, 1])
    result = Evaluator(model, precision=precision).evaluate(types, positions, Cell(None, False))
    reference = evaluate_structure(model, positions, None, np.zeros(3, bool), types)
    assert result.energies[0] == model.shifts[0]
    assert result.energies[3] == model.shifts[1]
    assert not result.forces[[0, 3]].any()
    assert np.abs(result.energies - reference.energies).max() <= 1e-5
    assert np.abs(result.forces - reference.forces).max() <= 1e-5
    nothing = Evaluator(model, precision=precision).evaluate(np.zeros(0, np.int64), np.zeros((0, 3)), Cell(None, False))
    assert nothing.energy == 0.0


def test_hundreds_of_edges_a_centre(precision):
    """More than a chunk holds: the workspace grows, the results stay those of the reference."""
    model = random_model(3, num_layers=1, l_max=1)
    structure = pair_model_structure(300)
    forces, energies, *_ = compute_bits(model, structure, precision, chunk_edges=16)
    reference = evaluate_structure(model, *structure)
    assert np.abs(energies - reference.energies).max() <= 1e-5 * np.abs(reference.energies).max()
    assert np.abs(forces_to_float(forces) - reference.forces).max() <= 1e-5 * np.abs(reference.forces).max()
    again = compute_bits(model, structure, precision, chunk_edges=100000)
    assert np.array_equal(forces, again[0])


def test_not_finite_or_out_of_range_is_reported_and_never_wraps(precision):
    model = random_model(3, zbl=True)
    structure = random_structure(4, model, num_atoms=20)
    system, neighbors = make_system(model, structure, 0.0)
    potential = create_potential(model, "cpu", precision, 2)
    potential.compute(system, neighbors)
    assert len(system.bad_centres) == 0
    good = system.energies[: system.num_owned].copy()
    row = 7
    involved = {i for i in range(system.num_owned) if row in _neighbors_of(neighbors, i)} | {row}
    before = system.positions.copy()
    system.positions[row, 1] = np.nan
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert set(system.bad_centres.tolist()) == involved
    others = np.setdiff1d(np.arange(system.num_owned), list(involved))
    assert np.array_equal(system.energies[others], good[others])

    system.positions[:] = before
    neighbor = int(neighbors.indices[neighbors.row_offsets[row]])
    system.positions[row] = system.positions[neighbor] + 1e-9  # the repulsion is far out of range
    system.images[row] = system.images[neighbor]
    potential.compute(system, neighbors)
    assert row in system.bad_centres


def _neighbors_of(neighbors, i):
    return neighbors.indices[neighbors.row_offsets[i] : neighbors.row_offsets[i + 1]].tolist()


def test_virial_is_the_sum_of_atom_virials(precision):
    model = random_model(9)
    _, _, words, virials = compute_bits(model, random_structure(3, model), precision)
    # Each term is rounded to 2^-40 eV.
    assert np.allclose(words_to_float(words), forces_to_float(virials).sum(axis=0), rtol=0, atol=1e-9)


def test_devices_and_precisions():
    model = random_model(1)
    assert create_potential(model, "cpu").device == "cpu"
    mixed, single = (create_potential(model, "cpu", precision) for precision in ("mixed", "single"))
    assert "mixed computed as single" in mixed.description
    assert "mixed" not in single.description
    structure = random_structure(1, model)
    same = zip(compute_bits(model, structure, "mixed"), compute_bits(model, structure, "single"), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    with pytest.raises(DeviceError, match="tpu"):
        create_potential(model, "tpu")
    with pytest.raises(DeviceError, match="half"):
        create_potential(model, "cpu", precision="half")
    with pytest.raises(ValueError, match="at least 1"):
        create_potential(model, "cpu", threads=0)


def test_steady_state_allocates_next_to_nothing(precision):
    """Chunk by chunk, in scratch made once: what is left are small handles for the kernels' arguments."""
    model = random_model(1)
    potential = create_potential(model, "cpu", precision, threads=2)
    system, neighbors = make_system(model, random_structure(1, model, num_atoms=200), 0.3)
    for _ in range(3):
        potential.compute(system, neighbors)
    tracemalloc.start()
    try:
        potential.compute(system, neighbors)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(20):
            potential.compute(system, neighbors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 200_000  # one array of features of this system alone would be 3 MB


def test_memory_does_not_grow_with_the_number_of_edges():
    model = random_model(1)
    small = create_potential(model, "cpu", threads=1, chunk_edges=64)
    scratch = small._workers[0].workspace.features
    system, neighbors = make_system(model, random_structure(1, model, num_atoms=200), 0.0)
    small.compute(system, neighbors)
    assert neighbors.num_edges > 50 * 64
    assert small._workers[0].workspace.features is scratch


@pytest.mark.slow
def test_bits_are_those_of_another_processor(tmp_path):
    """Compiled for a processor without AVX-512, in a process of its own: the same forces and energies, bit for bit."""
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    script = tmp_path / "digest.py"
    script.write_text(DIGEST)
    digests = []
    for settings in ({}, {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2"}):
        environment = os.environ | settings | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout)
    assert digests[0] == digests[1]
    assert len(digests[0]) > 60


DIGEST = """
import hashlib
from support.potential import make_system
from support.random_models import random_model, random_structure
from allegro_sim.potential import create_potential
model = random_model(3, zbl=True, activation="gelu")
system, neighbors = make_system(model, random_structure(5, model, num_atoms=30), 0.3)
for precision in ("single", "double"):
    create_potential(model, "cpu", precision, threads=1).compute(system, neighbors)
    print(hashlib.sha256(system.forces.tobytes() + system.energies[:30].tobytes()).hexdigest())
"""


def test_prepare_compiles_all_that_compute_needs(precision, monkeypatch):
    """By the types of what both hand to the kernels: these are the same whatever was compiled before."""
    from allegro_sim.potential import cpu

    compiled, work = [], cpu.work

    def watched(*arguments):
        compiled.append(tuple(map(numba.typeof, arguments)))
        work(*arguments)

    monkeypatch.setattr(cpu, "work", watched)
    model = random_model(1)
    potential = create_potential(model, "cpu", precision, threads=2)
    potential.prepare()
    system, neighbors = make_system(model, random_structure(1, model), 0.3)
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert len(compiled) > 1
    assert len(set(compiled)) == 1
