"""Makes tests/data/golden_legacy: small models of the legacy generation with random weights, and upstream's results.

    python tools/make_legacy_golden.py --upstream-python PATH --sources FOLDER --update-golden [NAME ...]

FOLDER holds upstream's legacy sources, unpacked beside each other: nequip-0.5.6, nequip-0.6.2, allegro-0.2 (the commit
c56bc80 of January 2023) and allegro-0.3.0, and `extra` with the packages torch_runstats and torch_ema. PATH is an
interpreter with PyTorch and e3nn; it runs this file again, once a model, with the sources the model needs. Each NAME
stands for other options (`MODELS`); results are for five structures, in float64. A file NAME.npz holds the tensors by
their names in a state dict (below the network), the configuration as a text, and structures and results. The model
`sc23_shape` is too large to keep: its weights are those of `large_weights`, and its file has only their shapes. The
files are ours (MIT).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden_legacy"
SOURCES = {
    "0.2": ("nequip-0.5.6", "allegro-0.2"),
    "0.2 on nequip 0.6": ("nequip-0.6.2", "allegro-0.2"),
    "0.3": ("nequip-0.6.2", "allegro-0.3.0"),
}
_ZBL = {"pair_style": "ZBL", "units": "metal"}
_PAIR_BUILDERS = ["allegro.model.Allegro", "PerSpeciesRescale", "PairPotentialTerm", "RescaleEnergyEtc"]
_SEVERAL = {"edge_eng_mlp_nonlinearity": "silu", "edge_eng_mlp_latent_dimensions": [8, 4]}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine_layer_cutoffs": ("0.2", {
        "l_max": 1, "env_embed_multiplicity": 4, "cutoff_type": "cosine", "r_start_cos_ratio": 0.7, "r_max": 4.5,
        "per_layer_cutoffs": [4.5, 4.1, 3.4], "per_edge_species_scale": True, "env_embed_mlp_latent_dimensions": [8],
        "env_embed_mlp_nonlinearity": "silu", "latent_resnet_update_ratios_learnable": True, "global": 0.83,
    }),
    "three_layer_cutoffs": ("0.2", {
        "parity": "o3_restricted", "num_layers": 3, "env_embed_multiplicity": 3, "r_max": 4.5,
        "per_layer_cutoffs": [4.5, 4.5, 3.9, 3.2], "PolynomialCutoff_p": 5,
    }),
    "replaced_layer_cutoffs": ("0.2", {
        "l_max": 1, "num_layers": 3, "env_embed_multiplicity": 3, "r_max": 4.5, "latent_resnet": False,
        "per_layer_cutoffs": [4.4, 4.4, 3.7, 3.1],
    }),
    "environment_linear": ("0.2", {
        "parity": "o3_restricted", "num_layers": 3, "env_embed_multiplicity": 3, "type_names": ["O", "H", "C"],
        "linear_after_env_embed": True, "normalize_basis": False, "BesselBasis_trainable": False,
    }),
    "integral_harmonics": ("0.2", {
        "env_embed_multiplicity": 2, "edge_sh_normalization": "integral", "env_embed_mlp_latent_dimensions": [8],
        "env_embed_mlp_nonlinearity": "silu", "parity": "o3_restricted",
    }),
    "batch_norms": ("0.2", {
        "l_max": 1, "env_embed_multiplicity": 2, "parity": "o3_restricted", "num_layers": 1,
        "two_body_latent_mlp_batchnorm": True, "two_body_latent_mlp_latent_dimensions": [8, 6, 16],
    }),
    "so3_replaced": ("0.2", {
        "l_max": 3, "parity": "so3", "env_embed_multiplicity": 2, "latent_resnet": False,
        "norm_basis_mean_shift": False, "latent_mlp_latent_dimensions": [16], "edge_eng_mlp_latent_dimensions": [],
        "per_species_rescale_scales": None,
    }),
    "padded": ("0.2", {
        "l_max": 1, "env_embed_multiplicity": 3, "pad_to_alignment": 8, "latent_resnet": False, "r_max": 3.8,
        "latent_mlp_latent_dimensions": [16],
    }),
    "five_layers": ("0.2", {
        "num_layers": 5, "l_max": 1, "env_embed_multiplicity": 2, "r_max": 3.8, "normalize_edge_energy_sum": False,
        "PolynomialCutoff_p": 8, **_SEVERAL,
    }),
    "zbl_02": ("0.2 on nequip 0.6", {
        "env_embed_multiplicity": 3, "model_builders": _PAIR_BUILDERS, "PolynomialCutoff_p": 7, **_ZBL,
    }),
    "pair_cutoffs_zbl": ("0.3", {
        "num_tensor_features": 3, "tensors_mixing_mode": "uuulin", "model_builders": _PAIR_BUILDERS, **_ZBL,
        "r_max": 4.5, "per_edge_type_cutoff": {"H": {"H": 3.0, "O": 4.1}, "O": 4.5}, "global": 1.7,
    }),
    "zbl_before_scales": ("0.3", {
        "num_layers": 1, "l_max": 1, "num_tensor_features": 2, "tensors_mixing_mode": "p", **_ZBL, "global": 1.7,
        "model_builders": ["allegro.model.Allegro", "PairPotentialTerm", "PerSpeciesRescale", "RescaleEnergyEtc"],
    }),
    "lj_02": ("0.2 on nequip 0.6", {
        "env_embed_multiplicity": 3, "model_builders": _PAIR_BUILDERS, "pair_style": "LJ", "lj_sigma": 1.4,
        "lj_epsilon": 0.03, "global": 1.7,
    }),
    "lj_pair_cutoffs": ("0.3", {
        "l_max": 1, "num_tensor_features": 3, "tensors_mixing_mode": "p", "model_builders": _PAIR_BUILDERS,
        "pair_style": "LJ", "lj_sigma": 1.3, "lj_epsilon": 0.05, "lj_use_cutoff": True, "r_max": 4.5,
        "per_edge_type_cutoff": {"H": {"H": 3.0, "O": 4.1}, "O": 4.5},
    }),
    "lj_beyond_cutoffs": ("0.3", {
        "l_max": 1, "num_tensor_features": 3, "tensors_mixing_mode": "uuulin", **_ZBL, "pair_style": "LJ",
        "lj_sigma": 1.5, "lj_epsilon": 0.06, "lj_use_cutoff": False, "r_max": 4.5, "global": 1.7,
        "per_edge_type_cutoff": {"H": {"H": 2.4, "O": 3.4}, "O": 3.9},
        "model_builders": ["allegro.model.Allegro", "PairPotentialTerm", "PerSpeciesRescale", "RescaleEnergyEtc"],
    }),
    "lj_fancy": ("0.3", {
        "l_max": 1, "num_tensor_features": 3, "tensors_mixing_mode": "uuulin", "global": 1.7, "pair_style": "LJ_fancy",
        "lj_sigma": [[1.0, 1.2], [1.2, 1.5]], "lj_delta": [[0.2, 0.0], [0.0, -0.1]], "lj_epsilon": 0.04,
        "lj_exponent": 5.5, "lj_epsilon_trainable": True,
        "per_edge_type_cutoff": {"H": {"H": 2.4, "O": 3.4}, "O": 3.9},
        "model_builders": ["allegro.model.Allegro", "PairPotentialTerm", "PerSpeciesRescale", "RescaleEnergyEtc"],
    }),
    "uvvp_collected_so3": ("0.3", {
        "parity": "so3", "num_layers": 3, "num_tensor_features": 3, "tensors_mixing_mode": "uvvp", "trainable": False,
        "latent_resnet": False, "weight_individual_irreps": False, "initial_scalar_embedding_dim": 10,
        "type_names": ["O", "H", "C"],
    }),
    "uuup_self_edge": ("0.3", {
        "l_max": 1, "parity": "o3_restricted", "num_layers": 3, "num_tensor_features": 4, "tensors_mixing_mode": "uuup",
        "self_edge_tensor_product": True, "latent_resnet_coefficients_learnable": True,
        "two_body_latent_mlp_latent_dimensions": [8, 8, 16],
    }),
    "p_l3_collected": ("0.3", {
        "l_max": 3, "num_layers": 3, "num_tensor_features": 2, "tensors_mixing_mode": "p", "latent_resnet": False,
        "two_body_latent_mlp_latent_dimensions": [8, 12],
    }),
    "uuulin_self_edge": ("0.3", {
        "parity": "o3_restricted", "num_layers": 3, "num_tensor_features": 2, "tensors_mixing_mode": "uuulin",
        "self_edge_tensor_product": True,
    }),
    "uuup_five_layers": ("0.3", {
        "num_layers": 5, "l_max": 1, "num_tensor_features": 2, "tensors_mixing_mode": "uuup",
    }),
    "original_basis": ("0.3", {
        "l_max": 1, "num_tensor_features": 2, "tensors_mixing_mode": "p", "use_original_normalized_basis": True,
        "num_basis": 5, "norm_basis_mean_shift": True,
    }),
    "original_basis_unshifted": ("0.3", {
        "num_layers": 1, "l_max": 1, "num_tensor_features": 2, "tensors_mixing_mode": "uuup", "type_names": ["Si"],
        "use_original_normalized_basis": True,
    }),
    "original_basis_pair_cutoffs": ("0.3", {
        "num_tensor_features": 2, "tensors_mixing_mode": "p", "use_original_normalized_basis": True, "num_basis": 5,
        "per_edge_type_cutoff": {"H": {"H": 3.0, "O": 3.5}, "O": 4.0}, "edge_sh_normalization": "norm",
        "weight_individual_irreps": False,
    }),
    "one_layer": ("0.3", {
        "num_layers": 1, "type_names": ["Si"], "num_tensor_features": 4, "tensors_mixing_mode": "uvvp",
        "latent_mlp_latent_dimensions": [16],
    }),
    # Two-body MLP 128, 256, 512, 1024, latent MLPs 3 x 1024: Musaelian et al., SC '23, doi:10.1145/3581784.3627041.
    "sc23_shape": ("0.3", {
        "type_names": ["H", "C", "N", "O", "S"], "r_max": 4.0, "num_tensor_features": 64, "tensors_mixing_mode": "p",
        "two_body_latent_mlp_latent_dimensions": [128, 256, 512, 1024], "latent_mlp_latent_dimensions": [1024] * 3,
        "edge_eng_mlp_latent_dimensions": [128], "num_bessels_per_basis": 8, "model_builders": _PAIR_BUILDERS, **_ZBL,
        "per_edge_type_cutoff": {
            "H": {"H": 3.0, "C": 1.5, "N": 3.0, "O": 3.0, "S": 3.0}, "C": 4.0, "N": 4.0, "O": 4.0, "S": 4.0,
        },
    }),
}  # fmt: skip


def configuration(name: str) -> dict[str, Any]:
    """The whole configuration of a model, as upstream's training would keep it."""
    version, options = MODELS[name]
    types = options.get("type_names", ["H", "O"])
    config: dict[str, Any] = {
        "model_builders": ["allegro.model.Allegro", "PerSpeciesRescale", "RescaleEnergyEtc"],
        "type_names": types, "num_types": len(types), "r_max": 4.0, "l_max": 2, "parity": "o3_full", "num_layers": 2,
        "chemical_symbol_to_type": {symbol: index for index, symbol in enumerate(types)},
        "type_to_chemical_symbol": dict(enumerate(types)),
        "edge_eng_mlp_latent_dimensions": [8], "edge_eng_mlp_nonlinearity": None,
        "two_body_latent_mlp_latent_dimensions": [8, 16], "two_body_latent_mlp_nonlinearity": "silu",
        "latent_mlp_latent_dimensions": [16, 16], "latent_mlp_nonlinearity": "silu",
        "env_embed_mlp_latent_dimensions": [], "env_embed_mlp_nonlinearity": None,
        "avg_num_neighbors": 11.3, "PolynomialCutoff_p": 6, "default_dtype": "float64", "model_dtype": "float64",
        "per_species_rescale_shifts": [0.0] * len(types), "per_species_rescale_scales": [1.0] * len(types),
        "global_rescale_scale": 1.0, "global_rescale_shift": None,
    }  # fmt: skip
    if version == "0.3":
        biases = {f"{mlp}_mlp_bias": False for mlp in ("two_body_latent", "latent", "env_embed")}
        config |= {**biases, "num_bessels_per_basis": 6}
    else:
        config |= {"num_basis": 6, "BesselBasis_trainable": True}
    return config | {key: value for key, value in options.items() if key != "global"}


def large_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random numbers for the weights of a model too large to keep, the same wherever they are made: float32 in float64.

    Only the tensors of MLPs, path weights and type embeddings; each has a generator of its own, seeded by its name.
    """
    weights = {}
    for name, shape in shapes.items():
        if "_weight_" in name or name.endswith(".w") or name.endswith("type_embeddings"):
            rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
            weights[name] = rng.uniform(-np.sqrt(3.0), np.sqrt(3.0), shape).astype(np.float32).astype(np.float64)
    return weights


def structures(num_types: int) -> dict[str, tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]]:
    """Five structures: name -> positions (N, 3) Å, cell (3, 3) Å or None, pbc (3,), types (N,)."""
    made: dict[str, tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]] = {}
    for name, count, periodic in (("triclinic", 10, True), ("cluster", 7, False), ("small_cell", 3, True)):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        cell = (11.0 * count) ** (1 / 3) * np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.15, 0.25, 1.0]])
        placed = np.empty((0, 3))
        while len(placed) < count:
            trial = rng.random(3)
            delta = placed - trial
            if (np.linalg.norm((delta - np.rint(delta) * periodic) @ cell, axis=1) > 1.1).all():
                placed = np.vstack([placed, trial])
        types = rng.permutation(np.arange(count) % num_types)
        made[name] = placed @ cell, cell if periodic else None, np.full(3, periodic), types
    pair = np.array([[0.0, 0.0, 0.0], [0.7, 0.9, -1.1]])
    made["pair"] = pair, None, np.zeros(3, bool), np.arange(2) % num_types
    made["isolated"] = np.vstack([pair, [[3.0, 25.0, 4.0]]]), None, np.zeros(3, bool), np.arange(3) % num_types
    return made


def edges(positions: np.ndarray, cell: np.ndarray, periodic: bool, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (2, Z) and shifts (Z, 3) of all edges within the cutoff."""
    found = []
    for shift in itertools.product(range(-3, 4) if periodic else [0], repeat=3):
        delta = positions[None] - positions[:, None] + np.array(shift) @ cell
        near = np.linalg.norm(delta, axis=2) < cutoff
        if not any(shift):
            np.fill_diagonal(near, False)
        found += [(i, j, *shift) for i, j in np.argwhere(near)]
    table = np.array(found)
    return table[:, :2].T, table[:, 2:].astype(float)


def evaluate(name: str, target: Path) -> None:
    """Build a model with upstream and write its file; runs in upstream's interpreter."""
    import torch
    from nequip.model import model_from_config
    from nequip.nn import RescaleOutput
    from nequip.utils import Config

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(zlib.crc32(name.encode()))
    config = configuration(name)
    if config.get("pair_style") == "LJ_fancy":
        mend_lennard_jones()
    model = model_from_config(Config(dict(config)), initialize=False).eval()
    rescale = next(module for module in model.modules() if isinstance(module, RescaleOutput))
    randomize(model, name)
    results: dict[str, Any] = {}
    for structure, (positions, cell, pbc, types) in structures(len(config["type_names"])).items():
        lattice = 100.0 * np.eye(3) if cell is None else cell
        pairs, shifts = edges(positions, lattice, bool(pbc.any()), config["r_max"])
        at, strain = torch.tensor(positions, requires_grad=True), torch.zeros(3, 3, requires_grad=True)
        deformation = torch.eye(3) + 0.5 * (strain + strain.T)
        data = {
            "pos": at @ deformation, "cell": torch.tensor(lattice) @ deformation, "pbc": torch.tensor([True] * 3),
            "edge_index": torch.tensor(pairs), "edge_cell_shift": torch.tensor(shifts),
            "atom_types": torch.tensor(types),
        }  # fmt: skip
        energies = rescale.model(data)["atomic_energy"].view(-1) * rescale.scale_by
        by_positions, by_strain = torch.autograd.grad(energies.sum(), [at, strain])
        arrays = {
            "positions": positions, "pbc": pbc, "types": types, "energy": float(energies.sum().detach()),
            "energies": energies.detach().numpy(), "forces": -by_positions.numpy(), "virial": -by_strain.numpy(),
        }  # fmt: skip
        results |= {f"{structure}/{key}": value for key, value in arrays.items()}
        if cell is not None:
            results[f"{structure}/cell"] = cell
    large = name == "sc23_shape"
    stored = {inner_name(key): value.numpy() for key, value in model.state_dict().items()}
    kept = {
        f"tensors/{key}": value
        for key, value in stored.items()
        if not large or key not in large_weights(shapes(stored))
    }
    kept |= {f"shapes/{key}": np.array(value.shape) for key, value in stored.items() if large}
    np.savez_compressed(target, config=json.dumps(config), type_names=" ".join(config["type_names"]), **kept, **results)


def mend_lennard_jones() -> None:
    """Make nequip's LennardJones usable, in this process; its formula is as it was.

    The parameters that it looks up for E edges are (E,) beside lengths (E, 1), and what it makes of both is (E, E): no
    release evaluates it. Here they are (E, 1).
    """
    from nequip.nn import pair_potential

    looked_up = pair_potential._param
    pair_potential._param = lambda *arguments: looked_up(*arguments).unsqueeze(-1)


def shapes(stored: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {key: value.shape for key, value in stored.items()}


def randomize(model: Any, name: str) -> None:
    """Move what training would have moved off its initial value."""
    import torch

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale_by = MODELS[name][1].get("global", 1.0)
    state = model.state_dict()
    large = large_weights({key: tuple(value.shape) for key, value in map_names(state)}) if name == "sc23_shape" else {}
    with torch.no_grad():
        for key, value in map_names(state):
            shape = tuple(value.shape)
            if key in large:
                value.copy_(torch.tensor(large[key]))
            elif key.endswith("scale_by"):
                value.fill_(scale_by)
            elif key.endswith("shifts"):
                value.copy_(torch.tensor(rng.uniform(-3.0, 3.0, shape)))
            elif key.endswith(".scales") or key.endswith("per_edge_scales"):
                value.copy_(torch.tensor(rng.uniform(0.5, 1.7, shape)))
            elif "latent_resnet" in key:
                value.copy_(torch.tensor(rng.normal(size=shape)))
            elif "._bn_" in key and not key.endswith("num_batches_tracked"):
                spread = (0.4, 1.6) if key.endswith((".weight", "running_var")) else (-0.6, 0.6)
                value.copy_(torch.tensor(rng.uniform(*spread, shape)))
            elif key.endswith("bessel_weights"):
                value.mul_(torch.tensor(rng.uniform(0.95, 1.05, shape)))
    model.load_state_dict(state)


def map_names(state: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(inner_name(key), value) for key, value in state.items()]


def inner_name(name: str) -> str:
    """A name below the network, without the modules around it."""
    while name.startswith(("model.", "func.")):
        name = name.split(".", 1)[1]
    return name


def main() -> int:
    """Make the named models, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(MODELS)}")
    parser.add_argument("--upstream-python", metavar="PATH", type=Path)
    parser.add_argument("--sources", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--update-golden", action="store_true", help="replace files that exist")
    args = parser.parse_args()
    for name in args.names or list(MODELS):
        target = FOLDER / f"{name}.npz"
        if args.upstream_python is None:
            evaluate(name, target)
            continue
        if target.exists() and not args.update_golden:
            parser.error(f"{target} exists; --update-golden replaces it")
        places = [args.sources.resolve() / part for part in (*SOURCES[MODELS[name][0]], "extra")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
        command = [str(args.upstream_python), __file__, "--sources", str(args.sources), name]
        subprocess.run(command, env=environment, check=True)
        print(f"written: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
