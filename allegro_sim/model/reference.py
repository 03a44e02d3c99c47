"""The readable truth: an Allegro model in plain NumPy float64, forward and handwritten backward.

Everything else the project computes is tested against this. The stages are in `reference_geometry.py` and
`reference_layers.py`, one function each; here they stand in order:

    r_ij -> d, n, x = d / cutoff           lengths
         -> Y[z,m]                         spherical harmonics of n
         -> h = MLP_embed(radial(x, t_i, t_j))
         -> V_0[z,u,m] = w[z,u,l(m)] Y[z,m],  w = h @ tensor_linear;    s_0, env_0 = h @ first_projection
    for k = 0 .. L-1:
         A_i[u,m] = norm_i sum_z env_k[z,u,l(m)] Y[z,m]                 environment
         V_{k+1}  = tensor product of V_k with A_i                      scal_k[z,u] = V_{k+1}[z,u,0]
         s_{k+1}, env_{k+1} = MLP_k(s_0, .., s_k, scal_k)
    e_z = MLP_readout(s_0, .., s_L);   E_i = shift_i + scale_i norm_i / sqrt(2) sum_z e_z + pair terms

With `scatter_features` the operands change places: V_{k+1} = tensor product of B_i = norm_i sum_z V_k with env_k Y.

Index letters: i centre, j neighbour, z edge, u tensor channel, s scalar feature, m component of the harmonics, p path.
That is the current generation; models of the legacy one go through the same stages in the order of
`reference_legacy.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model import reference_layers as stages
from allegro_sim.model import reference_legacy
from allegro_sim.model import reference_pairs as pairs
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.reference_edges import brute_force_edges

__all__ = ["Reference", "StructureResult", "Trace", "brute_force_edges", "evaluate", "evaluate_structure", "forward"]

_EDGES_OF_A_PASS = 200  # of `evaluate_structure`; more where a centre has more


@dataclass(frozen=True)
class Reference:
    """energies (N,) eV, atomic; edge_gradients (Z, 3) eV/Å: derivative of the sum of all energies by r_ij."""

    energies: np.ndarray
    edge_gradients: np.ndarray


@dataclass(frozen=True)
class StructureResult:
    """energy eV; energies (N,) eV; forces (N, 3) eV/Å; virial (3, 3) eV = -dE/dstrain; atom_virials (N, 3, 3) eV."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    atom_virials: np.ndarray


@dataclass
class Trace:
    """Every intermediate of the forward pass; lists have an entry a layer. Letters and shapes as in the module's text.

    N atoms, Z edges, U channels, S scalar features, M = `harmonic_components`.
    """

    types: np.ndarray  # (N,)
    centers: np.ndarray  # (Z,)
    neighbors: np.ndarray  # (Z,)
    lengths: np.ndarray  # (Z,)
    units: np.ndarray  # (Z, 3)
    x: np.ndarray  # (Z,)
    harmonics: np.ndarray  # (Z, M)
    embed_before_activation: list[np.ndarray]
    tensor_weights: np.ndarray  # (Z, U, nir | 1)
    scalars: list[np.ndarray]  # s_0 .. s_L, (Z, S)
    tensors: list[np.ndarray]  # V_0 .. V_L, (Z, U, dim of T_k)
    environment_weights: list[np.ndarray]  # env_0 .. env_{L-1}, (Z, U, nir | 1)
    environments: list[np.ndarray]  # A of layer 0 .. L-1, (N, U, M); with `scatter_features` B, (N, U, dim of T_k)
    latent_before_activation: list[list[np.ndarray]]
    readout_before_activation: list[np.ndarray]
    edge_energies: np.ndarray  # (Z,) e_z
    energies: np.ndarray  # (N,)


def forward(
    model: AllegroModel, types: np.ndarray, centers: np.ndarray, neighbors: np.ndarray, vectors: np.ndarray
) -> Trace:
    """Forward pass; arguments as for `evaluate`, but all edges within their reach."""
    repeated = model.repeated_harmonics
    num_scalars, num_channels, num_edges = model.num_scalar_features, model.num_tensor_features, len(vectors)
    center_types, neighbor_types = types[centers], types[neighbors]
    lengths, units = geometry.lengths_forward(vectors)
    x = lengths / model.cutoffs[center_types, neighbor_types]
    harmonics = geometry.spherical_harmonics_forward(units, model.l_max, repeated)
    radial = geometry.radial_forward(model.radial, x, center_types, neighbor_types)
    embedding, embed_before_activation = stages.mlp_forward(model.embed_mlp, radial)

    def split(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scalar features (Z, S), and environment weights (Z, U, nir or 1)."""
        weights = features[:, num_scalars:].reshape(num_edges, num_channels, model.environment_weight_irreps)
        return features[:, :num_scalars], weights

    tensor_weights = (embedding @ model.tensor_linear).reshape(num_edges, num_channels, model.tensor_weight_irreps)
    tensors = [stages.weighted_harmonics_forward(tensor_weights, harmonics, repeated)]
    first_scalars, environment_weights = split(embedding @ model.first_projection)
    scalars = [first_scalars]
    all_environment_weights, environments, latent_before_activation = [], [], []
    for k, layer in enumerate(model.layers):
        all_environment_weights.append(environment_weights)
        terms = stages.weighted_harmonics_forward(environment_weights, harmonics, repeated)
        summed = tensors[k] if model.scatter_features else terms
        environments.append(stages.environment_forward(summed, centers, model.environment_norms[types]))
        operands = tensors[k], environments[k][centers]
        if model.scatter_features:
            operands = environments[k][centers], terms
        tensors.append(stages.tensor_product_forward(layer, *operands, model.l_max, repeated))
        invariants = tensors[-1][:, :, 0]
        latent, before_activation = stages.mlp_forward(layer.latent, np.concatenate([*scalars, invariants], axis=1))
        latent_before_activation.append(before_activation)
        if k < model.num_layers - 1:
            new_scalars, environment_weights = split(latent)
            scalars.append(new_scalars)
        else:
            scalars.append(latent)

    readout, readout_before_activation = stages.mlp_forward(model.readout, np.concatenate(scalars, axis=1))
    edge_energies = readout[:, 0]
    factors = (model.edge_sum_norms * model.scales)[types]
    energies = model.shifts[types] + stages.edge_sum_forward(edge_energies, centers, factors)
    if model.pair_term is not None:
        pair = pairs.pair_forward(model.pair_term, lengths, x, center_types, neighbor_types)
        energies = energies + stages.edge_sum_forward(pair, centers, np.ones(len(types)))
    return Trace(
        types=types, centers=centers, neighbors=neighbors, lengths=lengths, units=units, x=x, harmonics=harmonics,
        embed_before_activation=embed_before_activation, tensor_weights=tensor_weights, scalars=scalars,
        tensors=tensors, environment_weights=all_environment_weights, environments=environments,
        latent_before_activation=latent_before_activation, readout_before_activation=readout_before_activation,
        edge_energies=edge_energies, energies=energies,
    )  # fmt: skip


def _flat(features: np.ndarray) -> np.ndarray:
    """(Z, ...) -> (Z, all others); also for no edges at all."""
    return features.reshape(len(features), math.prod(features.shape[1:]))


def backward(model: AllegroModel, trace: Trace) -> np.ndarray:
    """Derivative of the sum of all atomic energies by each edge vector: (Z, 3), eV/Å."""
    types, centers, harmonics = trace.types, trace.centers, trace.harmonics
    center_types, neighbor_types = types[centers], types[trace.neighbors]
    num_edges, num_scalars = len(centers), model.num_scalar_features
    norms, repeated = model.environment_norms[types], model.repeated_harmonics
    ones = np.ones(len(types))

    grad_edge_energies = stages.edge_sum_backward(ones, centers, (model.edge_sum_norms * model.scales)[types])
    grad_features = stages.mlp_backward(grad_edge_energies[:, None], model.readout, trace.readout_before_activation)
    grad_scalars = np.split(grad_features, model.num_layers + 1, axis=1)
    grad_harmonics = np.zeros_like(harmonics)
    grad_tensors = np.zeros_like(trace.tensors[-1])
    grad_environment_weights = np.empty((num_edges, 0))  # the last layer makes none
    for k in range(model.num_layers - 1, -1, -1):
        layer = model.layers[k]
        grad_latent = np.concatenate([grad_scalars[k + 1], _flat(grad_environment_weights)], axis=1)
        grad_inputs = stages.mlp_backward(grad_latent, layer.latent, trace.latent_before_activation[k])
        *grad_into_scalars, grad_invariants = np.split(grad_inputs, np.arange(1, k + 2) * num_scalars, axis=1)
        for index, grad in enumerate(grad_into_scalars):
            grad_scalars[index] = grad_scalars[index] + grad
        grad_tensors[:, :, 0] += grad_invariants
        operands = trace.tensors[k], trace.environments[k][centers]
        if model.scatter_features:
            terms = stages.weighted_harmonics_forward(trace.environment_weights[k], harmonics, repeated)
            operands = trace.environments[k][centers], terms
        grad_first, grad_second = stages.tensor_product_backward(grad_tensors, layer, *operands, model.l_max, repeated)
        grad_per_edge = grad_first if model.scatter_features else grad_second
        grad_environment = stages.environment_forward(grad_per_edge, centers, ones)
        grad_summed = stages.environment_backward(grad_environment, centers, norms)
        grad_tensors, grad_terms = grad_first, grad_summed
        if model.scatter_features:
            grad_tensors, grad_terms = grad_summed, grad_second
        grad_environment_weights, grad = stages.weighted_harmonics_backward(
            grad_terms, trace.environment_weights[k], harmonics, repeated
        )
        grad_harmonics += grad

    grad_tensor_weights, grad = stages.weighted_harmonics_backward(
        grad_tensors, trace.tensor_weights, harmonics, repeated
    )
    grad_harmonics += grad
    grad_projection = np.concatenate([grad_scalars[0], _flat(grad_environment_weights)], axis=1)
    grad_embedding = _flat(grad_tensor_weights) @ model.tensor_linear.T + grad_projection @ model.first_projection.T
    grad_radial = stages.mlp_backward(grad_embedding, model.embed_mlp, trace.embed_before_activation)
    grad_x = geometry.radial_backward(grad_radial, model.radial, trace.x, center_types, neighbor_types)
    grad_lengths = np.zeros(num_edges)
    if model.pair_term is not None:
        grad_pair = np.ones(num_edges)
        grad_lengths, grad = pairs.pair_backward(
            grad_pair, model.pair_term, trace.lengths, trace.x, center_types, neighbor_types
        )
        grad_x = grad_x + grad
    grad_lengths = grad_lengths + grad_x / model.cutoffs[center_types, neighbor_types]
    grad_units = geometry.spherical_harmonics_backward(grad_harmonics, trace.units, model.l_max, repeated)
    return geometry.lengths_backward(grad_lengths, grad_units, trace.lengths, trace.units)


def evaluate(
    model: AllegroModel, types: np.ndarray, centers: np.ndarray, neighbors: np.ndarray, vectors: np.ndarray
) -> Reference:
    """Atomic energies and their derivatives by the edge vectors.

    types (N,) of all atoms; for each directed edge its centre and neighbour (Z,), rows of `types`, and vector
    r_ij (Z, 3) in Å. Edges with |r_ij| >= reaches[t_i, t_j] take no part: their gradients are zero.
    """
    types = np.asarray(types, np.int64)
    centers, neighbors = np.asarray(centers, np.int64), np.asarray(neighbors, np.int64)
    vectors = np.asarray(vectors, np.float64).reshape(-1, 3)
    squared = (vectors[:, 0] ** 2 + vectors[:, 1] ** 2) + vectors[:, 2] ** 2
    inside = squared < model.reaches[types[centers], types[neighbors]] ** 2
    edges = centers[inside], neighbors[inside], vectors[inside]
    edge_gradients = np.zeros_like(vectors)
    if model.is_legacy:
        legacy_trace = reference_legacy.forward(model, types, *edges)
        edge_gradients[inside] = reference_legacy.backward(model, legacy_trace)
        return Reference(legacy_trace.energies, edge_gradients)
    trace = forward(model, types, *edges)
    edge_gradients[inside] = backward(model, trace)
    return Reference(trace.energies, edge_gradients)


def evaluate_structure(
    model: AllegroModel, positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray, types: np.ndarray
) -> StructureResult:
    """Energy, forces and virials of a structure.

    positions (N, 3) Å; cell (3, 3) Å, rows are lattice vectors, or None; pbc (3,); types (N,). The virial is
    W = -dE/dstrain, symmetric. Per-atom virials are W_j = -sum_i r_ij (x) dE_i/dr_ij, given to the neighbour j, not
    symmetric one by one; their sum is W (Fan et al., Phys. Rev. B 92, 094301 (2015), eq. 21).

    The energy of a centre depends on its own edges alone, so that large models take their memory a few centres at a
    time.
    """
    types = np.asarray(types, np.int64)
    centers, neighbors, _, vectors = brute_force_edges(positions, cell, pbc, types, model.reaches)
    energies, edge_gradients = np.empty(len(types)), np.empty((len(vectors), 3))
    passes = (np.bincount(centers, minlength=len(types)).cumsum() - 1) // _EDGES_OF_A_PASS
    for number in np.unique(passes):
        chosen = passes == number
        edges = chosen[centers]
        result = evaluate(model, types, centers[edges], neighbors[edges], vectors[edges])
        energies[chosen], edge_gradients[edges] = result.energies[chosen], result.edge_gradients
    forces = np.zeros((len(types), 3))
    np.add.at(forces, centers, edge_gradients)
    np.add.at(forces, neighbors, -edge_gradients)
    atom_virials = np.zeros((len(types), 3, 3))
    np.add.at(atom_virials, neighbors, -vectors[:, :, None] * edge_gradients[:, None, :])
    virial = atom_virials.sum(axis=0)
    return StructureResult(float(energies.sum()), energies, forces, 0.5 * (virial + virial.T), atom_virials)
