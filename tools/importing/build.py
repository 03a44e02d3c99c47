"""An Allegro model from whatever a file holds, by `current.py` or, of the legacy generation, `legacy.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from allegro_sim.errors import CheckpointImportError, InputError
from allegro_sim.model.description import AllegroModel, LennardJones
from allegro_sim.tools.importing.current import read_current
from allegro_sim.tools.importing.legacy import read_legacy_model
from allegro_sim.tools.importing.legacy_energies import drop_total_shift
from allegro_sim.tools.importing.legacy_source import LegacySource
from allegro_sim.tools.importing.model_source import (
    BUILDERS,
    LIGHTNING,
    SAVED_MODELS,
    SUPPORTED,
    Source,
    trained_vectors,
    unwrap,
)
from allegro_sim.tools.importing.options import Options, Tensors
from allegro_sim.tools.importing.pair_terms import MEND_OPTION

# Modifiers (nequip.model.modify) that leave tensors and their meaning as they are, or change only scales and shifts.
_MODIFIERS = ("modify_PerTypeScaleShift", "enable_ForceStressOutput", "disable_ForceStressOutput",
              "enable_TritonContracter", "enable_CuEquivarianceContracter")  # fmt: skip
_OTHER_MODELS = {"nequip.model.NequIPGNN": "a NequIP message-passing model", "nequip.model.FullNequIPGNN":
                 "a NequIP message-passing model", "nequip.model.ZBLPairPotential": "a pair potential"}  # fmt: skip
_NOTHING_TO_MEND = f"{MEND_OPTION}: {{}} has no Lennard-Jones term that needs it; leave the option out"


@dataclass(frozen=True)
class Built:
    """The model, the number of its weights as upstream counts them, which weights they are, and notes for the user."""

    model: AllegroModel
    num_weights: int
    weights_used: str  # "averaged (EMA)", "averaged (schedule-free)", "raw", or "stored" in files that have one kind
    notes: tuple[str, ...]


def build_model(
    source: Source | LegacySource,
    *,
    raw_weights: bool = False,
    without_total_shift: bool = False,
    mend_lennard_jones: bool = False,
    elements: dict[str, str] | None = None,
) -> Built:
    """Build the model of a checkpoint of either generation.

    raw_weights: take the weights of the last training step although averaged ones are there, which upstream uses.
    without_total_shift: leave out a constant that a legacy model adds to the energy of the whole structure.
    mend_lennard_jones: read a Lennard-Jones term that no release of upstream evaluates, as its formula edge by edge.
    elements: type name -> chemical symbol, for types whose names are none.
    Raises CheckpointImportError for other models, unknown options or tensors, and tensors that do not fit; InputError
    for raw_weights where a file does not hold them beside others, and for without_total_shift and mend_lennard_jones
    where there is none.
    """
    if raw_weights and not (isinstance(source, Source) and source.kind == LIGHTNING):
        form = source.form if isinstance(source, LegacySource) else source.kind
        raise InputError(
            f"--raw-weights: {source.path} is a {form}, which holds its weights in one state only; the option chooses "
            "among those of a Lightning .ckpt (of a legacy training folder, give last_model.pth for the raw ones)"
        )
    if isinstance(source, LegacySource):
        notes = list(source.notes)
        if without_total_shift:
            source = drop_total_shift(source, notes)
        if mend_lennard_jones and source.config.get("pair_style") != "LJ_fancy":
            raise InputError(_NOTHING_TO_MEND.format(source.path))
        model, num_weights = read_legacy_model(source, elements or {}, notes, mend_lennard_jones)
        return Built(model, num_weights, "stored", (*notes, *_foreign_notes(source)))
    if without_total_shift:
        raise InputError(
            f"--drop-total-energy-shift: {source.path} is of nequip 0.7 or newer, which adds no such constant"
        )
    config, modifiers = unwrap(source.config, source.model_name, source.path)
    modifiers = [*modifiers, *source.modifiers]
    _check_builder(config, modifiers, source)
    options = Options(config, source.path, "model")
    averages = None if raw_weights else source.find_averages()
    state = {**source.state, **(averages.weights if averages is not None else {})}
    tensors = Tensors(_without_prefix(state), source.path, _without_prefix(source.constants))
    notes = list(source.notes)
    trained = trained_vectors(config, modifiers)
    model = read_current(source, options, tensors, trained, elements or {}, notes, mend_lennard_jones)
    if mend_lennard_jones and not isinstance(model.pair_term, LennardJones):
        raise InputError(_NOTHING_TO_MEND.format(source.path))
    used = "raw" if source.kind == LIGHTNING else "stored"
    if averages is not None:
        used = f"averaged ({averages.kind})"
    return Built(model, tensors.num_weights, used, (*notes, *_foreign_notes(source)))


def _foreign_notes(source: Source | LegacySource) -> list[str]:
    if not source.foreign_names:
        return []
    return [f"the file names {', '.join(source.foreign_names)}, which no checkpoint needs; nothing of it was run"]


def _check_builder(config: dict[str, Any], modifiers: list[dict[str, Any]], source: Source) -> None:
    for modifier in modifiers:
        if modifier["modifier"] not in _MODIFIERS:
            raise CheckpointImportError(
                f"{source.path}: the model is changed by the modifier {modifier['modifier']!r}; supported: "
                f"{', '.join(_MODIFIERS)}"
            )
    target = config.get("_target_")
    if target in SAVED_MODELS:
        raise CheckpointImportError(
            f"{source.path}: was trained further from another file ({target}) and does not hold the model's options; "
            "package it with upstream (`nequip-package build`) and import the .nequip.zip"
        )
    if target not in BUILDERS:
        kinds = (kind for name, kind in _OTHER_MODELS.items() if str(target).startswith(name))
        what = next(kinds, "a model")
        raise CheckpointImportError(
            f"{source.path}: holds {what} built by {target!r}, not an Allegro model. {SUPPORTED}"
        )


def _without_prefix(tensors: Any) -> dict[str, Any]:
    """Names without the modules around the network: "model.", and "func." of the one that takes derivatives."""
    return {name.removeprefix("model.").removeprefix("func."): value for name, value in tensors.items()}
