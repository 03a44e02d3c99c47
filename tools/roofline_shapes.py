"""What tools/roofline.py counts with: work of a kernel by array and unit, and the sizes of a model's buffers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from allegro_sim.model.description import AllegroModel, SplineEmbedding
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.folding import Chain, Linear, contraction_list, fold_model

WIDEST_FUSED = 256
"""Hidden widths up to this take the fused kernels; wider models the products of cuBLAS."""

WIDEST_INPUT = 1024
"""A read-out of more features is cuBLAS's, too."""

LEAST_WIDTH = 16
"""Products with fewer rows or columns than this in their matrix are not made on the matrix units."""


@dataclass
class Work:
    """What a kernel does, for an edge or for a centre.

    read, written: bytes of each array; products: operations of matrix products wide enough for the matrix units;
    plain: other operations in the features' precision; double: float64 operations outside the features; special:
    exponentials, reciprocals, roots.
    """

    read: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    written: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    products: float = 0.0
    plain: float = 0.0
    double: float = 0.0
    special: float = 0.0

    @property
    def bytes(self) -> float:
        return sum(self.read.values()) + sum(self.written.values())

    def scaled(self, factor: float) -> Work:
        return Work(
            {name: factor * value for name, value in self.read.items()},
            {name: factor * value for name, value in self.written.items()},
            *(factor * value for value in (self.products, self.plain, self.double, self.special)),
        )

    def plus(self, other: Work) -> Work:
        total = Work(products=self.products + other.products, plain=self.plain + other.plain)
        total.double, total.special = self.double + other.double, self.special + other.special
        for into, sources in ((total.read, (self.read, other.read)), (total.written, (self.written, other.written))):
            for source in sources:
                for name, value in source.items():
                    into[name] += value
        return total


@dataclass(frozen=True)
class KernelWork:
    """A kernel by its name in the plan: work for each edge, and for each centre.

    is_product: a product of cuBLAS, or several that share a matrix, named here alone.
    """

    name: str
    edge: Work
    center: Work
    is_product: bool = False

    def per_edge(self, edges_per_center: float) -> Work:
        return self.edge.plus(self.center.scaled(1.0 / edges_per_center))


def padded(width: int) -> int:
    return -(-width // 8) * 8


class Shape:
    """Sizes of a model's buffers in a precision, in the letters of the module's text."""

    def __init__(self, model: AllegroModel, precision: str) -> None:
        self.model, self.precision = model, precision
        self.real = 8 if precision == "double" else 4
        self.m = model.harmonic_components
        self.mp = -(-self.m // 4) * 4
        self.u, self.up = model.num_tensor_features, padded(model.num_tensor_features)
        self.ne = model.environment_weight_irreps * self.up
        self.nw = model.tensor_weight_irreps * self.up
        self.layers = model.num_layers
        radial = model.radial
        self.nb = radial.weights.shape[-1] if isinstance(radial, SplineEmbedding) else len(radial.basis_linear)
        self.collects = not model.is_legacy or model.latent_update == "concatenate"
        self.folded = fold_model(model)
        widths = self.folded.widths
        if model.is_legacy:
            widths = model.scalar_widths if self.collects else (model.num_scalar_features,)
        self.scalar_places = tuple(map(padded, widths))
        self.warps = max(1, -(-self.up // 32))
        #: whether what latent MLPs give is kept apart from the scalar features
        self.apart = not self.collects and (
            model.latent_cutoff is not None or any(len(chain) < 2 for chain in self.folded.latents)
        )

    @property
    def readout_columns(self) -> int:
        """Features that the read-out reads."""
        if self.model.is_legacy:
            return self.scalar_places[self.layers if self.collects else 0]
        return sum(self.scalar_places)

    def is_fused(self, mlp: str, chain: Chain) -> bool:
        """Whether the kernels that keep an MLP's features in shared memory take it."""
        if mlp == "readout" and self.readout_columns > WIDEST_INPUT:
            return False
        held = chain if mlp == "readout" else chain[:-1]  # all that are activated where the last product has no columns
        return all(padded(linear.matrix.shape[-1]) <= WIDEST_FUSED for linear in held)

    @property
    def chains(self) -> dict[str, Chain]:
        """The MLPs by name."""
        latents = {f"latent_{k}": chain for k, chain in enumerate(self.folded.latents)}
        latents |= {f"environment_{k}": chain for k, chain in enumerate(self.folded.environments)}
        return {"embedding": self.folded.two_body_and_embedding, **latents, "readout": self.folded.readout}

    @property
    def latent_of_readout(self) -> str | None:
        """The latent MLP that is of one kernel with the read-out, which goes both ways."""
        last = f"latent_{self.layers - 1}"
        together = not self.model.is_legacy and all(self.is_fused(mlp, self.chains[mlp]) for mlp in (last, "readout"))
        return last if together else None

    @property
    def fused(self) -> bool:
        return all(self.is_fused(mlp, chain) for mlp, chain in self.chains.items())

    @staticmethod
    def is_large(linear: Linear) -> bool:
        """Whether a product is one for the matrix units."""
        return linear.matrix.ndim == 2 and min(linear.matrix.shape) >= LEAST_WIDTH

    def rounds(self, chain: Chain, n: int) -> bool:
        """Whether the operands of product n of a chain are rounded when they are written."""
        return self.precision == "mixed" and n < len(chain) and self.is_large(chain[n])

    def chain_dims(self, layer: int) -> list[int]:
        """Components of the vectors of the centre that layer `layer` keeps for its backward pass."""
        dims = [self.m, *(total_dim(other.irreps_in) for other in self.model.layers[1:])]
        return dims[:layer]

    def entries(self, layer: int) -> int:
        """Entries of the sparse contraction of a layer, as layer `layer`'s vectors N use it: all of layers below."""
        count = len(contraction_list(self.model, layer, invariant_only=True).values)
        return count + sum(
            len(contraction_list(self.model, below, invariant_only=False).values) for below in range(layer)
        )


def make_work(
    read: dict[str, float] | None = None, written: dict[str, float] | None = None, **operations: float
) -> Work:
    work = Work(**operations)
    work.read.update(read or {})
    work.written.update(written or {})
    return work
