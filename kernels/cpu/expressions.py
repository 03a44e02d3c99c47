"""Arithmetic written once for float32, float64 and vectors of either, compiled inline into the kernels.

`inline` turns a Python function over `Expression`s into a function that kernels call like any other:

    def _sigmoid(x):
        return 1.0 / (1.0 + _exp(-x))

    sigmoid = inline(_sigmoid)

The body runs once for each type of argument, while the kernel is compiled, and emits instructions of exactly that type:
constants take the type of the other operand. Every operation is one IEEE operation, `fma` is fused on every machine,
and no fast-math flag is set, so the compiler may vectorise but never change a bit: a result does not depend on the
place of its element in a loop, on the width of the machine's vectors, or on which of its cores ran it.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FLOAT = ir.FloatType()
DOUBLE = ir.DoubleType()


class Expression:
    """A value of the code being generated: a float32 or float64 scalar, a vector of them, or a comparison of such."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    @property
    def element(self) -> ir.Type:
        """Scalar type of the elements."""
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    @property
    def is_single(self) -> bool:
        return self.element == FLOAT

    def constant(self, number: float) -> Expression:
        """`number` in the type of this expression."""
        return Expression(self.builder, _constant(self.value.type, number))

    def _same(self, other: Expression | float) -> ir.Value:
        return other.value if isinstance(other, Expression) else _constant(self.value.type, other)

    def _binary(self, name: str, left: Any, right: Any) -> Expression:
        return Expression(self.builder, getattr(self.builder, name)(left, right))

    def __add__(self, other: Expression | float) -> Expression:
        return self._binary("fadd", self.value, self._same(other))

    def __radd__(self, other: float) -> Expression:
        return self._binary("fadd", self._same(other), self.value)

    def __sub__(self, other: Expression | float) -> Expression:
        return self._binary("fsub", self.value, self._same(other))

    def __rsub__(self, other: float) -> Expression:
        return self._binary("fsub", self._same(other), self.value)

    def __mul__(self, other: Expression | float) -> Expression:
        return self._binary("fmul", self.value, self._same(other))

    def __rmul__(self, other: float) -> Expression:
        return self._binary("fmul", self._same(other), self.value)

    def __truediv__(self, other: Expression | float) -> Expression:
        return self._binary("fdiv", self.value, self._same(other))

    def __rtruediv__(self, other: float) -> Expression:
        return self._binary("fdiv", self._same(other), self.value)

    def __neg__(self) -> Expression:
        return Expression(self.builder, self.builder.fneg(self.value))

    def __lt__(self, other: Expression | float) -> Expression:
        return Expression(self.builder, self.builder.fcmp_ordered("<", self.value, self._same(other)))

    def __gt__(self, other: Expression | float) -> Expression:
        return Expression(self.builder, self.builder.fcmp_ordered(">", self.value, self._same(other)))


def _constant(kind: ir.Type, number: float | int) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _integers(kind: ir.Type) -> ir.Type:
    """The integer type of as many bits as `kind`."""
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    integer = ir.IntType(32 if element == FLOAT else 64)
    return ir.VectorType(integer, kind.count) if isinstance(kind, ir.VectorType) else integer


def llvm_name(kind: ir.Type) -> str:
    """How LLVM's overloaded functions call a type: f32, v16f32, ..."""
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    name = "f32" if element == FLOAT else "f64"
    return f"v{kind.count}{name}" if isinstance(kind, ir.VectorType) else name


def _call(operation: str, *arguments: Expression) -> Expression:
    builder, kind = arguments[0].builder, arguments[0].value.type
    signature = ir.FunctionType(kind, [kind] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{operation}.{llvm_name(kind)}")
    return Expression(builder, builder.call(function, [argument.value for argument in arguments]))


def fma(a: Expression, b: Expression | float, c: Expression | float) -> Expression:
    """a b + c, rounded once."""
    return _call("fma", a, *(x if isinstance(x, Expression) else a.constant(x) for x in (b, c)))


def absolute(x: Expression) -> Expression:
    return _call("fabs", x)


def copysign(x: Expression, sign: Expression) -> Expression:
    """|x| with the sign of `sign`."""
    return _call("copysign", x, sign)


def select(condition: Expression, a: Expression | float, b: Expression | float) -> Expression:
    """a where the comparison holds, else b (also where it compared a NaN)."""
    like = a if isinstance(a, Expression) else b
    assert isinstance(like, Expression)
    builder = condition.builder
    return Expression(builder, builder.select(condition.value, like._same(a), like._same(b)))


def clamp(x: Expression, low: float, high: float) -> Expression:
    """x held within [low, high]; a NaN stays."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def horner(x: Expression, coefficients: tuple[float, ...]) -> Expression:
    """coefficients[0] + coefficients[1] x + ... by fused multiply-adds."""
    result = x.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = fma(result, x, coefficient)
    return result


# Rounding to integers without leaving floating point: adding this number leaves the integer in the low bits of the sum.
def _shifter(x: Expression) -> float:
    return 1.5 * 2.0**23 if x.is_single else 1.5 * 2.0**52


def round_shifted(x: Expression, factor: float = 1.0) -> tuple[Expression, Expression]:
    """n = x factor rounded to an integer: (n as a float, n in the low bits of a float). |n| < 2^22 (float32), 2^51."""
    shifted = fma(x, factor, _shifter(x))
    return shifted - _shifter(x), shifted


def scale_by_power(x: Expression, shifted: Expression) -> Expression:
    """x 2^n, n in the low bits of `shifted` (from `round_shifted`); x and the result are normal numbers."""
    builder, kind = x.builder, x.value.type
    integers = _integers(kind)
    exponent = builder.shl(builder.bitcast(shifted.value, integers), _constant(integers, 23 if x.is_single else 52))
    return Expression(builder, builder.bitcast(builder.add(builder.bitcast(x.value, integers), exponent), kind))


def low_bit(shifted: Expression, bit: int) -> Expression:
    """Whether the given bit of the integer in the low bits of `shifted` is set."""
    builder = shifted.builder
    integers = _integers(shifted.value.type)
    masked = builder.and_(builder.bitcast(shifted.value, integers), _constant(integers, 1 << bit))
    return Expression(builder, builder.icmp_signed("!=", masked, _constant(integers, 0)))


def split_exponent(x: Expression, low: float) -> tuple[Expression, Expression]:
    """x = m 2^e with low <= m < 2 low, for positive normal x of type float64: (m, e), both floats."""
    builder, kind = x.builder, x.value.type
    integers = _integers(kind)
    low_bits = struct.unpack("<q", struct.pack("<d", low))[0]
    offset = builder.sub(builder.bitcast(x.value, integers), _constant(integers, low_bits))
    exponent = builder.ashr(offset, _constant(integers, 52))
    mantissa = builder.sub(builder.bitcast(x.value, integers), builder.shl(exponent, _constant(integers, 52)))
    return Expression(builder, builder.bitcast(mantissa, kind)), Expression(builder, builder.sitofp(exponent, kind))


def real_type(kind: types.Type) -> bool:
    """Whether a Numba type is a float, or a vector of floats (`kernels.cpu.simd`)."""
    return kind in (types.float32, types.float64) or getattr(kind, "is_simd", False)


def inline(function: Callable[..., Any]) -> Any:
    """Make `function` over `Expression`s callable from kernels; it returns one value or a tuple of values.

    All arguments are cast to the type of the first, which is float32, float64 or a vector.
    """
    results = _number_of_results(function)

    def typer(typing_context: Any, *kinds: Any) -> Any:
        first = kinds[0]
        if not real_type(first):
            return None

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            made = function(*(Expression(builder, value) for value in values))
            if results == 1:
                return made.value
            return context.make_tuple(builder, signature.return_type, [part.value for part in made])

        result = first if results == 1 else types.UniTuple(first, results)
        return result(*([first] * len(kinds))), generate

    typer.__name__ = function.__name__.lstrip("_")
    typer.__doc__ = function.__doc__
    # Numba folds the arguments of a call by this signature; it would make a tuple of them for `*kinds`.
    parameters = ["typing_context", *inspect.signature(function).parameters]
    typer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in parameters]
    )
    return intrinsic(typer)


def _number_of_results(function: Callable[..., Any]) -> int:
    """Run the function once on dummies, to see how many values it returns."""
    count = len(inspect.signature(function).parameters)
    probe = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), [DOUBLE] * count), "probe")
    builder = ir.IRBuilder(probe.append_basic_block())
    made = function(*(Expression(builder, argument) for argument in probe.args))
    return len(made) if isinstance(made, tuple) else 1
