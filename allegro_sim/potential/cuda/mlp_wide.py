"""MLPs too wide for shared memory: products by cuBLAS, element-wise kernels (kernels/cuda/wide.cu) between them.

Features that are parts of one vector stand in different buffers, so a product is one call a part: columns of the matrix
for each target, rows of it for each source, the second source adding to what the first has made. Nothing is copied.

Products write what an activation is applied to where it stays until the way back, which takes the slope from it: so an
activation reads one array and writes one, and the features between products need room for a block.

An MLP goes through a chunk in blocks of rows, one after the other, all its steps for each: the hidden features need
room for a block alone, and products have none but those numbers of rows for which cuBLAS was found to keep an edge's
bits (`probe.py`), whatever the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from allegro_sim.potential.cuda.mlp_chain import weight_places
from allegro_sim.potential.cuda.mlp_kernel import MlpKernel
from allegro_sim.potential.cuda.mlp_parts import Part, joined
from allegro_sim.potential.cuda.mlp_shapes import Dimensions, MlpShape, kept_buffer
from allegro_sim.potential.cuda.plan import Matrix, Product

_ROWS = 32
"""Edges of a block of an element-wise kernel."""

HIDDEN = ("hidden_0", "hidden_1")
"""Buffers of features between two products, of the rows of a block."""

Operation = MlpKernel | Product


@dataclass(frozen=True)
class Piece:
    """A kernel for rows first_row .. first_row + rows of a chunk."""

    kernel: str
    first_row: int
    rows: int


class WideMlp:
    """One MLP with chunks of as many edges as these blocks have together."""

    def __init__(
        self, dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape, blocks: Sequence[int]
    ) -> None:
        self._dimensions, self._shapes, self._shape, self._blocks = dimensions, shapes, shape, blocks
        self._capacity = sum(blocks)
        self._mixed = dimensions.precision == "mixed"

    def kernels(self, backward: bool) -> list[MlpKernel]:
        """The element-wise kernels."""
        return [step for step in self._steps(backward) if isinstance(step, MlpKernel)]

    def operations(self, backward: bool) -> tuple[Piece | Product, ...]:
        """All steps of one block of rows after the other."""
        found: list[Piece | Product] = []
        steps, first = self._steps(backward), 0
        for rows in self._blocks:
            for step in steps:
                if isinstance(step, MlpKernel):
                    found.append(Piece(step.name, first, rows))
                else:
                    found.append(replace(step, rows=rows, out=_moved(step.out, first), left=_moved(step.left, first)))
            first += rows
        return tuple(found)

    def _steps(self, backward: bool) -> list[Operation]:
        """Those of one block, at the chunk's first rows."""
        return self._backward() if backward else self._forward()

    # --- forward ------------------------------------------------------------------------------------------------------

    def _forward(self) -> list[Operation]:
        shape, steps = self._shape, list[Operation]()
        products = len(shape.activations)
        features = joined(shape.inputs)
        for n in range(products):
            last = n == products - 1
            is_result = last and shape.name != "readout"
            targets = joined(shape.outputs) if is_result else (self._made(n),)
            if last and shape.ends_activated:
                targets = (self._made(n),)
            if n in shape.dense:
                steps += self._products(n, False, features, targets)
            if last and not shape.ends_activated:
                steps += self._round_parts("forward_result", shape.outputs) if is_result else [self._energies(n)]
            elif n not in shape.dense:
                steps.append(self._two_body())
            else:
                steps += self._activate(n)
            features = (self._features(n),)
        return steps

    def _features(self, n: int) -> Part:
        """Where the features behind product n and its activation go."""
        shape, products = self._shape, len(self._shape.activations)
        if shape.kept and n == products - 2:
            return shape.kept[0]
        if shape.ends_activated and n == products - 1:
            return shape.outputs[0]
        return self._hidden(n, n + 1)

    def _two_body(self) -> MlpKernel:
        features = self._features(0)
        call = (
            f"wide_two_body<{self._template(0)}, {self._separable}>"
            f"({_place(features)}, {self._kept(0)}, basis + first_row, pairs + first_row, two_body, capacity);"
        )
        outputs = (features.buffer, *self._before(0))
        return self._kernel("forward_0", outputs, ("basis", "pairs", "two_body", "capacity"), call)

    def _activate(self, n: int) -> list[MlpKernel]:
        if before := self._before(n):
            features = self._features(n)
            call = f"wide_activate<{self._template(n)}>({_place(features)}, {self._kept(n)});"
            return [self._kernel(f"forward_{n}", (features.buffer,), before, call)]
        return self._round(f"forward_{n}", self._hidden(n, n + 1)) if self._large(n + 1) else []

    def _energies(self, n: int) -> MlpKernel:
        made = self._made(n).buffer
        place = made if made in HIDDEN else self._kept(n)
        arguments = f"<{_ROWS}, {self._shape.padded[n + 1]}, {self._function(n)}>"
        call = f"wide_energies{arguments}(edge_energies + first_row, {place}, energy_weights);"
        return self._kernel(f"forward_{n}", ("edge_energies",), (made, "energy_weights"), call)

    # --- backward -----------------------------------------------------------------------------------------------------

    def _backward(self) -> list[Operation]:
        shape, steps = self._shape, list[Operation]()
        gradients = joined(shape.output_gradients)
        if shape.name == "readout":
            gradients = (self._hidden(0, len(shape.activations)),)
            steps.append(self._seeds())
        elif shape.ends_activated:
            n = len(shape.activations) - 1
            steps += self._multiply(0, n, gradients[0])
            gradients = (self._hidden(0, n + 1),)
        for m, n in enumerate(reversed(shape.dense)):
            is_input = n == 0
            targets = joined(shape.input_gradients) if is_input else (self._hidden(m + 1, n),)
            if m == 0 and shape.kept:  # what other readers have left is there
                targets = (replace(shape.kept_gradients[0], added=True),)
            steps += self._products(n, True, gradients, targets)
            if not is_input and n > shape.dense.start:
                steps += self._multiply(m + 1, n - 1, targets[0])
                targets = (self._hidden(m + 1, n),)
            gradients = targets
        if shape.is_embedding:
            steps.append(self._radial_slope(gradients[0]))
        else:
            steps += self._round_parts("backward_result", shape.input_gradients)
        return steps

    def _seeds(self) -> MlpKernel:
        n = len(self._shape.activations) - 1
        arguments = f"<{_ROWS}, {self._shape.padded[-1]}, {self._function(n)}, {_flag(self._large(n))}>"
        call = f"wide_seeds{arguments}(hidden_0, {self._kept(n)}, seeds, pairs + first_row);"
        return self._kernel("backward_seeds", ("hidden_0",), (*self._before(n), "seeds", "pairs"), call)

    def _multiply(self, turn: int, n: int, gradient: Part) -> list[MlpKernel]:
        """The gradient after the activation of product n becomes the one before it, in a hidden buffer."""
        hidden, width = f"hidden_{turn % 2}", self._shape.padded[n + 1]
        if before := self._before(n):
            arguments = f"<{_ROWS}, {width}, {gradient.stride}, {self._function(n)}, {_flag(self._large(n))}>"
            call = f"wide_multiply{arguments}({hidden}, {_place(gradient)}, {self._kept(n)});"
            read = () if gradient.buffer == hidden else (gradient.buffer,)
            return [self._kernel(f"backward_{n}", (hidden,), (*read, *before), call)]
        return self._round(f"backward_{n}", self._hidden(turn, n + 1)) if self._large(n) else []

    def _radial_slope(self, gradient: Part) -> MlpKernel:
        inputs = ("basis_slopes", "pairs", "two_body", "capacity")
        call = (
            f"wide_radial_slope<{_ROWS}, {self._shape.padded[1]}, {gradient.stride}, {self._function(0)}, "
            f"{self._separable}>(radial_slope + first_row, {_place(gradient)}, {self._kept(0)}, "
            "basis_slopes + first_row, pairs + first_row, two_body, capacity);"
        )
        return self._kernel("backward_0", ("radial_slope",), (gradient.buffer, *self._before(0), *inputs), call)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _before(self, n: int) -> tuple[str, ...]:
        """The buffer of what activation n is applied to; none where that is the identity."""
        return () if self._shape.activations[n] == "identity" else (kept_buffer(self._shape, n),)

    def _kept(self, n: int) -> str:
        """C++: that of a block's rows."""
        return "".join(_shifted(buffer, self._shape.padded[n + 1]) for buffer in self._before(n)) or "nullptr"

    def _made(self, n: int) -> Part:
        """Where product n puts hidden features: what an activation is applied to stays until the way back."""
        width = self._shape.padded[n + 1]
        for buffer in self._before(n):
            return Part(buffer, 0, width, width)
        return self._hidden(n, n + 1)

    def _function(self, n: int) -> str:
        return self._shape.activations[n].upper()

    @property
    def _separable(self) -> str:
        return _flag(self._dimensions.separable)

    def _hidden(self, turn: int, n: int) -> Part:
        """A hidden buffer that holds the features before product n."""
        width = self._shape.padded[n]
        return Part(f"hidden_{turn % 2}", 0, width, width)

    def _large(self, n: int) -> bool:
        """Whether product n takes TF32 numbers."""
        return self._mixed and self._shape.large[n]

    def _template(self, n: int) -> str:
        """Template arguments of what makes the features after product n."""
        features = self._features(n)
        rounds = self._mixed and features.rounded if features.buffer not in HIDDEN else self._large(n + 1)
        return f"{_ROWS}, {self._shape.padded[n + 1]}, {features.stride}, {self._function(n)}, {_flag(rounds)}"

    def _products(
        self, n: int, transposed: bool, sources: tuple[Part, ...], targets: tuple[Part, ...]
    ) -> list[Product]:
        place = weight_places(self._shapes)[0][self._shape.name, n, transposed]
        columns = sum(target.width for target in targets)
        found, column = list[Product](), 0
        for target in targets:
            row = 0
            for source in sources:
                found.append(
                    Product(
                        out=self._matrix(target),
                        left=self._matrix(source),
                        right=Matrix("weights", place + row * columns + column, columns),
                        rows=self._blocks[0],
                        columns=target.width,
                        inner=source.width,
                        accumulate=target.added or row > 0,
                        tensor_cores=self._large(n),
                    )
                )
                row += source.width
            column += target.width
        return found

    def _matrix(self, part: Part) -> Matrix:
        return Matrix(part.buffer, part.block * self._capacity * part.stride + part.offset, part.stride)

    def _round_parts(self, name: str, parts: tuple[Part, ...]) -> list[MlpKernel]:
        """Rounds what readers of these parts want rounded, at most one of them."""
        wanted = [part for part in joined(parts, by_rounding=True) if part.rounded]
        assert len(wanted) <= 1
        return self._round(name, wanted[0]) if wanted else []

    def _round(self, name: str, part: Part) -> list[MlpKernel]:
        if not self._mixed:
            return []
        call = f"wide_round<{_ROWS}, {part.stride}, {part.width}>({_place(part)});"
        return [self._kernel(name, (part.buffer,), (), call)]

    def _kernel(self, name: str, outputs: tuple[str, ...], inputs: tuple[str, ...], call: str) -> MlpKernel:
        return MlpKernel(
            name=f"{self._shape.name}_{name}",
            threads=256,
            tile=_ROWS,
            shared_bytes=0,
            blocks_together=4,
            outputs=outputs,
            inputs=(*inputs, "first_row"),
            body=f"  {call}\n",
        )


def _place(part: Part) -> str:
    """C++: where a part of a block's rows begins; hidden features are of one block after the other."""
    place = part.buffer if part.buffer in HIDDEN else _shifted(part.buffer, part.stride)
    return f"{place} + {part.offset}" if part.offset else place


def _shifted(buffer: str, columns: int) -> str:
    """C++: where the rows of a block stand in a buffer of the chunk."""
    return f"{buffer} + (long long)first_row * {columns}"


def _moved(matrix: Matrix, first_row: int) -> Matrix:
    """The same matrix from a later row of the chunk on; hidden features are of one block after the other."""
    return matrix if matrix.buffer in HIDDEN else replace(matrix, offset=matrix.offset + first_row * matrix.stride)


def _flag(value: bool) -> str:
    return "true" if value else "false"
