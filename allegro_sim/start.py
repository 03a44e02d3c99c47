"""What is read before a run: model, structure, checkpoint; and whether they belong together."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.config import Settings, changed_on_restart
from allegro_sim.errors import InputError, RestartError
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.weight_file import load_model, read_provenance
from allegro_sim.output.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, newest_checkpoint
from allegro_sim.output.directory import check_directory, has_only_begun
from allegro_sim.output.screen import Screen
from allegro_sim.potential import pick_device
from allegro_sim.structure import Structure, read_structure, replicated_atoms, replicated_cell, type_masses

_MOST_ATOMS = 2**31 - 1


@dataclass(frozen=True)
class Start:
    """All that is read before anything is built; the same on all ranks.

    checkpoints : those in the output directory
    minimizes : whether a minimisation comes before the dynamics, or goes on
    replaces : whether output in the directory is to be replaced: told so, or a run that was killed before its first
        checkpoint begins again
    """

    model: AllegroModel
    model_sha256: str
    model_provenance: dict[str, str]
    structure: Structure  # one replica
    cell: Cell  # of all replicas
    masses: np.ndarray  # (nt,) Da
    checkpoint: Checkpoint | None
    checkpoints: tuple[Path, ...]
    minimizes: bool
    replaces: bool


def read_start(settings: Settings, screen: Screen, *, restart: str | Path | None, overwrite: bool) -> Start:
    """Read model, structure and checkpoint (on one rank), and refuse what does not fit. Raises UserError.

    restart : None for a new run; "" for the newest checkpoint in the output directory; else a checkpoint file
    overwrite : a new run may replace what is in the output directory
    """
    directory = settings.output.directory
    check_directory(directory, overwrite=overwrite, restart=restart is not None)
    checkpoints = tuple(list_checkpoints(directory))
    begins_again = restart == "" and has_only_begun(directory)
    model = load_model(settings.model.file)
    structure = read_structure(
        settings.structure.file,
        settings.structure.frame,
        model=model,
        type_map=settings.model.types,
        type_column=settings.structure.type_column,
        lammps_types=settings.structure.lammps_types,
        lammps_style=settings.structure.lammps_style,
        lammps_units=settings.structure.lammps_units,
    )
    for note in structure.notes:
        screen.warning(note)
    _refuse_too_many(settings, structure)
    checkpoint = None
    if begins_again:
        screen.message(f"{directory}: the run ended before its first checkpoint, and begins again at step 0.")
    elif restart is not None:
        if restart == "":
            path, checkpoint = newest_checkpoint(directory, warn=screen.warning)
        else:
            path, checkpoint = Path(restart), load_checkpoint(restart)
        screen.message(f"Restart from {path}, step {checkpoint.step}.")
    start = Start(
        model=model,
        model_sha256=hashlib.sha256(settings.model.file.read_bytes()).hexdigest(),
        model_provenance=read_provenance(settings.model.file),
        structure=structure,
        cell=replicated_cell(structure.cell, settings.structure.replicate),
        masses=type_masses(model, settings.model.masses),
        checkpoint=checkpoint,
        checkpoints=checkpoints,
        minimizes=settings.minimize.max_steps > 0 if checkpoint is None else checkpoint.minimization is not None,
        replaces=overwrite or begins_again,
    )
    if checkpoint is not None:
        _compare(settings, start, checkpoint)
    draws = start.minimizes or (checkpoint is None and structure.velocities is None)
    if draws and start_temperature(settings, structure, start.minimizes) is None:
        why = "they are drawn after the minimisation" if start.minimizes else "the structure file has none"
        raise InputError(
            f"{settings.source}: velocities.temperature_K is missing for the velocities ({why}: "
            f"{settings.structure.file}); give [velocities] temperature_K (0 starts at rest)"
        )
    return start


def _refuse_too_many(settings: Settings, structure: Structure) -> None:
    atoms = structure.num_atoms * math.prod(settings.structure.replicate)
    if atoms > _MOST_ATOMS:
        raise InputError(
            f"{settings.source}: structure.replicate {list(settings.structure.replicate)} makes {atoms} atoms of the "
            f"{structure.num_atoms} in {settings.structure.file}; a run can have {_MOST_ATOMS}"
        )


def start_temperature(settings: Settings, structure: Structure, minimizes: bool) -> float | None:
    """Temperature, K, of velocities to be drawn; None where those of the structure are taken."""
    given = settings.velocities.temperature_K
    if given is not None or (structure.velocities is not None and not minimizes):
        return given
    if minimizes and settings.run.steps == 0:
        return 0.0  # the minimum itself is asked for
    return settings.dynamics.temperature_K if settings.dynamics.ensemble == "langevin" else None


def resolved_precision(precision: str, device: str) -> str:
    """What `auto` stands for."""
    if precision != "auto":
        return precision
    chosen = pick_device(device)[0] if device == "auto" else device
    return "mixed" if chosen == "cuda" else "single"


def _compare(settings: Settings, start: Start, checkpoint: Checkpoint) -> None:
    """Raise RestartError when the checkpoint is of another system, model or settings."""
    _, types, _, _ = replicated_atoms(start.structure, settings.structure.replicate)
    differences = []
    if len(types) != checkpoint.num_atoms:
        differences.append(f"number of atoms: {checkpoint.num_atoms} -> {len(types)}")
    elif checkpoint.type_names != start.model.type_names:
        differences.append(f"types of the model: {checkpoint.type_names} -> {start.model.type_names}")
    elif (types != checkpoint.types).any():
        differences.append(f"type of atom {int(np.flatnonzero(types != checkpoint.types)[0])}")
    given = start.cell.given
    if (given is None) != (checkpoint.cell is None) or (given is not None and (given != checkpoint.cell).any()):
        differences.append("cell")
    if (start.cell.pbc != checkpoint.pbc).any():
        differences.append(f"periodic directions: {checkpoint.pbc.tolist()} -> {start.cell.pbc.tolist()}")
    if start.model_sha256 != checkpoint.model_sha256:
        differences.append(f"content of the model file ({checkpoint.model_file} -> {settings.model.file})")
    resolved = settings.resolved()
    resolved["run"]["precision"] = resolved_precision(settings.run.precision, settings.run.device)
    differences += changed_on_restart(checkpoint.settings, resolved)
    if differences:
        raise RestartError(
            f"the checkpoint of step {checkpoint.step} is of another run; these differ: {'; '.join(differences)}. "
            "Restore them, or start a new run"
        )
