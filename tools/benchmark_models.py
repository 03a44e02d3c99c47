"""Models and boxes of water for benchmarks: the same numbers on every machine, made in seconds, nothing to download.

Speed and memory depend on a model's shape, not on what it has learnt, so all but the bundled one have random weights:

    bundled   inputs/water/water.h5, trained
    medium    l_max 2, 2 layers, 128 scalars, 64 channels, MLPs 1 x 128, cutoff 4.5 Å
    degree3   l_max 3, 2 layers, 64 scalars, 64 channels, MLPs 1 x 64, cutoff 4.5 Å
    sc23      the shape of Musaelian et al., SC'23 (doi 10.1145/3581784.3627041): l_max 2, 2 layers, 680 scalars, 64
              channels, embedding MLP 2 x 512, latent MLPs 2 x 1,024, read-out 1 x 128, the paper's ordered cutoffs
    sc23_legacy   that paper's own model, of the legacy generation: two-body MLP 128, 256, 512, 1,024, latent MLPs
              3 x 1,024, two layers, 64 channels, l_max 2, the same cutoffs, repulsion (tools/benchmark_legacy.py)
    legacy    the legacy generation's: l_max 2, 2 layers that mix their 64 channels, 128 scalars, MLPs 2 x 128, cutoff
              4.5 Å
    many_types    the shape of Allegro-OAM-L: 89 types, l_max 3, 4 layers, 256 scalars, 64 channels, MLPs 2 x 1,024,
              cutoff 7 Å
    scatter   degree3 with `scatter_features`: compiled alone, to see what its kernels use; not one of MODELS
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from allegro_sim.model.description import AllegroModel, BesselEmbedding, Layer
from allegro_sim.model.irreps import harmonic_irreps, irreps_chain, tensor_product_paths
from allegro_sim.model.weight_file import load_model
from allegro_sim.structure import read_structure, replicated_atoms, replicated_cell
from allegro_sim.tools.benchmark_legacy import Weights, legacy_water_model, many_types_model

_WATER = next(
    (
        folder / "inputs" / "water"
        for folder in (Path(__file__).resolve().parent.parent, Path.cwd())
        if (folder / "inputs" / "water").is_dir()
    ),
    Path("inputs", "water"),
)
"""Of the checkout: the one with this file, or where the package is installed the one that is the current folder."""

MODELS = ("bundled", "medium", "degree3", "sc23", "legacy", "sc23_legacy", "many_types")

SC23_CUTOFFS = {("H", "H"): 3.0, ("H", "O"): 1.25, ("O", "H"): 3.0, ("O", "O"): 4.0}
"""Å, (centre, neighbour)."""

SC23_WEIGHTS, SC23_FLOPS = 7.86e6, 31.4e6
"""What that model is known by: weights, and operations an edge forward and backward (two a weight, each way)."""

SC23_LEGACY_WEIGHTS = 7.85e6
"""Weights of the paper's own model."""

REPLICATES = {
    192: (1, 1, 1),
    576: (3, 1, 1),
    3072: (4, 2, 2),
    24_000: (5, 5, 5),
    192_000: (10, 10, 10),
    1_536_000: (20, 20, 20),
    6_291_456: (32, 32, 32),
    12_288_000: (40, 40, 40),
    24_000_000: (50, 50, 50),
    44_294_784: (61, 61, 62),  # as many as the capsid in water of the SC'23 paper
    87_654_336: (77, 77, 77),
    126_432_576: (87, 87, 87),  # the paper's largest
}
"""Atoms of a box -> copies of the 192-atom box along each direction."""


def benchmark_model(name: str) -> AllegroModel:
    """One of MODELS, or "scatter".

    Raises
    ------
    ValueError : a name that is not among them
    """
    if name == "bundled":
        return load_model(_WATER / "water.h5")
    if name == "medium":
        return water_model(l_max=2, scalars=128, channels=64, embedding=(128,), latent=(128,), readout=(128,))
    if name == "degree3":
        return water_model(l_max=3, scalars=64, channels=64, embedding=(64,), latent=(64,), readout=(64,))
    if name == "scatter":
        return replace(benchmark_model("degree3"), scatter_features=True)
    if name == "sc23":
        return water_model(
            l_max=2,
            scalars=680,
            channels=64,
            embedding=(512, 512),
            latent=(1024, 1024),
            readout=(128,),
            cutoffs=SC23_CUTOFFS,
        )
    if name == "legacy":
        return legacy_water_model(
            cutoffs=_table(4.5), two_body=(64, 128, 128), latent=(128, 128, 128), edge_energy=32, mixing=True
        )
    if name == "sc23_legacy":
        return legacy_water_model(cutoffs=_table(SC23_CUTOFFS))
    if name == "many_types":
        return many_types_model()
    raise ValueError(f"there is no benchmark model {name!r}; choose one of {', '.join(MODELS)}")


def _table(cutoffs: dict[tuple[str, str], float] | float) -> np.ndarray:
    """(2, 2) Å, of H and O."""
    if isinstance(cutoffs, dict):
        return np.array([[cutoffs[center, neighbor] for neighbor in ("H", "O")] for center in ("H", "O")])
    return np.full((2, 2), float(cutoffs))


def water_model(
    *,
    l_max: int,
    scalars: int,
    channels: int,
    embedding: tuple[int, ...],
    latent: tuple[int, ...],
    readout: tuple[int, ...],
    num_layers: int = 2,
    cutoffs: dict[tuple[str, str], float] | float = 4.5,
    num_bessels: int = 8,
    seed: int = 2023,
) -> AllegroModel:
    """A model of H and O with random weights, float32 like a trained one's; the three tuples are hidden widths.

    cutoffs: Å, one, or by (centre, neighbour). The same numbers for the same arguments.
    """
    weights = Weights(seed)
    normal, linear, mlp = weights.normal, weights.linear, weights.mlp
    chain = irreps_chain(l_max, True, num_layers)
    layers = []
    for k in range(num_layers):
        paths = tensor_product_paths(chain[k], harmonic_irreps(l_max), chain[k + 1])
        size_out = scalars + (channels * (l_max + 1) if k < num_layers - 1 else 0)
        layers.append(
            Layer(
                irreps_in=chain[k],
                irreps_out=chain[k + 1],
                paths=paths,
                path_weights=normal(channels, len(paths)),
                latent=mlp((k + 1) * scalars + channels, *latent, size_out),
            )
        )
    neighbor_count = np.full(2, 9.0 if isinstance(cutoffs, dict) else 38.0)
    return AllegroModel(
        type_names=("H", "O"),
        atomic_numbers=np.array([1, 8], np.int64),
        masses=np.array([1.008, 15.999]),
        cutoffs=_table(cutoffs),
        l_max=l_max,
        parity=True,
        num_scalar_features=scalars,
        num_tensor_features=channels,
        trained_dtype="float32",
        radial=BesselEmbedding(
            frequencies=np.arange(1.0, num_bessels + 1.0),
            cutoff_exponent=6.0,
            center_types=normal(2, scalars // 2),
            neighbor_types=normal(2, scalars - scalars // 2),
            basis_linear=linear(num_bessels, scalars),
        ),
        embed_mlp=mlp(scalars, *embedding, scalars),
        tensor_linear=linear(scalars, channels * (l_max + 1)),
        first_projection=linear(scalars, scalars + channels * (l_max + 1)),
        individual_irreps=True,
        layers=tuple(layers),
        readout=mlp((num_layers + 1) * scalars, *readout, 1),
        environment_norms=1.0 / np.sqrt(neighbor_count),
        edge_sum_norms=1.0 / np.sqrt(2.0 * neighbor_count),
        scales=np.ones(2),
        shifts=np.zeros(2),
        hyperparameters={"seed": seed, "random": True},
    )


def count_weights(model: AllegroModel) -> int:
    """Numbers that training adjusts, without energy scales and shifts."""
    radial = model.radial
    if isinstance(radial, BesselEmbedding):
        arrays = [radial.center_types, radial.neighbor_types, radial.basis_linear]
    else:
        arrays = [radial.weights]
    arrays += [*model.embed_mlp.weights, model.tensor_linear, model.first_projection, *model.readout.weights]
    for layer in model.layers:
        mixing = (layer.environment_mix, layer.mix_in, layer.mix_out)
        arrays += [*layer.latent.weights, layer.path_weights, *(array for array in mixing if array is not None)]
        arrays += layer.environment_mlp.weights if layer.environment_mlp else ()
    return sum(array.size for array in arrays)


def water_box(num_atoms: int, model: AllegroModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """positions (N, 3) Å, cell (3, 3) Å, types (N,) of liquid water, periodic: copies of inputs/water/water-192.xyz.

    Raises
    ------
    ValueError : a size that is not in REPLICATES
    """
    if num_atoms not in REPLICATES:
        raise ValueError(f"there is no box of {num_atoms} atoms; choose one of {', '.join(map(str, REPLICATES))}")
    structure = read_structure(_WATER / "water-192.xyz", model=model)
    counts = REPLICATES[num_atoms]
    _, types, positions, _ = replicated_atoms(structure, counts)
    return positions, replicated_cell(structure.cell, counts).vectors, types
