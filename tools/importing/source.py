"""Opening a file of any form: what it is, and which reader it goes to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.legacy_source import LegacySource, is_legacy_state, is_training_folder, read_legacy
from allegro_sim.tools.importing.lightning import is_lightning, lightning_source
from allegro_sim.tools.importing.model_source import SUPPORTED, Source
from allegro_sim.tools.importing.package import package_source
from allegro_sim.tools.importing.torchscript import torchscript_source
from allegro_sim.tools.importing.unpickle import Record, Tensor, foreign_note, load_inert

__all__ = ["LegacySource", "Source", "open_any", "open_source"]

_ENDINGS = (".ckpt", ".nequip.zip", ".pth", ".pt2", ".pt", ".model")
# Packages whose models people try: what they are, by the first part of the module that defines a class.
_PROGRAMS = {
    "mace": "a MACE model",
    "nequip": "a NequIP model",
    "schnetpack": "a SchNetPack model",
    "matgl": "a MatGL model",
    "chgnet": "a CHGNet model",
    "sevenn": "a SevenNet model",
    "deepmd": "a DeePMD model",
    "fairchem": "a fairchem model",
    "ocpmodels": "an OCP model",
    "torchmdnet": "a TorchMD-Net model",
    "orb_models": "an Orb model",
    "torch": "a PyTorch module",
}


def open_source(path: Path, model_name: str | None = None) -> Source:
    """Read a checkpoint of the current generation.

    model_name: which of several models of one training. Raises CheckpointImportError that says what the file is when it
    is no Allegro model, damaged, or of the legacy generation.
    """
    source = open_any(path, model_name)
    if isinstance(source, LegacySource):
        raise CheckpointImportError(f"{path}: is a {source.form}, not a model of the current generation")
    return source


def open_any(path: Path, model_name: str | None = None) -> Source | LegacySource:
    """Read a checkpoint of either generation. Raises CheckpointImportError as `open_source` does."""
    source = _open(path, model_name)
    only = "sole_model" if isinstance(source, LegacySource) else source.model_name
    if model_name not in (None, only):
        raise CheckpointImportError(f"{path}: holds one model, without a name; leave --model {model_name} out")
    return source


def _open(path: Path, model_name: str | None) -> Source | LegacySource:
    if path.is_dir():
        if is_training_folder(path):
            return read_legacy(path)
        raise CheckpointImportError(f"{path}: {_describe_folder(path)} {SUPPORTED}")
    archive = Archive(path)
    if archive.kind == "saved":
        loaded, foreign = load_inert(archive, "data.pkl", "data/{}")
        if is_lightning(loaded):
            return lightning_source(archive, loaded, foreign, model_name, open_source)
        if is_legacy_state(loaded):
            return read_legacy(path)
        raise CheckpointImportError(f"{path}: {_describe_saved(loaded)} {foreign_note(foreign)}{SUPPORTED}")
    if archive.kind == "package":
        return package_source(archive, model_name)
    if archive.kind == "torchscript":
        return read_legacy(path) if archive.has("extra/config") else torchscript_source(archive)
    if archive.kind == "aotinductor":
        raise CheckpointImportError(f"{path}: {_describe_compiled(archive)}")
    what = "is a zip archive, but not one of PyTorch, so no Allegro model."
    if any(name.endswith(".npy") for name in archive.names()):
        what = "is an archive of NumPy arrays (.npz), not an Allegro model."
    raise CheckpointImportError(f"{path}: {what} {SUPPORTED}")


def _describe_folder(path: Path) -> str:
    candidates = sorted(p.relative_to(path) for p in [*path.glob("*"), *path.glob("*/*")] if p.name.endswith(_ENDINGS))
    if candidates:
        shown = ", ".join(map(str, candidates[:5])) + (", ..." if len(candidates) > 5 else "")
        return f"is a folder, and no training folder of nequip below 0.7; give one of the files in it: {shown}."
    return "is a folder without a checkpoint."


def _describe_saved(loaded: Any) -> str:
    if isinstance(loaded, Record):
        program = _PROGRAMS.get(loaded.qualified_name.split(".")[0], "an object")
        return f"holds {program} ({loaded.qualified_name}), not an Allegro model."
    if isinstance(loaded, dict):
        modules = {name.split(".")[0] for name in _classes(loaded)} & set(_PROGRAMS) - {"torch"}
        if modules:
            return f"holds {_PROGRAMS[sorted(modules)[0]]}, not an Allegro model."
        if "progress" in loaded and "state_dict" in loaded:
            return (
                "is the trainer's state (trainer.pth) of a training by nequip below 0.7; give the folder it lies in, "
                "or best_model.pth."
            )
        shown = ", ".join(map(str, list(loaded)[:5])) + (", ..." if len(loaded) > 5 else "")
        what = "the weights of another model" if _is_state_dict(loaded) else "a table"
        return f"is a PyTorch file with {what}, not an Allegro model (it holds {shown or 'nothing'})."
    return f"is a PyTorch file that holds a {type(loaded).__name__}, not an Allegro model."


def _is_state_dict(loaded: dict) -> bool:
    return bool(loaded) and all(isinstance(value, Tensor) for value in loaded.values())


def _classes(loaded: Any, depth: int = 0) -> set[str]:
    """Names of the classes of objects in the first levels of a table."""
    if isinstance(loaded, Record):
        return {loaded.qualified_name}
    if isinstance(loaded, dict) and depth < 3:
        return set().union(*(_classes(value, depth + 1) for value in list(loaded.values())[:50]))
    return set()


def _describe_compiled(archive: Archive) -> str:
    types = ""
    for name in archive.names():
        if name.endswith("_metadata.json"):
            text = archive.read(name).decode("utf-8", "replace")
            found = re.search(r'"type_names": "([^"]*)"', text)
            if found:
                types = f" (types {found.group(1)})"
                break
    return (
        f"is a model compiled by AOTInductor{types}, as .nequip.pt2 is: its weights are constants of machine code, "
        "merged and without names, and cannot be read back. Import the file it was compiled from: the .nequip.zip or "
        ".ckpt that was given to `nequip-compile`."
    )
