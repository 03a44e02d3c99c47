"""Parts of an Allegro model from upstream's tensors, their normalisation folded in: MLPs and radial embeddings."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from allegro_sim.model.description import ACTIVATIONS, BesselEmbedding, Mlp, SplineEmbedding
from allegro_sim.tools.importing.options import Options, Tensors

_IDENTITY_TEXTS = ("None", "null")  # as text, upstream keeps the gains of a nonlinearity and applies the identity


def activation_of(options: Options, name: str, default: str | None) -> str | None:
    """A nonlinearity option: one of ACTIVATIONS, the text "None" or "null", or None for the option `null`.

    An option that is present and null means no nonlinearity.
    """
    if options.is_null(name):
        options.ignore(name)
        return None
    value = options.take(name, "text", None)
    if value is None:
        return default
    if value not in ACTIVATIONS[1:] and value not in _IDENTITY_TEXTS:
        raise options.error(name, f"is {value!r}; supported: {', '.join(ACTIVATIONS[1:])}, null")
    return value


def read_mlp(
    tensors: Tensors, prefix: str, widths: tuple[int, ...], activation: str | None, fan_in: bool, tolerance: float
) -> Mlp:
    """An MLP with its factors alpha folded in; layers with nothing between them become one.

    Upstream (ScalarMLPFunction): y = x @ (W alpha), alpha = gain/sqrt(fan). With `fan_in` fan is the width of the
    input, and the gain is sqrt(2) for all layers but the first; else fan is the width of the output, and the gain is
    sqrt(2) for all but the last. Without a nonlinearity every gain is 1.
    """
    count = len(widths) - 1
    deep_linear = activation is None and count > 1
    weights, alphas = [], []
    for k in range(count):
        ungained = 0 if fan_in else count - 1
        gain = 1.0 if activation is None or k == ungained else sqrt(2.0)
        alphas.append(gain / sqrt(widths[k] if fan_in else widths[k + 1]))
        if deep_linear:
            name = f"{prefix}.mlp.weights.{k}"
        else:
            name = f"{prefix}.mlp.{2 * k}.weight"
            tensors.expect_constant(f"{prefix}.mlp.{2 * k}.alpha", alphas[k], tolerance)
        weight = tensors.take(name, (widths[k], widths[k + 1]))
        weight *= alphas[k]
        weights.append(weight)
    if deep_linear:
        tensors.expect_constant(f"{prefix}.mlp.alpha", prod(alphas), tolerance)
    if activation is None or activation in _IDENTITY_TEXTS or count == 1:
        product = weights[0]
        for weight in weights[1:]:
            product = product @ weight
        return Mlp((product,), "identity")
    return Mlp(tuple(weights), activation)


def read_linear(tensors: Tensors, prefix: str, shape: tuple[int, int], fan_in: bool, tolerance: float) -> np.ndarray:
    """A single linear layer, its factor folded in."""
    return read_mlp(tensors, prefix, shape, None, fan_in, tolerance).weights[0]


def read_radial(
    tensors: Tensors, options: Options, prefix: str, num_types: int, width: int, fan_in: bool, tolerance: float
) -> BesselEmbedding | SplineEmbedding:
    """The radial and chemical embedding; `width` is its output D. Raises CheckpointImportError for unknown kinds."""
    target = options.take("_target_", "text")
    if target == "allegro.nn.TwoBodyBesselScalarEmbed":
        count = options.take("num_bessels", "integer", 8)
        exponent = options.take("polynomial_cutoff_p", "number", 6)
        trainable = options.take("bessel_trainable", "flag", False)
        options.finish()
        if width % 2:
            raise options.error("module_output_dim", f"is {width}; an even width is expected")
        if exponent < 2:
            raise options.error("polynomial_cutoff_p", f"is {exponent}; 2 or more is expected")
        frequencies = tensors.take(f"{prefix}.bessel_encode.bessel_weights", (1, count), weight=trainable)[0]
        return BesselEmbedding(
            frequencies=frequencies,
            cutoff_exponent=float(exponent),
            center_types=tensors.take(f"{prefix}.type_embed.center_embed.weight", (num_types, width // 2)),
            neighbor_types=tensors.take(f"{prefix}.type_embed.neighbor_embed.weight", (num_types, width // 2)),
            basis_linear=read_linear(tensors, f"{prefix}.type_embed.basis_linear", (count, width), fan_in, tolerance),
        )
    if target == "allegro.nn.TwoBodySplineScalarEmbed":
        count = options.take("num_splines", "integer", 16)
        span = options.take("spline_span", "integer", 12)
        options.finish()
        lower = np.arange(-span, count - span) / count
        tensors.expect(f"{prefix}.spline.lower", lower, 1e-12)
        tensors.expect(f"{prefix}.spline.upper", lower + (span + 1) / count, 1e-12)
        weights = tensors.take(f"{prefix}.spline.class_embed.weight", (num_types**2, width * count))
        return SplineEmbedding(weights.reshape(num_types, num_types, width, count), span)
    raise options.error(
        "_target_",
        f"is {target!r}; supported: allegro.nn.TwoBodyBesselScalarEmbed, allegro.nn.TwoBodySplineScalarEmbed",
    )
