"""MLPs too wide for shared memory: products by cuBLAS, element-wise kernels (kernels/cuda/wide.cu) between them.

Features that are parts of one vector stand in different buffers, so a product is one call a part: columns of the matrix
for each target, rows of it for each source, the second source adding to what the first has made. Nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from allegro_sim.potential.cuda.mlp_chain import weight_places
from allegro_sim.potential.cuda.mlp_kernel import MlpKernel
from allegro_sim.potential.cuda.mlp_shapes import Dimensions, MlpShape, fused_widths, mlp_rounding
from allegro_sim.potential.cuda.plan import Matrix, Product

_ROWS = 32
"""Edges of a block of an element-wise kernel."""

Operation = MlpKernel | Product


@dataclass(frozen=True)
class _Part:
    """Some columns of a feature vector: `width` columns of a buffer; added: the buffer holds a sum to add to."""

    buffer: str
    offset: int
    stride: int
    width: int
    added: bool = False


class WideMlp:
    """One MLP with chunks of `capacity` edges."""

    def __init__(self, dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape, capacity: int) -> None:
        self._dimensions, self._shapes, self._shape, self._capacity = dimensions, shapes, shape, capacity
        self._mixed = dimensions.precision == "mixed"
        self._rounding = mlp_rounding(shapes, fused_widths(shapes))

    def kernels(self, backward: bool) -> list[MlpKernel]:
        """The element-wise kernels."""
        return [step for step in self._steps(backward) if isinstance(step, MlpKernel)]

    def operations(self, backward: bool) -> tuple[str | Product, ...]:
        """All steps in order, kernels by name."""
        return tuple(step.name if isinstance(step, MlpKernel) else step for step in self._steps(backward))

    def _steps(self, backward: bool) -> list[Operation]:
        return self._backward() if backward else self._forward()

    # --- forward ------------------------------------------------------------------------------------------------------

    def _forward(self) -> list[Operation]:
        shape, steps = self._shape, list[Operation]()
        products = len(shape.activations)
        features = self._inputs()
        for n in range(products):
            last = n == products - 1
            is_result = last and shape.name != "readout"
            targets = self._results() if is_result else [self._hidden(n, n + 1)]
            if n in shape.dense:
                steps += self._products(n, False, features, targets)
            if last:
                steps += self._round_result() if is_result else [self._energies(n)]
            elif n not in shape.dense:
                steps.append(self._two_body())
            else:
                steps += self._activate(n)
            features = targets
        return steps

    def _inputs(self) -> list[_Part]:
        d, shape = self._dimensions, self._shape
        first = d.UP if shape.name == "readout" else 0
        return [_Part("x", first, d.LDX, shape.padded[0])]  # the embedding's first product is not one of these

    def _results(self) -> list[_Part]:
        """Where the embedding and the latents leave their last product."""
        d, shape = self._dimensions, self._shape
        if shape.is_embedding:
            return [_Part("x", d.UP, d.LDX, d.SP), _Part("env", 0, d.NE, d.NE), _Part("w", 0, d.NW, d.NW)]
        k = shape.layer + 1
        parts = [_Part("x", d.UP + k * d.SP, d.LDX, d.SP)]
        return parts + [_Part("env", k * self._capacity * d.NE, d.NE, d.NE)] * (k < d.layers)

    def _two_body(self) -> MlpKernel:
        slope = self._slope(0)
        call = (
            f"wide_two_body<{self._template(0, 1)}>(hidden_0, {slope or 'nullptr'}, basis, pairs, two_body, capacity);"
        )
        outputs = ("hidden_0", *([slope] if slope else []))
        return self._kernel("forward_0", outputs, ("basis", "pairs", "two_body", "capacity"), call)

    def _activate(self, n: int) -> list[MlpKernel]:
        slope, hidden = self._slope(n), f"hidden_{n % 2}"
        if slope:
            call = f"wide_activate<{self._template(n, n + 1)}>({hidden}, {slope});"
            return [self._kernel(f"forward_{n}", (hidden, slope), (), call)]
        return self._round(f"forward_{n}", self._hidden(n, n + 1)) if self._large(n + 1) else []

    def _energies(self, n: int) -> MlpKernel:
        slope, hidden = self._slope(n), f"hidden_{n % 2}"
        arguments = f"<{_ROWS}, {self._shape.padded[n + 1]}, {self._shape.activations[n].upper()}>"
        call = f"wide_energies{arguments}(edge_energies, {slope or 'nullptr'}, {hidden}, energy_weights);"
        outputs = ("edge_energies", *([slope] if slope else []))
        return self._kernel(f"forward_{n}", outputs, (hidden, "energy_weights"), call)

    def _round_result(self) -> list[MlpKernel]:
        k = 0 if self._shape.is_embedding else self._shape.layer + 1
        return self._round("forward_result", self._results()[0]) if self._rounding.features[k] else []

    # --- backward -----------------------------------------------------------------------------------------------------

    def _backward(self) -> list[Operation]:
        shape, steps = self._shape, list[Operation]()
        gradients = self._result_gradients()
        if shape.name == "readout":
            steps.append(self._seeds())
        for m, n in enumerate(reversed(shape.dense)):
            is_input = n == 0
            targets = self._input_gradients() if is_input else [self._hidden(m + 1, n)]
            steps += self._products(n, True, gradients, targets)
            if not is_input and n > shape.dense.start:
                steps += self._multiply(m + 1, n - 1)
            gradients = targets
        if shape.is_embedding:
            steps.append(self._radial_slope(gradients[0].buffer))
        else:
            # The last block, s_k of a latent and s_L of the read-out, is complete now.
            k = self._dimensions.layers if shape.name == "readout" else shape.layer
            d = self._dimensions
            block = _Part("dx", d.UP + k * d.SP, d.LDX, d.SP)
            steps += self._round("backward_result", block) if self._rounding.gradients[k] else []
        return steps

    def _result_gradients(self) -> list[_Part]:
        d, shape = self._dimensions, self._shape
        if shape.name == "readout":
            return [self._hidden(0, len(shape.activations))]
        if shape.is_embedding:
            return [_Part("dx", d.UP, d.LDX, d.SP), _Part("denv", 0, d.NE, d.NE), _Part("dw", 0, d.NW, d.NW)]
        k = shape.layer + 1
        parts = [_Part("dx", d.UP + k * d.SP, d.LDX, d.SP)]
        return parts + [_Part("denv", 0, d.NE, d.NE)] * (k < d.layers)

    def _input_gradients(self) -> list[_Part]:
        d, shape = self._dimensions, self._shape
        if shape.name == "readout":
            return [_Part("dx", d.UP, d.LDX, shape.padded[0])]
        scalars = _Part("dx", d.UP, d.LDX, (shape.layer + 1) * d.SP, added=True)
        return [_Part("dx", 0, d.LDX, d.UP), scalars]

    def _seeds(self) -> MlpKernel:
        n = len(self._shape.activations) - 1
        slope = self._slope(n)
        arguments = f"<{_ROWS}, {self._shape.padded[-1]}, {_flag(self._large(n))}>"
        call = f"wide_seeds{arguments}(hidden_0, {slope or 'nullptr'}, seeds, pairs);"
        return self._kernel("backward_seeds", ("hidden_0",), (*([slope] if slope else []), "seeds", "pairs"), call)

    def _multiply(self, turn: int, n: int) -> list[MlpKernel]:
        """The gradient after the activation of product n, in a hidden buffer, becomes the one before it."""
        slope, hidden = self._slope(n), f"hidden_{turn % 2}"
        if slope:
            arguments = f"<{_ROWS}, {self._shape.padded[n + 1]}, {_flag(self._large(n))}>"
            call = f"wide_multiply{arguments}({hidden}, {slope});"
            return [self._kernel(f"backward_{n}", (hidden,), (slope,), call)]
        return self._round(f"backward_{n}", self._hidden(turn, n + 1)) if self._large(n) else []

    def _radial_slope(self, gradient: str) -> MlpKernel:
        slope = self._slope(0)
        inputs = ("basis_slopes", "pairs", "two_body", "capacity")
        call = (
            f"wide_radial_slope<{_ROWS}, {self._shape.padded[1]}>"
            f"(radial_slope, {gradient}, {slope or 'nullptr'}, {', '.join(inputs)});"
        )
        return self._kernel("backward_0", ("radial_slope",), (gradient, *([slope] if slope else []), *inputs), call)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _slope(self, n: int) -> str:
        """The buffer of an activation's slopes; none after the identity."""
        return "" if self._shape.activations[n] == "identity" else f"slope_{self._shape.name}_{n}"

    def _hidden(self, turn: int, n: int) -> _Part:
        """A hidden buffer that holds the features before product n."""
        width = self._shape.padded[n]
        return _Part(f"hidden_{turn % 2}", 0, width, width)

    def _large(self, n: int) -> bool:
        """Whether product n takes TF32 numbers."""
        return self._mixed and self._shape.large[n]

    def _template(self, n: int, following: int) -> str:
        """Template arguments of what makes the features after product n."""
        shape = self._shape
        return f"{_ROWS}, {shape.padded[n + 1]}, {shape.activations[n].upper()}, {_flag(self._large(following))}"

    def _products(self, n: int, transposed: bool, sources: list[_Part], targets: list[_Part]) -> list[Product]:
        place = weight_places(self._shapes)[0][self._shape.name, n, transposed]
        columns = sum(target.width for target in targets)
        found, column = list[Product](), 0
        for target in targets:
            row = 0
            for source in sources:
                found.append(
                    Product(
                        out=Matrix(target.buffer, target.offset, target.stride),
                        left=Matrix(source.buffer, source.offset, source.stride),
                        right=Matrix("weights", place + row * columns + column, columns),
                        rows=self._capacity,
                        columns=target.width,
                        inner=source.width,
                        accumulate=target.added or row > 0,
                        tensor_cores=self._large(n),
                    )
                )
                row += source.width
            column += target.width
        return found

    def _round(self, name: str, part: _Part) -> list[MlpKernel]:
        if not self._mixed:
            return []
        call = f"wide_round<{_ROWS}, {part.stride}, {part.offset}, {part.width}>({part.buffer});"
        return [self._kernel(name, (part.buffer,), (), call)]

    def _kernel(self, name: str, outputs: tuple[str, ...], inputs: tuple[str, ...], call: str) -> MlpKernel:
        return MlpKernel(
            name=f"{self._shape.name}_{name}",
            threads=256,
            tile=_ROWS,
            shared_bytes=0,
            blocks_together=4,
            outputs=outputs,
            inputs=inputs,
            body=f"  {call}\n",
        )


def _flag(value: bool) -> str:
    return "true" if value else "false"
