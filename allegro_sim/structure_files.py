"""Files of structures as they are: what ASE reads, LAMMPS data, and trajectories and checkpoints of this program."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import InputError, OutputError, RestartError, StructureError
from allegro_sim.output.checkpoint import is_checkpoint, load_checkpoint
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.units import ACCELERATION

SYMBOL = "symbol"
"""The type column that stands for the chemical symbol."""

VELOCITY_COLUMN = "velocity_A_fs"
_VELOCITIES_WITHOUT_UNIT = ("velocities", "velocity", "velo", "vel")

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LAMMPS_TYPES = re.compile(rb"^\s*(\d+)\s+atom\s+types\b", re.MULTILINE)
_LAMMPS_HEADER_BYTES = 4096


@dataclass(frozen=True)
class RawStructure:
    """What a file holds, before types are assigned: a name and an atomic number for each of N atoms."""

    names: Sequence[str]
    atomic_numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å
    velocities: np.ndarray | None  # (N, 3) Å/fs
    vectors: np.ndarray | None  # (3, 3) Å, rows are lattice vectors
    pbc: np.ndarray  # (3,)
    notes: tuple[str, ...] = field(default=())  # what was left out, for the user


@dataclass(frozen=True)
class LammpsFormat:
    """What a LAMMPS data file does not say. names: of each atom type, from 1; numbers: their atomic numbers."""

    names: Sequence[str]
    numbers: Sequence[int]
    style: str = "auto"
    units: str = "metal"


def read_file(path: Path, frame: int, *, column: str = SYMBOL, lammps: LammpsFormat | None = None) -> RawStructure:
    """One frame of a file. `column`: where the names come from; `lammps`: the file is LAMMPS data.

    Raises
    ------
    StructureError : unreadable, no such frame, not a structure, LAMMPS data without `lammps`
    InputError : no such column
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_LAMMPS_HEADER_BYTES)
    except FileNotFoundError:
        raise StructureError(f"{path}: there is no such structure file") from None
    except OSError as error:
        raise StructureError(f"{path}: the structure file cannot be read: {error.strerror}") from None
    lammps_types = _LAMMPS_TYPES.search(start)
    if lammps is not None:
        return _read_lammps(path, frame, lammps, lammps_types)
    ours = start.startswith(_HDF5_SIGNATURE) or is_checkpoint(path)
    if ours and column != SYMBOL:
        raise InputError(
            f"structure.type_column is {column!r}, but {path} is of this program and names the types itself"
        )
    if is_checkpoint(path):
        return _read_checkpoint(path, frame)
    if ours:
        return _read_trajectory(path, frame)
    if lammps_types is not None:
        raise StructureError(
            f"{path}: looks like LAMMPS data; give the symbol or model type of each of its "
            f'{int(lammps_types.group(1))} atom types in [structure] lammps_types, for example ["O", "H"]'
        )
    return _read_with_ase(path, frame, column)


def raw_of_atoms(source: object, atoms: Any, column: str = SYMBOL, notes: tuple[str, ...] = ()) -> RawStructure:
    """What an `ase.Atoms` holds; `source` begins the messages. Raises InputError when there is no such column."""
    velocities = None
    if VELOCITY_COLUMN in atoms.arrays:
        velocities = atoms.arrays[VELOCITY_COLUMN]
    elif atoms.has("momenta"):
        # ASE's unit of velocity is sqrt(eV/Da).
        velocities = atoms.get_velocities() * np.sqrt(ACCELERATION)
    else:
        unclear = [name for name in _VELOCITIES_WITHOUT_UNIT if name in atoms.arrays]
        notes += tuple(
            f"{source}: the column {name!r} is not used, since its unit is not said; velocities are read from "
            f"{VELOCITY_COLUMN!r} (Å/fs) or ASE's 'momenta'"
            for name in unclear
        )
    return RawStructure(
        names=_names(source, atoms, column),
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        velocities=velocities,
        vectors=np.array(atoms.cell) if atoms.cell.any() else None,
        pbc=atoms.pbc,
        notes=notes,
    )


def _names(source: object, atoms: Any, column: str) -> list[str]:
    if column == SYMBOL:
        return atoms.get_chemical_symbols()
    # Numbers with a fraction name nothing.
    columns = {name: a for name, a in atoms.arrays.items() if a.ndim == 1 and a.dtype.kind in "iuUSO"}
    if column not in columns:
        there = ", ".join(sorted(set(columns) - {"numbers"})) or "none"
        raise InputError(
            f"structure.type_column: {source} has no column {column!r} of words or whole numbers; those it has: {there}"
        )
    return [str(value).strip() for value in columns[column]]


def _no_frame(path: Path, frame: int) -> StructureError:
    return StructureError(f"{path}: there is no frame {frame} in the file (structure.frame counts from 0)")


def _ase_read(path: Path, **options: Any) -> Any:
    import ase.io

    try:
        # Not in parallel: ASE would broadcast over MPI, and only rank 0 reads.
        return ase.io.read(path, parallel=False, **options)
    except (IndexError, StopIteration):
        raise _no_frame(path, options.get("index", -1)) from None
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        reason = str(error).strip().splitlines()
        raise StructureError(
            f"{path}: ASE cannot read this as a structure: {type(error).__name__}: {reason[0] if reason else ''}"
        ) from None


def _read_with_ase(path: Path, frame: int, column: str) -> RawStructure:
    import ase

    if re.search(r"\.pdb(\.\w+)?$", path.name, re.IGNORECASE):
        return _read_pdb(path, frame, column)
    atoms = _ase_read(path, index=frame)
    if not isinstance(atoms, ase.Atoms):
        raise StructureError(f"{path}: ASE found no structure in it")
    return raw_of_atoms(path, atoms, column)


def _read_pdb(path: Path, frame: int, column: str) -> RawStructure:
    """A model of a PDB file. CRYST1 stands once for all models, which ASE gives to the first alone, and ASE takes END
    after ENDMDL for another model, without atoms."""
    models = _ase_read(path, index=":", format="proteindatabank")
    cells = [model.cell for model in models if model.cell.any()]
    models = [model for model in models if len(model)] or models[:1]
    if not -len(models) <= frame < len(models):
        raise _no_frame(path, frame)
    atoms = models[frame]
    notes: tuple[str, ...] = ()
    if cells and not atoms.cell.any():
        atoms.cell, atoms.pbc = cells[0], True
    if (atoms.cell.cellpar() == [1.0, 1.0, 1.0, 90.0, 90.0, 90.0]).all():
        # What PDB files of methods without a crystal have instead of a cell.
        atoms.cell, atoms.pbc = None, False
        notes = (f"{path}: its CRYST1 of 1 x 1 x 1 Å is the PDB's mark for no cell: the structure is not periodic",)
    return raw_of_atoms(path, atoms, column, notes)


def _read_lammps(path: Path, frame: int, lammps: LammpsFormat, header: re.Match[bytes] | None) -> RawStructure:
    if frame not in (0, -1):
        raise _no_frame(path, frame)
    count = None if header is None else int(header.group(1))
    if count is not None and count != len(lammps.names):
        raise InputError(
            f"structure.lammps_types has {len(lammps.names)} names, but {path} has {count} atom types; give one for "
            "each"
        )
    atoms = _ase_read(
        path,
        format="lammps-data",
        Z_of_type=dict(enumerate(lammps.numbers, start=1)),
        atom_style=None if lammps.style == "auto" else lammps.style,
        units=lammps.units,
    )
    raw = raw_of_atoms(path, atoms)
    names = [lammps.names[t - 1] for t in atoms.arrays["type"]]
    return RawStructure(names, raw.atomic_numbers, raw.positions, raw.velocities, raw.vectors, raw.pbc)


def _read_trajectory(path: Path, frame: int) -> RawStructure:
    """A frame of a trajectory of this program, also one that is still growing."""
    from ase.data import atomic_numbers

    try:
        with TrajectoryReader(path) as trajectory:
            if not -trajectory.num_frames <= frame < trajectory.num_frames:
                raise _no_frame(path, frame)
            found = trajectory.frame(frame)
            names = [trajectory.type_names[t] for t in trajectory.species]
            numbers = np.array([atomic_numbers[symbol] for symbol in trajectory.symbols], np.int64)
            return RawStructure(
                names=names,
                atomic_numbers=numbers[trajectory.species],
                positions=found.positions,
                velocities=found.velocities,
                vectors=found.cell,
                pbc=trajectory.pbc,
            )
    except OutputError as error:
        raise StructureError(f"{path}: cannot be read as a trajectory of this program: {error}") from None


def _read_checkpoint(path: Path, frame: int) -> RawStructure:
    from ase.data import atomic_numbers

    try:
        checkpoint = load_checkpoint(path)
    except RestartError as error:
        raise StructureError(str(error)) from None
    if frame not in (0, -1):
        raise _no_frame(path, frame)
    # A checkpoint knows no elements: where the name of a type is not one, the model must have a type of that name.
    numbers = np.array([atomic_numbers.get(name, 0) for name in checkpoint.type_names], np.int64)
    return RawStructure(
        names=[checkpoint.type_names[t] for t in checkpoint.types],
        atomic_numbers=numbers[checkpoint.types],
        positions=checkpoint.positions,
        velocities=checkpoint.velocities if checkpoint.minimization is None else None,
        vectors=checkpoint.cell,
        pbc=checkpoint.pbc,
    )
