"""Lightning checkpoints `.ckpt` of nequip 0.7 and newer.

A pickled dict (PyTorch's zip format) with `hyper_parameters` (the resolved configuration, `model`, and `info_dict`) and
`state_dict` of the training module: `model.NAME.*` the model, `ema.*` averages, and states of losses and metrics. NAME
is `sole_model` unless the training module has several.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.averages import RAW_WEIGHTS, exponential_averages, schedule_free_averages
from allegro_sim.tools.importing.model_source import (
    LIGHTNING,
    SAVED_MODELS,
    SUPPORTED,
    Averages,
    Source,
    plain,
    trained_vectors,
    unwrap,
    versions_of,
)
from allegro_sim.tools.importing.unpickle import Tensor

# Entries of the training module beside the model: losses and metrics, and which stage the training is in.
_IRRELEVANT = ("loss.", "train_metrics.", "val_metrics.", "test_metrics.", "run_stage")
_CONSTANT_BUFFERS = ("_empty", "_rtoi", "_rmax_recip", "w3j", "spline.lower", "spline.upper", "atomic_numbers",
                     "_qqr2exesquare")  # fmt: skip


def is_lightning(loaded: Any) -> bool:
    """Whether an unpickled object is the checkpoint of a Lightning module that says how it was made."""
    return isinstance(loaded, dict) and "hyper_parameters" in loaded and "state_dict" in loaded


def lightning_source(
    archive: Archive,
    loaded: dict[Any, Any],
    foreign: tuple[str, ...],
    model_name: str | None,
    open_base: Callable[[Path], Source],
) -> Source:
    """The model `model_name`, or the only one, of a Lightning checkpoint.

    open_base: reads the file a model was trained further from.
    Raises CheckpointImportError for anything that is no model of nequip's, and where the model is not there.
    """
    path = archive.path
    hyper, found = loaded["hyper_parameters"], loaded["state_dict"]
    config = hyper.get("model") if isinstance(hyper, dict) else None
    if not isinstance(config, dict) or not isinstance(found, dict):
        raise CheckpointImportError(
            f"{path}: is a Lightning checkpoint without the configuration of a nequip model "
            f"(hyper_parameters.model), so not an Allegro model. {SUPPORTED}"
        )
    tensors = {str(name): value for name, value in found.items()}
    config = plain(config, path, "hyper_parameters.model")
    names = list(dict.fromkeys(name.split(".")[1] for name in tensors if name.startswith("model.") and "." in name[6:]))
    name = _choose(names, model_name, path)
    unknown = [
        n for n in tensors if not n.startswith(("model.", "ema.", *_IRRELEVANT)) and isinstance(tensors[n], Tensor)
    ]
    if unknown:
        raise CheckpointImportError(
            f"{path}: unknown tensors {', '.join(unknown[:6])}{', ...' if len(unknown) > 6 else ''} beside the model: "
            "they may change what it computes"
        )
    info = hyper.get("info_dict")
    info = info if isinstance(info, dict) else {}
    training = info.get("training_module")
    target = str(training.get("_target_", "")) if isinstance(training, dict) else ""
    own, modifiers = _model_config(config, name, len(names), path)
    source = Source(
        path=path,
        kind=LIGHTNING,
        config=own,
        run_config=info,
        versions=versions_of(info.get("versions")),
        modifiers=modifiers,
        model_name=name,
        foreign_names=foreign,
    )
    if own.get("_target_") in SAVED_MODELS:
        _take_base(source, open_base)
    prefix = f"model.{name}."
    source.state = {
        n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and isinstance(t, Tensor)
    }
    source.find_averages = lambda: _averages(source, loaded, tensors, target, config, names)
    return source


def _choose(names: list[str], wanted: str | None, path: Path) -> str:
    if not names:
        raise CheckpointImportError(f"{path}: is a Lightning checkpoint without a model. {SUPPORTED}")
    if wanted is not None and wanted not in names:
        raise CheckpointImportError(f"{path}: holds no model {wanted!r}, but {', '.join(names)}")
    if wanted is None and len(names) > 1:
        raise CheckpointImportError(
            f"{path}: holds several models ({', '.join(names)}); choose one, such as --model {names[0]}"
        )
    return wanted or names[0]


def _model_config(
    config: dict[str, Any], name: str, count: int, path: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Options and modifiers of one model: of several, those found under its name."""
    inner, modifiers = unwrap(config, name, path)
    if count == 1:
        return inner, modifiers
    own = _section_of(inner, name)
    if own is None:
        raise CheckpointImportError(
            f"{path}: the options of the model {name!r} are not found under its name in those of "
            f"{inner.get('_target_')!r}"
        )
    deeper, more = unwrap(own, name, path)
    return deeper, [*more, *modifiers]


def _section_of(config: Any, name: str, depth: int = 0) -> dict[str, Any] | None:
    """The first mapping with a `_target_` under the key `name`, at any level."""
    if not isinstance(config, dict) or depth > 8:
        return None
    here = config.get(name)
    if isinstance(here, dict) and "_target_" in here:
        return here
    found = (_section_of(value, name, depth + 1) for value in config.values())
    return next((section for section in found if section is not None), None)


def _take_base(source: Source, open_base: Callable[[Path], Source]) -> None:
    """Options of a model that was trained further from another file, read from that file, where it is still there."""
    target = source.config["_target_"]
    given = source.config.get("package_path") or source.config.get("checkpoint_path")
    places = [Path(str(given)), source.path.parent / str(given), source.path.parent / Path(str(given)).name]
    found = next((place for place in places if given and place.is_file()), None)
    if found is None:
        raise CheckpointImportError(
            f"{source.path}: was trained further from {given} ({target}) and does not hold the model's options; put "
            "that file beside it, or package it with upstream (`nequip-package build`) and import the .nequip.zip"
        )
    base = open_base(found)
    source.config, source.modifiers = base.config, [*base.modifiers, *source.modifiers]
    source.notes = (f"the model's options are those of {found.name}, from which it was trained further",)
    if target.endswith("ModelFromPackage"):  # runs the code in the package
        source.versions, source.pair_exponent = base.versions, base.pair_exponent


def _averages(
    source: Source,
    loaded: dict[Any, Any],
    tensors: dict[str, Any],
    target: str,
    config: dict[str, Any],
    names: list[str],
) -> Averages | None:
    """Averages of the weights of one model, where the training kept any."""
    trained = {}
    for name in names:
        if name == source.model_name:
            trained[name] = trained_vectors(source.config, source.modifiers)
        else:
            trained[name] = trained_vectors(*_model_config(config, name, len(names), source.path))

    def is_parameter(full: str, tensor: Tensor) -> bool:
        last = full.rsplit(".", 1)[-1]
        flags = trained[full.split(".")[1]]
        if last in flags:
            return flags[last] and 0 not in tensor.shape
        return not full.endswith(_CONSTANT_BUFFERS)

    kind = "EMA"
    found: dict[str, Any] | None = exponential_averages(tensors, is_parameter, source.path)
    if found is None and "EMA" in target.rsplit(".", 1)[-1]:
        raise CheckpointImportError(
            f"{source.path}: was trained with {target}, but holds no averaged weights; {RAW_WEIGHTS}"
        )
    if found is None and "ScheduleFree" in target:
        kind = "schedule-free"
        found = schedule_free_averages(loaded, tensors, is_parameter, source.path)
    if found is None:
        return None
    prefix = f"model.{source.model_name}."
    return Averages(kind, {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)})
