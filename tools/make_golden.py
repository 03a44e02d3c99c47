"""Makes tests/data/golden: small models with random weights by upstream, and upstream's float64 results for them.

    python tools/make_golden.py --upstream-python PATH --update-golden [NAME ...]

PATH is an interpreter with nequip and nequip-allegro. Each model spans other options; each is evaluated on five
structures: triclinic and periodic, a cell smaller than the cutoff, a cluster, two atoms, and an isolated atom. The
files are ours (MIT):

    NAME.ckpt    a Lightning checkpoint as upstream's training writes it, compressed
    NAME.npz     structures and results
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import AllegroSimError, OutputError
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.self_checks import Structure, run_script, upstream_self_checks
from allegro_sim.tools.importing.source import open_source

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
BESSEL = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 6}
SPLINE = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed", "num_splines": 6, "spline_span": 4}
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL"}
PLAIN = "nequip.train.NequIPLightningModule"
EMA = "nequip.train.EMALightningModule"

COMMON: dict[str, Any] = {
    "_target_": "allegro.model.AllegroModel",
    "model_dtype": "float64",
    "type_names": ["O", "H"],
    "r_max": 4.0,
    "radial_chemical_embed": BESSEL,
    "l_max": 2,
    "parity": True,
    "num_layers": 2,
    "num_scalar_features": 8,
    "num_tensor_features": 4,
    "avg_num_neighbors": 11.5,
    **{f"{kind}_mlp_hidden_layers_width": 8 for kind in ("scalar_embed", "allegro", "readout")},
}

# What each model changes of COMMON. Together: l_max 0 to 3, 1 to 4 layers, both parities, and every option there is.
MODELS: dict[str, dict[str, Any]] = {
    "per_type_energies": {
        "per_type_energy_scales": {"O": 1.7, "H": 0.6},
        "per_type_energy_shifts": {"O": -3.2, "H": 1.1},
    },
    "l0_linear_mlps": {
        "l_max": 0,
        "num_layers": 1,
        "per_type_energy_shifts": -1.25,
        **{f"{kind}_mlp_hidden_layers_depth": 0 for kind in ("scalar_embed", "allegro", "readout")},
    },
    "l1_three_layers_float32_ema": {
        "l_max": 1,
        "num_layers": 3,
        "model_dtype": "float32",
        "num_scalar_features": 16,
        "num_tensor_features": 8,
        "per_type_energy_scales": 0.8,
        "per_type_energy_shifts": {"O": -3.2, "H": 1.1},
        "per_type_energy_shifts_trainable": True,
        "radial_chemical_embed": {**BESSEL, "bessel_trainable": True},
    },
    "l3_odd_irreps": {"l_max": 3, "num_layers": 3, "num_tensor_features": 3, "r_max": 3.6},
    "l3_no_parity": {"l_max": 3, "parity": False, "num_layers": 2, "num_tensor_features": 5, "r_max": 3.5},
    "spline_four_layers": {
        "parity": False,
        "num_layers": 4,
        "radial_chemical_embed": SPLINE,
        "radial_chemical_embed_dim": 12,
        "model_dtype": "float32",
        "per_type_energy_scales": 1.3,
    },
    "pair_cutoffs_trainable_bessel": {
        "type_names": ["H", "C", "O"],
        "radial_chemical_embed": {**BESSEL, "bessel_trainable": True, "polynomial_cutoff_p": 5},
        "per_edge_type_cutoff": {"H": {"H": 2.4, "C": 2.0}, "O": 3.1},
        "avg_num_neighbors": {"H": 6.0, "C": 14.5, "O": 9.0},
    },
    "zbl_metal": {
        "radial_chemical_embed": {**BESSEL, "polynomial_cutoff_p": 4},
        "pair_potential": {**ZBL, "units": "metal", "chemical_species": ["O", "H"], "polynomial_cutoff_p": 7},
        "per_edge_type_cutoff": {"H": {"O": 2.5}},
    },
    "zbl_real_spline": {
        "type_names": ["H", "heavy", "light"],
        "radial_chemical_embed": SPLINE,
        "pair_potential": {**ZBL, "units": "real", "chemical_species": ["H", "Si", "C"]},
        "per_type_energy_scales": {"H": 0.5, "heavy": 2.0, "light": 1.5},
    },
    "deep_linear": {
        **{
            f"{kind}_mlp_hidden_layers_depth": depth
            for kind, depth in (("scalar_embed", 1), ("allegro", 2), ("readout", 3))
        },
        **{f"{kind}_mlp_nonlinearity": None for kind in ("scalar_embed", "allegro", "readout")},
    },
    "mish_gelu_tanh": {
        "scalar_embed_mlp_nonlinearity": "mish",
        "allegro_mlp_nonlinearity": "gelu",
        "readout_mlp_nonlinearity": "tanh",
        "scalar_embed_mlp_hidden_layers_depth": 2,
        "allegro_mlp_hidden_layers_depth": 2,
    },
    "ssp_none_text": {
        "scalar_embed_mlp_nonlinearity": "ssp",
        "allegro_mlp_nonlinearity": "None",
        "allegro_mlp_hidden_layers_depth": 2,
        "readout_mlp_nonlinearity": "ssp",
        "readout_mlp_hidden_layers_depth": 2,
    },
    "sigmoid_softplus": {"allegro_mlp_nonlinearity": "softplus", "readout_mlp_nonlinearity": "sigmoid"},
    "shared_weights": {
        "_target_": "allegro.model.allegro_models.FullAllegroModel",
        "irreps_edge_sh": "1x0e+1x1o+1x2e",
        "tensor_track_allowed_irreps": "1x0e+1x0o+1x1e+1x1o+1x2e+1x2o",
        "weight_individual_irreps": False,
        "tp_path_channel_coupling": False,
        "num_layers": 3,
    },
    "backward_normalized": {"forward_normalize": False, "radial_chemical_embed_dim": 10},
}


def full_config(name: str) -> dict[str, Any]:
    """All options of a model, as training stores them."""
    config = {**COMMON, "seed": 1000 + list(MODELS).index(name), **MODELS[name]}
    if config["_target_"].endswith("FullAllegroModel"):
        del config["l_max"], config["parity"]
    return config


def make_structures(config: dict[str, Any], seed: int) -> dict[str, Structure]:
    """Five random structures: name -> positions (N, 3) Å, cell (3, 3) Å or None, pbc (3,), types (N,)."""
    rng = np.random.default_rng(seed)
    num_types = len(config["type_names"])
    r_max = config["r_max"]
    skewed = np.array([[1.0, 0.1, 0.0], [0.3, 0.9, -0.1], [-0.2, 0.25, 1.1]])
    triclinic, small = 1.3 * r_max * skewed, 0.62 * r_max * skewed
    open_ends, periodic = np.zeros(3, bool), np.ones(3, bool)

    def types(count: int) -> np.ndarray:
        return rng.permutation(np.arange(count) % num_types)

    pair = np.array([[0.1, -0.2, 0.3], [0.9, 0.5, 0.8]])
    return {
        "triclinic": (place(rng, 9, triclinic, True), triclinic, periodic, types(9)),
        "small_cell": (place(rng, 3, small, True), small, periodic, types(3)),
        "cluster": (place(rng, 6, 0.9 * r_max * np.eye(3), False), None, open_ends, types(6)),
        "pair": (pair, None, open_ends, types(2)),
        "isolated": (np.vstack([pair, [[3.0, 4.0, 25.0]]]), None, open_ends, types(3)),
    }


def place(rng: np.random.Generator, count: int, cell: np.ndarray, periodic: bool) -> np.ndarray:
    """Random positions (count, 3) in a cell, no two closer than 0.8 Å (to each other's nearest images, if periodic)."""
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1] if periodic else [0]] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    positions = np.empty((0, 3))
    while len(positions) < count:
        trial = rng.random(3) @ cell
        distances = np.linalg.norm(positions[:, None] + shifts - trial, axis=-1)
        if (distances > 0.8).all():
            positions = np.vstack([positions, trial])
    return positions


def make(name: str, python: Path) -> None:
    """Build a model, evaluate it, and write its two files."""
    config = full_config(name)
    training_module = EMA if name.endswith("_ema") else PLAIN
    with tempfile.TemporaryDirectory(prefix="allegro-golden-") as folder_name:
        folder = Path(folder_name)
        raw = folder / f"{name}.ckpt"
        job = {"config": config, "run_config": {}, "training_module": training_module, "output": str(raw)}
        run_script(python, "build", job, folder)
        recompress(raw, FOLDER / f"{name}.ckpt")
        source = open_source(raw)
        model = build_model(source).model
        structures = make_structures(config, config["seed"])
        exponent = None if model.zbl is None else model.zbl.cutoff_exponent
        checks = upstream_self_checks(
            python, source, list(structures.values()), raw_weights=False, pair_exponent=exponent
        )
    arrays: dict[str, np.ndarray] = {"upstream": np.array(json.dumps(source.versions, sort_keys=True))}
    for structure, check in zip(structures, checks, strict=True):
        for field in ("positions", "cell", "pbc", "types", "energy", "energies", "forces", "virial"):
            if getattr(check, field) is not None:
                arrays[f"{structure}/{field}"] = np.asarray(getattr(check, field))
    np.savez_compressed(FOLDER / f"{name}.npz", allow_pickle=False, **arrays)


def recompress(source: Path, target: Path) -> None:
    """Write the archive again with its entries compressed and without dates; PyTorch reads it as before."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("serialization_id"):
                new.writestr(zipfile.ZipInfo(info.filename), old.read(info), zipfile.ZIP_DEFLATED, 9)


def main() -> int:
    """Make the named models, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(MODELS)}")
    parser.add_argument("--upstream-python", metavar="PATH", type=Path, required=True)
    parser.add_argument("--update-golden", action="store_true", help="replace files that exist")
    args = parser.parse_args()
    names = args.names or list(MODELS)
    unknown = sorted(set(names) - set(MODELS))
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}")
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (FOLDER / f"{name}.ckpt").exists() and not args.update_golden:
                raise OutputError(f"{FOLDER / name}.ckpt exists already; --update-golden replaces it")
            make(name, args.upstream_python)
            print(f"{name}: {sum(path.stat().st_size for path in FOLDER.glob(name + '.*')):,} bytes")
    except AllegroSimError as error:
        print(f"make_golden: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
