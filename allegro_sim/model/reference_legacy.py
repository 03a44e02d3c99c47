"""The readable truth of the legacy generation (allegro 0.2 and 0.3): plain NumPy float64, forward and backward.

Lengths, harmonics, radial basis, MLPs, environment sums and the repulsion are the stages of `reference.py`; what only
this generation has is in `reference_legacy_layers.py`. The order is stated in `description.py`: the first scalar
features come from the two-body MLP, each layer's environment weights from an MLP of their own, every layer mixes tensor
channels, and the scalar features are updated, replaced or collected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model import reference_layers as stages
from allegro_sim.model import reference_legacy_layers as legacy
from allegro_sim.model import reference_pairs as pairs
from allegro_sim.model.description import AllegroModel


@dataclass
class LegacyTrace:
    """Every intermediate of the forward pass; lists have one entry a layer. N atoms, Z edges, U channels."""

    types: np.ndarray  # (N,)
    centers: np.ndarray  # (Z,)
    neighbors: np.ndarray  # (Z,)
    lengths: np.ndarray  # (Z,)
    units: np.ndarray  # (Z, 3)
    x: np.ndarray  # (Z,)
    harmonics: np.ndarray  # (Z, M)
    latents: list[np.ndarray] = field(default_factory=list)  # what MLP k gives, before its cutoff; L + 1 of them
    scalars: list[np.ndarray] = field(default_factory=list)  # s_0 .. s_L
    latent_hidden: list[list[np.ndarray]] = field(default_factory=list)  # before activations, L + 1 lists
    environment_hidden: list[list[np.ndarray]] = field(default_factory=list)
    readout_hidden: list[np.ndarray] = field(default_factory=list)
    tensor_weights: np.ndarray = field(default_factory=lambda: np.empty(0))  # (Z, U, nir | 1)
    environment_weights: list[np.ndarray] = field(default_factory=list)  # (Z, U, nir | 1), zero for inactive edges
    seen: list[np.ndarray] = field(default_factory=list)  # environment that each edge sees, (Z, U, M)
    tensors: list[np.ndarray] = field(default_factory=list)  # V_0 .. V_{L-1}, (Z, U, dim of T_k)
    edge_energies: np.ndarray = field(default_factory=lambda: np.empty(0))  # (Z,)
    energies: np.ndarray = field(default_factory=lambda: np.empty(0))  # (N,)

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Types of centre and neighbour of each edge."""
        return self.types[self.centers], self.types[self.neighbors]


def forward(
    model: AllegroModel, types: np.ndarray, centers: np.ndarray, neighbors: np.ndarray, vectors: np.ndarray
) -> LegacyTrace:
    """Forward pass; arguments as for `reference.evaluate`, but all edges within their reach."""
    lengths, units = geometry.lengths_forward(vectors)
    x = lengths / model.cutoffs[types[centers], types[neighbors]]
    harmonics = geometry.spherical_harmonics_forward(units, model.l_max)
    trace = LegacyTrace(types, centers, neighbors, lengths, units, x, harmonics)
    radial = geometry.radial_forward(model.radial, x, *trace.pair)
    _update_forward(model, trace, 0, *stages.mlp_forward(model.embed_mlp, radial))
    for k, layer in enumerate(model.layers):
        _environment_forward(model, trace, k)
        products = legacy.path_products_forward(layer, trace.tensors[k], trace.seen[k], model.l_max)
        if layer.separate_paths:
            invariants = legacy.separate_invariants_forward(layer, products)
        if k < model.num_layers - 1 or not layer.separate_paths:
            trace.tensors.append(legacy.combine_forward(layer, products, model.l_max))
        if not layer.separate_paths:
            invariants = trace.tensors[-1][:, :, 0]
        inputs = [*(trace.scalars[n] for n in model.latent_inputs[k]), invariants]
        _update_forward(model, trace, k + 1, *stages.mlp_forward(layer.latent, np.concatenate(inputs, axis=1)))

    readout, trace.readout_hidden = stages.mlp_forward(model.readout, trace.scalars[-1])
    trace.edge_energies = _edge_scales(model, trace) * readout[:, 0]
    factors = (model.edge_sum_norms * model.scales)[types]
    trace.energies = model.shifts[types] + stages.edge_sum_forward(trace.edge_energies, centers, factors)
    if model.pair_term is not None:
        pair = pairs.pair_forward(model.pair_term, lengths, x, *trace.pair)
        trace.energies = trace.energies + stages.edge_sum_forward(pair, centers, _pair_scales(model)[types])
    return trace


def _update_forward(model: AllegroModel, trace: LegacyTrace, k: int, latent: np.ndarray, hidden: list) -> None:
    """s_k from what its MLP gives."""
    trace.latents.append(latent)
    trace.latent_hidden.append(hidden)
    if model.latent_cutoff is not None:
        latent = legacy.latent_cutoff_forward(model.latent_cutoff, k, trace.lengths)[:, None] * latent
    if model.latent_factors is not None and k > 0:
        old, new = model.latent_factors[k - 1]
        latent = old * trace.scalars[k - 1] + new * latent
    if model.keeps_scalars(k):
        latent = np.where(_within(model, trace, k)[:, None], latent, trace.scalars[k - 1])
    trace.scalars.append(latent)


def _pair_scales(model: AllegroModel) -> np.ndarray:
    """Factor on the pair term by type of the centre: (nt,)."""
    return np.ones(model.num_types) if model.pair_scales is None else model.pair_scales


def _within(model: AllegroModel, trace: LegacyTrace, k: int) -> np.ndarray:
    """Whether edges are closer than the radius of latent MLP k: (Z,)."""
    if model.latent_cutoff is None:
        return np.ones(len(trace.lengths), bool)
    return trace.lengths < model.latent_cutoff.radii[k]


def _active(model: AllegroModel, trace: LegacyTrace, k: int) -> np.ndarray:
    """1 for edges that are part of the environment of layer k, else 0: (Z,)."""
    return _within(model, trace, k).astype(np.float64)


def _environment_forward(model: AllegroModel, trace: LegacyTrace, k: int) -> None:
    """Environment weights from s_k, for k = 0 the tensors V_0 too, and the environment that each edge sees."""
    layer = model.layers[k]
    assert layer.environment_mlp is not None
    weights, hidden = stages.mlp_forward(layer.environment_mlp, trace.scalars[k])
    trace.environment_hidden.append(hidden)
    weights = weights.reshape(len(weights), -1, model.num_tensor_features, model.environment_weight_irreps)
    if k == 0:
        trace.tensor_weights = weights[:, 0]
        trace.tensors.append(stages.weighted_harmonics_forward(trace.tensor_weights, trace.harmonics))
    trace.environment_weights.append(weights[:, -1] * _active(model, trace, k)[:, None, None])
    terms = stages.weighted_harmonics_forward(trace.environment_weights[k], trace.harmonics)
    norms = model.environment_norms[trace.types]
    environment = stages.environment_forward(terms, trace.centers, norms)
    if layer.environment_mix is not None:
        environment = legacy.environment_mix_forward(layer.environment_mix, environment)
    seen = environment[trace.centers]
    trace.seen.append(seen if model.self_edge else seen - norms[trace.centers, None, None] * terms)


def _edge_scales(model: AllegroModel, trace: LegacyTrace) -> np.ndarray | float:
    return 1.0 if model.edge_scales is None else model.edge_scales[trace.pair]


def backward(model: AllegroModel, trace: LegacyTrace) -> np.ndarray:
    """Derivative of the sum of all atomic energies by each edge vector: (Z, 3), eV/Å."""
    factors = (model.edge_sum_norms * model.scales)[trace.types]
    grad_edge_energies = stages.edge_sum_backward(np.ones(len(trace.types)), trace.centers, factors)
    grad_readout = (_edge_scales(model, trace) * grad_edge_energies)[:, None]
    grad_scalars = [np.zeros_like(scalars) for scalars in trace.scalars]
    grad_scalars[-1] = stages.mlp_backward(grad_readout, model.readout, trace.readout_hidden)
    grad_harmonics, grad_lengths = np.zeros_like(trace.harmonics), np.zeros_like(trace.lengths)
    grad_tensors: np.ndarray | None = None
    for k in range(model.num_layers - 1, -1, -1):
        layer = model.layers[k]
        grad_latent, grad_lengths = _update_backward(model, trace, k + 1, grad_scalars, grad_lengths)
        grad_inputs = stages.mlp_backward(grad_latent, layer.latent, trace.latent_hidden[k + 1])
        inputs = model.latent_inputs[k]
        ends = np.cumsum([trace.scalars[n].shape[1] for n in inputs])
        *grad_into_scalars, grad_invariants = np.split(grad_inputs, ends, axis=1)
        for n, grad in zip(inputs, grad_into_scalars, strict=True):
            grad_scalars[n] = grad_scalars[n] + grad
        grad_products = _products_backward(model, k, grad_tensors, grad_invariants)
        grad_tensors, grad_seen = legacy.path_products_backward(
            grad_products, layer, trace.tensors[k], trace.seen[k], model.l_max
        )
        grad_environment_weights, grad = _environment_backward(model, trace, k, grad_seen)
        grad_harmonics += grad
        grad_weights = grad_environment_weights.reshape(len(grad_inputs), -1)
        if k == 0:
            grad_tensor_weights, grad = stages.weighted_harmonics_backward(
                grad_tensors, trace.tensor_weights, trace.harmonics
            )
            grad_harmonics += grad
            grad_weights = np.hstack([grad_tensor_weights.reshape(len(grad_inputs), -1), grad_weights])
        assert layer.environment_mlp is not None
        grad_scalars[k] = grad_scalars[k] + stages.mlp_backward(
            grad_weights, layer.environment_mlp, trace.environment_hidden[k]
        )

    grad_latent, grad_lengths = _update_backward(model, trace, 0, grad_scalars, grad_lengths)
    grad_radial = stages.mlp_backward(grad_latent, model.embed_mlp, trace.latent_hidden[0])
    grad_x = geometry.radial_backward(grad_radial, model.radial, trace.x, *trace.pair)
    if model.pair_term is not None:
        by_lengths, by_x = pairs.pair_backward(
            _pair_scales(model)[trace.pair[0]], model.pair_term, trace.lengths, trace.x, *trace.pair
        )
        grad_lengths, grad_x = grad_lengths + by_lengths, grad_x + by_x
    grad_lengths = grad_lengths + grad_x / model.cutoffs[trace.pair]
    grad_units = geometry.spherical_harmonics_backward(grad_harmonics, trace.units, model.l_max)
    return geometry.lengths_backward(grad_lengths, grad_units, trace.lengths, trace.units)


def _update_backward(
    model: AllegroModel, trace: LegacyTrace, k: int, grad_scalars: list[np.ndarray], grad_lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/d(output of MLP k), dE/dd with this stage's share) from dE/ds_k; s_{k-1} gets its own (`grad_scalars`)."""
    grad = grad_scalars[k]
    if model.latent_factors is not None and k > 0:
        old, new = model.latent_factors[k - 1]
        grad_scalars[k - 1] = grad_scalars[k - 1] + old * grad
        grad = new * grad
    if model.keeps_scalars(k):  # the gate of such an edge, and its slope, are 0
        grad_scalars[k - 1] = grad_scalars[k - 1] + np.where(_within(model, trace, k)[:, None], 0.0, grad)
    if model.latent_cutoff is None:
        return grad, grad_lengths
    grad_u = (grad * trace.latents[k]).sum(axis=1)
    grad_lengths = grad_lengths + legacy.latent_cutoff_backward(grad_u, model.latent_cutoff, k, trace.lengths)
    return legacy.latent_cutoff_forward(model.latent_cutoff, k, trace.lengths)[:, None] * grad, grad_lengths


def _products_backward(
    model: AllegroModel, k: int, grad_tensors: np.ndarray | None, grad_invariants: np.ndarray
) -> list[np.ndarray]:
    """dE/dT_p from dE/dV_{k+1} (None behind the last layer) and dE/d(invariants)."""
    layer = model.layers[k]
    dims = [layer.irreps_out[path.out].dim for path in layer.paths]
    if not layer.separate_paths:
        if grad_tensors is None:
            grad_tensors = np.zeros((*grad_invariants.shape, sum(irrep.dim for irrep in layer.irreps_out)))
        grad_tensors = grad_tensors.copy()
        grad_tensors[:, :, 0] += grad_invariants
        return legacy.combine_backward(grad_tensors, layer, model.l_max)
    if grad_tensors is None:
        products = [np.zeros((len(grad_invariants), model.num_tensor_features, dim)) for dim in dims]
    else:
        products = legacy.combine_backward(grad_tensors, layer, model.l_max)
    for p, grad in enumerate(legacy.separate_invariants_backward(grad_invariants, layer)):
        products[p] = products[p] + grad
    return products


def _environment_backward(
    model: AllegroModel, trace: LegacyTrace, k: int, grad_seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/denv_k, dE/dY) from dE/d(environment that each edge sees)."""
    layer, norms = model.layers[k], model.environment_norms[trace.types]
    grad_environment = stages.environment_forward(grad_seen, trace.centers, np.ones(len(trace.types)))
    if layer.environment_mix is not None:
        grad_environment = legacy.environment_mix_backward(grad_environment, layer.environment_mix)
    grad_terms = stages.environment_backward(grad_environment, trace.centers, norms)
    if not model.self_edge:
        grad_terms = grad_terms - norms[trace.centers, None, None] * grad_seen
    grad_weights, grad_harmonics = stages.weighted_harmonics_backward(
        grad_terms, trace.environment_weights[k], trace.harmonics
    )
    return grad_weights * _active(model, trace, k)[:, None, None], grad_harmonics
