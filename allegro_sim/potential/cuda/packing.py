"""Constants of the edge and centre kernels as arrays; those of the MLPs are packed by `mlp_header`."""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import AllegroModel, BesselEmbedding
from allegro_sim.potential.cuda.center_header import padded, pair_table


def pack_centers(model: AllegroModel, real: np.dtype, energy_weights: np.ndarray) -> dict[str, np.ndarray]:
    """Constants by the name of their buffer.

    energy_weights: float64 (RP,), what the read-out's result is multiplied with, for the seeds of the backward pass.
    """
    channels = model.num_tensor_features
    paths = sum(len(layer.paths) for layer in model.layers)
    path_weights = np.zeros((max(paths, 1), padded(channels)), real)
    path_weights[:paths, :channels] = np.concatenate([layer.path_weights.T for layer in model.layers])
    energy_factors = np.asarray(model.edge_sum_norms * model.scales, np.float64)
    seeds = energy_factors[:, None]
    if model.edge_scales is not None:  # by ordered pair of types
        seeds = (energy_factors[:, None] * model.edge_scales).reshape(-1, 1)
    frequencies = model.radial.frequencies if isinstance(model.radial, BesselEmbedding) else np.zeros(1)
    return {
        "path_weights": path_weights,
        "environment_norms": np.asarray(model.environment_norms, real),
        "seeds": (seeds * energy_weights).astype(real),
        "energy_factors": energy_factors,
        "shifts": np.asarray(model.shifts, np.float64),
        "frequencies": np.asarray(frequencies, np.float64).ravel(),
        "pair_table": pair_table(model),
        "cutoffs": np.ascontiguousarray(model.cutoffs, np.float64),
        "reaches": np.ascontiguousarray(model.reaches, np.float64),
    }
