"""The MLPs as chains of products on the columns of the CUDA kernels' buffers.

x and dx hold [scal | s_0 | .. | s_L] of every edge, env and w weights of the tensor channels, slot-major. All blocks
are padded with zeros to multiples of eight columns.

In `mixed`, operands of products with 16 or more rows and columns (of the model's own matrix) are TF32 numbers, rounded
by whoever writes them. A column s_k has several readers. If one of them is not such a product, s_k stays float32 and
the products round what they read (ROUNDING_TF32); cuBLAS cannot, so that in the wide path s_k is rounded for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from allegro_sim.potential.folding import Chain, Folded

LEAST_WIDTH = 16
"""Products whose matrix has fewer rows or columns are not made on the matrix units."""

WIDEST = 256
"""Columns of hidden features that the fused kernels hold."""


def eights(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // 8) * 8


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a model. scalars S, channels U, radial NB and so on are the model's own; properties are padded.

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
    def LDX(self) -> int:
        return self.UP + (self.layers + 1) * self.SP

    @property
    def real_bytes(self) -> int:
        return 8 if self.precision == "double" else 4


@dataclass(frozen=True)
class MlpShape:
    """An MLP as a chain of products.

    sizes, padded: features before the first product, then after each; the model's own, and as columns of the kernels.
    The embedding's first product is the two-body table, sizes[0] the number of radial functions. activations: after
    each product. large: of each product, whether it has 16 or more rows and columns (the table is never large).
    """

    name: str
    sizes: tuple[int, ...]
    padded: tuple[int, ...]
    activations: tuple[str, ...]
    large: tuple[bool, ...]

    @property
    def is_embedding(self) -> bool:
        return self.name == "embedding"

    @property
    def layer(self) -> int:
        """Number of a latent MLP."""
        return int(self.name.removeprefix("latent_"))

    @property
    def dense(self) -> range:
        """Numbers of the products with one matrix for all edges."""
        return range(int(self.is_embedding), len(self.activations))


def mlp_chains(dimensions: Dimensions, folded: Folded, activations: Mapping[str, str]) -> tuple[MlpShape, ...]:
    """Shapes of embedding, latent_0 .. latent_{L-1}, readout; activations by these names."""
    d = dimensions
    outputs = [d.SP + d.NE + d.NW, *([d.SP + d.NE] * (d.layers - 1)), d.SP]
    shapes = [_shape("embedding", folded.embedding, activations, d.radial, outputs[0])]
    for k, chain in enumerate(folded.latents):
        name = f"latent_{k}"
        shapes.append(_shape(name, chain, activations, d.UP + (k + 1) * d.SP, outputs[k + 1]))
    shapes.append(_shape("readout", folded.readout, activations, (d.layers + 1) * d.SP, None))
    if not folded.readout:
        shapes[-1] = replace(shapes[-1], sizes=((d.layers + 1) * d.scalars,))
    return tuple(shapes)


def _shape(name: str, chain: Chain, activations: Mapping[str, str], first: int, last: int | None) -> MlpShape:
    sizes = [linear.matrix.shape[-1] for linear in chain]
    padded = [eights(size) for size in sizes]
    if last is not None:
        padded[-1] = last
        assert not chain[-1].activated, f"{name} ends in an activation"
    return MlpShape(
        name=name,
        sizes=(*(linear.matrix.shape[-2] for linear in chain[:1]), *sizes),
        padded=(first, *padded),
        activations=tuple(activations[name] if linear.activated else "identity" for linear in chain),
        large=tuple(linear.matrix.ndim == 2 and min(linear.matrix.shape) >= LEAST_WIDTH for linear in chain),
    )


def fits_shared_memory(shape: MlpShape) -> bool:
    """Whether the MLP's hidden features fit the kernels that keep them in shared memory."""
    held = shape.padded[1:] if shape.name == "readout" else shape.padded[1:-1]
    return all(width <= WIDEST for width in held)


def fused_widths(shapes: tuple[MlpShape, ...]) -> bool:
    """Whether all MLPs do, so that none needs cuBLAS."""
    return all(map(fits_shared_memory, shapes))


def mlp_buffers(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> dict[str, int]:
    """Columns of the MLPs' own buffers REAL (capacity, columns).

    slope_<mlp>_<n>: slopes f'(x) of an activation, from forward to backward: the bytes of a pre-activation, and no
    elementary function in the backward pass. hidden_0, hidden_1: features between cuBLAS's products, in turns.
    """
    columns = {
        f"slope_{shape.name}_{n}": shape.padded[n + 1]
        for shape in shapes
        for n, activation in enumerate(shape.activations)
        if activation != "identity"
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
