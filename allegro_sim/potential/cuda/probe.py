"""Which rows and which workspace cuBLAS may be given, so that an edge's numbers keep their bits. Tried, not believed.

cuBLAS chooses a kernel, and so the order of a sum, by the sizes of a product and by the workspace it has. So every
shape gets the largest workspace with which all rows, and all numbers of rows, give the same bits, which costs speed
where it must be small; and where none does, fewer numbers of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allegro_sim.potential.cuda.chunks import ROW_MULTIPLE, Blocks
from allegro_sim.potential.cuda.plan import Buffer, Matrix, Plan, Product
from allegro_sim.potential.cuda.products import WORKSPACES

if TYPE_CHECKING:
    from allegro_sim.potential.cuda.engine import Executor
    from allegro_sim.potential.cuda.layout import Layout

SHIFT = 37


def unit_rows(multiprocessors: int) -> int:
    """Rows of the smallest block: tiles of 128 rows and 128 columns for every multiprocessor, at 1,024 columns."""
    return ROW_MULTIPLE * max(1, multiprocessors // 8)


def most_units(multiprocessors: int) -> int:
    """The largest block in units of the smallest; an H200 needs some 65,000 rows for the full speed of its products."""
    return max(1, min(32, multiprocessors // 4))


def product_blocks(layout: Layout, executor: Executor) -> tuple[Blocks, bool]:
    """Numbers of rows for the products of a wide model, and whether they keep an edge's bits.

    The same rows at other places, and in products of other sizes, must give the same bits in every shape of product of
    the model; the executor is told the workspace of each. Where not even products of the largest size do so, all sizes
    are allowed, and the answer is no.
    """
    multiprocessors = executor.device.multiprocessors
    unit, most = unit_rows(multiprocessors), most_units(multiprocessors)
    operations = layout.chunk_operations(unit, 1)
    shapes = {(p.inner, p.columns, p.tensor_cores) for p in operations if isinstance(p, Product)}
    allowed = set(range(1, most + 1))
    for shape in sorted(shapes):
        trial, best, chosen = _Trial(layout, executor, unit, most, *shape), set[int](), WORKSPACES[0]
        for nbytes in WORKSPACES:
            executor.choose_workspace(shape, nbytes)
            if len(found := trial.equal_units()) > len(best):
                best, chosen = found, nbytes
            if len(best) == most:
                break
        executor.choose_workspace(shape, chosen)
        allowed &= best
    units = sorted(allowed) or range(1, most + 1)
    return Blocks(tuple(unit * n for n in units)), bool(allowed)


class _Trial:
    """Products of one shape: a block of rows, repeated, so that every repetition must give what the first gives."""

    def __init__(
        self, layout: Layout, executor: Executor, unit: int, most: int, inner: int, columns: int, tensor_cores: bool
    ) -> None:
        self._real, self._executor = layout.real, executor
        self._unit, self._most = unit, most
        self._inner, self._columns, self._tensor_cores = inner, columns, tensor_cores
        rng = np.random.default_rng(0)
        # Ten bits of fraction: a TF32 number, as the operands of tensor cores must be.
        self._block, right = (
            rng.integers(-1023, 1024, shape).astype(layout.real) / 1024.0 for shape in ((unit, inner), (inner, columns))
        )
        self._right = self._array(inner, columns)
        executor.upload(self._right, right)
        self._left, self._out = self._array(most * unit, inner), self._array(most * unit, columns)

    def equal_units(self) -> set[int]:
        """Numbers of units whose products have the bits of the largest; none if its own depend on the place."""
        self._fill(self._block)
        if not self._repeats(self._most):
            return set()
        with self._executor.working():
            expected = self._out[: self._unit].copy()
        found = {self._most}
        for units in range(1, self._most):
            if self._repeats(units) and self._same(self._out[: self._unit], expected):
                found.add(units)
        self._fill(np.roll(self._block, SHIFT, axis=0))
        with self._executor.working():
            shifted = self._executor.arrays.roll(expected, SHIFT, axis=0)
        return {units for units in found if self._repeats(units) and self._same(self._out[: self._unit], shifted)}

    def _array(self, rows: int, columns: int) -> Any:
        return self._executor.allocate(rows * columns, self._real).reshape(rows, columns)

    def _fill(self, block: np.ndarray) -> None:
        self._executor.upload(self._left[: self._unit], block)
        with self._executor.working():
            for n in range(1, self._most):
                self._left[n * self._unit : (n + 1) * self._unit] = self._left[: self._unit]

    def _repeats(self, units: int) -> bool:
        """Compute so many repetitions; whether each has the bits of the first."""
        rows, inner, columns = units * self._unit, self._inner, self._columns
        product = Product(
            Matrix("out", 0, columns), Matrix("left", 0, inner), Matrix("right", 0, columns),
            rows, columns, inner, False, self._tensor_cores,
        )  # fmt: skip
        arrays = {"out": self._out, "left": self._left, "right": self._right}
        buffers = {name: Buffer(name, array.shape, self._real, "edge") for name, array in arrays.items()}
        self._executor.bind(Plan(rows, 1, buffers, (product,), ()), arrays).run_before()
        repeated = self._out[:rows].reshape(units, self._unit, columns)
        return self._same(repeated, repeated[:1])

    def _same(self, a: Any, b: Any) -> bool:
        with self._executor.working():
            return bool((a == b).all())
