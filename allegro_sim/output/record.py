"""What the files of a run say about it as a whole, and its atoms as extended XYZ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import OutputError


@dataclass(frozen=True)
class RunRecord:
    """What the files say about the run as a whole; needed on rank 0 only. N atoms in the order of the input."""

    types: np.ndarray  # (N,) int32, index into type_names
    positions: np.ndarray  # (N, 3) Å at the start, for topology.xyz
    type_names: tuple[str, ...]
    type_symbols: tuple[str, ...]
    type_masses: np.ndarray  # (types,) Da
    cell: np.ndarray | None  # (3, 3) Å rows = lattice vectors as given, or None
    pbc: np.ndarray  # (3,) bool
    settings: dict[str, Any]  # resolved, section -> key -> value
    input_text: str  # the same as TOML
    model_file: str
    model_sha256: str
    provenance: dict[str, Any] = field(default_factory=dict)  # program version, model provenance, ...; what JSON takes


def write_extxyz(
    path: Path, record: RunRecord, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, Any]
) -> None:
    """One frame as extended XYZ, atomically: positions (N,3) Å and further per-atom columns. Raises OutputError."""
    import ase
    import ase.io

    symbols = np.array(record.type_symbols)[types]
    atoms = ase.Atoms(symbols=list(symbols), positions=positions, cell=record.cell, pbc=record.pbc)
    for name, values in columns.items():
        atoms.set_array(name, np.asarray(values))
    unfinished = path.with_name(f".{path.name}.new")
    try:
        # Not in parallel: ASE would broadcast over MPI, and only rank 0 writes.
        ase.io.write(unfinished, atoms, format="extxyz", parallel=False)
        os.replace(unfinished, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
