"""Numba CUDA kernels in the simulator: the edges of chunks, against the kernel of the CPU."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from support.potential import make_system
from support.random_models import random_model, random_structure

pytestmark = pytest.mark.simulator


def launch(name, grid, *arguments):
    from numba import cuda

    from allegro_sim.kernels.numba_cuda.catalogue import KERNELS

    function, signature = KERNELS[name]
    cuda.jit(signature)(function)[grid, 64](*arguments)


def edges_by_numpy(system, neighbors, cutoffs):
    """Centre and neighbour of every edge, in the list's order, each operation rounded on its own."""
    i = np.repeat(np.arange(system.num_owned), np.diff(neighbors.row_offsets))
    j = neighbors.indices.astype(np.int64)
    n = (system.images[j] - system.images[i]).astype(np.float64)
    cell = system.cell.vectors
    shift = (n[:, 0:1] * cell[0] + n[:, 1:2] * cell[1]) + n[:, 2:3] * cell[2]
    r = (system.positions[j] - system.positions[i]) + shift
    squared = (r[:, 0] ** 2 + r[:, 1] ** 2) + r[:, 2] ** 2
    within = ~(squared >= cutoffs[system.types[i], system.types[j]] ** 2)
    return i[within], j[within]


@pytest.fixture(scope="module")
def case():
    model = random_model(3, per_pair_cutoffs=True, num_types=3)
    system, neighbors = make_system(model, random_structure(5, model, num_atoms=90), 0.6)
    return model, system, neighbors


def list_of(system, neighbors, model):
    return (
        system.positions, system.images, system.types, system.cell.vectors.copy(), model.cutoffs, neighbors.row_offsets,
        neighbors.indices,
    )  # fmt: skip


def test_edges_are_those_of_the_list_within_the_cutoffs(case):
    model, system, neighbors = case
    system.positions[7] += 0.2  # since the list was built
    centers, others = edges_by_numpy(system, neighbors, model.cutoffs)
    counts = np.full(system.num_owned, -1, np.int32)
    launch("count_edges", 2, counts, *list_of(system, neighbors, model))
    assert np.array_equal(counts, np.bincount(centers, minlength=system.num_owned))
    assert counts.sum() < neighbors.num_edges  # the skin is dropped

    chunk_centers = np.array([0, 40, 41, system.num_owned], np.int32)
    for chunk, (start, end) in enumerate(pairwise(chunk_centers)):
        first = np.concatenate([[0], np.cumsum(counts[start:end])]).astype(np.int32)
        edge_center, edge_neighbor = np.full((2, 2048), -7, np.int32)
        arguments = (*list_of(system, neighbors, model), first, chunk_centers, np.int32(chunk))
        launch("fill_edges", 1, edge_center, edge_neighbor, *arguments)
        here = (centers >= start) & (centers < end)
        assert np.array_equal(edge_center[: first[-1]], centers[here] - start)
        assert np.array_equal(edge_neighbor[: first[-1]], others[here])
        assert (edge_center[first[-1] :] == -7).all()  # nothing else is touched


def test_edges_beyond_the_capacity_are_not_written(case):
    model, system, neighbors = case
    counts = np.zeros(system.num_owned, np.int32)
    launch("count_edges", 2, counts, *list_of(system, neighbors, model))
    capacity = int(counts.sum()) // 2
    first = np.minimum(np.concatenate([[0], np.cumsum(counts)]), capacity).astype(np.int32)
    edge_center, edge_neighbor = np.full((2, capacity + 50), -7, np.int32)
    chunk_centers = np.array([0, system.num_owned], np.int32)
    arguments = (*list_of(system, neighbors, model), first, chunk_centers, np.int32(0))
    launch("fill_edges", 2, edge_center[:capacity], edge_neighbor[:capacity], *arguments)
    assert (edge_center[capacity:] == -7).all()
    assert (edge_center[:capacity] >= 0).all()


def test_a_distance_that_is_not_a_number_is_an_edge(case):
    """So that it shows in the energy, and the guard finds it."""
    model, system, neighbors = case
    positions = system.positions.copy()
    positions[4, 2] = np.nan
    counts = np.zeros(system.num_owned, np.int32)
    arguments = (positions, *list_of(system, neighbors, model)[1:])
    launch("count_edges", 2, counts, *arguments)
    assert counts[4] == neighbors.row_offsets[5] - neighbors.row_offsets[4]


class FarAway:
    """A list whose first element has a number beyond 32 bits: what stands before it is never read."""

    START = 2**31 + 11

    def __init__(self, values):
        self.values = values

    def __getitem__(self, place):
        assert place >= self.START
        return self.values[place - self.START]


def test_places_in_the_list_may_exceed_32_bits(case):
    model, system, neighbors = case
    expected, counts = np.zeros((2, system.num_owned), np.int32)
    given = list_of(system, neighbors, model)
    launch("count_edges", 2, expected, *given)
    launch("count_edges", 2, counts, *given[:5], neighbors.row_offsets + FarAway.START, FarAway(neighbors.indices))
    assert np.array_equal(counts, expected)
