"""The neighbour list on one rank, where periodic images are ghosts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.neighborhoods import KINDS, check_case, random_case

from allegro_sim.cell import Cell
from allegro_sim.errors import StructureError
from allegro_sim.neighbors import NeighborList, check_overlaps
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.domain import Domain
from allegro_sim.system import System

COMM = SerialComm()


def build(
    positions: np.ndarray, cell: Cell, cutoff: float = 3.0, skin: float = 0.0
) -> tuple[System, NeighborList, Domain]:
    count = len(positions)
    system = System(cell, np.ones(1), count)
    system.set_owned(np.arange(count), np.zeros(count), positions, np.zeros((count, 3)))
    neighbors = NeighborList(np.array([[cutoff]]), skin)
    domain = Domain(COMM, cell, neighbors)
    domain.rebuild(system)
    return system, neighbors, domain


@settings(max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(0, 40),
    skin=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_list_equals_brute_force(kind: str, count: int, skin: float, seed: int) -> None:
    check_case(COMM, random_case(kind, count, skin, seed), seed)


@pytest.mark.parametrize(("fraction", "expected"), [(0.999999, False), (1.000001, True)])
def test_rebuild_is_due_when_an_atom_has_moved_half_the_skin(fraction: float, expected: bool) -> None:
    system, neighbors, _ = build(
        np.random.default_rng(0).uniform(0, 12, (50, 3)), Cell(np.eye(3) * 12.0, True), skin=0.8
    )
    assert not neighbors.must_rebuild(system, COMM)
    system.positions[17] += fraction * 0.4 * np.array([2.0, -1.0, 2.0]) / 3.0
    assert neighbors.must_rebuild(system, COMM) is expected


def test_without_a_skin_rebuild_is_always_due() -> None:
    system, neighbors, _ = build(np.zeros((1, 3)), Cell(None, False))
    assert neighbors.must_rebuild(system, COMM)


def test_flags_travel_with_the_rebuild_question() -> None:
    system, neighbors, _ = build(np.zeros((1, 3)), Cell(None, False), skin=1.0)
    assert not neighbors.must_rebuild(system, COMM) and neighbors.reduced_flags == 0.0
    assert not neighbors.must_rebuild(system, COMM, flags=2.0) and neighbors.reduced_flags == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("periodic", [True, False])
def test_positions_that_are_not_finite_are_flagged_and_crash_nothing(bad: float, periodic: bool) -> None:
    cell = Cell(np.eye(3) * 10.0, periodic)
    system, neighbors, domain = build(np.random.default_rng(1).uniform(0, 10, (30, 3)), cell, skin=0.5)
    row = int(np.flatnonzero(system.ids[:30] == 7)[0])
    system.positions[row, 1] = bad
    assert neighbors.must_rebuild(system, COMM)
    assert neighbors.reduced_flags >= 1.0
    domain.rebuild(system)
    assert system.num_owned == 30
    assert 7 not in system.ids[neighbors.indices]
    row = int(np.flatnonzero(system.ids[:30] == 7)[0])
    assert neighbors.row_offsets[row] == neighbors.row_offsets[row + 1]


def test_memory_follows_the_atoms_not_the_empty_space() -> None:
    """Two dense droplets and a lone atom, 1e6 Å apart: a grid over it would not fit in memory."""
    rng = np.random.default_rng(2)
    droplet = rng.uniform(0, 25, (1500, 3))
    positions = np.concatenate([droplet, droplet[::-1] + 1.0e6, [[-1.0e6, 3.0e5, 0.0]]])
    build(droplet, Cell(None, False))  # compiles
    tracemalloc.start()
    _, neighbors, _ = build(positions, Cell(None, False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert neighbors.num_edges == 2 * build(droplet, Cell(None, False))[1].num_edges
    assert peak < 2000 * len(positions)  # bytes; the list itself has about 10 edges an atom


def test_list_grows_with_a_system_that_becomes_denser() -> None:
    cell = Cell(np.eye(3) * 40.0, True)
    system, neighbors, domain = build(np.random.default_rng(3).uniform(0, 40, (200, 3)), cell)
    before = neighbors.num_edges
    system.positions[:200] *= 0.1
    domain.rebuild(system)
    assert neighbors.num_edges > 20 * before
    fresh = build(system.positions[np.argsort(system.ids[:200])], cell)[1]
    assert neighbors.num_edges == fresh.num_edges


def test_two_atoms_at_one_place_are_named() -> None:
    positions = np.random.default_rng(4).uniform(0, 20, (30, 3))
    positions[11] = positions[23] + [20.0, -20.0, 1.0e-5]
    system, neighbors, _ = build(positions, Cell(np.eye(3) * 20.0, True))
    with pytest.raises(StructureError, match=r"atoms 11 and 23 are 1e-05 Å apart"):
        check_overlaps(system, neighbors, COMM)


def test_an_atom_on_its_own_image_is_named() -> None:
    cell = Cell(np.diag([5.0e-4, 3.0, 3.0]), True)
    system, neighbors, _ = build(np.array([[1.0, 1.0, 1.0]]), cell, cutoff=0.01)
    with pytest.raises(StructureError, match=r"atom 0 and its own periodic image are 0\.0005 Å apart"):
        check_overlaps(system, neighbors, COMM)


def test_a_sound_structure_has_no_overlaps() -> None:
    system, neighbors, _ = build(np.array([[0.0, 0, 0], [0.7, 0, 0]]), Cell(None, False))
    check_overlaps(system, neighbors, COMM)


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_a_skin_that_is_no_length_is_refused(skin: float) -> None:
    with pytest.raises(ValueError, match="skin"):
        NeighborList(np.array([[3.0]]), skin)
