"""Bricks, halos and the collection of atoms without MPI: a communicator that knows its number stands for a rank."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.cell import Cell
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.collect import gather_by_id, initial_share
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.decomposition import Decomposition, choose_grid
from allegro_sim.parallel.domain import Domain
from allegro_sim.parallel.migrate import spatial_order
from allegro_sim.system import System


class Pretended(SerialComm):
    """One of several ranks that all hold the same atoms (reductions then give what one rank has)."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def system_of(positions: np.ndarray, cell: Cell) -> System:
    count = len(positions)
    system = System(cell, np.ones(1), count)
    system.set_owned(np.arange(count), np.zeros(count), positions, np.zeros((count, 3)))
    return system


@pytest.mark.parametrize("size", [*range(1, 33), 97, 1024])
def test_every_number_of_ranks_has_a_grid(size: int) -> None:
    for periodic in (np.ones(3, bool), np.zeros(3, bool)):
        assert np.prod(choose_grid(size, np.array([30.0, 40.0, 50.0]), periodic, 5.0)) == size


def test_the_grid_has_the_least_halo() -> None:
    everywhere = np.ones(3, bool)
    assert choose_grid(8, np.array([40.0, 40.0, 40.0]), everywhere, 5.0) == (2, 2, 2)
    assert choose_grid(8, np.array([400.0, 40.0, 40.0]), everywhere, 5.0) == (8, 1, 1)
    assert choose_grid(7, np.array([40.0, 40.0, 90.0]), everywhere, 5.0) == (1, 1, 7)
    # A flat slab that is not periodic along z is not cut along z.
    assert choose_grid(4, np.array([60.0, 60.0, 8.0]), np.array([True, True, False]), 5.0) == (2, 2, 1)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 8])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_each_place_belongs_to_one_brick_and_neighbours_agree(size: int, pbc: tuple[bool, bool, bool]) -> None:
    rng = np.random.default_rng(size)
    cell = Cell(np.diag([10.0, 12.0, 9.0]) + rng.uniform(-3, 3, (3, 3)), pbc)
    positions = rng.uniform(-30, 30, (200, 3))
    bricks = []
    for rank in range(size):
        decomposition = Decomposition(Pretended(rank, size), cell, 4.0)
        decomposition.update_bounds(system_of(positions, cell))
        bricks.append(decomposition)
    fractional = cell.fractional(positions) + cell.wrapping_images(positions)
    owners = bricks[0].rank_of(fractional)
    for rank, decomposition in enumerate(bricks):
        np.testing.assert_array_equal(decomposition.rank_of(fractional), owners)
        lower, upper = decomposition.brick()
        inside = ((fractional >= lower - 1e-12) & (fractional <= upper + 1e-12)).all(axis=1)
        assert inside[owners == rank].all()
        for direction in range(3):
            up, shift = decomposition.neighbor(direction, 1)
            if up is not None:
                assert bricks[up].neighbor(direction, -1) == (rank, -shift)
    assert bricks[0].describe().endswith("halo 4.00 Å")


@pytest.mark.parametrize("value", [0.0, 1.0, np.nextafter(1.0, 0.0), np.nextafter(0.5, 0.0), 0.5, np.nan, -1e-17, 5.0])
def test_faces_and_rounding_errors_stay_inside_the_grid(value: float) -> None:
    cell = Cell(np.eye(3) * 10.0, True)
    decomposition = Decomposition(Pretended(0, 8), cell, 2.0)
    decomposition.update_bounds(system_of(np.zeros((1, 3)), cell))
    assert 0 <= decomposition.rank_of(np.full((1, 3), value))[0] < 8


def test_bounds_follow_atoms_where_nothing_is_periodic() -> None:
    cell = Cell(None, False)
    decomposition = Decomposition(Pretended(0, 4), cell, 2.0)
    positions = np.random.default_rng(0).uniform(-100, 500, (50, 3))
    decomposition.update_bounds(system_of(positions, cell))
    np.testing.assert_array_equal(decomposition.lower, positions.min(axis=0))
    np.testing.assert_array_equal(decomposition.upper, positions.max(axis=0))
    # Atoms beyond the ends, and planes and points of atoms, belong to someone.
    assert 0 <= decomposition.rank_of(np.full((1, 3), 1.0e9))[0] < 4
    decomposition.update_bounds(system_of(np.ones((3, 3)), cell))
    assert 0 <= decomposition.rank_of(np.ones((1, 3)))[0] < 4
    assert all(decomposition.hops(direction) == decomposition.grid[direction] - 1 for direction in range(3))  # type: ignore[index]


def test_isolated_systems_on_one_rank_have_no_ghosts_and_small_cells_have_layers() -> None:
    positions = np.random.default_rng(1).uniform(0, 2, (4, 3))
    for pbc, vectors, layers in ((False, np.eye(3) * 2.0, 0), (True, np.eye(3) * 2.0, 3)):
        system = system_of(positions, Cell(vectors, pbc))
        domain = Domain(SerialComm(), system.cell, NeighborList(np.array([[5.0]]), 0.0))
        domain.rebuild(system)
        assert np.abs(system.images[: system.num_local]).max(initial=0) == layers
        assert (system.num_ghosts == 0) == (layers == 0)


def test_a_force_sum_out_of_range_is_reported_and_never_wraps() -> None:
    system = system_of(np.array([[0.5, 0.5, 0.5]]), Cell(np.eye(3) * 4.0, True))
    domain = Domain(SerialComm(), system.cell, NeighborList(np.array([[1.0]]), 0.0))
    domain.rebuild(system)
    assert system.num_ghosts > 0
    system.forces[: system.num_local] = 2**62
    domain.add_forces(system)
    assert len(system.bad_centres) > 0
    assert (system.ids[system.bad_centres] == 0).all()
    assert (system.forces[: system.num_local] >= 2**62).all()


def test_shares_are_blocks_that_cover_all_atoms_and_arrays_return_in_the_order_of_ids() -> None:
    for count in (0, 1, 5, 100):
        blocks = [np.arange(count)[initial_share(Pretended(rank, 7), count)] for rank in range(7)]
        np.testing.assert_array_equal(np.concatenate(blocks), np.arange(count))
    positions = np.random.default_rng(2).uniform(0, 30, (100, 3))
    system = system_of(positions, Cell(np.eye(3) * 30.0, True))
    Domain(SerialComm(), system.cell, NeighborList(np.array([[4.0]]), 0.5)).rebuild(system)
    assert (system.ids[:100] != np.arange(100)).any()
    gathered = gather_by_id(SerialComm(), system, ["ids", "positions"])
    assert gathered is not None
    np.testing.assert_array_equal(gathered["ids"], np.arange(100))
    assert gathered["positions"].tobytes() == positions.tobytes()


def test_sorting_in_space_brings_neighbours_together() -> None:
    rng = np.random.default_rng(3)
    fractional = rng.random((4000, 3))
    order = spatial_order(fractional, np.full(3, 40.0), 5.0)
    np.testing.assert_array_equal(np.sort(order), np.arange(4000))
    steps = np.linalg.norm(np.diff(fractional[order], axis=0), axis=1)
    shuffled = np.linalg.norm(np.diff(fractional, axis=0), axis=1)
    assert steps.mean() < 0.25 * shuffled.mean()
