"""The model's linear layers, multiplied together where that saves work.

Between two activations everything is linear, so layers in a row can be one matrix:
- the two-body basis (per ordered pair of types, the Bessel linear times the types' embedding, or the spline weights)
  with the first layer of the embedding MLP; but not where the matrices of all pairs would be large (many types);
- the embedding's last layer with both projections made from its output;
- all layers of an MLP without an activation;
- the last layer of an MLP with the layers that read the scalar features it makes (`fold_into_readers`).
Two neighbours are multiplied only if the product costs fewer multiply-adds an edge than the two one after the other.
All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from allegro_sim.model.description import AllegroModel, BesselEmbedding, Mlp, SplineEmbedding
from allegro_sim.model.irreps import component_slices
from allegro_sim.model.wigner import product_coefficients


@dataclass(frozen=True)
class Linear:
    """One matrix of a chain: float64 (in, out), the two-body one (pairs, in, out). activated: an activation follows.

    keeps: the result is the input itself, then its product with the matrix, which may have no columns.
    """

    matrix: np.ndarray
    activated: bool
    keeps: bool = False

    @property
    def cost(self) -> int:
        """Multiply-adds an edge."""
        return self.matrix.shape[-2] * self.matrix.shape[-1]


Chain = tuple[Linear, ...]

PAIR_TABLE_BYTES = 32 * 2**20
"""Most that matrices for each ordered pair of types may take, in float64; with 89 types they soon take gigabytes."""


@dataclass(frozen=True)
class SeparableTable:
    """Two-body features of models with many types: h = concat(C[t_i], N[t_j]) * (b @ basis), float64.

    basis (num_basis, D); center_types C (nt, Dc), neighbor_types N (nt, Dn), Dc + Dn = D.
    """

    basis: np.ndarray
    center_types: np.ndarray
    neighbor_types: np.ndarray

    @property
    def cost(self) -> int:
        """Multiply-adds an edge."""
        return self.basis.size + self.basis.shape[1]


@dataclass(frozen=True)
class Folded:
    """The dense part of a model as chains of matrices.

    embedding: basis -> [s_0 | env_0 | w]; latents: [s_0 .. s_k | scal_k] -> [s_{k+1} | env_{k+1}] (the last: s_L);
    readout: [s_0 .. s_L] -> what is summed over a centre's edges, whose product with energy_weights (width,) is the
    sum of e_z.
    multiply_adds: an edge, forward, (as the model is written, as it is computed); the tensor track is in both.
    separable: None where embedding[0] is the table of matrices of all pairs of types, (pairs, in, out); else the
    two-body features h, from which `embedding` then starts (its matrices are all two-dimensional).

    Models of the legacy generation: embedding: basis -> s_0; latents: [s.., invariants_k] -> what s_{k+1} is made of;
    environments: s_k -> env_k, for k = 0 -> [w | env_0]; readout: s_L -> ... With the latent_update "residual" the
    scalar features are kept as s_k / c_k, with the factors c_k in the matrices: what a latent MLP gives, times the
    latent cutoff, is then added as it is. Current generation: environments is empty.

    widths: of s_0 .. s_L; with `fold_into_readers` some s_k are other features.
    """

    embedding: Chain
    latents: tuple[Chain, ...]
    readout: Chain
    energy_weights: np.ndarray
    multiply_adds: tuple[int, int]
    separable: SeparableTable | None = None
    environments: tuple[Chain, ...] = ()
    widths: tuple[int, ...] = ()

    @property
    def two_body_and_embedding(self) -> Chain:
        """`embedding`, in any case with a table first: of all pairs of types, or `separable.basis` (1, in, out)."""
        if self.separable is None:
            return self.embedding
        return (Linear(self.separable.basis[None], False), *self.embedding)


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


def two_body_start(model: AllegroModel) -> tuple[list[Linear], SeparableTable | None]:
    """How the embedding begins: the matrices of all pairs of types, or nothing behind a separable table."""
    radial, num_pairs = model.radial, model.num_types**2
    if isinstance(radial, BesselEmbedding):
        num_basis, width = radial.basis_linear.shape
        widest = max(width, model.embed_mlp.weights[0].shape[1])
        if 8 * num_pairs * num_basis * widest > PAIR_TABLE_BYTES:
            return [], SeparableTable(radial.basis_linear, radial.center_types, radial.neighbor_types)
    return [Linear(pair_basis(radial), False)], None


def _too_large(first: Linear, second: Linear) -> bool:
    """Whether the product would make a table of pairs larger than it may be, and than it is."""
    if first.matrix.ndim == 2:
        return False
    size = 8 * first.matrix.shape[0] * first.matrix.shape[1] * second.matrix.shape[1]
    return size > max(PAIR_TABLE_BYTES, 8 * first.matrix.size)


def fold(chain: list[Linear]) -> Chain:
    """Multiply neighbours without an activation between them wherever that is cheaper, the largest saving first."""
    chain = list(chain)
    while True:
        best, place = -1, -1
        for n in range(len(chain) - 1):
            first, second = chain[n], chain[n + 1]
            saving = first.cost + second.cost - first.matrix.shape[-2] * second.matrix.shape[-1]
            if not first.activated and saving >= 0 and saving > best and not _too_large(first, second):
                best, place = saving, n
        if place < 0:
            return tuple(chain)
        first, second = chain[place : place + 2]
        chain[place : place + 2] = [Linear(first.matrix @ second.matrix, second.activated)]


def fold_model(model: AllegroModel) -> Folded:
    """Fold the linear layers of a model, and count."""
    return _fold_legacy_model(model) if model.is_legacy else fold_into_readers(fold_layers(model))


def fold_layers(model: AllegroModel) -> Folded:
    """The layers between two activations as one, of a model of the current generation."""
    projections = np.concatenate([model.first_projection, model.tensor_linear], axis=1)
    start, separable = two_body_start(model)
    embedding = [*start, *_as_written(model.embed_mlp), Linear(projections, False)]
    latents = [_as_written(layer.latent) for layer in model.layers]
    readout = _as_written(model.readout)
    if readout[-1].matrix.shape[1] != 1:
        raise ValueError(f"the readout must end in one number an edge, not {readout[-1].matrix.shape[1]}")
    written = [*embedding, *(linear for latent in latents for linear in latent), *readout]
    chains = [fold(embedding), *(fold(latent) for latent in latents)]
    folded_readout = fold(readout)
    computed = [linear for chain in (*chains, folded_readout) for linear in chain]
    direct, by_vectors = _tensor_costs(model)
    two_body = 0 if separable is None else separable.cost
    return Folded(
        embedding=chains[0],
        latents=tuple(chains[1:]),
        readout=folded_readout[:-1],
        energy_weights=folded_readout[-1].matrix[:, 0],
        multiply_adds=(
            sum(linear.cost for linear in written) + two_body + direct,
            # The last layer of the readout acts on the sum over edges.
            sum(linear.cost for linear in computed) + two_body - folded_readout[-1].cost + by_vectors,
        ),
        separable=separable,
        widths=(model.num_scalar_features,) * (model.num_layers + 1),
    )


def fold_into_readers(folded: Folded) -> Folded:
    """Scalar features s_k = h_k W are not made where that is cheaper: their readers, all linear, read h_k by W times
    their own matrices. Then the "s_k" of the chains is h_k, the last activation's features, kept beside env_k and w.

    Current generation; the sums of an edge are others, their mathematics the same.
    """
    chains = [folded.embedding, *folded.latents]
    widths, readout, weights = list(folded.widths), folded.readout, folded.energy_weights
    saved = 0
    for k, chain in enumerate(chains):
        if len(chain) < 2 or not chain[-2].activated:
            continue
        last, old = chain[-1].matrix, widths[k]
        hidden = last.shape[0]
        ends = sum(reader[0].matrix.shape[1] for reader in (*chains[k + 1 :], *([readout] if readout else [])))
        saving = hidden * old - (hidden - old) * ends
        if saving <= 0:
            continue
        saved += saving
        first = sum(widths[:k])
        rows = slice(first, first + old)
        for j in range(k + 1, len(chains)):
            chains[j] = (_read_through(chains[j][0], rows, last[:, :old]), *chains[j][1:])
        if readout:
            readout = (_read_through(readout[0], rows, last[:, :old]), *readout[1:])
        else:
            weights = np.concatenate([weights[:first], last[:, :old] @ weights[rows], weights[first + old :]])
        chains[k] = (*chain[:-1], Linear(last[:, old:], False, keeps=True))
        widths[k] = hidden
    written, computed = folded.multiply_adds
    return replace(
        folded,
        embedding=chains[0],
        latents=tuple(chains[1:]),
        readout=readout,
        energy_weights=weights,
        multiply_adds=(written, computed - saved),
        widths=tuple(widths),
    )


def _read_through(reader: Linear, rows: slice, matrix: np.ndarray) -> Linear:
    """The reader of other features than those that stand in its rows so far, which are theirs times the matrix."""
    before, read, after = np.split(reader.matrix, [rows.start, rows.stop])
    return replace(reader, matrix=np.concatenate([before, matrix @ read, after]))


def _fold_legacy_model(model: AllegroModel) -> Folded:
    """The legacy generation's chains; see `Folded`."""
    start, separable = two_body_start(model)
    factors = residual_scales(model)
    embedding = [*start, *_as_written(model.embed_mlp)]
    latents, environments = [], []
    for k, layer in enumerate(model.layers):
        latent = _as_written(layer.latent)
        if model.latent_factors is not None:
            width = model.scalar_widths[k]
            first, last = latent[0].matrix.copy(), len(latent) - 1
            first[:width] *= factors[k]
            latent[0] = Linear(first, latent[0].activated)
            latent[last] = Linear(latent[last].matrix * (model.latent_factors[k, 1] / factors[k + 1]), False)
        latents.append(latent)
        assert layer.environment_mlp is not None
        environments.append(_scaled_input(_as_written(layer.environment_mlp), factors[k]))
    readout = _scaled_input(_as_written(model.readout), factors[-1])
    if readout[-1].matrix.shape[1] != 1:
        raise ValueError(f"the readout must end in one number an edge, not {readout[-1].matrix.shape[1]}")
    written = [*embedding, *(linear for chain in (*latents, *environments) for linear in chain), *readout]
    folded_readout = fold(readout)
    folded = Folded(
        embedding=fold(embedding),
        latents=tuple(fold(latent) for latent in latents),
        readout=folded_readout[:-1],
        energy_weights=folded_readout[-1].matrix[:, 0],
        multiply_adds=(0, 0),
        separable=separable,
        environments=tuple(fold(environment) for environment in environments),
    )
    chains = (folded.embedding, *folded.latents, *folded.environments, folded.readout)
    tensors = (0 if separable is None else separable.cost) + _legacy_tensor_cost(model)
    return replace(
        folded,
        multiply_adds=(
            sum(linear.cost for linear in written) + tensors,
            sum(linear.cost for chain in chains for linear in chain) + tensors,
        ),
    )


def residual_scales(model: AllegroModel) -> np.ndarray:
    """c_0 = 1, c_{k+1} = latent_factors[k,0] c_k, (L + 1,): scalar features are kept as s_k / c_k; else ones."""
    if model.latent_factors is None:
        return np.ones(model.num_layers + 1)
    return np.cumprod([1.0, *model.latent_factors[:, 0]])


def _scaled_input(chain: list[Linear], factor: float) -> list[Linear]:
    return [Linear(factor * chain[0].matrix, chain[0].activated), *chain[1:]]


def _legacy_tensor_cost(model: AllegroModel) -> int:
    """Multiply-adds an edge of tensors on edges with their mixing."""
    components, channels = (model.l_max + 1) ** 2, model.num_tensor_features
    cost = components * channels
    for layer in model.layers:
        cost += components * channels * (1 if model.self_edge else 2)
        for path in layer.paths:
            first, out = layer.irreps_in[path.first], layer.irreps_out[path.out]
            cost += int(np.count_nonzero(product_coefficients(first.degree, path.second, out.degree))) * channels
            cost += channels**2 * ((layer.mix_in is not None) * first.dim + (layer.mix_out is not None) * out.dim)
    return cost


def _tensor_costs(model: AllegroModel) -> tuple[int, int]:
    """Multiply-adds an edge of the tensor track: tensors on edges, and vectors of the centre."""
    components, channels = model.harmonic_components, model.num_tensor_features
    environment = components * channels
    products = 0
    for layer in model.layers:
        for path in layer.paths:
            irreps = layer.irreps_in[path.first], model.harmonics[path.second], layer.irreps_out[path.out]
            degrees = tuple(irrep.degree for irrep in irreps)
            products += int(np.count_nonzero(product_coefficients(*degrees))) * channels
    direct = products + components * channels + model.num_layers * environment
    slots = model.environment_weight_irreps if model.scatter_features else model.tensor_weight_irreps
    by_vectors = model.num_layers * (environment + (components + slots) * channels)
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
    harmonics = model.harmonics
    in_slices, harmonic_slices = component_slices(layer.irreps_in), component_slices(harmonics)
    out_slices = component_slices(layer.irreps_out)
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
