"""The MLPs as chains of products on the columns of the CUDA kernels' buffers.

x and dx hold [scal | s_0 | .. | s_L] of every edge, env and w weights of the tensor channels, slot-major. All blocks
are padded with zeros to multiples of eight columns. Which MLP reads and writes what is said here for the current
generation, in `mlp_legacy` for the legacy one; kernels, plan and packed matrices follow from that alone.

In `mixed`, operands of products with 16 or more rows and columns (of the model's own matrix) are TF32 numbers, rounded
by whoever writes them. A column s_k has several readers. If one of them is not such a product, s_k stays float32 and
the products round what they read (ROUNDING_TF32); cuBLAS cannot, so that in the wide path s_k is rounded for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from allegro_sim.potential.cuda.mlp_parts import Part, Span, width_of
from allegro_sim.potential.folding import Chain, Folded

LEAST_WIDTH = 16
"""Products whose matrix has fewer rows or columns are not made on the matrix units."""

WIDEST = 256
"""Columns of hidden features that the fused kernels hold."""

WIDEST_INPUT = 1024
"""Columns that the fused read-out goes through."""


def eights(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // 8) * 8


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a model. scalars S, channels U, radial NB and so on are the model's own; properties are padded.

    invariants: blocks of UP columns for scal. scalar_widths: of the places for scalar features in x, if they are not
    one of `scalars` for each of s_0 .. s_L. separable: the two-body table is one matrix and factors of the types.
    matrix_units: whether `single` and `double` make large products on the matrix units (float32 by three TF32 products;
    float64), which pays on compute capabilities 8.0, 9.0 and 10.0; on others they have few or none.
    """

    precision: str
    layers: int
    scalars: int
    channels: int
    environment_slots: int
    tensor_slots: int
    radial: int
    types: int
    matrix_units: bool = True
    invariants: int = 1
    scalar_widths: tuple[int, ...] = ()
    separable: bool = False

    @property
    def UP(self) -> int:
        return eights(self.channels)

    @property
    def SP(self) -> int:
        return eights(self.scalars)

    @property
    def NE(self) -> int:
        return self.environment_slots * self.UP

    @property
    def NW(self) -> int:
        return self.tensor_slots * self.UP

    @property
    def places(self) -> tuple[int, ...]:
        """Columns of each place for scalar features."""
        return tuple(map(eights, self.scalar_widths)) or (self.SP,) * (self.layers + 1)

    @property
    def LDX(self) -> int:
        return self.invariants * self.UP + sum(self.places)

    def scalar_part(self, place: int, buffer: str = "x", *, added: bool = False, rounded: bool = False) -> Part:
        """A place for scalar features, of x or dx."""
        start = self.invariants * self.UP + sum(self.places[:place])
        return Part(buffer, start, self.LDX, self.places[place], added=added, rounded=rounded)

    def invariant_part(self, blocks: int = 1, buffer: str = "x") -> Part:
        """scal, or its gradient."""
        return Part(buffer, 0, self.LDX, blocks * self.UP)

    def channel_span(self, start: int, slots: int) -> Span:
        """Weights or invariants of the tensor channels, `slots` of each."""
        return Span(start, self.channels * slots, slots, self.UP)

    @property
    def real_bytes(self) -> int:
        return 8 if self.precision == "double" else 4


@dataclass(frozen=True)
class MlpShape:
    """An MLP as a chain of products.

    sizes, padded: features before the first product, then after each; the model's own, and as columns of the kernels.
    The embedding's first product is the two-body table, sizes[0] the number of radial functions. activations: after
    each product. large: of each product, whether it has 16 or more rows and columns (the table is never large).

    inputs, outputs: where features come from and go to (neither for the embedding's basis and the read-out's energies);
    input_gradients, output_gradients: the same of the gradients by them, written and read. The spans say where the
    model's features stand among these columns. rounded_inputs, rounded_gradients: in `mixed`, whether who wrote inputs
    and output gradients has rounded them for products. over, each: a row is one of `each` of an edge, or of a centre.
    """

    name: str
    sizes: tuple[int, ...]
    padded: tuple[int, ...]
    activations: tuple[str, ...]
    large: tuple[bool, ...]
    inputs: tuple[Part, ...] = ()
    outputs: tuple[Part, ...] = ()
    input_gradients: tuple[Part, ...] = ()
    output_gradients: tuple[Part, ...] = ()
    input_spans: tuple[Span, ...] = ()
    output_spans: tuple[Span, ...] = ()
    rounded_inputs: bool = True
    rounded_gradients: bool = True
    over: str = "edges"
    each: int = 1

    @property
    def is_embedding(self) -> bool:
        return self.name == "embedding"

    @property
    def dense(self) -> range:
        """Numbers of the products with one matrix for all edges."""
        return range(int(self.is_embedding), len(self.activations))


def mlp_chains(dimensions: Dimensions, folded: Folded, activations: Mapping[str, str]) -> tuple[MlpShape, ...]:
    """Embedding, latent_0 .. latent_{L-1}, readout of the current generation; activations by these names."""
    d = dimensions
    chains = {"embedding": folded.two_body_and_embedding}
    chains |= {f"latent_{k}": chain for k, chain in enumerate(folded.latents)}
    chains["readout"] = folded.readout
    bare = tuple(mlp_shape(name, chain, activations[name]) for name, chain in chains.items())
    rounding = mlp_rounding(bare, fused_widths(bare))
    features, gradients = rounding.features, rounding.gradients

    def result(k: int) -> tuple[Part, ...]:
        weights = (Part("env", 0, d.NE, d.NE, block=k),) * (k < d.layers) + (Part("w", 0, d.NW, d.NW),) * (k == 0)
        return (d.scalar_part(k, rounded=features[k]), *weights)

    def result_gradient(k: int) -> tuple[Part, ...]:
        weights = (Part("denv", 0, d.NE, d.NE),) * (k < d.layers) + (Part("dw", 0, d.NW, d.NW),) * (k == 0)
        return (d.scalar_part(k, "dx"), *weights)

    def result_spans(k: int) -> tuple[Span, ...]:
        environment = (d.channel_span(d.SP, d.environment_slots),) * (k < d.layers)
        tensor = (d.channel_span(d.SP + d.NE, d.tensor_slots),) * (k == 0)
        return (Span(0, d.scalars), *environment, *tensor)

    def scalars(last: int, buffer: str = "x", added: bool = False) -> tuple[Part, ...]:
        """s_0 .. s_last; the gradient of the last of them is complete with what is written here."""
        rounds = buffer == "dx" and gradients[last]
        places = range(last + 1)
        return tuple(d.scalar_part(k, buffer, added=added, rounded=rounds and k == last) for k in places)

    found = []
    for shape in bare:
        ends: dict[str, Any]
        if shape.is_embedding:
            ends = {"outputs": result(0), "output_gradients": result_gradient(0), "output_spans": result_spans(0)}
        elif shape.name == "readout":
            ends = {
                "inputs": scalars(d.layers),
                "input_gradients": scalars(d.layers, "dx"),
                "input_spans": tuple(Span(k * d.SP, d.scalars) for k in range(d.layers + 1)),
                "rounded_inputs": all(features),
            }
        else:
            k = int(shape.name.removeprefix("latent_"))
            ends = {
                "inputs": (d.invariant_part(), *scalars(k)),
                "outputs": result(k + 1),
                "input_gradients": (d.invariant_part(buffer="dx"), *scalars(k, "dx", added=True)),
                "output_gradients": result_gradient(k + 1),
                "input_spans": (*(Span(d.UP + n * d.SP, d.scalars) for n in range(k + 1)), Span(0, d.channels)),
                "output_spans": result_spans(k + 1),
                "rounded_inputs": all(features[: k + 1]),
            }
        found.append(with_ends(d, shape, **ends))
    return tuple(found)


def mlp_shape(name: str, chain: Chain, activation: str) -> MlpShape:
    """An MLP by itself, without where its features come from and go to."""
    sizes = [linear.matrix.shape[-1] for linear in chain]
    assert name == "readout" or not chain[-1].activated, f"{name} ends in an activation"
    return MlpShape(
        name=name,
        sizes=(*(linear.matrix.shape[-2] for linear in chain[:1]), *sizes),
        padded=(0, *map(eights, sizes)),
        activations=tuple(activation if linear.activated else "identity" for linear in chain),
        large=tuple(linear.matrix.ndim == 2 and min(linear.matrix.shape) >= LEAST_WIDTH for linear in chain),
    )


def with_ends(dimensions: Dimensions, shape: MlpShape, **ends: Any) -> MlpShape:
    """The MLP with its parts and spans, and the widths that follow."""
    shape = replace(shape, **ends)
    padded = [dimensions.radial if shape.is_embedding else width_of(shape.inputs), *shape.padded[1:]]
    if shape.outputs:
        padded[-1] = width_of(shape.outputs)
    sizes = shape.sizes or (sum(span.size for span in shape.input_spans),)  # a read-out without a product
    return replace(shape, padded=tuple(padded), sizes=sizes)


def fits_shared_memory(shape: MlpShape) -> bool:
    """Whether the MLP's hidden features fit the kernels that keep them in shared memory.

    A read-out of very many features is left to cuBLAS, too: a tile would go through them all one after the other (on an
    H200 more than a tenth of a step of 192 atoms of the SC'23-shaped model).
    """
    if shape.name == "readout":
        return all(width <= WIDEST for width in shape.padded[1:]) and shape.padded[0] <= WIDEST_INPUT
    return all(width <= WIDEST for width in shape.padded[1:-1])


def fused_widths(shapes: tuple[MlpShape, ...]) -> bool:
    """Whether all MLPs do, so that none needs cuBLAS."""
    return all(map(fits_shared_memory, shapes))


def kept_buffer(shape: MlpShape, n: int) -> str:
    """The buffer that keeps what the backward pass needs of activation n.

    slope_<mlp>_<n>, where one kernel is the whole MLP: the slope f'(x), the bytes of x, and no elementary function on
    the way back. before_<mlp>_<n>, where cuBLAS makes x: x itself, which need not be written again.
    """
    return f"{'slope' if fits_shared_memory(shape) else 'before'}_{shape.name}_{n}"


def turns(shape: MlpShape) -> bool:
    """Whether the way forward and back through the MLP is one kernel: the read-out, where it fits."""
    return shape.name == "readout" and fits_shared_memory(shape)


def keeps_activation(shape: MlpShape, n: int) -> bool:
    """Whether the backward pass needs something of activation n from memory."""
    return shape.activations[n] != "identity" and not (turns(shape) and n == len(shape.activations) - 1)


def mlp_buffers(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> dict[str, int]:
    """Columns of the MLPs' own buffers REAL (capacity, columns).

    Of an activation, from forward to backward: `kept_buffer`. hidden_0, hidden_1: features between cuBLAS's products,
    in turns.
    """
    columns = {
        kept_buffer(shape, n): shape.padded[n + 1]
        for shape in shapes
        for n in range(len(shape.activations))
        if keeps_activation(shape, n)
    }
    widest = max((max(shape.padded[1:]) for shape in shapes if not fits_shared_memory(shape)), default=0)
    return {**columns, **({"hidden_0": widest, "hidden_1": widest} if widest else {})}


@dataclass(frozen=True)
class Rounding:
    """Of `mixed`: which numbers are rounded when written.

    features: s_0 .. s_L; invariants: scal_k; gradients: dE/ds_0 .. dE/ds_L once complete; environments: dE/d(env_k);
    tensor: dE/dw.
    """

    features: tuple[bool, ...]
    invariants: tuple[bool, ...]
    gradients: tuple[bool, ...]
    environments: tuple[bool, ...]
    tensor: bool


def mlp_rounding(shapes: tuple[MlpShape, ...], fused: bool) -> Rounding:
    """What is rounded when written; fused: `fused_widths`. If not, s_k is rounded if any of its readers wants it so."""
    embedding, *latents, readout = shapes
    reads = [latent.large[0] for latent in latents]
    last = [bool(chain.large[-1]) for chain in (embedding, *latents)]  # products whose transposes read gradients
    readers = [[*reads[k:], bool(readout.large) and readout.large[0]] for k in range(len(latents) + 1)]
    together = all if fused else any
    return Rounding(
        features=tuple(together(which) for which in readers),
        invariants=tuple(reads),
        gradients=tuple(last),
        environments=tuple(last[:-1]),
        tensor=last[0],
    )
