"""What a user wants to know of a model, as plain values."""

from __future__ import annotations

from allegro_sim.model.consistency import named_arrays
from allegro_sim.model.description import AllegroModel, BesselEmbedding, LennardJones, Zbl
from allegro_sim.model.irreps import Irrep

_NOT_WEIGHTS = (
    "types/",
    "cutoffs",
    "zbl/",
    "lennard_jones/",
    "environment_norms",
    "edge_sum_norms",
    "scales",
    "shifts",
    "latent_",
    "pair_scales",
)


def summary(model: AllegroModel) -> dict:
    """What a user wants to know of a model, as values JSON can hold; lengths in Å, masses in Da, energies in eV."""
    bessel = isinstance(model.radial, BesselEmbedding)
    return {
        "generation": model.generation,
        "so3": model.so3,
        "self_edge": model.self_edge,
        "latent_update": model.latent_update,
        "type_names": list(model.type_names),
        "atomic_numbers": [int(number) for number in model.atomic_numbers],
        "masses": [float(mass) for mass in model.masses],
        "cutoffs": model.cutoffs.tolist(),
        "r_max": float(model.reaches.max()),
        "num_weights": count_weights(model),
        "trained_dtype": model.trained_dtype,
        "l_max": model.l_max,
        "parity": model.parity,
        "num_layers": model.num_layers,
        "num_scalar_features": model.num_scalar_features,
        "num_tensor_features": model.num_tensor_features,
        "individual_irreps": model.individual_irreps,
        "scatter_features": model.scatter_features,
        "radial_embedding": "bessel" if bessel else "spline",
        "activations": {
            "embed_mlp": model.embed_mlp.activation,
            "latent": sorted({layer.latent.activation for layer in model.layers}),
            "readout": model.readout.activation,
        },
        "num_paths": [len(layer.paths) for layer in model.layers],
        "irreps": [irreps_text(layer.irreps_in) for layer in model.layers],
        "repeated_irreps": sorted({str(irrep) for irrep in (*model.repeated_harmonics, *model.repeated_tensors)}),
        "zbl": isinstance(model.pair_term, Zbl),
        "lennard_jones": isinstance(model.pair_term, LennardJones),
        "scales": [float(scale) for scale in model.scales],
        "shifts": [float(shift) for shift in model.shifts],
    }


def count_weights(model: AllegroModel) -> int:
    """Number of weights of the network itself, as folded: without types, cutoffs, norms, scales and shifts."""
    return sum(array.size for name, array, _ in named_arrays(model) if not name.startswith(_NOT_WEIGHTS))


def irreps_text(irreps: tuple[Irrep, ...]) -> str:
    """As in 0e 1o 2e."""
    return " ".join(map(str, irreps))
