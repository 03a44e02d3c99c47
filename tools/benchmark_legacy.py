"""Benchmark models that are not of the usual make: the legacy generation's SC'23 model, and one of many types.

Both have random weights; see `benchmark_models`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from allegro_sim.model.description import AllegroModel, BesselEmbedding, Layer, Mlp, Zbl
from allegro_sim.model.irreps import harmonic_irreps, irreps_chain, tensor_product_paths


class Weights:
    """Random numbers, float32 like a trained model's."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self._rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    def linear(self, size_in: int, size_out: int, gain: float = 1.0) -> np.ndarray:
        return self.normal(size_in, size_out, scale=gain / np.sqrt(size_in))

    def mlp(self, *sizes: int, activation: str = "silu") -> Mlp:
        gain = np.sqrt(2.0) if activation != "identity" else 1.0
        weights = [self.linear(a, b, gain if n else 1.0) for n, (a, b) in enumerate(pairwise(sizes))]
        return Mlp(tuple(weights), activation)


def legacy_water_model(
    *,
    cutoffs: np.ndarray,
    l_max: int = 2,
    channels: int = 64,
    two_body: tuple[int, ...] = (128, 256, 512, 1024),
    latent: tuple[int, ...] = (1024, 1024, 1024),
    edge_energy: int = 128,
    mixing: bool = False,
    seed: int = 2023,
) -> AllegroModel:
    """H and O in the form of allegro 0.3.0 with two layers; by default the model of the SC'23 paper.

    cutoffs (2, 2) Å by (centre, neighbour). Latents are residual, an edge does not see itself, frequencies are those of
    each pair of types, and there is a repulsion. mixing: the tensor products mix channels after each path ("uuulin").
    """
    weights = Weights(seed)
    degrees, scalars = l_max + 1, latent[-1]
    chain = irreps_chain(l_max, False, 2)
    layers = []
    for k in range(2):
        paths = tensor_product_paths(chain[k], harmonic_irreps(l_max), chain[k + 1])
        count = len(paths)
        invariants = sum(path.out == 0 for path in paths) if mixing else 1
        layers.append(
            Layer(
                irreps_in=chain[k],
                irreps_out=chain[k + 1],
                paths=paths,
                path_weights=np.ones((channels, count)) if mixing else weights.normal(channels, count),
                latent=weights.mlp(scalars + channels * invariants, *latent),
                environment_mlp=weights.mlp(scalars, channels * degrees * (2 if k == 0 else 1), activation="identity"),
                mix_out=weights.normal(count, channels, channels, scale=channels**-0.5) if mixing and k == 0 else None,
                separate_paths=mixing,
            )
        )
    neighbor_count = np.full(2, 9.0)
    return AllegroModel(
        type_names=("H", "O"),
        atomic_numbers=np.array([1, 8], np.int64),
        masses=np.array([1.008, 15.999]),
        cutoffs=cutoffs,
        l_max=l_max,
        parity=False,
        num_scalar_features=scalars,
        num_tensor_features=channels,
        trained_dtype="float32",
        radial=BesselEmbedding(
            frequencies=np.broadcast_to(np.arange(1.0, 9.0), (2, 2, 8)).copy(),
            cutoff_exponent=6.0,
            center_types=weights.normal(2, two_body[0] // 2),
            neighbor_types=weights.normal(2, two_body[0] // 2),
            basis_linear=weights.linear(8, two_body[0]),
        ),
        embed_mlp=weights.mlp(two_body[0], *two_body[:-1], scalars),
        tensor_linear=np.zeros((scalars, 0)),
        first_projection=np.zeros((scalars, 0)),
        individual_irreps=True,
        layers=tuple(layers),
        readout=weights.mlp(scalars, edge_energy, 1, activation="identity"),
        environment_norms=1.0 / np.sqrt(neighbor_count - 1.0),
        edge_sum_norms=1.0 / np.sqrt(neighbor_count),
        scales=np.ones(2),
        shifts=np.zeros(2),
        pair_term=Zbl(np.array([1.0, 8.0]), 14.399645, 6.0),
        generation="legacy",
        hyperparameters={"seed": seed, "random": True},
        self_edge=False,
        latent_update="residual",
        latent_factors=np.tile(np.sqrt([0.75, 0.25]), (2, 1)),
    )


def many_types_model(
    *,
    types: int = 89,
    l_max: int = 3,
    num_layers: int = 4,
    scalars: int = 256,
    channels: int = 64,
    hidden: tuple[int, ...] = (1024, 1024),
    readout: int = 128,
    seed: int = 2023,
) -> AllegroModel:
    """The elements from hydrogen on, by default with the shape of Allegro-OAM-L: no parity, cutoff 7 Å."""
    weights = Weights(seed)
    degrees = l_max + 1
    chain = irreps_chain(l_max, False, num_layers)
    layers = []
    for k in range(num_layers):
        paths = tensor_product_paths(chain[k], harmonic_irreps(l_max), chain[k + 1])
        size_out = scalars + (channels * degrees if k < num_layers - 1 else 0)
        latent = weights.mlp((k + 1) * scalars + channels, *hidden, size_out)
        layers.append(Layer(chain[k], chain[k + 1], paths, weights.normal(channels, len(paths)), latent))
    neighbor_count = np.full(types, 60.0)
    return AllegroModel(
        type_names=tuple(chemical_symbols[1 : types + 1]),
        atomic_numbers=np.arange(1, types + 1, dtype=np.int64),
        masses=np.array(atomic_masses[1 : types + 1]),
        cutoffs=np.full((types, types), 7.0),
        l_max=l_max,
        parity=False,
        num_scalar_features=scalars,
        num_tensor_features=channels,
        trained_dtype="float32",
        radial=BesselEmbedding(
            frequencies=np.arange(1.0, 13.0) * (1.0 + 1e-3),  # trained ones are no whole numbers
            cutoff_exponent=8.0,
            center_types=weights.normal(types, scalars // 2),
            neighbor_types=weights.normal(types, scalars - scalars // 2),
            basis_linear=weights.linear(12, scalars),
        ),
        embed_mlp=weights.mlp(scalars, *hidden, scalars),
        tensor_linear=weights.linear(scalars, channels * degrees),
        first_projection=weights.linear(scalars, scalars + channels * degrees),
        individual_irreps=True,
        layers=tuple(layers),
        readout=weights.mlp((num_layers + 1) * scalars, readout, 1),
        environment_norms=1.0 / np.sqrt(neighbor_count),
        edge_sum_norms=1.0 / np.sqrt(2.0 * neighbor_count),
        scales=np.ones(types),
        shifts=np.zeros(types),
        hyperparameters={"seed": seed, "random": True},
    )
