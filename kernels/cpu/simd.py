"""Vectors of 64 bytes as values in kernels: 16 float32 or 8 float64, one register with AVX-512, two with AVX2.

The compiler's own vectoriser guards every loop with checks for overlapping arrays, which cost more than the loop
where a loop runs over the few channels of one edge. Here the width is written down instead. Arithmetic on vectors is
`fma`, `times`, `plus` and every function of `elementary`; all of it element-wise, so a lane's bits do not depend on
its neighbours.

Rows that are read and written this way have widths that are multiples of `lanes(dtype)`; `pad` gives them.
Loads and stores take an array (contiguous; of any number of dimensions) and the place of the first element counted
from its start. They do not check bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, register_model

from .expressions import Expression, inline
from .expressions import fma as _fma

VECTOR_BYTES = 64


def lanes(dtype: Any) -> int:
    """Elements of a vector: 16 for float32, 8 for float64."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def pad(width: int, dtype: Any) -> int:
    """`width` rounded up to whole vectors."""
    return -(-width // lanes(dtype)) * lanes(dtype)


class Simd(types.Type):
    """Numba's type of a vector; `dtype` is numba.float32 or numba.float64."""

    is_simd = True

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"simd({dtype})")


@register_model(Simd)
class _SimdModel(PrimitiveModel):
    def __init__(self, manager: Any, kind: Simd) -> None:
        super().__init__(manager, kind, vector_of(kind.dtype))


def vector_of(dtype: types.Float, count: int = 0) -> ir.VectorType:
    """LLVM's vector of `count` elements (0: as many as fill 64 bytes)."""
    element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, count or VECTOR_BYTES * 8 // dtype.bitwidth)


def element_pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, offset: Any) -> Any:
    """Address of the element `offset` places after the array's first."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset], inbounds=True)


def load_vector(builder: ir.IRBuilder, pointer: Any, vector: ir.VectorType) -> ir.Value:
    """Load from an address that is aligned to one element only."""
    size = 4 if vector.element == ir.FloatType() else 8
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)


def store_vector(builder: ir.IRBuilder, value: ir.Value, pointer: Any) -> None:
    size = 4 if value.type.element == ir.FloatType() else 8
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=size)


def broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector with `scalar` in every lane."""
    empty = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(empty, scalar, ir.IntType(32)(0))
    lanes_of_first = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, empty, lanes_of_first)


@intrinsic
def load(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """The vector that starts at array[offset]."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, signature.args[0], *values)
        return load_vector(builder, pointer, vector_of(array.dtype))

    return Simd(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing_context, array, offset, vector):  # type: ignore[no-untyped-def]
    """array[offset : offset + lanes] = vector."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        store_vector(builder, values[2], element_pointer(context, builder, signature.args[0], *values[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def splat(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """array[offset] in every lane."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        scalar = builder.load(element_pointer(context, builder, signature.args[0], *values))
        return broadcast(builder, scalar, vector_of(array.dtype))

    return Simd(array.dtype)(array, types.intp), generate


@intrinsic
def zeros(typing_context, array):  # type: ignore[no-untyped-def]
    """A vector of zeros of the array's dtype."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        vector = vector_of(array.dtype)
        return ir.Constant(vector, [0.0] * vector.count)

    return Simd(array.dtype)(array), generate


@intrinsic
def sum_lanes(typing_context, vector):  # type: ignore[no-untyped-def]
    """Sum of the lanes as float64, by halves: ((0 + n/2) + ...), the same tree always."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        value = _widen(builder, values[0])
        while value.type.count > 1:
            half = value.type.count // 2
            value = builder.fadd(_part(builder, value, 0, half), _part(builder, value, half, half))
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.float64(vector), generate


@intrinsic
def sum_lanes_of_eight(typing_context, a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
    """A vector whose first eight elements are the sums of the lanes of eight vectors (the rest are zeros).

    Neighbouring vectors are halved and joined three times over, in all 21 shuffles and additions instead of eight
    times eight.
    """

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        width = values[0].type.count
        parts = list(values)
        for half in (1, 2, 4):
            blocks = [(i - i % (2 * half), i % (2 * half)) for i in range(width)]
            low = [start + r if r < half else width + start + r - half for start, r in blocks]
            joined = []
            for x, y in zip(parts[::2], parts[1::2], strict=True):
                left, right = (_shuffle(builder, x, y, [lane + shift for lane in low]) for shift in (0, half))
                joined.append(builder.fadd(left, right))
            parts = joined
        total = parts[0]
        if width == 8:
            return total
        total = builder.fadd(_part(builder, total, 0, 8), _part(builder, total, 8, 8))
        return _shuffle(builder, total, ir.Constant(total.type, [0.0] * 8), list(range(16)))

    return a(*([a] * 8)), generate


@intrinsic
def add_widened(typing_context, totals, offset, vector):  # type: ignore[no-untyped-def]
    """totals[offset : offset + lanes] += vector, the sum in float64 whatever the vector holds (totals: float64)."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, signature.args[0], *values[:2])
        value = _widen(builder, values[2])
        store_vector(builder, builder.fadd(load_vector(builder, pointer, value.type), value), pointer)
        return context.get_dummy_value()

    return types.void(totals, types.intp, vector), generate


def _widen(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The vector in float64."""
    if value.type.element == ir.DoubleType():
        return value
    return builder.fpext(value, ir.VectorType(ir.DoubleType(), value.type.count))


def _part(builder: ir.IRBuilder, value: ir.Value, start: int, count: int) -> ir.Value:
    """Lanes start .. start + count of a vector."""
    return _shuffle(builder, value, ir.Constant(value.type, ir.Undefined), list(range(start, start + count)))


def _shuffle(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, places: list[int]) -> ir.Value:
    """The given lanes of x and y, counted through."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


@intrinsic
def fetch_add(typing_context, array, amount):  # type: ignore[no-untyped-def]
    """array[0] before adding `amount` (int64) to it, as one step that no other thread can interrupt."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, signature.args[0], values[0], cgutils.intp_t(0))
        return builder.atomic_rmw("add", pointer, values[1], "monotonic")

    return types.int64(array, types.int64), generate


def _times(a: Expression, b: Expression) -> Expression:
    """a b"""
    return a * b


def _plus(a: Expression, b: Expression) -> Expression:
    """a + b"""
    return a + b


fma = inline(_fma)
times = inline(_times)
plus = inline(_plus)
