"""What a checkpoint of the current generation holds, as plain data, found without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.averages import Extrapolated
from allegro_sim.tools.importing.unpickle import Record, Tensor

SUPPORTED = (
    "What can be imported: Allegro models as Lightning .ckpt, .nequip.zip or TorchScript .nequip.pth (nequip 0.7 and "
    "newer), and as deployed .pth or training folder (nequip 0.5 and 0.6)."
)
LIGHTNING, PACKAGE, TORCHSCRIPT = "Lightning checkpoint", "nequip package", "TorchScript model"
BUILDERS = tuple(
    f"allegro.model.{module}{name}"
    for module in ("", "allegro_models.")
    for name in ("AllegroModel", "FullAllegroModel", "AllegroEnergyModel", "FullAllegroEnergyModel")
)
MODIFY = ("nequip.model.modify", "nequip.model.modify_utils.modify")
SAVED_MODELS = tuple(
    f"nequip.model.{module}{name}"
    for module in ("", "from_save.", "saved_models.", "saved_models.package.", "saved_models.checkpoint.")
    for name in ("ModelFromPackage", "ModelFromCheckpoint")
)


@dataclass(frozen=True)
class Averages:
    """Averages of weights by their names, and how they were made: "EMA" or "schedule-free"."""

    kind: str
    weights: Mapping[str, Tensor | Extrapolated]


@dataclass
class Source:
    """One model as found in a file.

    config: options of the model's builder, resolved. modifiers: changes made to what it built, in order.
    run_config: the rest of the training's configuration. versions: of the codes that built the model.
    state: tensors by name below the model's top module, in the order of the file. constants: numbers that upstream
    recomputes and some files store all the same. find_averages: gives the averages the training kept beside the
    weights, or None. pair_exponent: exponent of the pair potential's cutoff, where the file states the one that is
    used. foreign_names: names in the file that no checkpoint needs; nothing of them was run. notes: for the user.
    """

    path: Path
    kind: str  # LIGHTNING, PACKAGE or TORCHSCRIPT
    config: dict[str, Any]
    run_config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    state: dict[str, Tensor | Extrapolated] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    modifiers: list[dict[str, Any]] = field(default_factory=list)
    find_averages: Callable[[], Averages | None] = lambda: None
    pair_exponent: float | None = None
    model_name: str = "sole_model"
    foreign_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def full_config(self) -> dict[str, Any]:
        """The configuration as upstream takes it, the modifiers around the builder's options."""
        if not self.modifiers:
            return self.config
        return {"_target_": MODIFY[0], "model": self.config, "modifiers": self.modifiers}


def unwrap(config: dict[str, Any], model_name: str, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The builder's options without the modifiers (nequip.model.modify) around them, and these in order of application.

    Raises CheckpointImportError for modifiers that cannot be read.
    """
    modifiers: list[dict[str, Any]] = []
    while config.get("_target_") in MODIFY:
        found = config.get("modifiers")
        if isinstance(found, dict):  # by the names of several models
            found = found.get(model_name, [])
        if not isinstance(found, list) or not all(isinstance(m, dict) and "modifier" in m for m in found):
            raise CheckpointImportError(
                f"{path}: the option model.modifiers is {found!r}; a list with a modifier each is expected"
            )
        modifiers = [*found, *modifiers]
        inner = config.get("model")
        config = inner if isinstance(inner, dict) else {}
    return config, modifiers


def trained_vectors(config: dict[str, Any], modifiers: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether Bessel frequencies, scales and shifts are parameters; else upstream keeps them as buffers."""
    radial = config.get("radial_chemical_embed") or config.get("scalar_embed")
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


def versions_of(found: Any) -> dict[str, str]:
    """Versions of codes as texts; empty for anything but a mapping."""
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def plain(value: Any, path: Path, where: str) -> Any:
    """A copy with plain dicts and lists only; anything else in a configuration is refused by its place."""
    if isinstance(value, dict):
        return {str(k): plain(v, path, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, path, f"{where}[{n}]") for n, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    what = value.qualified_name if isinstance(value, Record) else type(value).__name__
    raise CheckpointImportError(f"{path}: {where} is an object of {what}; a plain value is expected. {SUPPORTED}")
