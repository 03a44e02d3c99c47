"""Structures: types of the atoms, cell, replication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.errors import InputError, StructureError
from allegro_sim.model.description import AllegroModel
from allegro_sim.structure_files import SYMBOL, LammpsFormat, RawStructure, raw_of_atoms, read_file


@dataclass(frozen=True)
class Structure:
    """Atoms in the order of the file."""

    symbols: tuple[str, ...]  # (N,) chemical symbol of each atom
    types: np.ndarray  # (N,) int32, index into the model's types
    positions: np.ndarray  # (N, 3) float64, Å
    velocities: np.ndarray | None  # (N, 3) float64, Å/fs; None where the file has none
    cell: Cell
    notes: tuple[str, ...] = ()  # what of the file was left out, for the user

    @property
    def num_atoms(self) -> int:
        return len(self.types)


def read_structure(
    path: str | Path,
    frame: int = -1,
    *,
    model: AllegroModel,
    type_map: Mapping[str, str] | None = None,
    type_column: str = SYMBOL,
    lammps_types: Sequence[str] = (),
    lammps_style: str = "auto",
    lammps_units: str = "metal",
) -> Structure:
    """Read one frame of a structure file and assign the model's types.

    Anything that ASE reads; LAMMPS data, with `lammps_types` naming its atom types; a trajectory or a checkpoint of
    this program, with its ids, velocities and unwrapped positions.

    An atom's name is its chemical symbol, or what `type_column` of the file holds for it. Its type is found by
    `type_map` (name -> model type), else by the same name, else by the element where just one model type is of it.

    Raises
    ------
    StructureError : unreadable file, no such frame, no atoms, elements not in the model, positions that are not finite,
        a cell without volume
    InputError : the type map or `lammps_types` name a type that the model lacks, or there is no such column
    """
    path, type_map = Path(path), type_map or {}
    lammps = None
    if lammps_types:
        numbers = [_number_of_name(name, model, type_map) for name in lammps_types]
        lammps = LammpsFormat(lammps_types, numbers, lammps_style, lammps_units)
    raw = read_file(path, frame, column=type_column, lammps=lammps)
    return _checked_structure(str(path), raw, model, type_map)


def structure_of_atoms(atoms: Any, model: AllegroModel, type_map: Mapping[str, str] | None = None) -> Structure:
    """The structure of an `ase.Atoms`; types and errors as for `read_structure`."""
    return _checked_structure("the atoms", raw_of_atoms("the atoms", atoms), model, type_map or {})


def element_symbols(atomic_numbers: Sequence[int] | np.ndarray) -> list[str]:
    """Chemical symbols of atomic numbers."""
    from ase.data import chemical_symbols

    return [chemical_symbols[int(number)] for number in atomic_numbers]


def replicated_cell(cell: Cell, counts: Sequence[int]) -> Cell:
    """The cell of `counts` copies along each vector.

    Raises
    ------
    InputError : copies along a direction that is not periodic
    """
    for direction, count in enumerate(counts):
        if count > 1 and not cell.pbc[direction]:
            raise InputError(
                f"structure.replicate is {list(counts)}, but the structure is not periodic along "
                f"{'abc'[direction]}: give 1 there"
            )
    if cell.given is None or tuple(counts) == (1, 1, 1):
        return cell
    return Cell(cell.given * np.array(counts, np.float64)[:, None], cell.pbc)


def replicated_atoms(
    structure: Structure, counts: Sequence[int], share: slice | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atoms of the replicated structure, or of a contiguous share of them.

    Replica follows replica (the third direction runs fastest), each in the order of the file. Velocities, zero where
    the file has none, are those of the original in every replica.

    Returns
    -------
    ids int64 (n,), types int32 (n,), positions float64 (n, 3) Å, velocities float64 (n, 3) Å/fs
    """
    total = structure.num_atoms * int(np.prod(counts))
    ids = np.arange(total)[share if share is not None else slice(None)]
    replica, atom = np.divmod(ids, structure.num_atoms)
    place = np.stack(np.unravel_index(replica, tuple(counts)), axis=1).astype(np.float64)
    positions = structure.positions[atom]
    if total > structure.num_atoms:
        vectors = structure.cell.vectors
        for c in range(3):
            positions[:, c] += (place[:, 0] * vectors[0, c] + place[:, 1] * vectors[1, c]) + place[:, 2] * vectors[2, c]
    velocities = np.zeros((len(ids), 3)) if structure.velocities is None else structure.velocities[atom]
    return ids, structure.types[atom], positions, velocities


def type_masses(model: AllegroModel, masses: Mapping[str, float]) -> np.ndarray:
    """Masses by type, Da, float64 (nt,): the model's, replaced by those of `masses` (type name -> Da).

    Raises
    ------
    InputError : a name that is not a type of the model
    """
    result = np.array(model.masses, np.float64)
    for name, mass in masses.items():
        result[_type_index(model, name, f"model.masses.{name}")] = mass
    return result


def _checked_structure(source: str, raw: RawStructure, model: AllegroModel, type_map: Mapping[str, str]) -> Structure:
    """Assign types and check; `source` begins the messages."""
    if len(raw.names) == 0:
        raise StructureError(f"{source}: the structure has no atoms")
    _check_finite(source, raw)
    try:
        cell = Cell(raw.vectors, raw.pbc)
    except StructureError as error:
        raise StructureError(f"{source}: {error}") from None
    types = _assign_types(source, raw, model, type_map)
    numbers = np.where(raw.atomic_numbers > 0, raw.atomic_numbers, model.atomic_numbers[types])
    return Structure(
        symbols=tuple(element_symbols(numbers)),
        types=types,
        positions=np.array(raw.positions, np.float64),
        velocities=None if raw.velocities is None else np.array(raw.velocities, np.float64),
        cell=cell,
        notes=raw.notes,
    )


def _number_of_name(name: str, model: AllegroModel, type_map: Mapping[str, str]) -> int:
    """Atomic number of an atom type of LAMMPS data."""
    from ase.data import atomic_numbers

    if name in type_map or name in model.type_names:
        return int(model.atomic_numbers[_type_index(model, type_map.get(name, name), f"model.types.{name}")])
    if name not in atomic_numbers:
        raise InputError(
            f"structure.lammps_types: {name!r} is no chemical symbol, no type of the model "
            f"({', '.join(model.type_names)}) and not in [model] types"
        )
    return atomic_numbers[name]


def _type_index(model: AllegroModel, name: str, key: str) -> int:
    if name not in model.type_names:
        raise InputError(f"{key}: the model has no type {name!r}; its types are {', '.join(model.type_names)}")
    return model.type_names.index(name)


def _assign_types(source: str, raw: RawStructure, model: AllegroModel, type_map: Mapping[str, str]) -> np.ndarray:
    """Model type of each atom, int32 (N,)."""
    mapped = {name: _type_index(model, target, f"model.types.{name}") for name, target in type_map.items()}
    pairs = list(zip(raw.names, (int(number) for number in raw.atomic_numbers), strict=True))
    found: dict[tuple[str, int], int] = {}
    missing: Counter[str] = Counter()
    several: dict[str, list[str]] = {}
    for (name, number), count in Counter(pairs).items():
        same_element = [t for t, other in enumerate(model.atomic_numbers) if int(other) == number]
        if name in mapped:
            found[name, number] = mapped[name]
        elif name in model.type_names:
            found[name, number] = model.type_names.index(name)
        elif len(same_element) == 1:
            found[name, number] = same_element[0]
        elif same_element:
            several[name] = [model.type_names[t] for t in same_element]
        else:
            missing[element_symbols([number])[0] if number else name] += count
    if missing:
        listed = ", ".join(f"{name} ({count} atom{'s' if count > 1 else ''})" for name, count in missing.most_common())
        raise StructureError(
            f"{source}: elements that are not in the model: {listed}. The model has the types "
            f"{', '.join(model.type_names)}. Use another model, or give the type of each name in [model] types"
        )
    if several:
        name, candidates = next(iter(several.items()))
        raise StructureError(
            f"{source}: the model has several types of the element {name}: {', '.join(candidates)}. "
            f'Say which in [model] types, for example types = {{ {name} = "{candidates[0]}" }}'
        )
    return np.array([found[pair] for pair in pairs], np.int32)


def _check_finite(source: str, raw: RawStructure) -> None:
    for what, values in (("position", raw.positions), ("velocity", raw.velocities)):
        if values is None:
            continue
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            atom = int(bad[0])
            more = f" (and {len(bad) - 1} more atoms)" if len(bad) > 1 else ""
            raise StructureError(
                f"{source}: the {what} of atom {atom}{more}, {raw.names[atom]}, is not finite: {values[atom].tolist()} "
                "(atoms are counted from 0). Correct the file"
            )
