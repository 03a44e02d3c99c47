"""The CUDA potential end to end on a CPU: its kernels, plan and orchestration, against upstream and the reference.

Kernels are compiled by g++ for each model and precision (some seconds, then kept).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support.bits import bits, by_atom, cluster, same
from support.cuda_golden import FAST_BUILD, PRECISIONS, golden_cases
from support.cuda_harness import HostExecutor, cuda_potential, evaluate
from support.cuda_runner import CpuModule
from support.golden import STRUCTURES, assert_agrees, golden_model, golden_structure
from support.potential import make_system
from support.random_models import random_model, random_structure

from allegro_sim.cell import Cell
from allegro_sim.errors import DeviceError
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.potential.cuda import engine as engine_module
from allegro_sim.potential.cuda.chunks import ChunkTable
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import Launch
from allegro_sim.potential.cuda.potential import CudaPotential

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def compiled_ahead(request):
    """Modules of the golden cases are compiled on another core, one after the other, before they are needed."""
    wanted = [
        item.callspec.params
        for item in request.session.items
        if item.function is test_forces_are_upstreams and not any(item.iter_markers("skip"))
    ]

    def build(case):
        CpuModule(Layout(golden_model(case["name"]), case["precision"]).source, optimize=FAST_BUILD)

    with ThreadPoolExecutor(1) as pool:
        for case in wanted:
            pool.submit(build, case)
        yield
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("name", "precision"), list(golden_cases(*PRECISIONS)))
def test_forces_are_upstreams(name, precision, compiled_ahead):
    """All five structures: periodic, a cell smaller than the cutoff, a cluster, a single pair, isolated atoms."""
    model = golden_model(name)
    potential = cuda_potential(model, precision, optimize=FAST_BUILD)
    usual = np.sqrt(np.mean(np.concatenate([golden_structure(name, s).forces for s in STRUCTURES]) ** 2))
    for structure in STRUCTURES:
        wanted = golden_structure(name, structure)
        found = evaluate(model, precision, wanted.positions, wanted.cell, wanted.pbc, wanted.types, potential=potential)
        if precision == "double":
            assert_agrees(wanted, energies=found.energies, forces=found.forces, virial=found.virial)
            continue
        # float32 features: 1e-5; operands of ten bits: 4e-3, and 2e-2 of the RMS force at most.
        bound = {"single": 1e-5, "mixed": 4e-3}[precision]
        # What is rounded are numbers of the model's usual size: a pair that hardly feels itself is held to a tenth.
        rms = max(np.sqrt(np.mean(wanted.forces**2)), 0.1 * usual)
        assert np.sqrt(np.mean((found.forces - wanted.forces) ** 2)) <= bound * rms
        assert np.abs(found.forces - wanted.forces).max() <= {"single": 1e-4, "mixed": 2e-2}[precision] * rms
        assert np.abs(found.energies - wanted.energies).max() <= bound * max(1.0, np.abs(wanted.energies).max())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_atom_virials_are_those_of_the_reference(precision):
    model = small_model()
    structure = random_structure(11, model, num_atoms=14)
    wanted = evaluate_structure(model, *structure)
    found = evaluate(model, precision, *structure)
    # Of float64 in all but the features; those of "mixed" have ten bits.
    bound = {"double": 1e-9, "single": 1e-5, "mixed": 4e-3}[precision]
    assert np.abs(found.atom_virials - wanted.atom_virials).max() <= bound * np.abs(wanted.atom_virials).max()
    assert np.abs(found.virial - wanted.virial).max() <= bound * np.abs(wanted.virial).max()
    assert np.allclose(found.atom_virials.sum(axis=0), found.virial, rtol=0, atol=1e-9 + bound * 1e-3)


@cache
def small_model():
    """Asymmetric cutoffs, a repulsion, and widths that are no multiples of anything."""
    return random_model(
        5, l_max=2, num_layers=2, zbl=True, per_pair_cutoffs=True, num_tensor_features=5, hidden_width=20
    )


@cache
def reference_bits(precision):
    """One chunk, threads and blocks in order."""
    return bits(cuda_potential(small_model(), precision, chunk_edges=4096), dense())


@cache
def dense():
    return random_structure(2, small_model(), num_atoms=24)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_edges": 128},
        {"chunk_edges": 384},
        {"order": "reverse"},
        {"order": "random:3", "block_order": "reverse"},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_chunks_or_on_the_order_of_threads(options, precision):
    potential = cuda_potential(small_model(), precision, **{"chunk_edges": 4096, **options})
    assert same(bits(potential, dense()), reference_bits(precision))
    assert (potential.engine.table.num_chunks > 1) == (options.get("chunk_edges", 4096) < 4096)


def test_bits_of_scatter_features_do_not_depend_on_chunks_or_on_the_order_of_threads():
    model = replace(small_model(), scatter_features=True)
    one = bits(cuda_potential(model, "mixed", chunk_edges=4096), dense())
    many = cuda_potential(model, "mixed", chunk_edges=128, order="random:3", block_order="reverse")
    assert same(bits(many, dense()), one) and many.engine.table.num_chunks > 1
    assert not same(one, reference_bits("mixed"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_the_skin(precision):
    found = bits(cuda_potential(small_model(), precision, chunk_edges=512), dense(), skin=0.7)
    assert same(found, reference_bits(precision))


def test_bits_of_a_cluster_do_not_depend_on_another_one_far_away():
    """Other centres before it in the list move its edges to other places of tiles and chunks."""
    model = small_model()
    positions, _, _, types = dense()
    alone = bits(cuda_potential(model, "mixed"), (positions, None, np.zeros(3, bool), types))
    both = np.concatenate([positions[:3] + 1000.0, positions])
    together = bits(cuda_potential(model, "mixed"), (both, None, np.zeros(3, bool), np.concatenate([types[:3], types])))
    assert np.array_equal(together[0][3:], alone[0])
    assert np.array_equal(together[1][3:], alone[1])


@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_sanitizers_find_nothing_in_a_whole_evaluation(sanitizer):
    """At most 40 edges or so: each thread's every access is watched."""
    structure = random_structure(2, small_model(), num_atoms=3)
    watched = cuda_potential(small_model(), "mixed", chunk_edges=128, sanitize=sanitizer)
    assert same(bits(watched, structure), bits(cuda_potential(small_model(), "mixed", chunk_edges=128), structure))


# ---------------------------------------------------------------------------------------------------------- chunks


def test_an_overflow_is_found_in_every_chunk_and_forces_are_recomputed():
    """The cluster contracts after its list was built; chunks are such that each has room before, and not after."""
    model = small_model()
    before, after = cluster(1.9), cluster(1.45)
    system, neighbors = make_system(model, before, 1.5)
    potential = cuda_potential(model, "double")
    potential.compute(system, neighbors)
    engine, executor = potential.engine, potential.engine.executor
    earlier = executor.download(engine.arrays["counts"])
    rows = system.ids[:64]
    fresh, edges = make_system(model, after, 0.0)
    later = np.diff(edges.row_offsets)[np.argsort(fresh.ids[:64])][rows]  # a list without a skin holds the edges
    total, ends = np.cumsum(later), [0]
    while total[-1] - total[ends[-1] - 1] * (ends[-1] > 0) > 2 * 129 + later.max():
        ends.append(int(np.searchsorted(total, 128 + total[ends[-1] - 1] * (ends[-1] > 0), side="right")) + 1)
    tight = ChunkTable(np.array([*ends, 64], np.int32), 128, 64, int(earlier.sum()))
    assert np.add.reduceat(earlier, ends).max() <= 128 < np.add.reduceat(later, ends).min()
    assert tight.num_chunks > 3
    engine._take(tight)

    system.positions[:64] = after[0][rows]
    executor.upload(engine.arrays["positions"], system.positions[: system.num_local])
    engine._bound.want(False, False)
    for chunk in range(tight.num_chunks):
        engine._bound.run_before()
        engine._bound.run_chunk(chunk)
        counts = executor.download(engine.arrays["counts"])
        start, end = tight.centers[chunk : chunk + 2]
        needed = engine.overflow(executor.download(engine.arrays["status"]))
        assert needed == counts[start:end].sum() > tight.capacity

    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert engine.table.edges == counts.sum() == later.sum()
    assert same(by_atom(system), bits(cuda_potential(model, "double"), after))


def test_a_chunk_may_fill_up_to_its_last_row_without_overflow():
    """As many edges as rows, and one fewer row than edges."""
    model = small_model()
    system, neighbors = make_system(model, cluster(1.6), 0.0)
    potential = cuda_potential(model, "single", chunk_edges=4096)
    potential.compute(system, neighbors)
    engine, executor = potential.engine, potential.engine.executor
    edges = engine.table.edges
    for rows, needed in ((edges, 0), (edges - 1, edges)):
        arguments = ("first", "status", "control", "counts", "chunk_centers", np.int32(0), np.int32(rows))
        operation = Launch("scan_chunk", 1, 1024, 0, arguments)
        engine.arrays["status"][...] = 0
        executor.run(operation, engine.arrays, {})
        assert engine.overflow(executor.download(engine.arrays["status"])) == needed
        assert executor.download(engine.arrays["first"])[64] == rows


def test_a_centre_with_more_edges_than_a_chunk_makes_one_of_its_own():
    """One atom sees 200 others, which see nobody."""
    model = replace(random_model(3, num_layers=1, l_max=1), cutoffs=np.array([[4.0, 4.0], [0.1, 0.1]]))
    turn, height = np.arange(200) * 2.4, np.linspace(-0.99, 0.99, 200)
    ring = np.sqrt(1 - height**2)
    shell = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1) * np.linspace(2.0, 3.9, 200)[:, None]
    types = np.ones(201, np.int64)
    types[0] = 0
    structure = np.concatenate([np.zeros((1, 3)), shell]), None, np.zeros(3, bool), types
    potential = cuda_potential(model, "double", chunk_edges=128)
    forces, energies, *_ = bits(potential, structure)
    assert potential.engine.table.capacity > 200
    reference = evaluate_structure(model, *structure)
    assert np.abs(energies - reference.energies).max() <= 1e-10 * np.abs(reference.energies).max()
    assert np.abs(forces / 2**40 - reference.forces).max() <= 1e-9 * max(1.0, np.abs(reference.forces).max())


def test_memory_that_runs_out_is_met_by_smaller_chunks_and_then_by_a_clear_error(monkeypatch):
    monkeypatch.setattr(engine_module, "MIN_ROWS", 128)
    structure = cluster(1.6)
    plenty = cuda_potential(small_model(), "single", chunk_edges=4096)
    expected = bits(plenty, structure)
    largest = max(buffer.nbytes for buffer in plenty.engine.plan.buffers.values() if buffer.kind == "edge")
    scarce = cuda_potential(small_model(), "single", chunk_edges=4096, memory_limit=largest * 2 // 3)
    assert same(bits(scarce, structure), expected)
    assert scarce.engine.table.num_chunks > 1
    for prepared, limit, message in (
        (True, 14_000, r"chunks of \d+ edges need [\d.]+ MiB.*and the smallest chunks, of 128 edges, [\d.]+ MiB"),
        (True, 3_000, r"64 atoms and ghosts and their neighbour list need [\d.]+ MiB"),
        (False, 100, r"the model's weights need [\d.]+ MiB"),
    ):
        potential = cuda_potential(small_model(), "single")
        if prepared:
            potential.prepare()
        potential.engine.executor.memory_limit = limit
        with pytest.raises(DeviceError, match="out of memory: " + message):
            bits(potential, structure)


# ------------------------------------------------------------------------------------------------- plan and executor


def test_what_runs_is_the_plan_and_steady_steps_copy_nothing_else():
    model = small_model()
    potential = cuda_potential(model, "single", chunk_edges=256)
    system, neighbors = make_system(model, dense(), 0.5)
    potential.compute(system, neighbors)
    executor, engine = potential.engine.executor, potential.engine
    arrays = len(executor._memory)
    executor.executed.clear()
    executor.copies.clear()
    for _ in range(2):
        potential.compute(system, neighbors)
    plan = engine.plan
    assert executor.executed == 2 * (list(plan.before) + engine.table.num_chunks * list(plan.chunk))
    assert len(executor._memory) == arrays  # nothing is allocated
    local, owned = system.num_local, system.num_owned
    once = [("to the device", 24 * local), ("to the host", 32), ("to the host", 8 * owned), ("to the host", 24 * local)]
    assert executor.copies == 2 * once  # positions; status, energies, forces
    assert all(isinstance(operation, Launch) for operation in executor.executed)


def test_virials_are_added_up_only_where_wanted():
    potential = cuda_potential(small_model(), "double", chunk_edges=4096)
    forces, energies, words, _ = bits(potential, dense(), want_virial=False, want_atom_virials=False)
    expected = reference_bits("double")
    assert np.array_equal(forces, expected[0])
    assert np.array_equal(energies, expected[1])
    assert not words.any()
    assert same(bits(potential, dense()), expected)  # and again with them


def test_isolated_atoms_and_nothing_at_all():
    model = small_model()
    potential = cuda_potential(model, "single")
    positions = np.array([[0.0, 0, 0], [50.0, 0, 0], [51.2, 0, 0], [90.0, 0, 0]])
    types = np.array([0, 1, 0, 1])
    forces, energies, *_ = bits(potential, (positions, None, np.zeros(3, bool), types))
    assert energies[0] == model.shifts[0]
    assert energies[3] == model.shifts[1]
    assert not forces[[0, 3]].any()
    assert forces[[1, 2]].any()
    nothing = bits(potential, (np.zeros((0, 3)), None, np.zeros(3, bool), np.zeros(0, np.int64)))
    assert len(nothing[1]) == 0


def test_not_finite_is_reported_for_the_centres_it_concerns():
    model = small_model()
    system, neighbors = make_system(model, dense(), 0.0)
    potential = cuda_potential(model, "single", chunk_edges=256)
    potential.compute(system, neighbors)
    assert len(system.bad_centres) == 0
    good = system.energies[: system.num_owned].copy()
    row = 7
    lists = [neighbors.indices[a:b] for a, b in zip(neighbors.row_offsets, neighbors.row_offsets[1:], strict=False)]
    involved = {i for i, others in enumerate(lists) if row in others} | {row}
    system.positions[row, 1] = np.nan
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert involved <= set(system.bad_centres.tolist())
    others = np.setdiff1d(np.arange(system.num_owned), list(involved))
    assert np.array_equal(system.energies[others], good[others])


def test_a_new_list_or_system_is_taken_up():
    model = small_model()
    potential = cuda_potential(model, "double", chunk_edges=512)
    evaluator = Evaluator(model, device="cpu", threads=1)
    evaluator.potential = potential
    for seed, atoms in ((2, 24), (3, 40), (4, 9)):
        positions, cell, pbc, types = random_structure(seed, model, num_atoms=atoms)
        found = evaluator.evaluate(types, positions, Cell(cell, pbc))
        wanted = evaluate_structure(model, positions, cell, pbc, types)
        assert np.abs(found.forces - wanted.forces).max() <= 1e-9 * max(1.0, np.abs(wanted.forces).max())


def test_the_description_names_device_path_rows_and_padding():
    potential = cuda_potential(small_model(), "mixed", chunk_edges=256)
    assert "at most 256 edges" in potential.description
    bits(potential, dense())
    text = potential.description
    for part in (
        "CPU runner",
        "TF32 by fused kernels",
        f"{potential.engine.table.num_chunks} chunks",
        "padding",
        "MiB",
    ):
        assert part in text, (part, text)


def test_bad_parameters():
    with pytest.raises(ValueError, match="at least 1"):
        CudaPotential(small_model(), chunk_edges=0, executor=HostExecutor())
