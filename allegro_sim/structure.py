"""Structures: read by ASE, or from a trajectory of this program; types, cell, replication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.errors import InputError, StructureError
from allegro_sim.model.description import AllegroModel
from allegro_sim.units import ACCELERATION

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Structure:
    """Atoms in the order of the file."""

    symbols: tuple[str, ...]  # (N,) chemical symbol of each atom
    types: np.ndarray  # (N,) int32, index into the model's types
    positions: np.ndarray  # (N, 3) float64, Å
    velocities: np.ndarray | None  # (N, 3) float64, Å/fs; None where the file has none
    cell: Cell

    @property
    def num_atoms(self) -> int:
        return len(self.types)


@dataclass(frozen=True)
class _Raw:
    """What a file holds, before types are assigned: a name and an atomic number for each atom."""

    names: Sequence[str]
    atomic_numbers: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    vectors: np.ndarray | None
    pbc: np.ndarray


def read_structure(
    path: str | Path, frame: int = -1, *, model: AllegroModel, type_map: Mapping[str, str] | None = None
) -> Structure:
    """Read one frame of a structure file, anything that ASE reads or our HDF5, and assign the model's types.

    A type is found by `type_map` (name in the file -> model type), else by the same name, else by the element where
    just one model type is of it.

    Raises
    ------
    StructureError : unreadable file, no such frame, no atoms, elements not in the model, positions that are not finite,
        a cell without volume
    InputError : the type map names a type that the model lacks
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(_HDF5_SIGNATURE))
    except FileNotFoundError:
        raise StructureError(f"{path}: there is no such structure file") from None
    except OSError as error:
        raise StructureError(f"{path}: the structure file cannot be read: {error.strerror}") from None
    if start.startswith(_HDF5_SIGNATURE):
        raw = _read_hdf5(path, frame)
    else:
        raw = _read_with_ase(path, frame)
    return _checked_structure(str(path), raw, model, type_map or {})


def structure_of_atoms(atoms: Any, model: AllegroModel, type_map: Mapping[str, str] | None = None) -> Structure:
    """The structure of an `ase.Atoms`; types and errors as for `read_structure`."""
    return _checked_structure("the atoms", _raw_of_atoms(atoms), model, type_map or {})


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


def _checked_structure(source: str, raw: _Raw, model: AllegroModel, type_map: Mapping[str, str]) -> Structure:
    """Assign types and check; `source` begins the messages."""
    if len(raw.names) == 0:
        raise StructureError(f"{source}: the structure has no atoms")
    _check_finite(source, raw)
    try:
        cell = Cell(raw.vectors, raw.pbc)
    except StructureError as error:
        raise StructureError(f"{source}: {error}") from None
    return Structure(
        symbols=tuple(element_symbols(raw.atomic_numbers)),
        types=_assign_types(source, raw, model, type_map),
        positions=np.array(raw.positions, np.float64),
        velocities=None if raw.velocities is None else np.array(raw.velocities, np.float64),
        cell=cell,
    )


def _type_index(model: AllegroModel, name: str, key: str) -> int:
    if name not in model.type_names:
        raise InputError(f"{key}: the model has no type {name!r}; its types are {', '.join(model.type_names)}")
    return model.type_names.index(name)


def _assign_types(source: str, raw: _Raw, model: AllegroModel, type_map: Mapping[str, str]) -> np.ndarray:
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
            missing[name] += count
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


def _check_finite(source: str, raw: _Raw) -> None:
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


def _read_with_ase(path: Path, frame: int) -> _Raw:
    import ase
    import ase.io

    try:
        # Not in parallel: ASE would broadcast over MPI, and only rank 0 reads.
        atoms = ase.io.read(path, index=frame, parallel=False)
    except (IndexError, StopIteration):
        raise StructureError(f"{path}: there is no frame {frame} in the file (structure.frame counts from 0)") from None
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        reason = str(error).strip().splitlines()
        raise StructureError(
            f"{path}: ASE cannot read this as a structure: {type(error).__name__}: {reason[0] if reason else ''}"
        ) from None
    if not isinstance(atoms, ase.Atoms):
        raise StructureError(f"{path}: ASE found no structure in it")
    return _raw_of_atoms(atoms)


def _raw_of_atoms(atoms: Any) -> _Raw:
    velocities = None
    if atoms.has("momenta"):
        # ASE's unit of velocity is sqrt(eV/Da).
        velocities = atoms.get_velocities() * np.sqrt(ACCELERATION)
    return _Raw(
        names=atoms.get_chemical_symbols(),
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        velocities=velocities,
        vectors=np.array(atoms.cell) if atoms.cell.any() else None,
        pbc=atoms.pbc,
    )


def _read_hdf5(path: Path, frame: int) -> _Raw:
    """A frame of a trajectory of this program."""
    from ase.data import atomic_numbers

    try:
        with h5py.File(path, "r", locking=False) as file:
            if "particles/all/position" not in file:
                raise StructureError(f"{path}: is HDF5, but not a trajectory of this program")
            elements, fields = _read_trajectory(file, frame)
    except (OSError, KeyError, ValueError) as error:
        raise StructureError(f"{path}: cannot be read as a trajectory of this program: {error}") from None
    except IndexError:
        raise StructureError(f"{path}: there is no frame {frame} in the file (structure.frame counts from 0)") from None
    numbers = np.array([atomic_numbers[symbol] for symbol in elements], np.int64)
    return _Raw(atomic_numbers=numbers, **fields)


def _read_trajectory(file: h5py.File, frame: int) -> tuple[list[str], dict[str, Any]]:
    particles = file["particles/all"]
    steps = particles["position/step"]
    if not -len(steps) <= frame < len(steps):
        raise IndexError
    frame %= len(steps)
    species = particles["species"][()]
    names = file["parameters/types/name"].asstr()[()]
    elements = file["parameters/types/element"].asstr()[()]
    boundary = particles["box"].attrs["boundary"]
    fields = {
        "names": [names[t] for t in species],
        "positions": particles["position/value"][frame],
        "velocities": particles["velocity/value"][frame] if "velocity" in particles else None,
        "vectors": particles["box/edges/value"][frame] if "edges" in particles["box"] else None,
        "pbc": np.array([b in ("periodic", b"periodic") for b in boundary]),
    }
    return [elements[t] for t in species], fields
