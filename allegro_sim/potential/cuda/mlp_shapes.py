"""The MLPs as chains of products on the columns of the CUDA kernels' buffers.

x and dx hold [scal | s_0 | .. | s_L] of every edge (or the hidden features that s_k is made of, where they are kept
instead: `folding.fold_into_readers`), env and w weights of the tensor channels, slot-major. All blocks
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
    keeps: features behind the last activation are given, alone or beside a product. kept, kept_gradients: beside it,
    where they go to, and where the gradients by them come from that their other readers have left. next_reads: nothing
    comes between this MLP and the next one, on either way.
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
    keeps: bool = False
    kept: tuple[Part, ...] = ()
    kept_gradients: tuple[Part, ...] = ()
    next_reads: bool = False

    @property
    def ends_activated(self) -> bool:
        """Whether an activation follows the last product, and its features are what the MLP gives."""
        return self.keeps and self.activations[-1] != "identity"

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
    keeps = [chain[-1].keeps for name, chain in chains.items() if name != "readout"]
    sizes = folded.widths or (d.scalars,) * (d.layers + 1)

    def weights(k: int, environment: str, tensor: str, block: int) -> tuple[Part, ...]:
        of_layer = (Part(environment, 0, d.NE, d.NE, block=block),) * (k < d.layers)
        return (*of_layer, *(Part(tensor, 0, d.NW, d.NW),) * (k == 0))

    def ends_of(k: int) -> dict[str, Any]:
        """Of the MLP that gives s_k and weights: as one result, or where s_k is what is kept, all or besides."""
        made, gradient = d.scalar_part(k, rounded=features[k]), d.scalar_part(k, "dx")
        more, more_gradients = weights(k, "env", "w", k), weights(k, "denv", "dw", 0)
        start = 0 if keeps[k] else made.width
        spans = (d.channel_span(start, d.environment_slots),) * (k < d.layers)
        spans += (d.channel_span(start + d.NE, d.tensor_slots),) * (k == 0)
        if keeps[k] and more:
            found = {"outputs": more, "output_gradients": more_gradients, "output_spans": spans}
            return {**found, "kept": (made,), "kept_gradients": (gradient,)}
        return {
            "outputs": (made, *more),
            "output_gradients": (gradient, *more_gradients),
            "output_spans": (Span(0, sizes[k]), *spans),
        }

    def scalars(last: int, buffer: str = "x", added: bool = False) -> tuple[Part, ...]:
        """s_0 .. s_last; the gradient of the last of them is complete with what is written here."""
        rounds = buffer == "dx" and gradients[last]
        places = range(last + 1)
        return tuple(d.scalar_part(k, buffer, added=added, rounded=rounds and k == last) for k in places)

    def scalar_spans(start: int, last: int) -> tuple[Span, ...]:
        return tuple(Span(start + sum(d.places[:k]), sizes[k]) for k in range(last + 1))

    found = []
    for shape in bare:
        ends: dict[str, Any]
        if shape.is_embedding:
            ends = ends_of(0)
        elif shape.name == "readout":
            ends = {
                "inputs": scalars(d.layers),
                "input_gradients": scalars(d.layers, "dx"),
                "input_spans": scalar_spans(0, d.layers),
                "rounded_inputs": all(features),
            }
        else:
            k = int(shape.name.removeprefix("latent_"))
            ends = ends_of(k + 1) | {
                "inputs": (d.invariant_part(), *scalars(k)),
                "input_gradients": (d.invariant_part(buffer="dx"), *scalars(k, "dx", added=True)),
                "input_spans": (*scalar_spans(d.UP, k), Span(0, d.channels)),
                "rounded_inputs": all(features[: k + 1]),
                "next_reads": k == d.layers - 1,
            }
        found.append(with_ends(d, shape, **ends))
    return tuple(found)


def mlp_shape(name: str, chain: Chain, activation: str) -> MlpShape:
    """An MLP by itself, without where its features come from and go to."""
    keeps = bool(chain) and chain[-1].keeps
    if keeps and not chain[-1].cost:
        chain = chain[:-1]
    sizes = [linear.matrix.shape[-1] for linear in chain]
    assert name == "readout" or keeps or not chain[-1].activated, f"{name} ends in an activation"
    return MlpShape(
        name=name,
        sizes=(*(linear.matrix.shape[-2] for linear in chain[:1]), *sizes),
        padded=(0, *map(eights, sizes)),
        activations=tuple(activation if linear.activated else "identity" for linear in chain),
        large=tuple(linear.matrix.ndim == 2 and min(linear.matrix.shape) >= LEAST_WIDTH for linear in chain),
        keeps=keeps,
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
    hidden = shape.padded[1:] if shape.ends_activated else shape.padded[1:-1]
    return all(width <= WIDEST for width in hidden)


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


def turning(shapes: tuple[MlpShape, ...]) -> tuple[MlpShape, ...]:
    """The MLPs that one kernel goes through to the energies and back: the read-out, and the last latent MLP before it
    where nothing comes between them. What an edge's way back reads is then what its way forward has just written.
    """
    found = tuple(shape for shape in shapes if turns(shape))
    before = tuple(shape for shape in shapes if shape.next_reads and fits_shared_memory(shape))
    return (*before, *found) if found else ()


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
    # Products whose transposes read gradients; those by what is kept come through an activation first.
    last = [bool(chain.large[-1]) for chain in (embedding, *latents)]
    whole = [large and not chain.keeps for large, chain in zip(last, (embedding, *latents), strict=True)]
    readers = [[*reads[k:], bool(readout.large) and readout.large[0]] for k in range(len(latents) + 1)]
    for own, large, chain in zip(readers, last, (embedding, *latents), strict=True):
        if not fused and chain.keeps and not chain.ends_activated:
            own.append(large)  # its own last product reads them from the same place
    together = all if fused else any
    return Rounding(
        features=tuple(together(which) for which in readers),
        invariants=tuple(reads),
        gradients=tuple(whole),
        environments=tuple(last[:-1]),
        tensor=last[0],
    )
