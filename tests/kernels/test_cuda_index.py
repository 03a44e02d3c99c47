"""Index kernels of the CUDA potential, run on the CPU: the edges of chunks, and results set to zero."""

from __future__ import annotations

import functools
import mmap
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from support.cuda_center_module import EdgeModule
from support.potential import make_system
from support.random_models import random_model, random_structure

from allegro_sim.kernels.numba_cuda.control import FOUND, WORDS

MAP_NORESERVE = 0x4000


@functools.cache
def module_of(**settings) -> EdgeModule:
    return EdgeModule(random_model(3, per_pair_cutoffs=True, num_types=3, l_max=1, num_layers=1), "double", **settings)


def edges_by_numpy(system, neighbors, reaches):
    """Centre and neighbour of every edge, in the list's order, each operation rounded on its own."""
    i = np.repeat(np.arange(system.num_owned), np.diff(neighbors.row_offsets))
    j = neighbors.indices.astype(np.int64)
    n = (system.images[j] - system.images[i]).astype(np.float64)
    cell = system.cell.vectors
    shift = (n[:, 0:1] * cell[0] + n[:, 1:2] * cell[1]) + n[:, 2:3] * cell[2]
    r = (system.positions[j] - system.positions[i]) + shift
    squared = (r[:, 0] ** 2 + r[:, 1] ** 2) + r[:, 2] ** 2
    within = ~(squared >= reaches[system.types[i], system.types[j]] ** 2)
    return i[within], j[within]


def make_case():
    """Atoms in a periodic cell with the program's own list, which has a skin."""
    model = module_of().model
    return make_system(model, random_structure(5, model, num_atoms=90), 0.6)


def make_rows(lengths):
    """Rows of these lengths, each of any atoms in any order, about half of them within reach."""
    rng = np.random.default_rng(1)
    system = SimpleNamespace(
        positions=rng.uniform(-2.0, 2.0, (150, 3)), images=rng.integers(-1, 2, (150, 3)).astype(np.int32),
        types=rng.integers(0, 3, 150).astype(np.int32), cell=SimpleNamespace(vectors=rng.uniform(0.3, 1.5, (3, 3))),
        num_owned=len(lengths),
    )  # fmt: skip
    rows = [rng.permutation(150)[:length] for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return system, SimpleNamespace(row_offsets=offsets, indices=np.concatenate(rows).astype(np.int32))


CASES = {"list": make_case, "rows": lambda: make_rows([0, 1, 31, 32, 33, 63, 64, 65, 0, 127, 128, 129, 150])}


def arrays_of(system, neighbors, module):
    return {
        "positions": system.positions, "images": system.images, "types": system.types,
        "cell": system.cell.vectors.copy(), "reaches": np.ascontiguousarray(module.model.reaches),
        "row_offsets": neighbors.row_offsets, "indices": neighbors.indices,
        "counts": np.full(system.num_owned, -1, np.int32),
    }  # fmt: skip


def count(module, arrays):
    module.launch("count_edges", arrays, owned=len(arrays["counts"]))
    return arrays["counts"]


def check_edges(module, system, neighbors):
    """Counts, and the edges of three chunks, are NumPy's, and nothing else is touched."""
    centers, others = edges_by_numpy(system, neighbors, module.model.reaches)
    arrays = arrays_of(system, neighbors, module)
    counts = count(module, arrays)
    assert np.array_equal(counts, np.bincount(centers, minlength=system.num_owned))
    assert 0 < counts.sum() < neighbors.row_offsets[-1]  # the skin is dropped

    cut = system.num_owned // 2
    arrays["chunk_centers"] = np.array([0, cut, cut + 1, system.num_owned], np.int32)
    for chunk, (start, end) in enumerate(pairwise(arrays["chunk_centers"])):
        first = np.concatenate([[0], np.cumsum(counts[start:end])]).astype(np.int32)
        edge_center, edge_neighbor = np.full((2, 2048), -7, np.int32)
        arrays |= {"first": first, "edge_center": edge_center, "edge_neighbor": edge_neighbor}
        module.launch("fill_edges", arrays, chunk=chunk, capacity=2048)
        here = (centers >= start) & (centers < end)
        assert np.array_equal(edge_center[: first[-1]], centers[here] - start)
        assert np.array_equal(edge_neighbor[: first[-1]], others[here])
        assert (edge_center[first[-1] :] == -7).all() and (edge_neighbor[first[-1] :] == -7).all()


@pytest.mark.parametrize("order", ["forward", "random:1"])
@pytest.mark.parametrize("case", CASES)
def test_edges_are_those_of_the_list_within_reach(case, order):
    system, neighbors = CASES[case]()
    system.positions[7] += 0.2  # since the list was built
    check_edges(module_of() if order == "forward" else module_of(order=order), system, neighbors)


def test_edges_beyond_the_capacity_are_not_written():
    """Nor any where there is room for none, as in a step that does not go on."""
    module, (system, neighbors) = module_of(), make_case()
    arrays = arrays_of(system, neighbors, module)
    starts = np.concatenate([[0], np.cumsum(count(module, arrays))])
    centers, others = edges_by_numpy(system, neighbors, module.model.reaches)
    arrays["chunk_centers"] = np.array([0, system.num_owned], np.int32)
    for capacity in (int(starts[-1]) // 2, 0):
        edge_center, edge_neighbor = np.full((2, capacity + 50), -7, np.int32)
        arrays |= {"edge_center": edge_center, "edge_neighbor": edge_neighbor}
        arrays["first"] = np.minimum(starts, capacity).astype(np.int32)
        module.launch("fill_edges", arrays, chunk=0, capacity=capacity)
        assert (edge_center[capacity:] == -7).all() and (edge_neighbor[capacity:] == -7).all()
        assert np.array_equal(edge_center[:capacity], centers[:capacity])
        assert np.array_equal(edge_neighbor[:capacity], others[:capacity])


def test_a_distance_that_is_not_a_number_is_an_edge():
    """So that it shows in the energy, and the guard finds it."""
    module, (system, neighbors) = module_of(), make_case()
    system.positions[4, 2] = np.nan
    counts = count(module, arrays_of(system, neighbors, module))
    assert counts[4] == neighbors.row_offsets[5] - neighbors.row_offsets[4]


def test_places_in_the_list_may_exceed_32_bits():
    module, (system, neighbors) = module_of(), make_case()
    arrays = arrays_of(system, neighbors, module)
    expected = count(module, arrays).copy()
    start, length = 2**31 + 11, len(neighbors.indices)
    # Memory that is not there until it is touched.
    memory = mmap.mmap(-1, 4 * (start + length), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    far = np.frombuffer(memory, np.int32)
    far[start:] = neighbors.indices
    arrays |= {"indices": far, "row_offsets": neighbors.row_offsets + start}
    arrays["counts"][:] = -1
    assert np.array_equal(count(module, arrays), expected)


@pytest.mark.parametrize("rows", [0, 1, 300])
@pytest.mark.parametrize("atom_virials", [False, True])
def test_results_are_cleared_unless_the_step_does_not_go_on(rows, atom_virials):
    virial_rows = max(rows, 1) if atom_virials else 1
    shapes = {
        "forces": ((rows, 3), np.int64), "virial_words": ((9, 2), np.int64),
        "atom_virials": ((virial_rows, 9), np.int64), "faults": ((rows,), np.uint8), "status": ((8,), np.int32),
    }  # fmt: skip
    # Ten numbers of each array are beyond its end.
    arrays = {name: np.full(int(np.prod(shape)) + 10, 7, dtype) for name, (shape, dtype) in shapes.items()}
    control = np.zeros(WORDS, np.int64)
    control[FOUND] = 1
    module_of().launch("clear_results", arrays | {"control": control}, rows=rows, virial_rows=virial_rows)
    assert all((values == 7).all() for values in arrays.values())
    control[FOUND] = 0
    module_of().launch("clear_results", arrays | {"control": control}, rows=rows, virial_rows=virial_rows)
    for values in arrays.values():
        assert not values[:-10].any() and (values[-10:] == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["address", "undefined", "thread"])
def test_sanitizers(sanitize):
    for case in CASES.values():
        check_edges(module_of(sanitize=sanitize), *case())
