"""The HDF5 weight file: one model, where it came from, and self-checks. The layout is in docs/weight-file.md."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from allegro_sim.errors import ModelFileError, OutputError
from allegro_sim.model.consistency import find_inconsistency, named_arrays
from allegro_sim.model.description import (
    AllegroModel,
    BesselEmbedding,
    LatentCutoff,
    Layer,
    LennardJones,
    Mlp,
    SplineEmbedding,
    Zbl,
)
from allegro_sim.model.hdf5_fields import (
    LIBRARY_VERSIONS,
    FieldReader,
    open_for_reading,
    write_array,
    write_attribute,
    write_texts,
)
from allegro_sim.model.irreps import Irrep
from allegro_sim.model.irreps import Path as TensorPath
from allegro_sim.model.self_check import SelfCheck
from allegro_sim.model.summary import irreps_text

FORMAT = "allegro-sim-model"
FORMAT_VERSION = 8
"""2 added the stages of the legacy generation and `so3`, 3 the Lennard-Jones term, 4 repeated irreps and
scales of the pair term, 5 `scatter_features`, 6 the reach of a pair term and Bessel functions without a cutoff
function, 7 scalar features kept beyond the cutoff of a layer, 8 Lennard-Jones terms by pairs of types, of other powers
and styles. A file has the least that it needs."""

_HYPERPARAMETERS: dict[str, type] = {
    "generation": str,
    "l_max": int,
    "parity": bool,
    "num_layers": int,
    "num_scalar_features": int,
    "num_tensor_features": int,
    "individual_irreps": bool,
    "trained_dtype": str,
}
_REPEATED = ("repeated_harmonics", "repeated_tensors")
_LEGACY_HYPERPARAMETERS: dict[str, type] = {"self_edge": bool, "latent_update": str}
_LEGACY_ARRAYS = ("latent_factors", "edge_scales", "pair_scales")
_LEGACY_LAYER_ARRAYS = ("environment_mix", "mix_in", "mix_out")


def save_model(
    path: str | os.PathLike, model: AllegroModel, provenance: dict[str, str], self_checks: Sequence[SelfCheck]
) -> None:
    """Write a model file, replacing one of the same name; a reader sees the old file or the whole new one.

    provenance: texts such as source file name, SHA-256, upstream versions, date, licence. Raises ModelFileError when
    the parts of the model do not fit together, OutputError when the file cannot be written.
    """
    path = Path(path)
    problem = find_inconsistency(model)
    if problem is not None:
        raise ModelFileError(f"{path}: the model cannot be saved: {problem}.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", libver=LIBRARY_VERSIONS) as file:
            _write_model(file, model)
            group = file.create_group("provenance")
            for key, text in provenance.items():
                write_texts(group, key, [text])
            for index, check in enumerate(self_checks):
                _write_self_check(file.create_group(f"self_checks/{index}"), check)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: the model file cannot be written: {reason}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_model(path: str | os.PathLike) -> AllegroModel:
    """Read a model file. Raises ModelFileError that says what is wrong: missing, not HDF5, truncated, of another format
    or a newer version, damaged (checksums), a field missing, or shapes that do not fit together."""
    path = Path(path)
    with open_for_reading(path) as file:
        reader = _checked_reader(path, file)
        model = _read_model(reader)
    problem = find_inconsistency(model)
    if problem is not None:
        raise ModelFileError(f"{path}: {problem}. Import the model again.")
    return model


def read_provenance(path: str | os.PathLike) -> dict[str, str]:
    """Where the model came from: the texts given to `save_model`. Raises ModelFileError."""
    path = Path(path)
    with open_for_reading(path) as file:
        group = _checked_reader(path, file).group("provenance")
        return {key: group.texts(key)[0] for key in group.names()}


def read_self_checks(path: str | os.PathLike) -> list[SelfCheck]:
    """Structures with the results a right evaluation gives; empty where none were saved. Raises ModelFileError."""
    path = Path(path)
    with open_for_reading(path) as file:
        reader = _checked_reader(path, file)
        if not reader.has("self_checks"):
            return []
        group = reader.group("self_checks")
        return [_read_self_check(group.group(name)) for name in sorted(group.names(), key=int)]


# --- writing ----------------------------------------------------------------------------------------------------------


def _write_model(file: h5py.File, model: AllegroModel) -> None:
    write_attribute(file, "format", FORMAT)
    least = 2 if model.is_legacy or model.so3 else 1
    least = 3 if isinstance(model.pair_term, LennardJones) else least
    least = 4 if model.repeated_harmonics or model.repeated_tensors or model.pair_scales is not None else least
    least = 5 if model.scatter_features else least
    sharp = isinstance(model.radial, BesselEmbedding) and model.radial.cutoff_exponent is None
    least = 6 if sharp or getattr(model.pair_term, "reach", None) is not None else least
    least = 7 if any(model.keeps_scalars(k) for k in range(model.num_layers + 1)) else least
    least = 8 if isinstance(model.pair_term, LennardJones) and not model.pair_term.is_plain else least
    write_attribute(file, "format_version", least)
    if least > 1:
        write_attribute(file, "so3", model.so3)
    if least > 3:
        for name in _REPEATED:
            write_attribute(file, name, irreps_text(getattr(model, name)))
    if least > 4:
        write_attribute(file, "scatter_features", model.scatter_features)
    for name in (*_HYPERPARAMETERS, *(_LEGACY_HYPERPARAMETERS if model.is_legacy else ())):
        write_attribute(file, name, getattr(model, name))
    write_texts(file, "types/names", model.type_names)
    for name, array, _ in named_arrays(model):
        write_array(file, name, array)
    radial = file["radial"]
    if isinstance(model.radial, BesselEmbedding):
        write_attribute(radial, "kind", "bessel")
        if model.radial.cutoff_exponent is not None:
            write_attribute(radial, "cutoff_exponent", model.radial.cutoff_exponent)
        if model.is_legacy:
            write_attribute(radial, "with_constants", model.radial.with_constants)
    else:
        write_attribute(radial, "kind", "spline")
        write_attribute(radial, "span", model.radial.span)
    write_attribute(file["embed_mlp"], "activation", model.embed_mlp.activation)
    write_attribute(file["readout"], "activation", model.readout.activation)
    for k, layer in enumerate(model.layers):
        group = file[f"layers/{k}"]
        write_attribute(group, "irreps_in", irreps_text(layer.irreps_in))
        write_attribute(group, "irreps_out", irreps_text(layer.irreps_out))
        write_array(group, "paths", np.array([(path.first, path.second, path.out) for path in layer.paths], np.int64))
        write_attribute(group["latent"], "activation", layer.latent.activation)
        if layer.environment_mlp is not None:
            write_attribute(group["environment_mlp"], "activation", layer.environment_mlp.activation)
            write_attribute(group, "separate_paths", layer.separate_paths)
            _write_stages(group, layer, _LEGACY_LAYER_ARRAYS)
    if model.is_legacy:
        _write_stages(file, model, (*_LEGACY_ARRAYS, "latent_cutoff"))
    if model.latent_cutoff is not None:
        write_attribute(file["latent_cutoff"], "kind", model.latent_cutoff.kind)
        write_attribute(file["latent_cutoff"], "parameter", model.latent_cutoff.parameter)
    _write_pair_term(file, model.pair_term)
    write_texts(file, "hyperparameters", [json.dumps(model.hyperparameters, sort_keys=True, default=str)])


def _write_pair_term(file: h5py.File, term: Zbl | LennardJones | None) -> None:
    if isinstance(term, Zbl):
        write_attribute(file["zbl"], "coulomb", term.coulomb)
        write_attribute(file["zbl"], "cutoff_exponent", term.cutoff_exponent)
    elif isinstance(term, LennardJones):
        group = file.require_group("lennard_jones")  # with its tables in it, if it has any
        names = ("sigma", "epsilon") if term.is_plain else ("power", "style")
        for name in (*names, "cutoff_exponent", "reach"):
            if getattr(term, name) is not None:
                write_attribute(group, name, getattr(term, name))


def _write_stages(group: h5py.Group, part: AllegroModel | Layer, names: tuple[str, ...]) -> None:
    """The attribute `stages`: which of the optional parts there are, so that one that was lost is noticed."""
    write_attribute(group, "stages", " ".join(name for name in names if getattr(part, name) is not None))


def _write_self_check(group: h5py.Group, check: SelfCheck) -> None:
    write_attribute(group, "source", check.source)
    write_attribute(group, "energy", float(check.energy))
    for name in ("positions", "pbc", "types", "energies", "forces", "virial"):
        write_array(group, name, getattr(check, name))
    if check.cell is not None:
        write_array(group, "cell", check.cell)


# --- reading ----------------------------------------------------------------------------------------------------------


def _checked_reader(path: Path, file: h5py.File) -> FieldReader:
    """The file's root, after its format and version were found to be ours."""
    reader = FieldReader(path, file)
    if not reader.has_attribute("format") or reader.attribute("format", str) != FORMAT:
        raise ModelFileError(
            f"{path}: an HDF5 file, but of another format: it has no attribute 'format' = '{FORMAT}'. "
            "Give a model made by `allegro-tools import`."
        )
    version = reader.attribute("format_version", int)
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: model format version {version}, newer than version {FORMAT_VERSION} that this allegro-sim "
            "reads. Update allegro-sim, or import the model again with this one."
        )
    return reader


def _read_model(reader: FieldReader) -> AllegroModel:
    hyperparameters = {name: reader.attribute(name, kind) for name, kind in _HYPERPARAMETERS.items()}
    num_layers = hyperparameters.pop("num_layers")
    legacy = hyperparameters["generation"] == "legacy"
    if reader.attribute("format_version", int) > 1:
        hyperparameters["so3"] = reader.attribute("so3", bool)
    if reader.attribute("format_version", int) > 3:
        hyperparameters.update({name: _read_irreps(reader, name) for name in _REPEATED})
    if reader.attribute("format_version", int) > 4:
        hyperparameters["scatter_features"] = reader.attribute("scatter_features", bool)
    if legacy:
        hyperparameters.update(_read_legacy_stages(reader))
    embed_mlp = _read_mlp(reader.group("embed_mlp"))
    no_columns = np.zeros((embed_mlp.weights[-1].shape[-1] if embed_mlp.weights else 0, 0))
    types = reader.group("types")
    layers = reader.group("layers")
    return AllegroModel(
        **hyperparameters,
        type_names=types.texts("names"),
        atomic_numbers=types.array("atomic_numbers", np.int64),
        masses=types.array("masses"),
        cutoffs=reader.array("cutoffs"),
        radial=_read_radial(reader.group("radial"), legacy, reader.attribute("format_version", int)),
        embed_mlp=embed_mlp,
        tensor_linear=no_columns if legacy else reader.array("tensor_linear"),
        first_projection=no_columns if legacy else reader.array("first_projection"),
        layers=tuple(_read_layer(layers.group(str(k)), legacy) for k in range(num_layers)),
        readout=_read_mlp(reader.group("readout")),
        environment_norms=reader.array("environment_norms"),
        edge_sum_norms=reader.array("edge_sum_norms"),
        scales=reader.array("scales"),
        shifts=reader.array("shifts"),
        pair_term=_read_pair_term(reader),
        hyperparameters=_read_hyperparameters(reader),
    )


def _read_legacy_stages(reader: FieldReader) -> dict[str, Any]:
    """What only models of the legacy generation have."""
    fields: dict[str, Any] = {name: reader.attribute(name, kind) for name, kind in _LEGACY_HYPERPARAMETERS.items()}
    stages = reader.attribute("stages", str).split()
    fields.update({name: reader.array(name) for name in _LEGACY_ARRAYS if name in stages})
    if "latent_cutoff" in stages:
        group = reader.group("latent_cutoff")
        fields["latent_cutoff"] = LatentCutoff(
            group.attribute("kind", str), group.attribute("parameter", float), group.array("radii")
        )
    return fields


def _read_hyperparameters(reader: FieldReader) -> dict:
    try:
        return json.loads(reader.texts("hyperparameters")[0])
    except ValueError as error:
        raise ModelFileError(f"{reader.path}: '/hyperparameters' is not JSON text ({error}).") from error


def _read_radial(reader: FieldReader, legacy: bool, version: int) -> BesselEmbedding | SplineEmbedding:
    kind = reader.attribute("kind", str)
    if kind == "spline":
        return SplineEmbedding(reader.array("weights"), reader.attribute("span", int))
    if kind != "bessel":
        raise ModelFileError(
            f"{reader.path}: radial embedding of kind '{kind}' is not known; expected bessel or spline."
        )
    # Before version 6 an exponent that is not there is missing.
    exponent = reader.attribute("cutoff_exponent", float) if version < 6 else _read_optional(reader, "cutoff_exponent")
    return BesselEmbedding(
        frequencies=reader.array("frequencies"),
        cutoff_exponent=exponent,
        center_types=reader.array("center_types"),
        neighbor_types=reader.array("neighbor_types"),
        basis_linear=reader.array("basis_linear"),
        with_constants=legacy and reader.attribute("with_constants", bool),
    )


def _read_mlp(reader: FieldReader) -> Mlp:
    count = len(reader.names())
    return Mlp(tuple(reader.array(str(n)) for n in range(count)), reader.attribute("activation", str))


def _read_irreps(reader: FieldReader, name: str) -> tuple[Irrep, ...]:
    try:
        return tuple(Irrep.parse(text) for text in reader.attribute(name, str).split())
    except ValueError as error:
        raise ModelFileError(f"{reader.path}: irreps of '{reader.name}': {error}.") from error


def _read_layer(reader: FieldReader, legacy: bool) -> Layer:
    irreps_in, irreps_out = (_read_irreps(reader, name) for name in ("irreps_in", "irreps_out"))
    paths = reader.array("paths", np.int64)
    if paths.ndim != 2 or paths.shape[1] != 3:
        raise ModelFileError(f"{reader.path}: '{reader.name}/paths' has shape {paths.shape}; expected (paths, 3).")
    stages: dict[str, Any] = {}
    if legacy:
        present = reader.attribute("stages", str).split()
        stages = {name: reader.array(name) for name in _LEGACY_LAYER_ARRAYS if name in present}
        stages["environment_mlp"] = _read_mlp(reader.group("environment_mlp"))
        stages["separate_paths"] = reader.attribute("separate_paths", bool)
    return Layer(
        irreps_in=irreps_in,
        irreps_out=irreps_out,
        paths=tuple(TensorPath(*map(int, row)) for row in paths),
        path_weights=reader.array("path_weights"),
        latent=_read_mlp(reader.group("latent")),
        **stages,
    )


def _read_pair_term(reader: FieldReader) -> Zbl | LennardJones | None:
    if reader.has("zbl"):
        group = reader.group("zbl")
        return Zbl(
            group.array("atomic_numbers"), group.attribute("coulomb", float), group.attribute("cutoff_exponent", float)
        )
    if not reader.has("lennard_jones"):
        return None
    group = reader.group("lennard_jones")
    exponent, reach = _read_optional(group, "cutoff_exponent"), _read_optional(group, "reach")
    if not group.has_attribute("style"):
        return LennardJones(group.attribute("sigma", float), group.attribute("epsilon", float), exponent, reach)
    sigma, epsilon, delta = (group.array(name) for name in ("sigma", "epsilon", "delta"))
    power, style = group.attribute("power", float), group.attribute("style", str)
    return LennardJones(sigma, epsilon, exponent, reach, delta, power, style)


def _read_optional(reader: FieldReader, name: str) -> float | None:
    return reader.attribute(name, float) if reader.has_attribute(name) else None


def _read_self_check(reader: FieldReader) -> SelfCheck:
    return SelfCheck(
        positions=reader.array("positions"),
        cell=reader.array("cell") if reader.has("cell") else None,
        pbc=reader.array("pbc", np.bool_),
        types=reader.array("types", np.int64),
        energy=reader.attribute("energy", float),
        energies=reader.array("energies"),
        forces=reader.array("forces"),
        virial=reader.array("virial"),
        source=reader.attribute("source", str),
    )
