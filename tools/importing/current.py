"""The current generation: an Allegro model from a builder's options and tensors, every normalisation folded in.

Follows upstream's FullAllegroModel (nequip-allegro 0.4 to 0.8) module by module; the formulas are in
`allegro_sim/model/reference.py`. Every option and tensor is taken by name, and what is left over is an error (see
`options.py`).
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np

from allegro_sim.model.description import AllegroModel, Mlp
from allegro_sim.tools.importing.elements import assign_elements
from allegro_sim.tools.importing.energies import read_cutoffs, read_environment_norms, read_per_type
from allegro_sim.tools.importing.layers import activation_of, read_linear, read_mlp, read_radial
from allegro_sim.tools.importing.model_source import Source
from allegro_sim.tools.importing.options import Options, Tensors
from allegro_sim.tools.importing.pair_terms import PairTermReader
from allegro_sim.tools.importing.tensor_track import read_layer, read_tensor_track
from allegro_sim.tools.importing.versions import modernise

# Options that do not change energies and forces. The `trainable` flags say only which tensors are parameters.
_IRRELEVANT = ("_target_", "seed", "compile_mode", "do_derivatives", "per_type_energy_scales", "per_type_energy_shifts",
               "per_type_energy_scales_trainable", "per_type_energy_shifts_trainable")  # fmt: skip
_MLPS = ("scalar_embed", "allegro", "readout")


def read_current(
    source: Source,
    options: Options,
    tensors: Tensors,
    trained: dict[str, bool],
    elements: dict[str, str],
    notes: list[str],
    mend_lennard_jones: bool,
) -> AllegroModel:
    """All of the model; modules in upstream's order. mend_lennard_jones: see `build_model`.

    Raises CheckpointImportError for what is missing or left over.
    """
    options, defaults = modernise(options, tensors)
    options.ignore(*_IRRELEVANT)
    dtype = options.take("model_dtype", "text")
    if dtype not in ("float32", "float64"):
        raise options.error("model_dtype", f"is {dtype!r}; float32 or float64 is expected")
    tolerance = 1e-6 if dtype == "float32" else 1e-12  # of constants that went through that type
    type_names = [str(name) for name in options.take("type_names", "list")]
    num_types = len(type_names)
    fan_in = options.take("forward_normalize", "flag", True)
    num_layers = options.take("num_layers", "integer", 2)
    num_scalars = options.take("num_scalar_features", "integer", 64)
    num_channels = options.take("num_tensor_features", "integer", defaults["num_tensor_features"])
    embed_out = options.take("scalar_embed_output_dim", "integer", num_scalars)  # another width up to 0.4 only
    embed_width = options.take("radial_chemical_embed_dim", "integer", embed_out)
    if min(num_types, num_layers, num_scalars, num_channels, embed_width, embed_out) < 1:
        raise options.error("num_layers", "or another size of the model is not positive")
    individual = options.take("weight_individual_irreps", "flag", True)
    coupled = options.take("tp_path_channel_coupling", "flag", True)
    track = read_tensor_track(options, num_layers)
    cutoffs = read_cutoffs(options, tensors, type_names, notes)

    radial_options = options.section("radial_chemical_embed")
    if radial_options is None:
        raise options.error("radial_chemical_embed", "is missing")
    radial = read_radial(tensors, radial_options, "radial_chemical_embed", num_types, embed_width, fan_in, tolerance)
    activations = {
        kind: activation_of(options, f"{kind}_mlp_nonlinearity", defaults[f"{kind}_mlp_nonlinearity"]) for kind in _MLPS
    }

    def mlp(prefix: str, kind: str, width_in: int, width_out: int) -> Mlp:
        depth, width = (
            options.peek(name, "integer", defaults[name])
            for name in (f"{kind}_mlp_hidden_layers_depth", f"{kind}_mlp_hidden_layers_width")
        )
        if depth < 0 or width < 1:
            raise options.error(f"{kind}_mlp_hidden_layers_depth", f"is {depth}, of width {width}")
        return read_mlp(tensors, prefix, (width_in, *[width] * depth, width_out), activations[kind], fan_in, tolerance)

    if defaults["scalar_embed_mlp"]:
        embed = mlp("scalar_embed_mlp.mlp_module", "scalar_embed", embed_width, embed_out)
    else:
        embed = Mlp((np.eye(embed_width, embed_out),), "identity")
    own_irreps = len(track.harmonics)
    tensor_linear = read_linear(
        tensors, "tensor_embed.env_embed_linear", (embed_out, num_channels * own_irreps), fan_in, tolerance
    )
    environment_width = num_channels * (own_irreps if individual else 1)
    first_projection = read_linear(
        tensors,
        "allegro.first_layer_env_embed_projection",
        (embed_out, num_scalars + environment_width),
        True,  # upstream always scales this one by its input width
        tolerance,
    )
    layers = []
    for k in range(num_layers):
        last = k == num_layers - 1
        width_out = num_scalars + (0 if last else environment_width)
        latent = mlp(f"allegro.latents.{k}", "allegro", num_scalars * (k + 1) + num_channels, width_out)
        if not last:
            spread = track.spread_columns(latent.weights[-1], num_scalars, not individual)
            latent = replace(latent, weights=(*latent.weights[:-1], spread))
        layers.append(read_layer(tensors, f"allegro.tps.{k}", track, k, num_channels, coupled, latent, tolerance))
    readout = mlp("edge_readout.mlp_module", "readout", num_scalars * (num_layers + 1), 1)
    for kind in _MLPS:
        options.ignore(f"{kind}_mlp_hidden_layers_depth", f"{kind}_mlp_hidden_layers_width")
    norms = read_environment_norms(options, tensors, type_names, num_layers, tolerance)
    scales, shifts = (
        read_per_type(tensors, f"per_type_energy_scale_shift.{name}", num_types, absent, trained[name])
        for name, absent in (("scales", 1.0), ("shifts", 0.0))
    )
    pair_term, species = PairTermReader(
        source, options, tensors, radial, cutoffs, tolerance, notes, mend_lennard_jones
    ).read()
    for name in ("_empty", "allegro._env_weighter._rtoi"):  # placeholders
        if name in tensors:
            tensors.take(name, (0,), weight=False)
    options.finish()
    tensors.finish(ignored_constants=("._rtoi",))
    numbers, masses = assign_elements(type_names, source.run_config, species, elements)
    model = AllegroModel(
        type_names=tuple(type_names),
        atomic_numbers=np.array(numbers, np.int64),
        masses=np.array(masses),
        cutoffs=cutoffs,
        l_max=track.l_max,
        parity=track.parity,
        num_scalar_features=num_scalars,
        num_tensor_features=num_channels,
        trained_dtype=dtype,
        radial=radial,
        embed_mlp=embed,
        tensor_linear=track.spread_columns(tensor_linear, 0, False),
        first_projection=track.spread_columns(first_projection, num_scalars, not individual),
        individual_irreps=True,  # one weight for all irreps is stored as equal weights, which computes the same
        layers=tuple(layers),
        readout=readout,
        environment_norms=norms,
        edge_sum_norms=norms / sqrt(2.0),
        scales=scales,
        shifts=shifts,
        pair_term=pair_term,
        hyperparameters=source.full_config(),
        so3=track.so3,
        repeated_harmonics=track.repeated_harmonics,
        repeated_tensors=track.repeated_tensors,
        scatter_features=track.scatter_features,
    )
    return _with_equal_widths(model, embed_out)


def _with_equal_widths(model: AllegroModel, embed_out: int) -> AllegroModel:
    """The same model with an embedding as wide as the scalar features, the narrower filled up with zeros."""
    before = model.num_scalar_features
    after = max(before, embed_out)
    if embed_out == before:
        return model

    def columns(weights: np.ndarray, at: int) -> np.ndarray:
        return np.insert(weights, [at] * (after - before), 0.0, axis=1)

    def rows(weights: np.ndarray, parts: int) -> np.ndarray:
        return np.insert(weights, np.repeat(before * np.arange(1, parts + 1), after - before), 0.0, axis=0)

    def mlp(found: Mlp, parts: int, at: int | None) -> Mlp:
        weights = list(found.weights)
        weights[0] = rows(weights[0], parts)
        if at is not None:
            weights[-1] = columns(weights[-1], at)
        return replace(found, weights=tuple(weights))

    wider = after - embed_out
    embed = (*model.embed_mlp.weights[:-1], np.pad(model.embed_mlp.weights[-1], ((0, 0), (0, wider))))
    inputs: dict[str, Any] = {
        name: np.pad(getattr(model, name), ((0, wider), (0, 0))) for name in ("tensor_linear", "first_projection")
    }
    inputs["first_projection"] = columns(inputs["first_projection"], before)
    layers = tuple(replace(layer, latent=mlp(layer.latent, k + 1, before)) for k, layer in enumerate(model.layers))
    return replace(
        model,
        num_scalar_features=after,
        embed_mlp=replace(model.embed_mlp, weights=embed),
        layers=layers,
        readout=mlp(model.readout, model.num_layers + 1, None),
        **inputs,
    )
