"""Small random models over the options of the current generation, and random structures for them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from allegro_sim.model.description import AllegroModel, BesselEmbedding, Layer, Mlp, SplineEmbedding, Zbl
from allegro_sim.model.irreps import harmonic_irreps, irreps_chain, tensor_product_paths

_ELEMENTS = (("H", 1, 1.008), ("O", 8, 15.999), ("C", 6, 12.011), ("N", 7, 14.007), ("S", 16, 32.06))


def random_model(
    seed: int,
    *,
    num_types: int = 2,
    l_max: int = 2,
    num_layers: int = 2,
    num_scalar_features: int = 8,
    num_tensor_features: int = 4,
    parity: bool = True,
    spline: bool = False,
    zbl: bool = False,
    r_max: float = 4.0,
    per_pair_cutoffs: bool = False,
    individual_irreps: bool = True,
    scatter_features: bool = False,
    activation: str = "silu",
    hidden_depth: int = 1,
    hidden_width: int = 8,
    num_bessels: int = 6,
    cutoff_exponent: float = 6.0,
    trained_dtype: str = "float64",
) -> AllegroModel:
    """A model with random weights of sensible size, the same for the same arguments.

    per_pair_cutoffs: an asymmetric table between 0.7 r_max and r_max. Weights are rounded to float32 when trained_dtype
    is "float32", as a checkpoint of that precision would hold them.
    """
    rng = np.random.default_rng(seed)
    num_irreps = l_max + 1 if individual_irreps else 1
    scalars, channels = num_scalar_features, num_tensor_features

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        values = scale * rng.standard_normal(shape)
        return values.astype(np.float32).astype(np.float64) if trained_dtype == "float32" else values

    def linear(size_in: int, size_out: int, gain: float = 1.0) -> np.ndarray:
        return normal(size_in, size_out, scale=gain / np.sqrt(size_in))

    def mlp(size_in: int, size_out: int) -> Mlp:
        sizes = [size_in, *[hidden_width] * hidden_depth, size_out]
        gain = 1.0 if activation == "identity" else np.sqrt(2.0)
        weights = [linear(a, b, gain if n else 1.0) for n, (a, b) in enumerate(pairwise(sizes))]
        return Mlp(tuple(weights), activation)

    radial: BesselEmbedding | SplineEmbedding
    if spline:
        radial = SplineEmbedding(normal(num_types, num_types, scalars, 8), span=4)
    else:
        radial = BesselEmbedding(
            frequencies=np.arange(1.0, num_bessels + 1.0),
            cutoff_exponent=cutoff_exponent,
            center_types=normal(num_types, scalars // 2),
            neighbor_types=normal(num_types, scalars - scalars // 2),
            basis_linear=linear(num_bessels, scalars),
        )
    cutoffs = np.full((num_types, num_types), r_max)
    if per_pair_cutoffs:
        cutoffs = r_max * rng.uniform(0.7, 1.0, (num_types, num_types))
        cutoffs[-1, 0] = r_max

    chain = irreps_chain(l_max, parity, num_layers)
    layers = []
    for k in range(num_layers):
        paths = tensor_product_paths(chain[k], harmonic_irreps(l_max), chain[k + 1])
        size_out = scalars + (channels * num_irreps if k < num_layers - 1 else 0)
        latent = mlp(scalars * (k + 1) + channels, size_out)
        layers.append(Layer(chain[k], chain[k + 1], paths, normal(channels, len(paths)), latent))
    names, numbers, masses = zip(*_ELEMENTS[:num_types], strict=True)
    neighbor_count = rng.uniform(8.0, 16.0, num_types)
    return AllegroModel(
        type_names=names,
        atomic_numbers=np.array(numbers, np.int64),
        masses=np.array(masses),
        cutoffs=cutoffs,
        l_max=l_max,
        parity=parity,
        num_scalar_features=scalars,
        num_tensor_features=channels,
        trained_dtype=trained_dtype,
        radial=radial,
        embed_mlp=mlp(scalars, scalars),
        tensor_linear=linear(scalars, channels * (l_max + 1)),
        first_projection=linear(scalars, scalars + channels * num_irreps),
        individual_irreps=individual_irreps,
        scatter_features=scatter_features,
        layers=tuple(layers),
        readout=mlp(scalars * (num_layers + 1), 1),
        environment_norms=1.0 / np.sqrt(neighbor_count),
        edge_sum_norms=1.0 / np.sqrt(2.0 * neighbor_count),
        scales=rng.uniform(0.5, 2.0, num_types),
        shifts=rng.uniform(-5.0, 5.0, num_types),
        pair_term=Zbl(np.array(numbers, np.float64), 14.399645, 6.0) if zbl else None,
        hyperparameters={"seed": seed, "random": True},
    )


def random_structure(
    seed: int, model: AllegroModel, *, num_atoms: int = 12, pbc: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """positions (N, 3), cell (3, 3), pbc (3,), types (N,): a skewed cell, no two atoms (or copies) closer than 0.9 Å.

    Some positions lie outside the cell.
    """
    rng = np.random.default_rng(seed)
    edge = (12.0 * num_atoms) ** (1.0 / 3.0)
    cell = edge * (np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3)))
    periodic = np.array(pbc, bool)
    placed: list[np.ndarray] = []
    while len(placed) < num_atoms:
        trial = rng.random(3)
        delta = np.array(placed).reshape(-1, 3) - trial
        copies = delta - np.where(periodic, np.rint(delta), 0.0)
        if len(placed) == 0 or np.linalg.norm(copies @ cell, axis=1).min() > 0.9:
            placed.append(trial)
    fractional = np.array(placed) + np.where(periodic, rng.integers(-1, 2, (num_atoms, 3)), 0)
    types = rng.permutation(np.arange(num_atoms) % model.num_types).astype(np.int64)
    return fractional @ cell, cell, periodic, types
