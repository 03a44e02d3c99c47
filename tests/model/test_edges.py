"""The brute-force edges are all edges, once each, in canonical order, with the project's exact vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allegro_sim.model.reference import brute_force_edges

CUTOFFS = np.array([[2.5, 2.0], [3.0, 1.5]])


def _by_plain_loops(positions, cell, pbc, types, copies):
    """Every pair and every copy up to `copies` cells away, one after the other."""
    found = []
    ranges = [range(-copies, copies + 1) if periodic else range(1) for periodic in pbc]
    for i, j in itertools.product(range(len(positions)), repeat=2):
        for shift in itertools.product(*ranges):
            if i == j and not any(shift):
                continue
            vector = positions[j] - positions[i] + np.array(shift) @ cell
            if np.linalg.norm(vector) < CUTOFFS[types[i], types[j]]:
                found.append((i, j, *shift))
    return found


def _rows(edges):
    centers, neighbors, shifts, _ = edges
    return [tuple(map(int, row)) for row in np.column_stack([centers, neighbors, shifts])]


@given(seed=st.integers(0, 10**6), pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()), size=st.floats(1.5, 5.0))
def test_edges_are_those_of_plain_loops(seed, pbc, size):
    rng = np.random.default_rng(seed)
    cell = size * (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    positions = rng.uniform(-0.5, 1.5, (3, 3)) @ cell
    types = rng.integers(0, 2, 3)
    edges = brute_force_edges(positions, cell, np.array(pbc), types, CUTOFFS)
    # A skewed cell of 1.5 Å: heights above 0.5 Å, so 3 Å and positions 2 cells apart need 6 + 2 copies.
    copies = int(np.ceil(3.0 * np.linalg.norm(np.linalg.inv(cell), axis=0).max())) + 2
    assert _rows(edges) == _by_plain_loops(positions, cell, pbc, types, copies)


def test_vectors_are_the_projects_bits():
    rng = np.random.default_rng(1)
    cell = 2.3 * (np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3)))
    positions, types = 50.0 * rng.standard_normal((4, 3)), np.array([0, 1, 0, 1])
    centers, neighbors, shifts, vectors = brute_force_edges(positions, cell, np.ones(3, bool), types, CUTOFFS)
    assert len(centers) > 50
    for i, j, n, vector in zip(centers, neighbors, shifts.astype(float), vectors, strict=True):
        for c in range(3):
            shift = (n[0] * cell[0, c] + n[1] * cell[1, c]) + n[2] * cell[2, c]
            assert vector[c] == (positions[j, c] - positions[i, c]) + shift


def test_every_edge_has_its_reverse_where_cutoffs_are_symmetric():
    rng = np.random.default_rng(2)
    cell = 3.0 * (np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3)))
    edges = brute_force_edges(rng.random((4, 3)) @ cell, cell, np.ones(3, bool), np.zeros(4, int), np.full((1, 1), 4.0))
    rows = set(_rows(edges))
    assert rows == {(j, i, -a, -b, -c) for i, j, a, b, c in rows}
    assert len(rows) == len(edges[0])


@pytest.mark.parametrize("count", [0, 1])
def test_no_edges_without_neighbours(count):
    edges = brute_force_edges(np.zeros((count, 3)), None, np.zeros(3, bool), np.zeros(count, int), CUTOFFS)
    assert [array.shape for array in edges] == [(0,), (0,), (0, 3), (0, 3)]


def test_periodic_directions_need_a_cell():
    with pytest.raises(ValueError, match="need a cell"):
        brute_force_edges(np.zeros((1, 3)), None, np.array([True, False, False]), np.zeros(1, int), CUTOFFS)


def test_the_cutoff_itself_is_outside():
    positions = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    centers, _, _, _ = brute_force_edges(positions, None, np.zeros(3, bool), np.array([0, 1]), CUTOFFS)
    assert centers.tolist() == [1]  # cutoffs 2.0 from type 0 to 1, 3.0 from 1 to 0
