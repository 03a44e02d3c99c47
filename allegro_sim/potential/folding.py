"""The model's linear layers, multiplied together where that saves work.

Between two activations everything is linear, so layers in a row can be one matrix:
- the two-body basis (per ordered pair of types, the Bessel linear times the types' embedding, or the spline weights)
with the
  first layer of the embedding MLP;
- the embedding's last layer with both projections made from its output;
- all layers of an MLP without an activation.
Two neighbours are multiplied only if the product costs fewer multiply-adds an edge than the two one after the other.
All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.model.description import AllegroModel, BesselEmbedding, Mlp, SplineEmbedding
from allegro_sim.model.irreps import component_slices, harmonic_irreps
from allegro_sim.model.wigner import product_coefficients


@dataclass(frozen=True)
class Linear:
    """One matrix of a chain: float64 (in, out), the two-body one (pairs, in, out). activated: an activation follows."""

    matrix: np.ndarray
    activated: bool

    @property
    def cost(self) -> int:
        """Multiply-adds an edge."""
        return self.matrix.shape[-2] * self.matrix.shape[-1]


Chain = tuple[Linear, ...]


@dataclass(frozen=True)
class Folded:
    """The dense part of a model as chains of matrices.

    embedding: basis -> [s_0 | env_0 | w]; latents: [s_0 .. s_k | scal_k] -> [s_{k+1} | env_{k+1}] (the last: s_L);
    readout: [s_0 .. s_L] -> what is summed over a centre's edges, whose product with energy_weights (width,) is the
    sum of e_z.
    multiply_adds: an edge, forward, (as the model is written, as it is computed); the tensor track is in both.
    """

    embedding: Chain
    latents: tuple[Chain, ...]
    readout: Chain
    energy_weights: np.ndarray
    multiply_adds: tuple[int, int]


def pair_basis(radial: BesselEmbedding | SplineEmbedding) -> np.ndarray:
    """Linear map from radial basis to two-body features for each ordered pair of types: (nt * nt, num_basis, D)."""
    if isinstance(radial, SplineEmbedding):
        num_types, _, width, num_splines = radial.weights.shape
        return radial.weights.reshape(num_types * num_types, width, num_splines).transpose(0, 2, 1)
    num_types = len(radial.center_types)
    embeddings = np.concatenate(
        [np.repeat(radial.center_types, num_types, axis=0), np.tile(radial.neighbor_types, (num_types, 1))], axis=1
    )
    return embeddings[:, None, :] * radial.basis_linear


def _as_written(mlp: Mlp) -> list[Linear]:
    last = len(mlp.weights) - 1
    return [
        Linear(np.asarray(weights, np.float64), n < last and mlp.activation != "identity")
        for n, weights in enumerate(mlp.weights)
    ]


def fold(chain: list[Linear]) -> Chain:
    """Multiply neighbours without an activation between them wherever that is cheaper, the largest saving first."""
    chain = list(chain)
    while True:
        best, place = -1, -1
        for n in range(len(chain) - 1):
            first, second = chain[n], chain[n + 1]
            saving = first.cost + second.cost - first.matrix.shape[-2] * second.matrix.shape[-1]
            if not first.activated and saving >= 0 and saving > best:
                best, place = saving, n
        if place < 0:
            return tuple(chain)
        first, second = chain[place : place + 2]
        chain[place : place + 2] = [Linear(first.matrix @ second.matrix, second.activated)]


def fold_model(model: AllegroModel) -> Folded:
    """Fold the linear layers of a model, and count."""
    projections = np.concatenate([model.first_projection, model.tensor_linear], axis=1)
    embedding = [Linear(pair_basis(model.radial), False), *_as_written(model.embed_mlp), Linear(projections, False)]
    latents = [_as_written(layer.latent) for layer in model.layers]
    readout = _as_written(model.readout)
    if readout[-1].matrix.shape[1] != 1:
        raise ValueError(f"the readout must end in one number an edge, not {readout[-1].matrix.shape[1]}")
    written = [*embedding, *(linear for latent in latents for linear in latent), *readout]
    chains = [fold(embedding), *(fold(latent) for latent in latents)]
    folded_readout = fold(readout)
    computed = [linear for chain in (*chains, folded_readout) for linear in chain]
    direct, by_vectors = _tensor_costs(model)
    return Folded(
        embedding=chains[0],
        latents=tuple(chains[1:]),
        readout=folded_readout[:-1],
        energy_weights=folded_readout[-1].matrix[:, 0],
        multiply_adds=(
            sum(linear.cost for linear in written) + direct,
            # The last layer of the readout acts on the sum over edges.
            sum(linear.cost for linear in computed) - folded_readout[-1].cost + by_vectors,
        ),
    )


def _tensor_costs(model: AllegroModel) -> tuple[int, int]:
    """Multiply-adds an edge of the tensor track: tensors on edges, and vectors of the centre."""
    components, channels = (model.l_max + 1) ** 2, model.num_tensor_features
    environment = components * channels
    products = 0
    for layer in model.layers:
        for path in layer.paths:
            degrees = (layer.irreps_in[path.first].degree, path.second, layer.irreps_out[path.out].degree)
            products += int(np.count_nonzero(product_coefficients(*degrees))) * channels
    direct = products + components * channels + model.num_layers * environment
    by_vectors = model.num_layers * (environment + (components + model.tensor_weight_irreps) * channels)
    return direct, by_vectors


@dataclass(frozen=True)
class Contraction:
    """Sparse list of one layer's tensor product, M[a,c] = sum over entries: value w[path] A[b].

    Columns of `indices`: a, b, c, path, sorted by (path, a); components a of the layer's input, b of the harmonics, c
    of its output.
    """

    indices: np.ndarray  # int64 (entries, 4)
    values: np.ndarray  # float64 (entries,)


def contraction_list(model: AllegroModel, k: int, invariant_only: bool) -> Contraction:
    """The list of layer k; invariant_only: only entries that end in the invariant c = 0."""
    layer = model.layers[k]
    harmonics = harmonic_irreps(model.l_max)
    in_slices, harmonic_slices = component_slices(layer.irreps_in), component_slices(harmonics)
    out_slices = component_slices(layer.irreps_out)
    if k == 0:  # V_0 is made of the harmonics: count its components as theirs, whatever order or part of them it has
        in_slices = tuple(harmonic_slices[irrep.degree] for irrep in layer.irreps_in)
    rows, values = [], []
    for p, path in enumerate(layer.paths):
        first, second, out = in_slices[path.first], harmonic_slices[path.second], out_slices[path.out]
        coefficients = product_coefficients(
            layer.irreps_in[path.first].degree, harmonics[path.second].degree, layer.irreps_out[path.out].degree
        )
        for a, b, c in np.argwhere(coefficients):
            if not invariant_only or out.start + c == 0:
                rows.append((first.start + a, second.start + b, out.start + c, p))
                values.append(coefficients[a, b, c])
    return Contraction(np.array(rows, np.int64).reshape(-1, 4), np.array(values))
