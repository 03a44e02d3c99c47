"""Products: right, and every element the same bits whatever rows and columns stand around it."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.kernels.cpu.compilation import kernel
from allegro_sim.kernels.cpu.product import TILE_ROWS, product
from allegro_sim.kernels.cpu.simd import lanes, pad

DTYPES = [np.float32, np.float64]


@kernel(cache=False)
def _product(c, a, a_row, a_step, b, rows, columns, inner, accumulate):
    product(c, 0, columns, a, 0, a_row, a_step, b, 0, columns, rows, columns, inner, accumulate)


def _multiply(a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    c = np.full((len(a), b.shape[1]), np.nan, a.dtype) if start is None else start.copy()
    flat = np.ascontiguousarray(a).ravel()
    _product(c.ravel(), flat, a.shape[1], 1, np.ascontiguousarray(b).ravel(), *c.shape, a.shape[1], start is not None)
    return c


def _operands(rows: int, inner: int, columns: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows + 100 * inner)
    return rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, columns)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 15, 23, TILE_ROWS, 3 * TILE_ROWS + 13])
@pytest.mark.parametrize("inner", [1, 8, 33])
def test_agrees_with_numpy(rows, inner, dtype):
    a, b = _operands(rows, inner, 3 * lanes(dtype), dtype)
    # Rounding of a sum of `inner` products of order one.
    bound = 4.0 * inner * np.finfo(dtype).eps
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert np.allclose(_multiply(a, b), expected, rtol=0, atol=bound)
    assert np.allclose(_multiply(a, b, np.ones_like(expected, dtype)), expected + 1.0, rtol=0, atol=bound + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_rows_around_it(dtype):
    a, b = _operands(71, 19, 2 * lanes(dtype), dtype)
    whole = _multiply(a, b)
    for rows in (1, 2, 5, 11, 24, 70):
        for start in (0, 1, 71 - rows):
            assert np.array_equal(_multiply(a[start : start + rows], b), whole[start : start + rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_does_not_depend_on_the_columns_around_it(dtype):
    width = lanes(dtype)
    a, b = _operands(29, 19, 3 * width, dtype)
    whole = _multiply(a, b)
    assert np.array_equal(_multiply(a, b[:, width : 2 * width]), whole[:, width : 2 * width])
    rolled = np.roll(b, 3, axis=1)
    assert np.array_equal(_multiply(a, rolled), np.roll(whole, 3, axis=1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_may_be_transposed(dtype):
    a, b = _operands(13, 7, lanes(dtype), dtype)
    c = np.empty((13, lanes(dtype)), dtype)
    _product(c.ravel(), np.ascontiguousarray(a.T).ravel(), 1, 13, b.ravel(), *c.shape, 7, False)
    assert np.array_equal(c, _multiply(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_inner_length_in_two_parts_gives_the_same_bits(dtype):
    """Accumulating continues the same chain of multiply-adds."""
    a, b = _operands(25, 30, lanes(dtype), dtype)
    assert np.array_equal(_multiply(a[:, 12:], b[12:], _multiply(a[:, :12], b[:12])), _multiply(a, b))


def test_widths_are_padded_to_whole_vectors():
    assert [pad(width, np.float32) for width in (1, 16, 17)] == [16, 16, 32]
    assert [pad(width, np.float64) for width in (1, 8, 9)] == [8, 8, 16]
