"""Packages `.nequip.zip` of nequip 0.7 and newer: torch.package archives with the pickled model and its configuration.

EMA is applied already. Beside `model/eager_model.pkl` lie `config.yaml`, and `package_metadata.txt` (below 0.9
`versions.txt`) with the versions. Buffers that upstream computes anew are in the pickle too, and are compared.
"""

from __future__ import annotations

import pickle
from typing import Any

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.inert_yaml import load_yaml
from allegro_sim.tools.importing.model_source import BUILDERS, PACKAGE, SUPPORTED, Source, plain, unwrap, versions_of
from allegro_sim.tools.importing.module_options import options_of, pair_exponent_of
from allegro_sim.tools.importing.module_tree import Module, pickled_tree, state_of
from allegro_sim.tools.importing.unpickle import Record, load_inert

_PICKLE = "model/eager_model.pkl"
_GRAPH_MODELS = ("nequip.nn.graph_model.GraphModel", "nequip.nn.compile.CompileGraphModel")


def package_source(archive: Archive, model_name: str | None) -> Source:
    """The model `model_name`, or the only one, of a package. Raises CheckpointImportError for other packages."""
    path = archive.path
    if not archive.has(_PICKLE):
        raise CheckpointImportError(
            f"{path}: is a torch.package archive without {_PICKLE}, so no package of nequip. {SUPPORTED}"
        )
    loaded, foreign = load_inert(archive, _PICKLE, ".data/{}.storage")
    models = _models(loaded, archive)
    if model_name is not None and model_name not in models:
        raise CheckpointImportError(f"{path}: holds no model {model_name!r}, but {', '.join(models) or 'none'}")
    if len(models) != 1 and model_name is None:
        raise CheckpointImportError(
            f"{path}: holds {len(models)} models ({', '.join(models) or 'none'}); choose one with --model NAME"
        )
    name = model_name or next(iter(models))
    top = models[name]
    if top.kind not in _GRAPH_MODELS:
        raise CheckpointImportError(f"{path}: its model is a {top.kind}, not an Allegro model. {SUPPORTED}")
    run_config, yaml_names = _yaml(archive, "model/config.yaml")
    training = run_config.get("training_module")
    config = training.get("model") if isinstance(training, dict) else None
    own, modifiers = unwrap(config if isinstance(config, dict) else {}, name, path)
    state, constants = state_of(top)
    source = Source(
        path=path,
        kind=PACKAGE,
        config=own,
        run_config=run_config,
        versions=_versions(archive),
        state=state,
        constants=constants,
        modifiers=modifiers,
        model_name=name,
        foreign_names=tuple(sorted({*foreign, *yaml_names})),
    )
    if own.get("_target_") not in BUILDERS:  # trained further from another package, or built by a program of the user's
        source.config = options_of(top, _metadata(top), path)
        source.modifiers = []
        source.notes = (
            f"the options were read from the model itself, for its configuration names {own.get('_target_')}",
        )
    source.pair_exponent = pair_exponent_of(top)
    source.config = plain(source.config, path, "training_module.model")
    return source


def _models(loaded: Any, archive: Archive) -> dict[str, Module]:
    if not isinstance(loaded, Record):
        raise archive.damaged(f"{_PICKLE} holds no module")
    try:
        if loaded.qualified_name in _GRAPH_MODELS:
            return {"sole_model": pickled_tree(loaded)}
        members = loaded.attributes.get("_modules")
        members = members if isinstance(members, dict) else {}
        return {str(k): pickled_tree(v) for k, v in members.items() if isinstance(v, Record)}
    except pickle.UnpicklingError as error:
        raise archive.damaged(f"{_PICKLE} holds {error}") from error


def _metadata(top: Module) -> dict[str, str]:
    found = top.attributes.get("_metadata") or top.attributes.get("metadata")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _versions(archive: Archive) -> dict[str, str]:
    if archive.has("model/package_metadata.txt"):
        metadata, _ = _yaml(archive, "model/package_metadata.txt")
        return versions_of(metadata.get("versions"))
    if archive.has("model/versions.txt"):
        versions, _ = _yaml(archive, "model/versions.txt")
        return versions_of(versions)
    return {}


def _yaml(archive: Archive, entry: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        found, names = load_yaml(archive.read(entry).decode())
    except ValueError as error:  # of decoding, too
        raise archive.damaged(f"{entry} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise archive.damaged(f"{entry} holds no options")
    return found, names
