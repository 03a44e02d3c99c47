"""An Allegro model from a checkpoint's configuration and tensors, every normalisation folded into the weights.

Follows upstream's FullAllegroModel (nequip-allegro 0.5 to 0.8) module by module; the formulas are in
`allegro_sim/model/reference.py`.
Every option and tensor is taken by name, and what is left over is an error (see `options.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.description import AllegroModel, BesselEmbedding, Mlp, SplineEmbedding, Zbl
from allegro_sim.model.irreps import Irrep, harmonic_irreps, irreps_chain
from allegro_sim.tools.importing.elements import assign_elements
from allegro_sim.tools.importing.layers import (
    activation_of,
    read_layer,
    read_linear,
    read_mlp,
    read_radial,
    repeat_environment,
)
from allegro_sim.tools.importing.options import Options, Tensors
from allegro_sim.tools.importing.source import SUPPORTED, Source
from allegro_sim.tools.importing.unpickle import Tensor

_TARGETS = tuple(
    f"allegro.model.{module}{name}"
    for module in ("", "allegro_models.")
    for name in ("AllegroModel", "FullAllegroModel", "AllegroEnergyModel", "FullAllegroEnergyModel")
)
# Options that do not change energies and forces. The `trainable` flags say only which tensors are parameters.
_IRRELEVANT = ("_target_", "seed", "compile_mode", "do_derivatives", "per_type_energy_scales", "per_type_energy_shifts",
               "per_type_energy_scales_trainable", "per_type_energy_shifts_trainable")  # fmt: skip
# Modifiers (nequip.model.modify) that leave tensors and their meaning as they are, or change only scales and shifts.
_MODIFIERS = ("modify_PerTypeScaleShift", "enable_ForceStressOutput", "disable_ForceStressOutput",
              "enable_TritonContracter", "enable_CuEquivarianceContracter")  # fmt: skip
_CONSTANT_BUFFERS = (
    "_empty",
    "_rtoi",
    "_rmax_recip",
    "w3j",
    "spline.lower",
    "spline.upper",
    "atomic_numbers",
    "_qqr2exesquare",
)
_COULOMB = {"metal": 14.399645, "real": 332.06371}  # eV Å, kcal/mol Å: the values of LAMMPS and upstream


@dataclass(frozen=True)
class Built:
    """The model, the number of its weights as upstream counts them, which weights they are, and notes for the user."""

    model: AllegroModel
    num_weights: int
    weights_used: str  # "averaged (EMA)" or "raw"
    notes: tuple[str, ...]


def build_model(source: Source, *, raw_weights: bool = False, elements: dict[str, str] | None = None) -> Built:
    """Build the model of a checkpoint.

    raw_weights: take the weights of the last training step although averaged ones (EMA) are there, which upstream uses.
    elements: type name -> chemical symbol, for types whose names are none.
    Raises CheckpointImportError for other models, unknown options or tensors, and tensors that do not fit.
    """
    config, modifiers = _unwrap(source)
    options = Options(config, source.path, "model")
    averaged = source.ema is not None and not raw_weights
    trained = _trained_vectors(config, modifiers)
    state = _averaged_state(source, trained) if averaged else _raw_state(source, raw_weights)
    tensors = Tensors(_without_prefix(state), source.path, _without_prefix(source.constants))
    notes: list[str] = []
    model = _read_model(source, options, tensors, trained, elements or {}, notes)
    if source.foreign_names:
        notes.append(
            f"the file names {', '.join(source.foreign_names)}, which no checkpoint needs; nothing of it was run"
        )
    return Built(model, tensors.num_weights, "averaged (EMA)" if averaged else "raw", tuple(notes))


def _without_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    """Names without the modules around the network: "model.", and "func." of the one that takes derivatives."""
    return {name.removeprefix("model.").removeprefix("func."): value for name, value in tensors.items()}


def _unwrap(source: Source) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The builder's options without the modifiers around them, and the modifiers."""
    config, modifiers = source.config, []
    while config.get("_target_") == "nequip.model.modify":
        found = config.get("modifiers")
        for modifier in found if isinstance(found, list) else [found]:
            name = modifier.get("modifier") if isinstance(modifier, dict) else modifier
            if name not in _MODIFIERS:
                raise CheckpointImportError(
                    f"{source.path}: the model is changed by the modifier {name!r}; supported: {', '.join(_MODIFIERS)}"
                )
            modifiers.append(modifier)
        inner = config.get("model")
        config = inner if isinstance(inner, dict) else {}
    target = config.get("_target_")
    if target in ("nequip.model.ModelFromPackage", "nequip.model.ModelFromCheckpoint"):
        raise CheckpointImportError(
            f"{source.path}: was trained further from another file ({target}) and does not hold the model's options; "
            "package it with upstream (`nequip-package build`) where that file is, and import the .nequip.zip"
        )
    if target not in _TARGETS:
        raise CheckpointImportError(
            f"{source.path}: holds a model built by {target!r}, not an Allegro model of the current generation. "
            f"{SUPPORTED}"
        )
    return config, modifiers


def _raw_state(source: Source, raw_weights: bool) -> dict[str, Tensor]:
    if "ScheduleFree" in source.training_module and source.kind != "nequip package" and not raw_weights:
        raise CheckpointImportError(
            f"{source.path}: was trained with {source.training_module}, whose weights for use are kept in the "
            "optimiser; package it with upstream (`nequip-package build`) and import the .nequip.zip, or give "
            "--raw-weights"
        )
    return source.state


def _trained_vectors(config: dict[str, Any], modifiers: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether Bessel frequencies, scales and shifts are parameters; else upstream keeps them as buffers."""
    radial = config.get("radial_chemical_embed")
    trained = {
        "bessel_weights": isinstance(radial, dict) and bool(radial.get("bessel_trainable")),
        "scales": bool(config.get("per_type_energy_scales_trainable")),
        "shifts": bool(config.get("per_type_energy_shifts_trainable")),
    }
    for modifier in modifiers:
        if modifier["modifier"] == "modify_PerTypeScaleShift":
            trained["scales"] = bool(modifier.get("scales_trainable"))
            trained["shifts"] = bool(modifier.get("shifts_trainable"))
    return trained


def _averaged_state(source: Source, trained: dict[str, bool]) -> dict[str, Tensor]:
    """The state with its parameters replaced by their averages, which are stored in the order of `parameters()`.

    That is the order of the state dict without buffers, for PyTorch lists a module's parameters before its buffers and
    both before its children's.
    """

    def is_parameter(name: str, tensor: Tensor) -> bool:
        last = name.rsplit(".", 1)[-1]
        if last in trained:
            return trained[last] and 0 not in tensor.shape
        return not name.endswith(_CONSTANT_BUFFERS)

    assert source.ema is not None
    names = [name for name, tensor in source.state.items() if is_parameter(name, tensor)]
    shapes = [source.state[name].shape for name in names]
    if shapes != [tensor.shape for tensor in source.ema]:
        raise CheckpointImportError(
            f"{source.path}: its {len(source.ema)} averaged weights (EMA) do not fit the model's {len(names)} "
            "parameters; --raw-weights takes those of the last training step"
        )
    return source.state | dict(zip(names, source.ema, strict=True))


def _read_model(
    source: Source,
    options: Options,
    tensors: Tensors,
    trained: dict[str, bool],
    elements: dict[str, str],
    notes: list[str],
) -> AllegroModel:
    """All of the model; modules in upstream's order."""
    options.ignore(*_IRRELEVANT)
    dtype = options.take("model_dtype", "text")
    if dtype not in ("float32", "float64"):
        raise options.error("model_dtype", f"is {dtype!r}; float32 or float64 is expected")
    tolerance = 1e-6 if dtype == "float32" else 1e-12  # of constants that went through that type
    type_names = [str(name) for name in options.take("type_names", "list")]
    num_types = len(type_names)
    l_max, parity = _angular_options(options)
    fan_in = options.take("forward_normalize", "flag", True)
    num_layers = options.take("num_layers", "integer", 2)
    num_scalars = options.take("num_scalar_features", "integer", 64)
    num_channels = options.take("num_tensor_features", "integer", 16)
    embed_width = options.take("radial_chemical_embed_dim", "integer", num_scalars)
    if min(num_types, num_layers, num_scalars, num_channels, embed_width) < 1 or l_max < 0:
        raise options.error("num_layers", "or another size of the model is not positive")
    if options.take("scatter_features", "flag", False):
        raise options.error("scatter_features", "is true, which is not supported")
    individual = options.take("weight_individual_irreps", "flag", True)
    coupled = options.take("tp_path_channel_coupling", "flag", True)
    cutoffs = _cutoffs(options, tensors, type_names, notes)

    radial_options = options.section("radial_chemical_embed")
    if radial_options is None:
        raise options.error("radial_chemical_embed", "is missing")
    radial = read_radial(tensors, radial_options, "radial_chemical_embed", num_types, embed_width, fan_in, tolerance)

    def mlp(prefix: str, kind: str, width_in: int, width_out: int, default_width: int) -> Mlp:
        depth = options.peek(f"{kind}_mlp_hidden_layers_depth", "integer", 1)
        width = options.peek(f"{kind}_mlp_hidden_layers_width", "integer", default_width)
        widths = (width_in, *[width] * depth, width_out)
        return read_mlp(tensors, prefix, widths, activations[kind], fan_in, tolerance)

    activations = {
        kind: activation_of(options, f"{kind}_mlp_nonlinearity") for kind in ("scalar_embed", "allegro", "readout")
    }

    num_irreps = l_max + 1
    embed = mlp("scalar_embed_mlp.mlp_module", "scalar_embed", embed_width, num_scalars, 64)
    tensor_linear = read_linear(
        tensors, "tensor_embed.env_embed_linear", (num_scalars, num_channels * num_irreps), fan_in, tolerance
    )
    environment_width = num_channels * (num_irreps if individual else 1)
    first_projection = read_linear(
        tensors,
        "allegro.first_layer_env_embed_projection",
        (num_scalars, num_scalars + environment_width),
        True,  # upstream always scales this one by its input width
        tolerance,
    )
    chain = irreps_chain(l_max, parity, num_layers)
    layers = []
    for k in range(num_layers):
        width_out = num_scalars + (environment_width if k < num_layers - 1 else 0)
        latent = mlp(f"allegro.latents.{k}", "allegro", num_scalars * (k + 1) + num_channels, width_out, 64)
        if not individual:
            last = repeat_environment(latent.weights[-1], num_scalars, num_irreps)
            latent = replace(latent, weights=(*latent.weights[:-1], last))
        layers.append(
            read_layer(
                tensors, f"allegro.tps.{k}", chain[k], chain[k + 1], l_max, num_channels, coupled, latent, tolerance
            )
        )
    if not individual:
        first_projection = repeat_environment(first_projection, num_scalars, num_irreps)
    readout = mlp("edge_readout.mlp_module", "readout", num_scalars * (num_layers + 1), 1, 32)
    for kind in activations:
        options.ignore(f"{kind}_mlp_hidden_layers_depth", f"{kind}_mlp_hidden_layers_width")
    norms = _environment_norms(options, tensors, type_names, tolerance)
    scales, shifts = (
        _per_type(tensors, f"per_type_energy_scale_shift.{name}", num_types, absent, trained[name])
        for name, absent in (("scales", 1.0), ("shifts", 0.0))
    )
    zbl, species = _zbl(source, options, tensors, radial, num_types, notes)
    for name in ("_empty", "allegro._env_weighter._rtoi"):  # placeholders
        if name in tensors:
            tensors.take(name, (0,), weight=False)
    options.finish()
    tensors.finish(ignored_constants=("._rtoi",))
    numbers, masses = assign_elements(type_names, source.run_config, species, elements)
    return AllegroModel(
        type_names=tuple(type_names),
        atomic_numbers=np.array(numbers, np.int64),
        masses=np.array(masses),
        cutoffs=cutoffs,
        l_max=l_max,
        parity=parity,
        num_scalar_features=num_scalars,
        num_tensor_features=num_channels,
        trained_dtype=dtype,
        radial=radial,
        embed_mlp=embed,
        tensor_linear=tensor_linear,
        first_projection=first_projection,
        individual_irreps=True,  # one weight for all irreps is stored as equal weights, which computes the same
        layers=tuple(layers),
        readout=readout,
        environment_norms=norms,
        edge_sum_norms=norms / sqrt(2.0),
        scales=scales,
        shifts=shifts,
        zbl=zbl,
        hyperparameters=source.config,
    )


def _angular_options(options: Options) -> tuple[int, bool]:
    """l_max and parity, from the options of AllegroModel or from the irreps given to FullAllegroModel."""
    if not options.has("irreps_edge_sh"):
        return options.take("l_max", "integer"), options.take("parity", "flag", True)
    harmonics = options.take("irreps_edge_sh")
    l_max = harmonics if isinstance(harmonics, int) else len(_irreps(options, "irreps_edge_sh", harmonics)) - 1
    expected = harmonic_irreps(l_max)
    if not isinstance(harmonics, int) and _irreps(options, "irreps_edge_sh", harmonics) != expected:
        raise options.error(
            "irreps_edge_sh", f"is {harmonics!r}; the spherical harmonics of degrees 0 to l_max are expected"
        )
    allowed_text = options.take("tensor_track_allowed_irreps", "text")
    allowed = set(_irreps(options, "tensor_track_allowed_irreps", allowed_text))
    if allowed == set(expected):
        return l_max, False
    if allowed == {Irrep(degree, sign) for degree in range(l_max + 1) for sign in (1, -1)}:
        return l_max, True
    raise options.error(
        "tensor_track_allowed_irreps", f"is {allowed_text!r}; only all irreps, or those of the harmonics"
    )


def _irreps(options: Options, name: str, text: Any) -> tuple[Irrep, ...]:
    try:
        return tuple(Irrep.parse(part.strip().removeprefix("1x")) for part in str(text).split("+"))
    except ValueError as error:
        raise options.error(name, f"cannot be read: {error}") from error


def _cutoffs(options: Options, tensors: Tensors, type_names: list[str], notes: list[str]) -> np.ndarray:
    """Cutoff radius per ordered pair of types; pairs the table leaves out have r_max."""
    r_max = float(options.take("r_max", "number"))
    table = options.take("per_edge_type_cutoff", "mapping", None)
    cutoffs = np.full((len(type_names), len(type_names)), r_max)
    unknown: set[str] = set()
    for center, row in (table or {}).items():
        entries = row if isinstance(row, dict) else dict.fromkeys(type_names, row)
        unknown |= {name for name in (center, *entries) if name not in type_names}
        for neighbor, cutoff in entries.items():
            if not isinstance(cutoff, (int, float)) or not 0 < cutoff <= r_max:
                raise options.error(
                    f"per_edge_type_cutoff.{center}.{neighbor}", f"is {cutoff!r}; 0 to r_max is expected"
                )
            if center in type_names and neighbor in type_names:
                cutoffs[type_names.index(center), type_names.index(neighbor)] = cutoff
    if unknown:
        notes.append(
            f"per_edge_type_cutoff names {', '.join(sorted(unknown))}, no types of the model; as upstream, ignored"
        )
    tensors.expect("edge_norm._rmax_recip", 1.0 / cutoffs if table is not None else 1.0 / r_max, 1e-12)
    return cutoffs


def _environment_norms(options: Options, tensors: Tensors, type_names: list[str], tolerance: float) -> np.ndarray:
    """1/sqrt(average number of neighbours), by type of the centre."""
    found = options.take("avg_num_neighbors")
    if isinstance(found, dict):
        if set(found) != set(type_names):
            raise options.error("avg_num_neighbors", f"names {', '.join(found)}; the types are {', '.join(type_names)}")
        counts = [found[name] for name in type_names]
    else:
        counts = [found]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0 for n in counts):
        raise options.error("avg_num_neighbors", f"is {found!r}; positive numbers are expected")
    norms = np.array([1.0 / sqrt(n) for n in counts])
    for name in ("allegro.avg_num_neighbors_norm.norm_const", "edge_eng_sum.norm_module.norm_const"):
        tensors.expect_constant(name, norms, tolerance)
    return np.ascontiguousarray(np.broadcast_to(norms, (len(type_names),)))


def _per_type(tensors: Tensors, name: str, num_types: int, absent: float, trained: bool) -> np.ndarray:
    """Scales or shifts of all types; stored empty, as one number, or one a type."""
    shape = tensors.shape(name)
    if 0 in shape:
        tensors.take(name, weight=False)
        return np.full(num_types, absent)
    if shape not in ((1, 1), (num_types, 1)):
        raise tensors.error(name, f"has shape {shape}; (1, 1) or ({num_types}, 1) is expected")
    return np.ascontiguousarray(np.broadcast_to(tensors.take(name, weight=trained)[:, 0], (num_types,)))


def _zbl(
    source: Source,
    options: Options,
    tensors: Tensors,
    radial: BesselEmbedding | SplineEmbedding,
    num_types: int,
    notes: list[str],
) -> tuple[Zbl | None, list[str] | None]:
    """The ZBL term, if any, and the chemical species it states for the types."""
    section = options.section("pair_potential")
    if section is None:
        return None, None
    target = section.take("_target_", "text")
    if target not in ("nequip.nn.pair_potential.ZBL", "nequip.nn.ZBL"):
        raise section.error(
            "_target_", f"is {target!r}; the only pair potential supported is nequip.nn.pair_potential.ZBL"
        )
    units = section.take("units", "text")
    if units not in _COULOMB:
        raise section.error("units", f"is {units!r}; metal or real is expected")
    species = [str(symbol) for symbol in section.take("chemical_species", "list")]
    if len(species) != num_types:
        raise section.error("chemical_species", f"has {len(species)} entries for {num_types} types")
    own_exponent = float(section.take("polynomial_cutoff_p", "number", 6.0))
    section.finish()
    # Up to nequip 0.16 the term takes the cutoff function of the model's edges, since 0.17 one of its own.
    edge_exponent = radial.cutoff_exponent if isinstance(radial, BesselEmbedding) else 6.0
    exponent = own_exponent if _version(source.versions.get("nequip", "")) >= (0, 17) else edge_exponent
    if not source.versions.get("nequip") and own_exponent != edge_exponent:
        raise section.error("polynomial_cutoff_p", "is not certain: the file does not state the version of nequip")
    if units == "real":
        notes.append("the ZBL term is in LAMMPS units `real`: energies seem to be kcal/mol, but are taken as eV here")
    coulomb = _COULOMB[units]
    tensors.expect("pair_potential._qqr2exesquare", 0.5 * coulomb, 1e-12)
    numbers = tensors.take("pair_potential.atomic_numbers", (num_types,), weight=False)
    return Zbl(numbers, coulomb, exponent), species


def _version(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (0, 0)
