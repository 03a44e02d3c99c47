"""Whether cuBLAS keeps an edge's numbers independent of its place in a product: tried, not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allegro_sim.potential.cuda.plan import Buffer, Matrix, Plan, Product

if TYPE_CHECKING:
    from allegro_sim.potential.cuda.engine import Executor
    from allegro_sim.potential.cuda.layout import Layout

SHIFT = 37


def rows_keep_their_bits(layout: Layout, executor: Executor) -> bool:
    """For every shape of product of the model: the same rows at other places give the same bits."""
    operations = layout.chunk_operations(layout.row_multiple, 1)
    shapes = {(p.rows, p.inner, p.columns, p.tensor_cores) for p in operations if isinstance(p, Product)}
    return all(_keeps(layout, executor, *shape) for shape in sorted(shapes))


def _keeps(layout: Layout, executor: Executor, rows: int, inner: int, columns: int, tensor_cores: bool) -> bool:
    rng = np.random.default_rng(0)
    # Ten bits of fraction: a TF32 number, as the operands of tensor cores must be.
    left, right = (
        rng.integers(-1023, 1024, shape).astype(layout.real) / 1024.0 for shape in ((rows, inner), (inner, columns))
    )
    expected = _product(layout, executor, left, right, tensor_cores)
    shifted = _product(layout, executor, np.roll(left, SHIFT, axis=0), right, tensor_cores)
    return np.array_equal(np.roll(expected, SHIFT, axis=0), shifted)


def _product(layout: Layout, executor: Executor, left: np.ndarray, right: np.ndarray, tensor_cores: bool) -> np.ndarray:
    rows, inner, columns = len(left), len(right), right.shape[1]
    values = {"out": np.zeros((rows, columns), layout.real), "left": left, "right": right}
    buffers = {name: Buffer(name, value.shape, layout.real, "edge") for name, value in values.items()}
    arrays: dict[str, Any] = {}
    for name, value in values.items():
        arrays[name] = executor.allocate(value.size, layout.real).reshape(value.shape)
        executor.upload(arrays[name], value)
    product = Product(
        Matrix("out", 0, columns), Matrix("left", 0, inner), Matrix("right", 0, columns),
        rows, columns, inner, False, tensor_cores,
    )  # fmt: skip
    executor.bind(Plan(rows, 1, buffers, (product,), ()), arrays).run_before()
    return executor.download(arrays["out"])
