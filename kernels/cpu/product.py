"""Matrix products whose every element is one chain of fused multiply-adds in the order of the inner index.

C[r, c] = sum_k A[r, k] B[k, c] or C += ..., for the edges of a chunk (r), its features (c) and the features before (k).
An element's bits therefore do not depend on the number of rows, on the row's place among them, on the tile that
computed it, on the width of the machine's vectors or on the machine: what a BLAS does not promise.

The work is done by tiles whose sums stay in registers over the whole inner loop: with AVX-512, 24 rows by one vector;
for each k one load of B and 24 multiply-adds that broadcast A from memory. Measured on one core (Zen 5): 105e9
multiply-adds a second in float32 for rows that start at multiples of 64 bytes, against 50e9 where B's rows straddle
cache lines.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .expressions import llvm_name
from .inner import inner_kernel
from .simd import broadcast, element_pointer, load_vector, store_vector, vector_of

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
_HEIGHTS = (24, 8, 4, 2, 1) if _WIDE else (6, 6, 4, 2, 1)
TILE_ROWS = _HEIGHTS[0]
"""Products over a multiple of this many rows are fastest."""


def _emit_tile(builder: ir.IRBuilder, vector: ir.VectorType, rows: int, columns: int, given: Any) -> None:
    """The loop of one tile; `given`: pointers to its corner, strides in elements, inner length, and `accumulate`."""
    c, c_row, a, a_row, a_step, b, b_row, inner, accumulate = given
    integer = cgutils.intp_t
    tile = [(r, v) for r in range(rows) for v in range(columns)]
    places = {
        (r, v): builder.gep(c, [builder.add(builder.mul(integer(r), c_row), integer(v * vector.count))])
        for r, v in tile
    }
    zero = ir.Constant(vector, [0.0] * vector.count)

    entry = builder.block
    load_block = builder.append_basic_block("tile.load")
    loop_block = builder.append_basic_block("tile.loop")
    end_block = builder.append_basic_block("tile.end")
    builder.cbranch(accumulate, load_block, loop_block)
    builder.position_at_end(load_block)
    before = {key: load_vector(builder, place, vector) for key, place in places.items()}
    builder.branch(loop_block)

    builder.position_at_end(loop_block)
    k = builder.phi(integer)
    sums = {key: builder.phi(vector) for key in tile}
    for block, values in ((entry, dict.fromkeys(tile, zero)), (load_block, before)):
        k.add_incoming(integer(0), block)
        for key in tile:
            sums[key].add_incoming(values[key], block)
    b_line = builder.gep(b, [builder.mul(k, b_row)])
    operands = [load_vector(builder, builder.gep(b_line, [integer(v * vector.count)]), vector) for v in range(columns)]
    a_column = builder.gep(a, [builder.mul(k, a_step)])
    kinds = ir.FunctionType(vector, [vector] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kinds, f"llvm.fma.{llvm_name(vector)}")
    results = {}
    for r in range(rows):
        scalar = builder.load(builder.gep(a_column, [builder.mul(integer(r), a_row)]))
        factor = broadcast(builder, scalar, vector)
        for v in range(columns):
            results[r, v] = builder.call(fma, [factor, operands[v], sums[r, v]])
    following = builder.add(k, integer(1))
    k.add_incoming(following, loop_block)
    for key in tile:
        sums[key].add_incoming(results[key], loop_block)
    builder.cbranch(builder.icmp_signed("<", following, inner), loop_block, end_block)

    builder.position_at_end(end_block)
    for key, place in places.items():
        store_vector(builder, results[key], place)


def _tile(rows: int) -> Any:
    """An intrinsic that computes a tile of `rows` rows and 64 bytes of columns; the inner length is at least 1."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing_context, c, c_at, c_row, a, a_at, a_row, a_step, b, b_at, b_row, row, inner, accumulate
    ):
        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            c_array, c_at, c_row, a_array, a_at, a_row, a_step, b_array, b_at, b_row, row, inner, accumulate = values
            c_at = builder.add(c_at, builder.mul(row, c_row))
            a_at = builder.add(a_at, builder.mul(row, a_row))
            c_corner = element_pointer(context, builder, c, c_array, c_at)
            a_corner = element_pointer(context, builder, a, a_array, a_at)
            b_corner = element_pointer(context, builder, b, b_array, b_at)
            parts = 1 if _WIDE else 2  # vectors of the machine in 64 bytes
            vector = vector_of(c.dtype, vector_of(c.dtype).count // parts)
            given = (c_corner, c_row, a_corner, a_row, a_step, b_corner, b_row, inner, accumulate)
            _emit_tile(builder, vector, rows, parts, given)
            return context.get_dummy_value()

        place, boolean = types.intp, types.boolean
        arguments = (c, place, place, a, place, place, place, b, place, place, place, place, boolean)
        return types.void(*arguments), generate

    return tile


_tile_0, _tile_1, _tile_2, _tile_3, _tile_4 = (_tile(height) for height in _HEIGHTS)
_ROWS_0, _ROWS_1, _ROWS_2, _ROWS_3, _ROWS_4 = _HEIGHTS


@inner_kernel
def product(c, c_at, c_row, a, a_at, a_row, a_step, b, b_at, b_row, rows, columns, inner, accumulate):
    """C[r, c] = sum_k A[r, k] B[k, c], or C += ... where `accumulate`.

    c, a, b: float arrays of one dtype; C[r, c] = c[c_at + r c_row + c], A[r, k] = a[a_at + r a_row + k a_step],
    B[k, c] = b[b_at + k b_row + c], all places counted in elements from the array's start. columns: a multiple of
    `simd.lanes`; inner >= 1. C overlaps neither A nor B.
    """
    for column in range(0, columns, 64 // c.itemsize):
        c_here, b_here = c_at + column, b_at + column
        row = 0
        while row + _ROWS_0 <= rows:
            _tile_0(c, c_here, c_row, a, a_at, a_row, a_step, b, b_here, b_row, row, inner, accumulate)
            row += _ROWS_0
        while row + _ROWS_1 <= rows:
            _tile_1(c, c_here, c_row, a, a_at, a_row, a_step, b, b_here, b_row, row, inner, accumulate)
            row += _ROWS_1
        if row + _ROWS_2 <= rows:
            _tile_2(c, c_here, c_row, a, a_at, a_row, a_step, b, b_here, b_row, row, inner, accumulate)
            row += _ROWS_2
        if row + _ROWS_3 <= rows:
            _tile_3(c, c_here, c_row, a, a_at, a_row, a_step, b, b_here, b_row, row, inner, accumulate)
            row += _ROWS_3
        if row + _ROWS_4 <= rows:
            _tile_4(c, c_here, c_row, a, a_at, a_row, a_step, b, b_here, b_row, row, inner, accumulate)
            row += _ROWS_4
