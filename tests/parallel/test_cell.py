"""The cell: any lattice, missing vectors completed, no volume refused."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.cell import Cell
from allegro_sim.errors import StructureError

TRICLINIC = np.array([[5.0, 0.3, -1.0], [1.0, 6.0, 0.5], [-2.0, 0.7, 7.0]])


@pytest.mark.parametrize("vectors", [TRICLINIC, TRICLINIC[[1, 0, 2]], np.diag([3.0, 4.0, 5.0])])
def test_volume_heights_and_fractional_coordinates(vectors: np.ndarray) -> None:
    cell = Cell(vectors, True)
    assert cell.fully_periodic
    assert cell.volume == pytest.approx(abs(np.linalg.det(vectors)), rel=1e-14)
    for k in range(3):
        area = np.linalg.norm(np.cross(vectors[(k + 1) % 3], vectors[(k + 2) % 3]))
        assert cell.heights[k] == pytest.approx(cell.volume / area, rel=1e-13)
    fractional = np.random.default_rng(0).uniform(-3.0, 3.0, (20, 3))
    np.testing.assert_allclose(cell.fractional(fractional @ vectors), fractional, atol=1e-13)


def test_wrapping_images_carry_periodic_directions_into_the_cell_and_leave_others() -> None:
    cell = Cell(TRICLINIC, (True, False, True))
    positions = np.random.default_rng(1).uniform(-50.0, 50.0, (100, 3))
    images = cell.wrapping_images(positions)
    assert images.dtype == np.int32 and not images[:, 1].any()
    wrapped = cell.fractional(cell.wrapped(positions))
    assert (wrapped[:, [0, 2]] > -1e-12).all() and (wrapped[:, [0, 2]] < 1.0 + 1e-12).all()
    assert not cell.wrapping_images(np.full((1, 3), np.nan)).any()


def test_fractional_coordinates_do_not_depend_on_the_place_in_the_array() -> None:
    cell = Cell(TRICLINIC, True)
    positions = np.random.default_rng(2).normal(size=(37, 3)) * 100.0
    single = np.concatenate([cell.fractional(row[None]) for row in positions])
    assert single.tobytes() == cell.fractional(positions).tobytes()


@pytest.mark.parametrize("missing", [None, np.zeros((3, 3))])
def test_a_cluster_without_a_cell_gets_unit_vectors(missing: np.ndarray | None) -> None:
    cell = Cell(missing, False)
    assert cell.given is None and not cell.fully_periodic
    np.testing.assert_array_equal(cell.vectors, np.eye(3))


@pytest.mark.parametrize("absent", [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
def test_missing_vectors_are_completed_by_orthogonal_unit_vectors(absent: list[int]) -> None:
    vectors = TRICLINIC.copy()
    vectors[absent] = 0.0
    pbc = np.ones(3, bool)
    pbc[absent] = False
    cell = Cell(vectors, pbc)
    present = [k for k in range(3) if k not in absent]
    np.testing.assert_array_equal(cell.vectors[present], TRICLINIC[present])
    np.testing.assert_allclose(cell.vectors[absent] @ cell.vectors[absent].T, np.eye(len(absent)), atol=1e-14)
    np.testing.assert_allclose(cell.vectors[absent] @ cell.vectors[present].T, 0.0, atol=1e-14)
    assert cell.given is not None and (cell.given == vectors).all()


@pytest.mark.parametrize(
    ("vectors", "pbc", "message"),
    [
        (None, True, "cell vector a is zero: the cell has no volume"),
        (np.diag([5.0, 0.0, 5.0]), (True, True, False), "cell vector b is zero"),
        ([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]], True, "lie in one plane"),
        ([[1.0, 0, 0], [2, 0, 0], [0, 0, 0]], (True, True, False), "parallel"),
        ([[1.0, 0, 0], [0, np.nan, 0], [0, 0, 1]], True, "not finite"),
        (np.eye(2), True, "three vectors"),
    ],
)
def test_a_cell_without_volume_is_refused(vectors: object, pbc: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Cell(vectors, pbc)  # type: ignore[arg-type]
