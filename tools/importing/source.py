"""What a checkpoint of nequip holds, as plain data: configuration, state and versions, found without PyTorch.

Lightning `.ckpt` (nequip 0.8 to 0.19): a pickled dict with `hyper_parameters` (the resolved configuration) and
`state_dict`; models trained with an exponential moving average (EMA) keep it in `ema.ema_weight_k`, in the order of
the parameters.
`.nequip.zip`: a torch.package archive with `model/config.yaml` and the pickled module tree, EMA already applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.unpickle import Record, Tensor, foreign_note, load_inert

SUPPORTED = (
    "Supported: Lightning .ckpt and .nequip.zip of Allegro models of nequip 0.8 to 0.19 (nequip-allegro 0.5 to 0.8)."
)
_MODEL = "model.sole_model."


@dataclass
class Source:
    """One model as found in a file.

    state: tensors by name below the model's top module, in the order of the file. constants: numbers that upstream
    recomputes and a package stores all the same. ema: the averaged weights in the order of the parameters, or None.
    foreign_names: names in the pickle that no checkpoint needs; nothing of them was run.
    """

    path: Path
    kind: str  # "Lightning checkpoint" or "nequip package"
    config: dict[str, Any]
    run_config: dict[str, Any]
    versions: dict[str, str]
    state: dict[str, Tensor]
    constants: dict[str, Any] = field(default_factory=dict)
    ema: list[Tensor] | None = None
    training_module: str = ""
    foreign_names: tuple[str, ...] = ()


def open_source(path: Path) -> Source:
    """Read a checkpoint. Raises CheckpointImportError that says what the file is when it is none that is supported."""
    archive = Archive(path)
    if archive.kind == "saved":
        return _lightning_source(archive)
    if archive.kind == "package":
        return _package_source(archive)
    raise CheckpointImportError(f"{path}: {_describe_other(archive)} {SUPPORTED}")


def _describe_other(archive: Archive) -> str:
    if archive.kind == "torchscript":
        if archive.has("extra/nequip_version") or archive.has("extra/config"):
            version = (
                archive.read("extra/nequip_version").decode() if archive.has("extra/nequip_version") else "below 0.7"
            )
            return f"is a deployed model of the legacy generation (nequip {version}), which is not supported yet."
        return "is a TorchScript model (as .nequip.pth is), which is not supported yet; import the checkpoint."
    if archive.kind == "aotinductor":
        return "is an AOTInductor model (as .nequip.pt2 is), which cannot be imported; import its checkpoint."
    return "is a zip archive, but not one of PyTorch, so no Allegro model of the current generation."


def _lightning_source(archive: Archive) -> Source:
    loaded, foreign = load_inert(archive, "data.pkl", "data/{}")
    path = archive.path
    if not isinstance(loaded, dict):
        what = loaded.qualified_name if isinstance(loaded, Record) else type(loaded).__name__
        raise CheckpointImportError(
            f"{path}: is a PyTorch file that holds a {what}, not an Allegro model of the current generation. "
            f"{foreign_note(foreign)}{SUPPORTED}"
        )
    if "hyper_parameters" not in loaded or "state_dict" not in loaded:
        raise CheckpointImportError(f"{path}: {_describe_dict(loaded)} {foreign_note(foreign)}{SUPPORTED}")
    hyper, tensors = loaded["hyper_parameters"], loaded["state_dict"]
    config = hyper.get("model") if isinstance(hyper, dict) else None
    if not isinstance(config, dict) or not isinstance(tensors, dict):
        raise CheckpointImportError(
            f"{path}: is a Lightning checkpoint without the configuration of a nequip model "
            f"(hyper_parameters.model), so not an Allegro model of the current generation. {SUPPORTED}"
        )
    others = sorted({".".join(k.split(".")[:2]) for k in tensors if str(k).startswith("model.")} - {_MODEL[:-1]})
    if others:
        raise CheckpointImportError(f"{path}: holds several models ({', '.join(others)}); only one can be imported.")
    info = hyper.get("info_dict")
    info = info if isinstance(info, dict) else {}
    training = info.get("training_module")
    target = training.get("_target_", "") if isinstance(training, dict) else ""
    return Source(
        path=path,
        kind="Lightning checkpoint",
        config=_plain(config, path, "hyper_parameters.model"),
        run_config=info,
        versions=_versions(info.get("versions")),
        state={k.removeprefix(_MODEL): v for k, v in tensors.items() if k.startswith(_MODEL) and isinstance(v, Tensor)},
        ema=_ema(tensors, path),
        training_module=str(target),
        foreign_names=foreign,
    )


def _describe_dict(loaded: dict) -> str:
    keys = [str(k) for k in loaded]
    if any(k.startswith(("model.func.", "model.model.func.")) for k in keys):
        return "holds the weights of a model of the legacy generation (nequip below 0.7), which is not supported yet."
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"is a PyTorch file, but not an Allegro model of the current generation (it holds {shown or 'nothing'})."


def _ema(tensors: dict, path: Path) -> list[Tensor] | None:
    found = {k: v for k, v in tensors.items() if str(k).startswith("ema.ema_weight_")}
    if not found:
        return None
    extra = tensors.get("ema._extra_state")
    if isinstance(extra, dict) and extra.get("is_holding_ema_weights") is not True:
        raise CheckpointImportError(
            f"{path}: was saved while averaged and raw weights were exchanged, upstream refuses it too; use another one"
        )
    weights = [found.get(f"ema.ema_weight_{k}") for k in range(len(found))]
    missing = [k for k, tensor in enumerate(weights) if not isinstance(tensor, Tensor)]
    if missing:
        raise CheckpointImportError(f"{path}: damaged checkpoint: the tensor ema.ema_weight_{missing[0]} is missing")
    return [tensor for tensor in weights if isinstance(tensor, Tensor)]


def _package_source(archive: Archive) -> Source:
    path = archive.path
    if not archive.has("model/eager_model.pkl"):
        raise CheckpointImportError(
            f"{path}: is a torch.package archive without model/eager_model.pkl, so no package of nequip 0.8 or newer. "
            f"{SUPPORTED}"
        )
    try:
        run_config = yaml.safe_load(archive.read("model/config.yaml").decode())
        metadata = yaml.safe_load(archive.read("model/package_metadata.txt").decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise archive.damaged(f"its configuration cannot be read ({error})") from error
    training = run_config.get("training_module") if isinstance(run_config, dict) else None
    config = training.get("model") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(config, dict) or not isinstance(metadata, dict):
        raise CheckpointImportError(f"{path}: its model/config.yaml has no training_module.model. {SUPPORTED}")
    loaded, foreign = load_inert(archive, "model/eager_model.pkl", ".data/{}.storage")
    models = _children(loaded)
    if list(models) != ["sole_model"]:
        raise CheckpointImportError(
            f"{path}: holds the models {', '.join(map(str, models)) or 'none'}; one is expected."
        )
    state: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    _walk(models["sole_model"], "", state, constants)
    return Source(
        path=path,
        kind="nequip package",
        config=_plain(config, path, "training_module.model"),
        run_config=run_config,
        versions=_versions(metadata.get("versions")),
        state=state,
        constants=constants,
        training_module=str(training.get("_target_", "")),
        foreign_names=foreign,
    )


def _children(module: Any) -> dict[str, Any]:
    modules = module.attributes.get("_modules") if isinstance(module, Record) else None
    return modules if isinstance(modules, dict) else {}


def _walk(module: Any, prefix: str, state: dict[str, Tensor], constants: dict[str, Any]) -> None:
    """Collect a module tree's tensors as `state_dict` would: parameters, buffers, then children."""
    if not isinstance(module, Record):
        return
    attributes = module.attributes
    transient = attributes.get("_non_persistent_buffers_set")
    transient = transient if isinstance(transient, (list, tuple)) else ()
    for group in ("_parameters", "_buffers"):
        members = attributes.get(group)
        for name, value in members.items() if isinstance(members, dict) else ():
            if isinstance(value, Tensor):
                (constants if name in transient else state)[prefix + str(name)] = value
    if module.qualified_name.startswith("nequip.nn.mlp.") and isinstance(attributes.get("alpha"), float):
        constants[prefix + "alpha"] = attributes["alpha"]
    for name, child in _children(module).items():
        _walk(child, f"{prefix}{name}.", state, constants)


def _versions(found: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _plain(value: Any, path: Path, where: str) -> Any:
    """A copy with plain dicts and lists only; anything else in a configuration is refused by its place."""
    if isinstance(value, dict):
        return {str(k): _plain(v, path, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, path, f"{where}[{n}]") for n, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    what = value.qualified_name if isinstance(value, Record) else type(value).__name__
    raise CheckpointImportError(f"{path}: {where} is an object of {what}; a plain value is expected. {SUPPORTED}")
