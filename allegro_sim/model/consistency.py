"""Whether the parts of a model fit together: shapes, paths and finite numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from allegro_sim.model.description import (
    ACTIVATIONS,
    JUMPING_ACTIVATIONS,
    LATENT_UPDATES,
    LENNARD_JONES_STYLES,
    AllegroModel,
    BesselEmbedding,
    LennardJones,
    Mlp,
    Zbl,
)
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
        per_pair = radial.frequencies.ndim == 3
        yield "radial/frequencies", radial.frequencies, (*pair, None) if per_pair else (None,)
        yield "radial/center_types", radial.center_types, (types, center_width)
        yield "radial/neighbor_types", radial.neighbor_types, (types, neighbor_width)
        num_basis = radial.frequencies.shape[-1] + (2 if radial.with_constants else 0)
        yield "radial/basis_linear", radial.basis_linear, (num_basis, center_width + neighbor_width)
        embedding_width = center_width + neighbor_width
    else:
        yield "radial/weights", model.radial.weights, (*pair, None, None)
        embedding_width = model.radial.weights.shape[2] if model.radial.weights.ndim == 4 else 0
    widths = model.scalar_widths
    yield from _mlp_arrays("embed_mlp", model.embed_mlp, embedding_width, widths[0])
    degrees = len(model.harmonics)
    environment_width = channels * model.environment_weight_irreps
    if not model.is_legacy:
        tensor_width = channels * (degrees if model.tensor_linear.shape[-1] == channels * degrees else 1)
        yield "tensor_linear", model.tensor_linear, (scalars, tensor_width)
        yield "first_projection", model.first_projection, (scalars, scalars + environment_width)
    inputs = model.latent_inputs
    for k, layer in enumerate(model.layers):
        name = f"layers/{k}"
        yield f"{name}/path_weights", layer.path_weights, (channels, len(layer.paths))
        latent_in = sum(widths[n] for n in inputs[k]) + channels * layer.num_invariants
        latent_out = widths[k + 1]
        if not model.is_legacy and k < model.num_layers - 1:
            latent_out += environment_width
        yield from _mlp_arrays(f"{name}/latent", layer.latent, latent_in, latent_out)
        if layer.environment_mlp is not None:
            width = environment_width * (2 if k == 0 else 1)
            yield from _mlp_arrays(f"{name}/environment_mlp", layer.environment_mlp, widths[k], width)
        for mix, count in (("environment_mix", degrees), ("mix_in", len(layer.paths)), ("mix_out", len(layer.paths))):
            matrices = getattr(layer, mix)
            if matrices is not None:
                yield f"{name}/{mix}", matrices, (count, channels, channels)
    yield from _mlp_arrays("readout", model.readout, sum(widths[n] for n in inputs[-1]), 1)
    if model.latent_factors is not None:
        yield "latent_factors", model.latent_factors, (model.num_layers, 2)
    if model.latent_cutoff is not None:
        yield "latent_cutoff/radii", model.latent_cutoff.radii, (model.num_layers + 1,)
    if model.edge_scales is not None:
        yield "edge_scales", model.edge_scales, pair
    if model.pair_scales is not None:
        yield "pair_scales", model.pair_scales, (types,)
    for name in ("environment_norms", "edge_sum_norms", "scales", "shifts"):
        yield name, getattr(model, name), (types,)
    if isinstance(model.pair_term, Zbl):
        yield "zbl/atomic_numbers", model.pair_term.atomic_numbers, (types,)
    elif model.pair_term is not None and not model.pair_term.is_plain:
        for name in ("sigma", "epsilon", "delta"):
            yield f"lennard_jones/{name}", model.pair_term.table(name, types), pair


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
    mlps.update(
        {f"layers/{k}/environment_mlp": m for k, layer in enumerate(model.layers) if (m := layer.environment_mlp)}
    )
    for name, mlp in mlps.items():
        if mlp.activation not in ACTIVATIONS:
            return f"activation {mlp.activation!r} of '{name}' is not one of {', '.join(ACTIVATIONS)}"
        if not mlp.weights:
            return f"'{name}' has no weights"
    problem = _wrong_stage(model) or _wrong_layer(model)
    if problem is not None:
        return problem
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
    if isinstance(model.radial, BesselEmbedding) and _too_small(model.radial.cutoff_exponent):
        return f"'radial' has cutoff_exponent {model.radial.cutoff_exponent}; at least 1 is expected"
    return _wrong_pair_term(model)


def _too_small(exponent: float | None) -> bool:
    """Of a polynomial cutoff; None: there is none."""
    return exponent is not None and not exponent >= 1.0


def _wrong_pair_term(model: AllegroModel) -> str | None:
    term = model.pair_term
    if not isinstance(term, LennardJones):
        return None
    exponent, reach = term.cutoff_exponent, term.reach
    if term.style not in LENNARD_JONES_STYLES:
        return f"'lennard_jones' has style {term.style!r}, not one of {', '.join(LENNARD_JONES_STYLES)}"
    numbers = [number for number in (exponent, reach, term.power) if number is not None]
    tables = [term.table(name, model.num_types) for name in ("sigma", "epsilon", "delta")]
    finite = np.isfinite(numbers).all() and all(np.isfinite(table).all() for table in tables)
    if not finite or _too_small(exponent) or (reach is not None and reach <= 0.0) or term.power <= 0.0:
        numbers_text = f"sigma {term.sigma}, epsilon {term.epsilon}, exponent {exponent}, reach {reach}"
        return f"'lennard_jones' has {numbers_text}, delta {term.delta}, power {term.power}"
    if term.style == "repulsive" and not (tables[0] > 0.0).all():
        return "'lennard_jones/sigma' must be positive: the term of style 'repulsive' is a power of 1/sigma"
    if reach is not None and exponent is not None:
        return "'lennard_jones' has 'reach', which belongs to a term without 'cutoff_exponent'"
    if (model.reaches > model.cutoffs).any():
        mlps = [model.embed_mlp, model.readout, *(layer.latent for layer in model.layers)]
        mlps += [layer.environment_mlp for layer in model.layers if layer.environment_mlp is not None]
        sharp = isinstance(model.radial, BesselEmbedding) and model.radial.cutoff_exponent is None
        constants = isinstance(model.radial, BesselEmbedding) and model.radial.with_constants
        if sharp or constants or any(mlp.activation in JUMPING_ACTIVATIONS for mlp in mlps):
            return "'lennard_jones' reaches beyond 'cutoffs', where this network is not 0"
    return None


def _wrong_layer(model: AllegroModel) -> str | None:
    """Irreps or paths that are not those upstream makes of the hyperparameters."""
    once = harmonic_irreps(model.l_max, model.so3)
    if not set(model.repeated_harmonics) <= set(once):
        return "'repeated_harmonics' has irreps that are no harmonics"
    repeated = {"repeated_harmonics": model.repeated_harmonics, "repeated_tensors": model.repeated_tensors}
    if model.is_legacy and any(repeated.values()):
        return "repeated irreps are an option of the current generation"
    wrong = 0
    for narrowing in (False, True) if model.is_legacy else (False,):
        chain = irreps_chain(
            model.l_max, model.parity, model.num_layers, so3=model.so3, narrowing=narrowing, **repeated
        )
        expected = [(a, b, tensor_product_paths(a, model.harmonics, b)) for a, b in pairwise(chain)]
        found = [(layer.irreps_in, layer.irreps_out, layer.paths) for layer in model.layers]
        if found == expected:
            return None
        wrong = max(wrong, next(k for k in range(model.num_layers) if found[k] != expected[k]))
    return f"irreps or paths of 'layers/{wrong}' are not those of l_max {model.l_max}, parity {model.parity}"


def _wrong_stage(model: AllegroModel) -> str | None:
    """Stages that only one generation has, and options that belong together."""
    if model.generation not in ("current", "legacy"):
        return f"generation {model.generation!r} is not one of current, legacy"
    if model.latent_update not in LATENT_UPDATES:
        return f"latent_update {model.latent_update!r} is not one of {', '.join(LATENT_UPDATES)}"
    if (model.latent_update == "residual") != (model.latent_factors is not None):
        return "'latent_factors' belong to the latent_update 'residual', and to no other"
    if model.latent_cutoff is not None and model.latent_cutoff.kind not in ("polynomial", "cosine"):
        return f"the latent cutoff {model.latent_cutoff.kind!r} is not one of polynomial, cosine"
    if model.is_legacy:
        if model.scatter_features:
            return "scatter_features is an option of the current generation"
        if model.tensor_linear.size or model.first_projection.size:
            return "'tensor_linear' and 'first_projection' belong to the current generation"
        if model.scalar_widths[-1] != model.num_scalar_features:
            return f"'layers/{model.num_layers - 1}/latent' gives {model.scalar_widths[-1]} scalar features"
    else:
        if not model.self_edge or model.latent_update != "concatenate":
            return "self_edge and latent_update are options of the legacy generation"
        if any(stage is not None for stage in (model.latent_cutoff, model.edge_scales, model.pair_scales)):
            return "'latent_cutoff', 'edge_scales' and 'pair_scales' are stages of the legacy generation"
    if model.pair_scales is not None and model.pair_term is None:
        return "'pair_scales' belong to a pair term, and there is none"
    for k, layer in enumerate(model.layers):
        if (layer.environment_mlp is not None) != model.is_legacy:
            return f"'layers/{k}/environment_mlp' belongs to the legacy generation, and to no other"
        mixed = any(mix is not None for mix in (layer.environment_mix, layer.mix_in, layer.mix_out))
        if (mixed or layer.separate_paths) and not model.is_legacy:
            return f"'layers/{k}' mixes channels, which only the legacy generation does"
        if layer.separate_paths and (layer.mix_out is None) != (k == model.num_layers - 1):
            return f"'layers/{k}' keeps its paths apart: 'mix_out' is needed in all layers but the last"
        if layer.mix_out is not None and not layer.separate_paths:
            return f"'layers/{k}' has 'mix_out', but does not keep its paths apart"
        if layer.environment_mix is not None and not model.self_edge:
            return f"'layers/{k}' has 'environment_mix', but each edge sees an environment of its own"
    return None
