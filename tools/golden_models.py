"""The models of tests/data/golden: their options, for tools/make_golden.py.

MODELS are chosen by hand, each for something; `pairwise_models` adds models with random options until every two levels
of FACTORS occur together in one of them; OLD_MODELS are of nequip 0.7 with nequip-allegro 0.4, which had other options.
OTHER_IRREPS came later: models of SO(3), with tensors of higher degree than the harmonics, with irreps repeated.
SCATTER_FEATURES: models of that option, made by the same old versions. LENNARD_JONES: models with the pair potentials
that upstream has and does not evaluate.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np

BESSEL = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 6}
SPLINE = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed", "num_splines": 6, "spline_span": 4}
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL"}
PLAIN = "nequip.train.NequIPLightningModule"
EMA = "nequip.train.EMALightningModule"
SCHEDULE_FREE = "nequip.train.ScheduleFreeLightningModule"

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

_NONLINEARITIES = ("silu", "mish", "gelu", "ssp", "tanh", "sigmoid", "softplus", None, "None")
_KINDS = ("scalar_embed", "allegro", "readout")
FACTORS: dict[str, tuple[Any, ...]] = {
    "l_max": (0, 1, 2, 3),
    "irreps": ("parity", "no parity", "chosen"),
    "layers": (1, 2, 3, 4),
    "radial": ("bessel", "bessel trainable", "spline"),
    "depth": (0, 1, 2, 3),
    "normalize": (True, False),
    "individual": (True, False),
    "coupled": (True, False),
    "cutoffs": ("one", "partial", "rows"),
    "neighbors": ("one", "per type"),
    "scales": ("none", "one", "per type", "trained"),
    "shifts": ("none", "one", "per type", "trained"),
    "pair": ("none", "metal", "real"),
    "dtype": ("float32", "float64"),
    "weights": ("plain", "ema", "schedule free", "modified"),
}
"""What a model of `pairwise_models` chooses of, and three of _NONLINEARITIES, one for each of its kinds of MLP."""

# Harmonics and irreps of the tensor track that AllegroModel does not offer: subsets, in other orders.
_CHOSEN_IRREPS = {
    0: ("1x0e", "1x0o+1x0e"),
    1: ("1x0e+1x1o", "1x0e+1x1e+1x1o"),
    2: ("1x0e+1x2e+1x1o", "1x0e+1x1o+1x2e+1x1e"),
    3: ("1x0e+1x1o+1x3o", "1x0e+1x3o+1x2e+1x2o+1x1o+1x1e"),
}
_WIDTHS = {0: (12, 4), 1: (8, 4), 2: (8, 3), 3: (6, 2)}  # scalar and tensor features, by l_max: small files


@cache
def pairwise_rows() -> tuple[dict[str, Any], ...]:
    """Choices of levels such that any two levels of different factors occur together in at least one row.

    Greedy, from a fixed stream of random numbers: of many random rows, the one that has most pairs still missing. A
    nonlinearity counts where its MLP has a hidden layer.
    """
    rng = np.random.default_rng(20240607)
    missing = set()
    for (first, levels), (second, others) in itertools.combinations(FACTORS.items(), 2):
        missing |= {((first, a), (second, b)) for a in levels for b in others}
    for name, levels in FACTORS.items():
        if name != "depth":
            missing |= {((name, level), ("nonlinearity", f)) for level in levels for f in _NONLINEARITIES}
    rows: list[dict[str, Any]] = []
    while missing:
        candidates = [_random_row(rng) for _ in range(300)]
        best = max(candidates, key=lambda row: len(missing & _pairs(row)))
        if missing & _pairs(best):
            rows.append(best)
            missing -= _pairs(best)
    return tuple(rows)


def _random_row(rng: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {name: levels[rng.integers(len(levels))] for name, levels in FACTORS.items()}
    order = rng.permutation(len(_NONLINEARITIES))[: len(_KINDS)]
    return {**row, "nonlinearities": tuple(_NONLINEARITIES[k] for k in order)}


def _depths(row: dict[str, Any]) -> tuple[int, ...]:
    return (row["depth"] + 1) % 4, row["depth"], (row["depth"] + 2) % 4


def _pairs(row: dict[str, Any]) -> set[Any]:
    chosen = [(name, row[name]) for name in FACTORS]
    pairs: set[Any] = set(itertools.combinations(chosen, 2))
    for nonlinearity, depth in zip(row["nonlinearities"], _depths(row), strict=True):
        if depth:
            pairs |= {(choice, ("nonlinearity", nonlinearity)) for choice in chosen if choice[0] != "depth"}
    return pairs


def pairwise_models() -> dict[str, dict[str, Any]]:
    """Options of the models of `pairwise_rows`, by name; `training` is the training module, no option."""
    return {f"pairwise_{index:02d}": _options(row, index) for index, row in enumerate(pairwise_rows())}


def _options(row: dict[str, Any], index: int) -> dict[str, Any]:
    types = ["O", "H"] if index % 3 else ["H", "C", "O"]
    neighbors = (
        60.5 if row["layers"] == 4 else 9.5
    )  # many random layers would make numbers far beyond any trained model's
    l_max, per_type = row["l_max"], {name: 0.7 + 0.4 * k for k, name in enumerate(types)}
    options: dict[str, Any] = {
        "type_names": types,
        "r_max": 3.6,
        "num_layers": row["layers"],
        "num_scalar_features": _WIDTHS[l_max][0],
        "num_tensor_features": _WIDTHS[l_max][1],
        "forward_normalize": row["normalize"],
        "weight_individual_irreps": row["individual"],
        "tp_path_channel_coupling": row["coupled"],
        "model_dtype": row["dtype"],
        "avg_num_neighbors": neighbors,
    }
    if row["neighbors"] == "per type":
        options["avg_num_neighbors"] = {name: neighbors - 3.0 + 3 * k for k, name in enumerate(types)}
    if row["irreps"] == "chosen":
        harmonics, allowed = _CHOSEN_IRREPS[l_max]
        options |= {"_target_": "allegro.model.allegro_models.FullAllegroModel", "irreps_edge_sh": harmonics}
        options |= {"tensor_track_allowed_irreps": allowed, "l_max": None, "parity": None}
    else:
        options |= {"l_max": l_max, "parity": row["irreps"] == "parity"}
    if row["radial"] == "spline":
        options["radial_chemical_embed"] = {**SPLINE, "num_splines": 5, "spline_span": 3}
    else:
        trained = row["radial"] == "bessel trainable"
        options["radial_chemical_embed"] = {**BESSEL, "polynomial_cutoff_p": 4 + index % 4, "bessel_trainable": trained}
    for kind, depth, nonlinearity in zip(_KINDS, _depths(row), row["nonlinearities"], strict=True):
        options |= {f"{kind}_mlp_hidden_layers_depth": depth, f"{kind}_mlp_nonlinearity": nonlinearity}
        options[f"{kind}_mlp_hidden_layers_width"] = 7
    if row["cutoffs"] == "partial":
        options["per_edge_type_cutoff"] = {"H": {"H": 2.4, "O": 3.0}, "O": {"H": 3.3}}
    elif row["cutoffs"] == "rows":
        options["per_edge_type_cutoff"] = {"H": 2.5}
    for name, sign in (("scales", 1.0), ("shifts", -2.0)):
        if row[name] != "none":
            values = {element: sign * value for element, value in per_type.items()}
            options[f"per_type_energy_{name}"] = 1.2 * sign if row[name] == "one" else values
            options[f"per_type_energy_{name}_trainable"] = row[name] == "trained"
    if row["pair"] != "none":
        options["pair_potential"] = {**ZBL, "units": row["pair"], "chemical_species": types, "polynomial_cutoff_p": 5.0}
    return {**options, "training": {"ema": EMA, "schedule free": SCHEDULE_FREE}.get(row["weights"], PLAIN),
            "modified": row["weights"] == "modified"}  # fmt: skip


_OLD_COMMON: dict[str, Any] = {
    "_target_": "allegro.model.AllegroModel",
    "model_dtype": "float64",
    "type_names": ["O", "H"],
    "r_max": 4.0,
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 8,
    "num_tensor_features": 4,
    "avg_num_neighbors": 11.5,
    "allegro_mlp_hidden_layers_width": 8,
    "compile_mode": "eager",
}
_OLD_BESSEL = {**BESSEL, "two_body_mlp_hidden_layers_width": 7, "polynomial_cutoff_p": 4}
OLD_MODELS: dict[str, dict[str, Any]] = {
    "old_bessel_zbl": {
        "scalar_embed": {**_OLD_BESSEL, "bessel_trainable": True},
        "pair_potential": {**ZBL, "units": "metal", "chemical_species": ["O", "H"]},
        "parity_setting": "o3_full",
        "num_layers": 3,
        "per_type_energy_shifts": [1.5, -2.0],
    },
    "old_spline": {
        "l_max": 1,
        "parity_setting": "o3_restricted",
        "scalar_embed": {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"},
        "readout_mlp_nonlinearity": "mish",
        "tp_path_channel_coupling": False,
        "per_edge_type_cutoff": {"O": {"O": 4.0, "H": 3.1}, "H": 2.9},
    },
    "old_wide_embedding": {"scalar_embed": _OLD_BESSEL, "scalar_embed_output_dim": 12, "forward_normalize": False},
    "old_narrow_embedding_float32": {
        "scalar_embed": {**_OLD_BESSEL, "two_body_mlp_nonlinearity": None},
        "scalar_embed_output_dim": 5,
        "model_dtype": "float32",
        "allegro_mlp_nonlinearity": "gelu",
    },
    "old_so3": {"scalar_embed": _OLD_BESSEL, "parity_setting": "so3", "num_layers": 3, "l_max": 1},
}
SCATTER_FEATURES: dict[str, dict[str, Any]] = {
    "scatter_l3_parity": {
        "l_max": 3,
        "num_layers": 3,
        "num_tensor_features": 3,
        "scalar_embed": {**_OLD_BESSEL, "bessel_trainable": True},
        "parity_setting": "o3_full",
        "r_max": 3.6,
    },
    "scatter_shared_weights": {
        "num_layers": 4,
        "scalar_embed": {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"},
        "parity_setting": "o3_restricted",
        "weight_individual_irreps": False,
        "tp_path_channel_coupling": False,
        "per_edge_type_cutoff": {"O": {"O": 4.0, "H": 3.1}, "H": 2.9},
        "pair_potential": {**ZBL, "units": "metal", "chemical_species": ["O", "H"]},
        "model_dtype": "float32",
    },
    "scatter_so3": {"scalar_embed": _OLD_BESSEL, "parity_setting": "so3", "l_max": 1},
    "scatter_one_layer": {"scalar_embed": _OLD_BESSEL, "parity_setting": "o3_full", "num_layers": 1},
}
_CHOSEN = {"_target_": "allegro.model.allegro_models.FullAllegroModel"}
OTHER_IRREPS: dict[str, dict[str, Any]] = {
    "so3": {
        **_CHOSEN,
        "irreps_edge_sh": "1x0e+1x1e+1x2e",
        "tensor_track_allowed_irreps": "1x0e+1x2e+1x1e",
        "num_layers": 3,
    },
    "tensors_beyond_harmonics": {
        **_CHOSEN,
        "irreps_edge_sh": "1x0e+1x1o",
        "tensor_track_allowed_irreps": "1x0e+1x2e+1x2o+1x1o+1x1e",
        "num_layers": 3,
    },
    "repeated_harmonics": {
        **_CHOSEN,
        "irreps_edge_sh": "1x0e+1x1o+1x2e+1x1o+1x0e",
        "tensor_track_allowed_irreps": "1x0e+1x1o+1x2e",
        "num_tensor_features": 3,
    },
    "repeated_everywhere": {
        **_CHOSEN,
        "irreps_edge_sh": "1x0e+1x1o+1x1o",
        "tensor_track_allowed_irreps": "1x0e+1x1e+1x1o+1x0e+1x1e+1x1o+1x1e",
        "num_layers": 3,
        "num_tensor_features": 2,
        "weight_individual_irreps": False,
        "tp_path_channel_coupling": False,
        "model_dtype": "float32",
    },
}
# Numbers with which no pair is closer than delta in the structures of make_golden.py (0.8 Å), and none of whose terms
# hides the network. A negative parameter counts as 0.
_LENNARD_JONES = {"_target_": "nequip.nn.pair_potential.LennardJones"}
LENNARD_JONES: dict[str, dict[str, Any]] = {
    "lj_tables": {
        "type_names": ["H", "C", "O"], "per_edge_type_cutoff": {"H": {"H": 2.6, "C": 3.1}, "O": 3.4},
        "per_type_energy_scales": {"H": 0.7, "C": 1.6, "O": 1.2},
        "per_type_energy_shifts": {"H": 1.1, "C": -4.0, "O": -3.2},
        "pair_potential": {
            **_LENNARD_JONES, "lj_sigma_trainable": True, "lj_epsilon_trainable": True, "polynomial_cutoff_p": 8.0,
            "lj_sigma": [[0.8, 1.1, 1.0], [1.1, 1.4, 1.3], [1.0, 1.3, 1.2]],
            "lj_delta": [[0.1, 0.0, 0.2], [0.0, -0.3, 0.05], [0.2, 0.05, 0.15]],
            "lj_epsilon": [[0.08, 0.05, 0.06], [0.05, 0.1, -0.04], [0.06, -0.04, 0.07]],
        },
    },
    "lj_repulsive_only": {
        "model_dtype": "float32", "pair_potential": {
            **_LENNARD_JONES, "lj_style": "lj_repulsive_only", "lj_sigma": 1.05, "lj_delta": 0.4, "lj_epsilon": 0.2,
            "lj_exponent": 4.5,
        },
    },
    "lj_repulsive": {
        "radial_chemical_embed": SPLINE, "pair_potential": {
            **_LENNARD_JONES, "lj_style": "repulsive", "lj_sigma": [[0.9, 0.7], [0.7, 1.3]], "lj_delta": 0.1,
            "lj_epsilon": 0.6, "lj_delta_trainable": True, "lj_exponent": 3.0, "polynomial_cutoff_p": 5.0,
        },
    },
    "lj_simple": {
        "l_max": 1, "per_edge_type_cutoff": {"H": {"O": 2.9}}, "pair_potential": {
            "_target_": "nequip.nn.pair_potential.SimpleLennardJones", "lj_sigma": 1.2, "lj_epsilon": 0.07,
            "polynomial_cutoff_p": 7.0,
        },
    },
}  # fmt: skip


def all_models() -> dict[str, dict[str, Any]]:
    """Every model by name: all options of its builder, as training stores them, and `training`, its training module."""
    models: dict[str, dict[str, Any]] = {}
    for name, changes in {**MODELS, **pairwise_models()}.items():
        config: dict[str, Any] = {**COMMON, "seed": 1000 + len(models), "training": PLAIN, **changes}
        if name.endswith("_ema"):
            config["training"] = EMA
        if config["_target_"].endswith("FullAllegroModel"):
            del config["l_max"], config["parity"]
        models[name] = config
    for name, changes in OLD_MODELS.items():
        models[name] = {**_OLD_COMMON, "seed": 1000 + len(models), "training": PLAIN, **changes}
    for name, changes in OTHER_IRREPS.items():  # last: seeds follow from the places of the models
        models[name] = {**COMMON, "seed": 1000 + len(models), "training": PLAIN, **changes}
        del models[name]["l_max"], models[name]["parity"]
    for name, changes in SCATTER_FEATURES.items():
        common = {**_OLD_COMMON, "scatter_features": True}
        models[name] = {**common, "seed": 1000 + len(models), "training": PLAIN, **changes}
    for name, changes in LENNARD_JONES.items():
        models[name] = {**COMMON, "seed": 1000 + len(models), "training": PLAIN, **changes}
    return models
