"""Parts of an Allegro model from upstream's tensors, their normalisation folded in: MLPs, radial embeddings, layers."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.description import ACTIVATIONS, BesselEmbedding, Layer, Mlp, SplineEmbedding
from allegro_sim.model.irreps import Irrep, Path, component_slices, harmonic_irreps, tensor_product_paths, total_dim
from allegro_sim.model.wigner import product_coefficients
from allegro_sim.tools.importing.options import Options, Tensors

_IDENTITY_TEXTS = ("None", "null")  # as text, upstream keeps the gains of a nonlinearity and applies the identity


def activation_of(options: Options, name: str) -> str | None:
    """A nonlinearity option: one of ACTIVATIONS, the text "None" or "null", or None for the option `null`.

    The default is upstream's, silu; an option that is present and null means no nonlinearity.
    """
    if options.is_null(name):
        options.ignore(name)
        return None
    value = options.take(name, "text", "silu")
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
        weights.append(tensors.take(name, (widths[k], widths[k + 1])) * alphas[k])
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


def read_layer(
    tensors: Tensors,
    prefix: str,
    irreps_in: tuple[Irrep, ...],
    irreps_out: tuple[Irrep, ...],
    l_max: int,
    num_channels: int,
    coupled: bool,
    latent: Mlp,
    tolerance: float,
) -> Layer:
    """The tensor product `prefix` (upstream's Contracter) with its latent MLP.

    `coupled`: whether each channel has its own path weights (tp_path_channel_coupling). The stored Wigner 3j symbols
    are compared with the project's own.
    """
    harmonics = harmonic_irreps(l_max)
    paths = tensor_product_paths(irreps_in, harmonics, irreps_out)
    coefficients = dense_coefficients(irreps_in, harmonics, irreps_out, paths)
    stored_shape = tensors.shape(f"{prefix}.w3j")
    if len(stored_shape) == (3 if len(paths) > 1 else 2):  # every path couples equal components only
        diagonal = np.einsum("piik->pik", coefficients)
        if np.count_nonzero(diagonal) != np.count_nonzero(coefficients):
            raise CheckpointImportError(
                f"{prefix}.w3j has shape {stored_shape}, but its paths couple unequal components"
            )
        coefficients = diagonal
    tensors.expect(f"{prefix}.w3j", coefficients, tolerance)
    shape = ((num_channels,) if coupled else ()) + ((len(paths),) if len(paths) > 1 else ())
    weights = tensors.take(f"{prefix}.weights", shape).reshape(num_channels if coupled else 1, len(paths))
    path_weights = np.ascontiguousarray(np.broadcast_to(weights, (num_channels, len(paths))))
    return Layer(irreps_in, irreps_out, paths, path_weights, latent)


def dense_coefficients(
    first: tuple[Irrep, ...], second: tuple[Irrep, ...], out: tuple[Irrep, ...], paths: tuple[Path, ...]
) -> np.ndarray:
    """sqrt(2 l_out + 1) W3J of every path in a dense array (num_paths, dim first, dim second, dim out)."""
    dense = np.zeros((len(paths), total_dim(first), total_dim(second), total_dim(out)))
    a, b, c = component_slices(first), component_slices(second), component_slices(out)
    for p, path in enumerate(paths):
        degrees = first[path.first].degree, second[path.second].degree, out[path.out].degree
        dense[p, a[path.first], b[path.second], c[path.out]] = product_coefficients(*degrees)
    return dense


def repeat_environment(weights: np.ndarray, num_scalars: int, repeats: int) -> np.ndarray:
    """Columns S onwards, one a channel, become `repeats` equal ones each: the same weight for every irrep."""
    return np.hstack([weights[:, :num_scalars], np.repeat(weights[:, num_scalars:], repeats, axis=1)])
