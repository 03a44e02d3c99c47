"""Writers of single frames to a file, by the format's ending: ASE for extended XYZ, MDAnalysis for XTC, DCD and PDB,
LAMMPS dumps as text.

    with open_writer(path, trajectory, chosen) as writer:
        writer.write(frame, positions)     # positions (N, 3) Å: the frame's, perhaps wrapped
    writer.notes                           # what a reader of the file should know
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import ase
import ase.io
import ase.units
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from allegro_sim.errors import InputError, OutputError
from allegro_sim.output.trajectory_reader import Frame, TrajectoryReader


class FrameWriter(Protocol):
    """One open file; a context manager that closes it."""

    notes: list[str]

    def write(self, frame: Frame, positions: np.ndarray) -> None: ...

    def __enter__(self) -> FrameWriter: ...

    def __exit__(self, *exception: object) -> None: ...


def require_package(name: str, what: str) -> ModuleType:
    """Import a package of the extra `analysis`. Raises InputError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f'{what} needs {name.partition(".")[0]} ({error}); pip install "allegro-sim[analysis]"'
        ) from None


def open_writer(path: Path, trajectory: TrajectoryReader, chosen: range) -> FrameWriter:
    """The writer for the ending of `path`; chosen: the frames that will be written. Raises InputError, OSError."""
    return FORMATS[path.suffix](path, trajectory, chosen)


def standard_orientation(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same lattice with its first vector along x, the second in the xy plane: its cell (3, 3), and the rotation.

    Rows of cell are vectors; row vectors v turn as v @ rotation. Of a left-handed cell the first two vectors change
    places before, since no rotation makes it right-handed, and a mirror image would be another molecule.
    """
    if np.linalg.det(cell) < 0.0:
        cell = cell[[1, 0, 2]]
    orthogonal, triangle = np.linalg.qr(cell.T)
    signs = np.where(np.diag(triangle) < 0.0, -1.0, 1.0)
    standard = np.tril((triangle * signs[:, None]).T)
    if np.allclose(standard, cell, rtol=0.0, atol=1.0e-12 * np.abs(cell).max()):
        return cell, np.eye(3)
    return standard, orthogonal * signs


_TURNED = "The cell was turned: the format wants its first vector along x and the second in the xy plane."


class ExtxyzWriter:
    """Extended XYZ through ASE."""

    def __init__(self, path: Path, trajectory: TrajectoryReader, chosen: range) -> None:
        self.notes: list[str] = []
        self._trajectory = trajectory
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)

    def write(self, frame: Frame, positions: np.ndarray) -> None:
        ase.io.write(self._stream, atoms_of(self._trajectory, frame, positions), format="extxyz")

    def __enter__(self) -> ExtxyzWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()


def atoms_of(trajectory: TrajectoryReader, frame: Frame, positions: np.ndarray) -> ase.Atoms:
    """A frame as ASE's Atoms, in ASE's units; energy and forces, where there are any, as a calculator's results.

    `info` holds step and time_fs. Stored velocities become momenta.
    """
    atoms = ase.Atoms(
        symbols=list(np.array(trajectory.symbols)[trajectory.species]),
        positions=positions,
        masses=trajectory.masses,
        cell=frame.cell,
        pbc=trajectory.pbc,
        info={"step": frame.step, "time_fs": frame.time_fs},
    )
    if trajectory.type_names != trajectory.symbols:
        atoms.set_array("type", np.array(trajectory.type_names)[trajectory.species])
    if frame.velocities is not None:
        atoms.set_velocities(frame.velocities / ase.units.fs)
    results: dict[str, object] = {}
    if not np.isnan(frame.observables.get("potential_energy", np.nan)):
        results["energy"] = frame.observables["potential_energy"]
    if frame.forces is not None:
        results["forces"] = frame.forces
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


class LammpsDumpWriter:
    """LAMMPS's text dump in units metal: x y z (Å, as given), vx vy vz (Å/ps), fx fy fz (eV/Å); types from 1.

    The box as LAMMPS's manual has it ("Triclinic simulation boxes"): bounds of the box that encloses the triclinic one.
    """

    def __init__(self, path: Path, trajectory: TrajectoryReader, chosen: range) -> None:
        names = ", ".join(f"{number} {name}" for number, name in enumerate(trajectory.type_names, start=1))
        self.notes = [f"Types: {names}. Units: metal."]
        self._pbc = trajectory.pbc
        self._types = trajectory.species + 1
        self._elements = np.array(trajectory.symbols)[trajectory.species]
        self._stream = open(path, "w", encoding="ascii")  # noqa: SIM115 (closed by __exit__)

    def write(self, frame: Frame, positions: np.ndarray) -> None:
        cell, rotation, pbc = frame.cell, np.eye(3), self._pbc
        if cell is not None:
            if np.linalg.det(cell) < 0.0:
                pbc = pbc[[1, 0, 2]]
            cell, rotation = standard_orientation(cell)
            if (rotation != np.eye(3)).any() and _TURNED not in self.notes:
                self.notes.append(_TURNED)
        columns, names = [positions @ rotation], ["x", "y", "z"]
        if frame.velocities is not None:
            columns.append(1.0e3 * frame.velocities @ rotation)
            names += ["vx", "vy", "vz"]
        if frame.forces is not None:
            columns.append(frame.forces @ rotation)
            names += ["fx", "fy", "fz"]
        self._stream.write(f"ITEM: TIMESTEP\n{frame.step}\nITEM: NUMBER OF ATOMS\n{len(positions)}\n")
        self._stream.write(_box_lines(cell, pbc, columns[0]))
        self._stream.write(f"ITEM: ATOMS id type element {' '.join(names)}\n")
        for number, (kind, element, row) in enumerate(
            zip(self._types, self._elements, np.hstack(columns), strict=True), start=1
        ):
            self._stream.write(f"{number} {kind} {element} {' '.join(f'{value:.10g}' for value in row)}\n")

    def __enter__(self) -> LammpsDumpWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()


def _box_lines(cell: np.ndarray | None, pbc: np.ndarray, positions: np.ndarray) -> str:
    """The section BOX BOUNDS; without a cell a shrink-wrapped box around the atoms."""
    flags = " ".join("pp" if periodic else "ss" for periodic in pbc)
    if cell is None:
        low, high = positions.min(axis=0), positions.max(axis=0)
        tilts = np.zeros(3)
    else:
        xy, xz, yz = cell[1, 0], cell[2, 0], cell[2, 1]
        tilts = np.array([xy, xz, yz])
        low = np.array([min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0])
        high = np.diag(cell) + np.array([max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0])
    tilted = bool(tilts.any())
    lines = [f"ITEM: BOX BOUNDS {'xy xz yz ' if tilted else ''}{flags}"]
    for lower, upper, tilt in zip(low, high, tilts, strict=True):
        lines.append(f"{lower:.16g} {upper:.16g}" + (f" {tilt:.16g}" if tilted else ""))
    return "\n".join(lines) + "\n"


class MDAnalysisWriter:
    """XTC, DCD and PDB through MDAnalysis, which describes a cell by three lengths and three angles."""

    def __init__(self, path: Path, trajectory: TrajectoryReader, chosen: range) -> None:
        package = require_package("MDAnalysis", f"writing {path.suffix}")
        require_package("MDAnalysis.coordinates", f"writing {path.suffix}")
        self._suffix = path.suffix
        self.notes = []
        times = _times(trajectory, chosen)
        intervals = np.diff(times)
        options: dict[str, Any] = {}
        if path.suffix == ".dcd":
            # DCD has one interval for all frames.
            options = {"dt": float(intervals[0]) if len(intervals) else 1.0, "istart": 0}
            if len(intervals) and np.ptp(intervals) > 1.0e-6 * intervals.max():
                self.notes.append(
                    "The frames are not evenly spaced in time, which DCD cannot say: choose with --frames."
                )
        if path.suffix == ".pdb":
            options = {"multiframe": True, "bonds": None}
        else:
            self.notes.append("The file holds no elements: read it with the topology.xyz beside the trajectory.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._universe = _universe(package, trajectory)
            self._writer = package.Writer(str(path), n_atoms=trajectory.num_atoms, **options)

    def write(self, frame: Frame, positions: np.ndarray) -> None:
        step = self._universe.trajectory.ts
        rotation = np.eye(3)
        if frame.cell is None:
            step.dimensions = None
        else:
            cell, rotation = standard_orientation(frame.cell)
            step.dimensions = _lengths_and_angles(cell)
            if (rotation != np.eye(3)).any() and _TURNED not in self.notes:
                self.notes.append(_TURNED)
        step.positions = positions @ rotation
        step.time = 1.0e-3 * frame.time_fs
        step.data["step"] = frame.step
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._writer.write(self._universe.atoms)
        except ValueError as error:  # coordinates that do not fit PDB's columns
            raise OutputError(f"step {frame.step}: does not fit {self._suffix}: {error}; try --wrap") from None

    def __enter__(self) -> MDAnalysisWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()


def _times(trajectory: TrajectoryReader, chosen: range) -> np.ndarray:
    """Times of the chosen frames, ps."""
    return 1.0e-3 * trajectory.times_fs()[np.array(chosen, dtype=np.int64)]


def _lengths_and_angles(cell: np.ndarray) -> list[float]:
    """Å and degrees, as MDAnalysis has them."""
    return ase.cell.Cell(cell).cellpar().tolist()


def _universe(package: ModuleType, trajectory: TrajectoryReader) -> Any:
    """Atoms of one residue, with the model's types as their names."""
    universe = package.Universe.empty(trajectory.num_atoms, trajectory=True)
    names = np.array(trajectory.type_names)[trajectory.species]
    elements = np.array(trajectory.symbols)[trajectory.species]
    attributes: dict[str, Sequence[Any] | np.ndarray] = {
        "names": names,
        "types": names,
        "elements": elements,
        "masses": trajectory.masses,
        "resnames": ["SYS"],
        "resids": [1],
        "segids": ["A"],
        "chainIDs": ["A"] * trajectory.num_atoms,
        "altLocs": [" "] * trajectory.num_atoms,
        "icodes": [" "],
        "record_types": ["ATOM"] * trajectory.num_atoms,
        "occupancies": np.ones(trajectory.num_atoms),
        "tempfactors": np.zeros(trajectory.num_atoms),
        "formalcharges": np.zeros(trajectory.num_atoms, np.int64),
    }
    for name, values in attributes.items():
        universe.add_TopologyAttr(name, values)
    return universe


FORMATS: dict[str, type[ExtxyzWriter] | type[LammpsDumpWriter] | type[MDAnalysisWriter]] = {
    ".extxyz": ExtxyzWriter,
    ".xyz": ExtxyzWriter,
    ".xtc": MDAnalysisWriter,
    ".dcd": MDAnalysisWriter,
    ".lammpsdump": LammpsDumpWriter,
    ".pdb": MDAnalysisWriter,
}
"""Ending -> writer."""
