"""Whether the parts of a model fit together: shapes, paths and finite numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from allegro_sim.model.description import ACTIVATIONS, AllegroModel, BesselEmbedding, Mlp
from allegro_sim.model.irreps import harmonic_irreps, irreps_chain, tensor_product_paths


def named_arrays(model: AllegroModel) -> Iterator[tuple[str, np.ndarray, tuple[int | None, ...]]]:
    """Every array of a model: name as in the weight file, array, expected shape (None: any length)."""
    types, scalars, channels = model.num_types, model.num_scalar_features, model.num_tensor_features
    pair = (types, types)
    yield "types/atomic_numbers", model.atomic_numbers, (types,)
    yield "types/masses", model.masses, (types,)
    yield "cutoffs", model.cutoffs, pair
    if isinstance(model.radial, BesselEmbedding):
        radial = model.radial
        center_width, neighbor_width = radial.center_types.shape[-1], radial.neighbor_types.shape[-1]
        yield "radial/frequencies", radial.frequencies, (None,)
        yield "radial/center_types", radial.center_types, (types, center_width)
        yield "radial/neighbor_types", radial.neighbor_types, (types, neighbor_width)
        yield "radial/basis_linear", radial.basis_linear, (len(radial.frequencies), center_width + neighbor_width)
        embedding_width = center_width + neighbor_width
    else:
        yield "radial/weights", model.radial.weights, (*pair, None, None)
        embedding_width = model.radial.weights.shape[2] if model.radial.weights.ndim == 4 else 0
    yield from _mlp_arrays("embed_mlp", model.embed_mlp, embedding_width, scalars)
    degrees = model.l_max + 1
    tensor_width = channels * (degrees if model.tensor_linear.shape[-1] == channels * degrees else 1)
    yield "tensor_linear", model.tensor_linear, (scalars, tensor_width)
    environment_width = channels * model.environment_weight_irreps
    yield "first_projection", model.first_projection, (scalars, scalars + environment_width)
    for k, layer in enumerate(model.layers):
        yield f"layers/{k}/path_weights", layer.path_weights, (channels, len(layer.paths))
        latent_out = scalars + (environment_width if k < model.num_layers - 1 else 0)
        yield from _mlp_arrays(f"layers/{k}/latent", layer.latent, scalars * (k + 1) + channels, latent_out)
    yield from _mlp_arrays("readout", model.readout, scalars * (model.num_layers + 1), 1)
    for name in ("environment_norms", "edge_sum_norms", "scales", "shifts"):
        yield name, getattr(model, name), (types,)
    if model.zbl is not None:
        yield "zbl/atomic_numbers", model.zbl.atomic_numbers, (types,)


def _mlp_arrays(name: str, mlp: Mlp, size_in: int, size_out: int) -> Iterator[tuple[str, np.ndarray, tuple]]:
    last = len(mlp.weights) - 1
    for n, weights in enumerate(mlp.weights):
        before = size_in if n == 0 else mlp.weights[n - 1].shape[-1]
        yield f"{name}/{n}", weights, (before, size_out if n == last else None)


def find_inconsistency(model: AllegroModel) -> str | None:
    """What is wrong with a model, in one sentence that names the array; None where everything fits together."""
    if min(model.num_types, model.num_layers, model.num_scalar_features, model.num_tensor_features) < 1:
        return "a model needs at least one type, layer, scalar feature and tensor feature"
    if len(set(model.type_names)) != model.num_types:
        return f"type names {', '.join(model.type_names)} are not all different"
    mlps = {"embed_mlp": model.embed_mlp, "readout": model.readout}
    mlps.update({f"layers/{k}/latent": layer.latent for k, layer in enumerate(model.layers)})
    for name, mlp in mlps.items():
        if mlp.activation not in ACTIVATIONS:
            return f"activation {mlp.activation!r} of '{name}' is not one of {', '.join(ACTIVATIONS)}"
        if not mlp.weights:
            return f"'{name}' has no weights"
    chain = irreps_chain(model.l_max, model.parity, model.num_layers)
    for k, layer in enumerate(model.layers):
        expected = (chain[k], chain[k + 1], tensor_product_paths(chain[k], harmonic_irreps(model.l_max), chain[k + 1]))
        if (layer.irreps_in, layer.irreps_out, layer.paths) != expected:
            return f"irreps or paths of 'layers/{k}' are not those of l_max {model.l_max}, parity {model.parity}"
    for name, array, shape in named_arrays(model):
        fits = array.ndim == len(shape) and all(
            found > 0 and expected in (None, found) for found, expected in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            return f"'{name}' has shape {array.shape}; the hyperparameters ask for ({wanted})"
        if not np.isfinite(array).all():
            return f"'{name}' holds values that are not finite"
    if not (model.cutoffs > 0.0).all() or not (model.masses > 0.0).all():
        return "'cutoffs' and 'types/masses' must be positive"
    return None
