"""The options of a model's builder, found from the modules it built: of TorchScript models, which keep no
configuration.

Modules, attributes and classes are those of nequip 0.7 and newer with nequip-allegro 0.4 and newer. What is found are
the options of `allegro.model.FullAllegroModel`; the builder then compares every constant the modules hold with them.
"""

from __future__ import annotations

from math import isclose, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.elements import symbol_of
from allegro_sim.tools.importing.known_modules import refuse_unknown_modules
from allegro_sim.tools.importing.module_tree import Module
from allegro_sim.tools.importing.unpickle import Record, Tensor

_NONLINEARITIES = {
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Mish": "mish",
    "torch.nn.modules.activation.GELU": "gelu",
    "nequip.nn.nonlinearities.ShiftedSoftplus": "ssp",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Softplus": "softplus",
    "torch.nn.modules.linear.Identity": "None",
}
_NONLINEARITY_SETTINGS = {"approximate": "none", "beta": 1, "threshold": 20}  # PyTorch's defaults
_UNITS = {7.1998225: "metal", 166.031855: "real"}  # half of Coulomb's constant
# Modules of the network in their order; the first of each pair is the name up to nequip-allegro 0.4.
_KNOWN = {"edge_norm", "scalar_embed", "radial_chemical_embed", "scalar_embed_mlp", "tensor_embed", "allegro",
          "edge_readout", "edge_eng_sum", "per_type_energy_scale_shift", "cutoff", "pair_potential",
          "total_energy_sum"}  # fmt: skip


_KINDS = {"edge_readout": "ScalarMLP", "edge_eng_sum": "EdgewiseReduce", "total_energy_sum": "AtomwiseReduce",
          "per_type_energy_scale_shift": "PerTypeScaleShift"}  # fmt: skip


class _Finder:
    """Looks up modules and attributes below the network; what is missing or strange is an error by its name."""

    def __init__(self, network: Module, path: Path) -> None:
        self.network = network
        self.path = path

    def error(self, module: Module, what: str) -> CheckpointImportError:
        return CheckpointImportError(f"{self.path}: the module {module.name} ({module.kind}) {what}")

    def module(self, name: str, *kinds: str) -> Module:
        found = self.network.find(name)
        if found is None:
            raise CheckpointImportError(f"{self.path}: its network has no module {name}, so it is not an Allegro model")
        if kinds and found.kind.rsplit(".", 1)[-1] not in kinds:
            raise self.error(found, f"is not supported; {' or '.join(kinds)} is expected")
        return found

    def attribute(self, module: Module, name: str, kind: type | tuple[type, ...]) -> Any:
        value = module.attributes.get(name)
        if not isinstance(value, kind):
            raise self.error(module, f"has {name} = {value!r}")
        return value

    def numbers(self, module: Module, name: str) -> np.ndarray:
        if name not in module.tensors:
            raise self.error(module, f"has no tensor {name}")
        return module.tensors[name].numpy()


def options_of(top: Module, metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """The options of allegro.model.FullAllegroModel that would build `top`, a nequip.nn.graph_model.GraphModel.

    metadata: texts beside the model: model_dtype, type_names, per_edge_type_cutoff.
    Raises CheckpointImportError for other models, naming the module that is not Allegro's.
    """
    network = next((m for m in top.walk() if m.kind.endswith(".SequentialGraphNetwork")), None)
    if network is None or network.find("allegro") is None:
        kinds = sorted({m.kind.split(".")[0] for m in top.walk()} - {"torch"})
        raise CheckpointImportError(f"{path}: is a model of {', '.join(kinds)}, not an Allegro model")
    find = _Finder(network, path)
    for name, child in network.children.items():
        if name not in _KNOWN:
            raise find.error(child, "is not supported")
    refuse_unknown_modules(network, path)
    for name, kind in _KINDS.items():
        find.module(name, kind)
    for name, option in (("edge_eng_sum", "sum"), ("total_energy_sum", "sum")):
        if find.module(name).attributes.get("reduce") != option:
            raise find.error(find.module(name), f"reduces otherwise than by {option}")
    allegro = find.module("allegro", "Allegro_Module")
    embed = find.module("tensor_embed", "TwoBodySphericalHarmonicTensorEmbed")
    weighter, edge_weighter = find.module("allegro._env_weighter"), find.module("tensor_embed._edge_weighter")
    for module in (weighter, edge_weighter):
        if find.attribute(module, "alpha", float) != 1.0:
            raise find.error(module, "has alpha other than 1")
    harmonics = find.module("tensor_embed.sh", "SphericalHarmonics")
    if harmonics.attributes.get("normalize") is not True or harmonics.attributes.get("normalization") != "component":
        raise find.error(harmonics, "has another normalisation than component")
    if edge_weighter.attributes.get("weight_individual_irreps") is not True:
        raise find.error(embed, "shares weights of irreps, which is not supported")
    types = _type_names(top, metadata, find)
    config: dict[str, Any] = {
        "_target_": "allegro.model.allegro_models.FullAllegroModel",
        "model_dtype": metadata.get("model_dtype") or _dtype(find),
        "type_names": types,
        **_cutoff_options(find, types, metadata),
        "irreps_edge_sh": _irreps_text(harmonics.attributes.get("irreps_out"), harmonics, find),
        "tensor_track_allowed_irreps": _irreps_text(
            allegro.attributes.get("tensor_track_allowed_irreps"), allegro, find
        ),
        **{name: find.attribute(allegro, name, int) for name in
           ("num_layers", "num_scalar_features", "num_tensor_features")},
        "weight_individual_irreps": find.attribute(weighter, "weight_individual_irreps", bool),
        "tp_path_channel_coupling": find.attribute(find.module("allegro.tps.0"), "path_channel_coupling", bool),
        "forward_normalize": _forward_normalize(find),
        **_embedding_options(find),
        **_mlp_options(find, "readout", "edge_readout.mlp_module"),
        "avg_num_neighbors": _neighbors(find, types),
    }  # fmt: skip
    if allegro.attributes.get("scatter_features") is True:  # nequip-allegro 0.4 to 0.6
        config["scatter_features"] = True
    latents = [_mlp_options(find, "allegro", f"allegro.latents.{k}") for k in range(config["num_layers"])]
    if any(latent != latents[0] for latent in latents):
        raise find.error(allegro, "has latent MLPs of different kinds")
    config |= latents[0]
    pair = network.find("pair_potential")
    if pair is not None:
        config["pair_potential"] = _pair_options(pair, find)
    return config


def pair_exponent_of(top: Module) -> float | None:
    """Exponent of the pair potential's cutoff: its own (nequip 0.17 and newer) or that of the edges (before); None
    where there is none, or the modules do not say."""
    network = next((m for m in top.walk() if m.kind.endswith(".SequentialGraphNetwork")), None)
    if network is None or network.find("pair_potential") is None:
        return None
    places = ("pair_potential.cutoff",
              *(f"{embed}.bessel_encode.cutoff" for embed in ("radial_chemical_embed", "scalar_embed")),
              "cutoff.cutoff")  # fmt: skip
    found = (network.find(place) for place in places)
    values = (module.attributes.get("p") for module in found if module is not None)
    return next((float(p) for p in values if isinstance(p, (int, float))), None)


def _type_names(top: Module, metadata: dict[str, str], find: _Finder) -> list[str]:
    names = top.attributes.get("type_names")
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return list(names)
    if metadata.get("type_names"):
        return metadata["type_names"].split()
    raise find.error(top, "names no types")


def _dtype(find: _Finder) -> str:
    tensor = find.module("allegro.tps.0").tensors.get("weights")
    return "float64" if isinstance(tensor, Tensor) and tensor.dtype == "f8" else "float32"


def _cutoff_options(find: _Finder, types: list[str], metadata: dict[str, str]) -> dict[str, Any]:
    module = find.module("edge_norm", "EdgeLengthNormalizer")
    options: dict[str, Any] = {"r_max": float(find.attribute(module, "r_max", (int, float)))}
    if not find.attribute(module, "_per_edge_type", bool):
        return options
    reciprocal = find.numbers(module, "_rmax_recip").ravel()
    try:
        cutoffs = np.array([float(text) for text in metadata.get("per_edge_type_cutoff", "").split()])
    except ValueError:
        cutoffs = np.empty(0)
    if len(cutoffs) != len(types) ** 2:  # rounded to the decimals a person writes, where that gives the same reciprocal
        rounded = np.round(1.0 / reciprocal, 10)
        cutoffs = np.where(1.0 / rounded == reciprocal, rounded, 1.0 / reciprocal)
    if len(cutoffs) != len(types) ** 2:
        raise find.error(module, f"has {len(cutoffs)} cutoffs for {len(types)} types")
    table = cutoffs.reshape(len(types), len(types)).tolist()
    options["per_edge_type_cutoff"] = {
        center: dict(zip(types, row, strict=True)) for center, row in zip(types, table, strict=True)
    }
    return options


def _irreps_text(found: Any, module: Module, find: _Finder) -> str:
    """Irreps as text: from a text, from TorchScript's ((mul, (l, p)), ...), or from e3nn's pickled objects.

    Neighbours of one kind come together, as in 2x1o, since e3nn's harmonics keep them so: here they are 1x1o+1x1o.
    """
    parts = []
    try:
        if isinstance(found, str):
            counted = [term.strip().rpartition("x") for term in found.split("+")]
            return "+".join(f"1x{irrep}" for count, _, irrep in counted for _ in range(int(count or 1)))
        for entry in _tuple(found):
            mul, irrep = _tuple(entry)
            degree, parity = _tuple(irrep)
            parts += [f"1x{degree:d}{'e' if parity == 1 else 'o'}"] * mul
    except (TypeError, ValueError):
        parts = []
    if not parts:
        raise find.error(module, "has irreps that cannot be read")
    return "+".join(parts)


def _tuple(found: Any) -> tuple[Any, ...]:
    """Members of a tuple, or of an object of a subclass, whose arguments are its members or one tuple of them."""
    if isinstance(found, Record):
        found = found.arguments
        if len(found) == 1 and isinstance(found[0], (list, tuple)):
            found = found[0]
    return tuple(found)


def _embedding_options(find: _Finder) -> dict[str, Any]:
    """The radial and chemical embedding, in the form of nequip-allegro 0.5 or of 0.4, whichever it is."""
    old = find.network.find("scalar_embed") is not None
    prefix = "scalar_embed" if old else "radial_chemical_embed"
    module = find.module(prefix)
    options: dict[str, Any]
    mlp: dict[str, Any] = {}
    if module.kind.endswith(".TwoBodySplineScalarEmbed"):
        spline = find.module(f"{prefix}.spline", "PerClassSpline")
        options = {
            "_target_": "allegro.nn.TwoBodySplineScalarEmbed",
            "num_splines": find.attribute(spline, "num_splines", int),
            "spline_span": find.attribute(spline, "spline_span", int),
        }
        width = find.attribute(spline, "num_channels", int)
    else:
        bessel = find.module(f"{prefix}.bessel_encode", "BesselEdgeLengthEncoding")
        cutoff = find.module(f"{prefix}.bessel_encode.cutoff", "PolynomialCutoff")
        options = {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": find.attribute(bessel, "num_bessels", int),
            "bessel_trainable": find.attribute(bessel, "trainable", bool),
            "polynomial_cutoff_p": find.attribute(cutoff, "p", (int, float)),
        }
        find.module(f"{prefix}.type_embed", "ProductTypeEmbedding")
        width = _dims(find, f"{prefix}.type_embed.basis_linear")[-1]
    if not old:
        mlp = _mlp_options(find, "scalar_embed", "scalar_embed_mlp.mlp_module")
        return {"radial_chemical_embed": options, "radial_chemical_embed_dim": width, **mlp}
    if "num_splines" in options:
        return {"scalar_embed": options, "scalar_embed_output_dim": width}
    mlp = _mlp_options(find, "two_body", f"{prefix}.twobody_mlp.mlp_module")
    options |= {**mlp, "two_body_embedding_dim": width}
    return {"scalar_embed": options, "scalar_embed_output_dim": _dims(find, f"{prefix}.twobody_mlp.mlp_module")[-1]}


def _dims(find: _Finder, name: str) -> list[int]:
    module = find.module(name, "ScalarMLPFunction")
    if module.attributes.get("bias") is not False:
        raise find.error(module, "has biases, which is not supported")
    dims = find.attribute(module, "dims", (list, tuple))
    if len(dims) < 2 or not all(isinstance(width, int) for width in dims):
        raise find.error(module, f"has dims = {dims!r}")
    return list(dims)


def _mlp_options(find: _Finder, kind: str, name: str) -> dict[str, Any]:
    """Depth, width and nonlinearity of an MLP."""
    dims = _dims(find, name)
    hidden = dims[1:-1]
    mlp = find.module(f"{name}.mlp")
    if any(width != hidden[0] for width in hidden):
        raise find.error(mlp, f"has hidden layers of several widths {hidden}")
    nonlinearity = None
    if hidden and mlp.kind.endswith(".DeepLinearMLP"):
        nonlinearity = None
    elif hidden:
        layers = list(mlp.children.values())
        kinds = {child.kind for child in layers[1::2]}
        found = mlp.children.get("1")
        linear = all(child.kind == "nequip.nn.mlp.ScalarLinearLayer" for child in layers[::2])
        if (
            found is None
            or not linear
            or len(layers) != 2 * len(hidden) + 1
            or len(kinds) != 1
            or found.kind not in _NONLINEARITIES
        ):
            raise find.error(mlp, f"has the nonlinearities {', '.join(sorted(kinds))}, which are not supported")
        for setting, default in _NONLINEARITY_SETTINGS.items():
            if found.attributes.get(setting, default) != default:
                raise find.error(found, f"has {setting} = {found.attributes[setting]!r}, which is not supported")
        nonlinearity = _NONLINEARITIES[found.kind]
    options: dict[str, Any] = {
        f"{kind}_mlp_hidden_layers_depth": len(hidden),
        f"{kind}_mlp_nonlinearity": nonlinearity,
    }
    if hidden:
        options[f"{kind}_mlp_hidden_layers_width"] = hidden[0]
    return options


def _forward_normalize(find: _Finder) -> bool:
    """Whether factors of MLPs follow the width of the input rather than that of the output."""
    for part in find.network.walk():
        linear = part.name.endswith(".mlp.0") and "first_layer" not in part.name
        sizes = part.attributes.get("in_features"), part.attributes.get("out_features")
        if linear and isinstance(sizes[0], int) and isinstance(sizes[1], int) and sizes[0] != sizes[1]:
            alpha = part.tensors["alpha"].numpy() if "alpha" in part.tensors else part.attributes.get("alpha")
            if isinstance(alpha, (float, np.ndarray)):
                return isclose(float(alpha), 1.0 / sqrt(sizes[0]), rel_tol=1e-6)
    return True


def _neighbors(find: _Finder, types: list[str]) -> Any:
    """Average number of neighbours, of all types or of each, from the factor of the sums: 1/sqrt(N)."""
    norm = find.network.find("allegro.avg_num_neighbors_norm")
    if norm is not None:
        factors = find.numbers(norm, "norm_const").astype(np.float64).ravel()
    else:  # nequip-allegro up to 0.6
        factors = np.array([find.attribute(find.module("allegro.tps.0"), "scatter_factor", float)])
    counts = [float(n) for n in 1.0 / factors**2]
    if len(counts) == 1:
        return counts[0]
    if len(counts) != len(types):
        raise find.error(find.module("allegro"), f"has {len(counts)} numbers of neighbours for {len(types)} types")
    return dict(zip(types, counts, strict=True))


def _pair_options(pair: Module, find: _Finder) -> dict[str, Any]:
    name = pair.kind.rpartition(".")[2]
    if name == "SimpleLennardJones":
        return {"_target_": pair.kind, **{k: v for k, v in pair.attributes.items() if k.startswith("lj_")}}
    if name == "LennardJones":
        tables = {f"lj_{name}": find.numbers(pair, name) for name in ("sigma", "delta", "epsilon")}
        return {
            "_target_": pair.kind,
            "lj_style": find.attribute(pair, "lj_style", str),
            "lj_exponent": find.attribute(pair, "exponent", (int, float)),
            **{name: table.tolist() if table.size else None for name, table in tables.items()},
        }
    if pair.kind != "nequip.nn.pair_potential.ZBL":
        return {"_target_": pair.kind}
    half = float(find.numbers(pair, "_qqr2exesquare"))
    units = next((unit for value, unit in _UNITS.items() if isclose(half, value, rel_tol=1e-6)), None)
    if units is None:
        raise find.error(pair, f"has the factor {half}, of no system of units that is known")
    numbers = find.numbers(pair, "atomic_numbers").astype(int).ravel()
    if numbers.min() < 1 or numbers.max() > 118:
        raise find.error(pair, "holds numbers that are no atomic numbers")
    return {"_target_": pair.kind, "units": units, "chemical_species": [symbol_of(int(number)) for number in numbers]}
