"""Files of the legacy generation (allegro below 0.4 on nequip 0.5 and 0.6) as plain data.

A deployed model `.pth` is a TorchScript archive: the pickled tree of modules, and in `extra/` the whole configuration
of the training as YAML, with a few texts beside it. A training folder holds `config.yaml` and the state dicts
`best_model.pth` (with the averaged weights, where the training kept them) and `last_model.pth` (always without).
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.inert_yaml import load_yaml
from allegro_sim.tools.importing.module_tree import scripted_tree
from allegro_sim.tools.importing.unpickle import Record, Tensor, load_inert

DEPLOYED, FOLDER = "legacy deployed model", "legacy training folder"
_WEIGHT_FILES = ("best_model.pth", "last_model.pth")
_CONFIG_FILE = "config.yaml"
_OUTER_MODULES = re.compile(r"(model\.)*(func\.)?")


@dataclass(frozen=True)
class LegacySource:
    """One model of the legacy generation as found in a file.

    tensors: in the file, read when asked for, by names below the network: "allegro.latents.0._forward._weight_0",
    "per_species_rescale.shifts", and "scale_by", "shift_by" of the global rescaling.
    config: the training's configuration. metadata: short texts; "type_names" (separated by blanks, in the order of the
    type index) is always there, "nequip_version", "r_max", "model_dtype", "default_dtype", "code_commits" where known.
    form: DEPLOYED or FOLDER. attributes: of a deployed model, plain attributes of its modules (numbers, texts, tuples)
    by the same names; empty for a training folder. classes: likewise, the Python class of each module.
    foreign_names: names in the file that no model needs; nothing of them was run. notes: for the user.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    metadata: dict[str, str]
    form: str
    path: Path = field(default_factory=Path)
    attributes: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    foreign_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def is_training_folder(path: Path) -> bool:
    """Whether a folder has the configuration and weights of a training by nequip below 0.7."""
    return (path / _CONFIG_FILE).is_file() and any((path / name).is_file() for name in _WEIGHT_FILES)


def read_legacy(path: Path) -> LegacySource:
    """Read a deployed model, a training folder, or `best_model.pth`/`last_model.pth` in one; nothing of it is run.

    Raises CheckpointImportError for anything else, and for damaged files.
    """
    if path.is_dir():
        for name in _WEIGHT_FILES:
            if (path / name).is_file():
                return _read_folder(path / name)
        raise CheckpointImportError(f"{path}: is a folder without {' or '.join(_WEIGHT_FILES)}")
    archive = Archive(path)
    if archive.kind == "torchscript":
        return _read_deployed(archive)
    return _read_folder(path)


def _read_deployed(archive: Archive) -> LegacySource:
    path = archive.path
    if not archive.has("extra/config"):
        raise CheckpointImportError(f"{path}: is a TorchScript model without extra/config, so none deployed by nequip")
    texts = {name.removeprefix("extra/"): _text(archive, name) for name in archive.names() if name.startswith("extra/")}
    config, yaml_names = _config(texts.pop("config"), archive, "extra/config")
    loaded, foreign = load_inert(archive, "data.pkl", "data/{}")
    if not isinstance(loaded, Record):
        raise archive.damaged("its data.pkl holds no module")
    tensors: dict[str, Tensor] = {}
    attributes: dict[str, Any] = {}
    classes: dict[str, str] = {}
    try:
        tree = scripted_tree(loaded)
    except pickle.UnpicklingError as error:
        raise archive.damaged(f"its data.pkl holds {error}") from error
    for module in tree.walk():
        prefix = f"{module.name}." if module.name else ""
        classes[_inner_name(module.name)] = module.kind
        attributes.update((_inner_name(prefix + name), value) for name, value in module.attributes.items())
        tensors.update((_inner_name(prefix + name), tensor) for name, tensor in module.tensors.items())
    texts.setdefault("type_names", " ".join(type_names_of(config, path)))
    names = tuple(sorted({*foreign, *yaml_names}))
    return LegacySource(tensors, config, texts, DEPLOYED, path, attributes, classes, names)


def _read_folder(weights: Path) -> LegacySource:
    """The state dict `weights` with config.yaml beside it."""
    config_file = weights.parent / _CONFIG_FILE
    archive = Archive(weights)
    loaded, foreign = load_inert(archive, "data.pkl", "data/{}") if archive.kind == "saved" else (None, ())
    if loaded is None or not is_legacy_state(loaded):
        modules = dict.fromkeys(
            _inner_name(str(name)).split(".")[0] for name in (loaded if isinstance(loaded, dict) else ())
        )
        raise CheckpointImportError(
            f"{weights}: lies in a training folder of nequip below 0.7, but is not an Allegro model: its modules are "
            f"{', '.join(list(modules)[:6]) or 'none'}"
        )
    try:
        text = config_file.read_bytes().decode()
    except FileNotFoundError:
        raise CheckpointImportError(
            f"{weights}: holds weights of the legacy generation; the {_CONFIG_FILE} of its training is needed beside it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointImportError(f"{config_file}: cannot be read as text: {error}") from error
    if not text.endswith("\n"):  # it has no checksum, and a shorter list of options may be one of another model
        raise CheckpointImportError(
            f"{config_file}: is truncated: it ends in the middle of a line. Copy it again from the training; if it is "
            "whole, end it with a line break"
        )
    config, yaml_names = _config(text, archive, str(config_file))
    metadata = {"type_names": " ".join(type_names_of(config, config_file))}
    for name in ("nequip_version", "r_max", "model_dtype", "default_dtype"):
        if isinstance(config.get(name), (str, int, float)):
            metadata[name] = str(config[name])
    commits = config.get("code_commits")
    if isinstance(commits, dict) and commits:
        metadata["code_commits"] = ";".join(f"{name}={commit}" for name, commit in commits.items())
    notes: tuple[str, ...] = ()
    if weights.name != _WEIGHT_FILES[0] and config.get("use_ema"):
        notes = (f"{weights.name} holds the raw weights of the last step; {_WEIGHT_FILES[0]} has the averaged ones",)
    tensors = {_inner_name(str(name)): value for name, value in loaded.items()}
    return LegacySource(
        tensors, config, metadata, FOLDER, weights, foreign_names=tuple(sorted({*foreign, *yaml_names})), notes=notes
    )


def is_legacy_state(loaded: Any) -> bool:
    """Whether it is the flat state dict of a model of nequip below 0.7 that has an Allegro module."""
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        return False
    return any(_inner_name(str(name)).startswith("allegro.") for name in loaded) and all(
        not str(name).startswith("model.sole_model.") for name in loaded
    )


def made_of(source: LegacySource) -> str:
    """The modules of a network, by their names, and the builders that its configuration names."""
    modules = dict.fromkeys(name.split(".")[0] for name in source.tensors if "." in name)
    builders = source.config.get("model_builders")
    named = f", built by {', '.join(map(str, builders))}" if isinstance(builders, list) else ""
    return f"the modules {', '.join(list(modules)[:6]) or 'without tensors'}{named}"


def _inner_name(name: str) -> str:
    """A name below the network: without "model." of the modules around it and "func." of the one of the gradients."""
    match = _OUTER_MODULES.match(name)
    return name[match.end() :] if match else name


def _text(archive: Archive, name: str) -> str:
    try:
        return archive.read(name).decode()
    except UnicodeDecodeError as error:
        raise archive.damaged(f"the entry {name} is no text ({error})") from error


def _config(text: str, archive: Archive, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        config, names = load_yaml(text)
    except ValueError as error:
        raise archive.damaged(f"{where} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise archive.damaged(f"{where} holds no options")
    return config, names


def type_names_of(config: dict[str, Any], path: Path) -> list[str]:
    """Type names in the order of the type index (nequip.data.transforms.TypeMapper).

    `chemical_symbols` are sorted by atomic number. Raises CheckpointImportError where the configuration has none.
    """
    from ase.data import atomic_numbers

    table = config.get("chemical_symbol_to_type")
    if isinstance(table, dict) and table:
        return [str(name) for name in sorted(table, key=lambda name: table[name])]
    symbols = config.get("chemical_symbols")
    if isinstance(symbols, list) and all(symbol in atomic_numbers for symbol in symbols):
        return sorted(map(str, symbols), key=lambda symbol: atomic_numbers[symbol])
    names = config.get("type_names")
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    raise CheckpointImportError(
        f"{path}: its configuration names no types (chemical_symbols, chemical_symbol_to_type, type_names)"
    )
