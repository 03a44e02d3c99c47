"""Parts of a legacy Allegro model (allegro 0.2 and 0.3) from upstream's tensors, their normalisation folded in."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.description import BesselEmbedding, LatentCutoff, Mlp
from allegro_sim.model.irreps import Irrep, Path, component_slices, total_dim
from allegro_sim.model.wigner import product_coefficients
from allegro_sim.tools.importing.options import Options, Tensors


def read_one_hot_radial(
    options: Options, tensors: Tensors, num_types: int, r_max: float, exponent: float
) -> tuple[BesselEmbedding, np.ndarray]:
    """The input of the two-body MLP of allegro 0.2, and the order of upstream's columns in it.

    Upstream: concat(onehot(t_i), onehot(t_j), (b - mean) * inv_std * u_p(d / r_max)), b_n = (2 / r_max) sin(w_n x) / d,
    w_n the trained n pi. In the embedding's own functions b_n is 2 pi / r_max^2 times w_n/pi sinc(w_n/pi x).
    """
    count = options.take("num_basis", "integer", 8)
    prefix, means, factors = "radial_basis.basis", np.zeros(count), np.ones(count)
    if options.take("normalize_basis", "flag", True):
        means = means + _scalar_or_vector(tensors, f"{prefix}._mean", count)
        factors = factors * _scalar_or_vector(tensors, f"{prefix}._inv_std", count)
        prefix += ".basis"
    options.ignore("norm_basis_mean_shift")  # it shows in the mean
    frequencies = tensors.take(f"{prefix}.bessel_weights", (count,)) / pi
    scale = 2.0 * pi / r_max**2
    own, bessel = np.eye(num_types), slice(num_types, num_types + count)
    basis_linear = np.zeros((count + 2, 2 * num_types + count))
    basis_linear[:count, bessel] = np.diag(factors * scale)
    basis_linear[count, bessel] = -means * factors
    basis_linear[count + 1] = 1.0
    basis_linear[count + 1, bessel] = 0.0
    upstream = np.arange(2 * num_types + count)
    order = np.concatenate([upstream[:num_types], upstream[2 * num_types :], upstream[num_types : 2 * num_types]])
    radial = BesselEmbedding(
        frequencies=frequencies,
        cutoff_exponent=exponent,
        center_types=np.hstack([own, np.ones((num_types, count))]),
        neighbor_types=own,
        basis_linear=basis_linear,
        with_constants=True,
    )
    return radial, order


def read_latent_cutoff(
    options: Options,
    tensors: Tensors,
    attributes: dict[str, Any],
    num_layers: int,
    r_max: float,
    exponent: float,
    tolerance: float,
) -> LatentCutoff:
    """The cutoff of what the latent MLPs of allegro 0.2 give. attributes: of a deployed model's modules, compared."""
    kind = options.take("cutoff_type", "text", "polynomial")
    start = float(options.take("r_start_cos_ratio", "number", 0.8))
    if kind not in ("polynomial", "cosine"):
        raise options.error("cutoff_type", f"is {kind!r}; polynomial or cosine is expected")
    given = options.take("per_layer_cutoffs", "list", [r_max] * (num_layers + 1))
    if not all(isinstance(radius, (int, float)) and 0 < radius <= r_max for radius in given):
        raise options.error("per_layer_cutoffs", f"is {given!r}; lengths of at most r_max, {r_max:g}, are expected")
    radii = np.array(given, np.float64)
    tensors.expect("allegro.per_layer_cutoffs", radii, tolerance)
    check_attribute(attributes, "allegro.cutoff_type", kind, options.path)
    check_attribute(attributes, "allegro.polynomial_cutoff_p", exponent, options.path)
    check_attribute(attributes, "allegro.r_start_cos_ratio", start, options.path)
    return LatentCutoff(kind, exponent if kind == "polynomial" else start, radii)


def _scalar_or_vector(tensors: Tensors, name: str, count: int) -> np.ndarray:
    shape = tensors.shape(name)
    if shape not in ((), (count,)):
        raise tensors.error(name, f"has shape {shape}; () or ({count},) is expected")
    return tensors.take(name, weight=False)


def read_product_radial(
    options: Options, tensors: Tensors, cutoffs: np.ndarray, per_pair: bool, exponent: float
) -> BesselEmbedding:
    """The radial and chemical embedding of allegro 0.3: b_n = sin(w_n d) / (pi x) u_p(x), w_n the trained n pi / rc."""
    num_types = len(cutoffs)
    count = options.take("num_bessels_per_basis", "integer", None)
    highest = options.take("bessel_frequency_cutoff", "number", None)
    if count is None:
        if highest is None:
            raise options.error("num_bessels_per_basis", "is missing")
        count = int(np.ceil(float(cutoffs.max()) * highest / pi))
    if per_pair:
        stored = tensors.take("radial_basis.bessel_weights", (num_types**2, count)).reshape(num_types, num_types, count)
        frequencies = stored * cutoffs[:, :, None] / pi
    else:
        frequencies = tensors.take("radial_basis.bessel_weights", (count,)) * float(cutoffs.max()) / pi
    types, basis_linear = _product_embedding(options, tensors, num_types, count)
    return BesselEmbedding(frequencies, exponent, types[0], types[1], basis_linear)


def read_original_radial(options: Options, tensors: Tensors, num_types: int, r_max: float) -> BesselEmbedding:
    """The same with `use_original_normalized_basis`: (b_n - mean) * inv_std, b_n of `read_one_hot_radial`, no u_p."""
    options.ignore("num_bessels_per_basis", "bessel_frequency_cutoff", "norm_basis_mean_shift")
    count = options.take("num_basis", "integer", 8)
    shifted = tensors.shape("radial_basis._mean") != (0,)
    means = tensors.take("radial_basis._mean", (count,) if shifted else (0,), weight=False)
    factors = tensors.take("radial_basis._inv_std", (count,), weight=False)
    frequencies = tensors.take("radial_basis.basis.bessel_weights", (count,)) / pi
    types, linear = _product_embedding(options, tensors, num_types, count)
    rows = [2.0 * pi / r_max**2 * factors[:, None] * linear]
    if shifted:
        rows += [np.zeros((1, linear.shape[1])), -((means * factors) @ linear)[None]]
    return BesselEmbedding(frequencies, None, types[0], types[1], np.concatenate(rows), shifted)


def _product_embedding(options: Options, tensors: Tensors, num_types: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """C and N of the types (2, nt, D/2), and the matrix behind the radial functions (count, D)."""
    width = options.take("initial_scalar_embedding_dim", "integer", None)
    if width is None:
        width = next(iter(options.peek("two_body_latent_mlp_latent_dimensions", "list", None) or [0]))
    if not isinstance(width, int) or width % 2 or width < 2:
        raise options.error("initial_scalar_embedding_dim", f"is {width}; an even number is expected")
    types = tensors.take("typeembed.type_embeddings", (2, num_types, width // 2))
    return types, tensors.take("typeembed.basis_mlp._forward._weight_0", (count, width)) / sqrt(count)


def read_harmonic_factors(options: Options, l_max: int) -> np.ndarray | None:
    """Upstream's spherical harmonics divided by ours, |Y_l|^2 = 2 l + 1 ("component"), by degree; None for equal ones.

    The names are those of e3nn: "norm", |Y_l| = 1; "integral", the integral of each squared over the sphere is 1.
    """
    name = options.take("edge_sh_normalization", "text", "component")
    factors = {
        "component": None,
        "norm": (2.0 * np.arange(l_max + 1) + 1.0) ** -0.5,
        "integral": np.full(l_max + 1, (4.0 * pi) ** -0.5),
    }
    if name not in factors:
        raise options.error("edge_sh_normalization", f"is {name!r}; {', '.join(factors)} are supported")
    return factors[name]


def scale_harmonics(environment: Mlp, channels: int, slots: int, factors: np.ndarray | None) -> Mlp:
    """The MLP of the harmonics' weights with these factors in it: slots, 1 or nir weights a channel, become nir."""
    if factors is None:
        return environment
    *others, last = environment.weights
    by_degree = last.reshape(len(last), -1, channels, slots) * factors
    return Mlp((*others, by_degree.reshape(len(last), -1)), environment.activation)


def paths_into(paths: tuple[Path, ...]) -> np.ndarray:
    """For each path, the number of paths that end in the same irrep: (P,) float64."""
    ends = np.array([path.out for path in paths])
    return np.bincount(ends)[ends].astype(np.float64)


def read_mix_out(tensors: Tensors, name: str, paths: tuple[Path, ...], channels: int) -> np.ndarray:
    """The linear map behind a product: (P, U, U), [p, u, v]; stored flat, (U out, U in, n) for each output irrep."""
    counts = np.bincount([path.out for path in paths])
    flat = tensors.take(name, (int(channels**2 * counts.sum()),))
    blocks = np.split(flat, np.cumsum(channels**2 * counts)[:-1])
    mixes = [
        block.reshape(channels, channels, n).transpose(2, 1, 0) / sqrt(channels * n)
        for block, n in zip(blocks, counts, strict=True)
    ]
    return np.concatenate(mixes)


def read_environment_mix(tensors: Tensors, name: str, degrees: int, channels: int) -> np.ndarray:
    """The linear map behind an environment sum: (nir, U, U), [l, u, v]; stored flat, (U out, U in) for each degree."""
    flat = tensors.take(name, (degrees * channels**2,))
    return np.ascontiguousarray(flat.reshape(degrees, channels, channels).transpose(0, 2, 1)) / sqrt(channels)


def expect_couplings(
    tensors: Tensors,
    name: str,
    irreps: tuple[tuple[Irrep, ...], tuple[Irrep, ...], tuple[Irrep, ...]],
    paths: tuple[Path, ...],
    factors: np.ndarray | None,
    tolerance: float,
    alignment: int = 1,
) -> None:
    """Compare the stored Wigner 3j symbols with the project's own.

    factors: of each path, for products with path weights, stored (P, out, first[, second]); None for those without,
    where each path has an output of its own, stored (all outputs, first[, second]). The second input's components are
    left out where only equal ones couple. Components are padded by zeros to multiples of `alignment`.
    """
    first, second, out = irreps
    a, b, c = component_slices(first), component_slices(second), component_slices(out)
    blocks = []
    for p, path in enumerate(paths):
        coefficients = product_coefficients(first[path.first].degree, second[path.second].degree, out[path.out].degree)
        rows = slice(None) if factors is None else c[path.out]
        block = np.zeros(
            (out[path.out].dim if factors is None else total_dim(out), total_dim(first), total_dim(second))
        )
        block[rows, a[path.first], b[path.second]] = coefficients.transpose(2, 0, 1)
        blocks.append(block if factors is None else factors[p] * block)
    expected = np.concatenate(blocks) if factors is None else np.stack(blocks)
    if factors is not None and len(paths) == 1:
        expected = expected[0]
    if len(tensors.shape(name)) == expected.ndim - 1:
        diagonal = np.einsum("...ii->...i", expected)
        if np.count_nonzero(diagonal) != np.count_nonzero(expected):
            raise tensors.error(name, "has no second input, but unequal components couple")
        expected = diagonal
    tensors.expect(name, np.pad(expected, [(0, -size % alignment) for size in expected.shape]), tolerance)


def parse_irreps(options: Options, name: str, text: Any) -> tuple[Irrep, ...]:
    """Irreps such as "1x0e+1x1o". Raises CheckpointImportError for anything else."""
    try:
        if isinstance(text, str):
            return tuple(Irrep.parse(part.strip().removeprefix("1x")) for part in text.split("+"))
    except ValueError as error:
        raise options.error(name, f"cannot be read: {error}") from error
    raise options.error(name, f"is {text!r}; a text such as 1x0e+1x1o is expected")


def check_attribute(attributes: dict[str, Any], name: str, expected: Any, path: Any) -> None:
    """Compare a number or text that a deployed model keeps with what the configuration calls for."""
    found = attributes.get(name)
    if found is None:
        return
    numbers = isinstance(expected, float) and isinstance(found, (int, float))
    if not (np.isclose(found, expected, rtol=1e-6) if numbers else found == expected):
        raise CheckpointImportError(
            f"{path}: the module's {name} is {found!r}, but the configuration calls for {expected!r}"
        )
