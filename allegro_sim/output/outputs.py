"""All files of a run, written by rank 0 at their intervals; the other ranks only hand over their atoms.

    check_directory(directory, overwrite=...)                 # early, before anything is computed
    outputs = Outputs(comm, directory, last_step=..., trajectory_every=..., thermo_every=..., checkpoint_every=...)
    outputs.create(record, overwrite=...)                     # or: outputs.resume(record, checkpoint)
    if outputs.due(step).observables: ...                     # what must be computed for this step
    outputs.write(step, time_fs, system, row=row, state=...)  # collective; does nothing where nothing is due
    outputs.close()

A checkpoint is written after the frame and the thermo row of its step, and after those are on the disk. So everything
up to the newest checkpoint is in the files, and a restart only has to cut off what came after it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import OutputError
from allegro_sim.output.checkpoint import (
    CHECKPOINT_PATTERN,
    Checkpoint,
    list_checkpoints,
    remove_checkpoints_after,
    write_checkpoint,
)
from allegro_sim.output.thermo import ThermoWriter, count_rows
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import count_frames
from allegro_sim.parallel.collect import gather_arrays_by_id
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.system import System

TRAJECTORY = "trajectory.h5md"
TOPOLOGY = "topology.xyz"
THERMO = "thermo.csv"
_FIXED_NAMES = (TRAJECTORY, TOPOLOGY, THERMO)
_STOPPED_PATTERN = re.compile(r"stopped-\d{9,}\.xyz")
_UNFINISHED_PATTERN = re.compile(r"\.(trajectory\.h5md|topology\.xyz|checkpoint-\d{9,}\.h5)\.new")

_OBSERVABLE_OF_COLUMN = {
    "potential_eV": "potential_energy",
    "kinetic_eV": "kinetic_energy",
    "total_eV": "total_energy",
    "temperature_K": "temperature",
    "pressure_bar": "pressure",
}


@dataclass(frozen=True)
class Due:
    """What is written at a step."""

    trajectory: bool
    thermo: bool
    checkpoint: bool

    @property
    def observables(self) -> bool:
        """Energies, temperature and pressure are needed: for the thermo row, or beside the frame."""
        return self.thermo or self.trajectory

    def __bool__(self) -> bool:
        return self.trajectory or self.thermo or self.checkpoint


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


def existing_outputs(directory: str | Path) -> list[Path]:
    """Files in the directory that bear the names of this program's output, sorted."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    patterns = (CHECKPOINT_PATTERN, _STOPPED_PATTERN, _UNFINISHED_PATTERN)

    def ours(name: str) -> bool:
        return name in _FIXED_NAMES or any(pattern.fullmatch(name) for pattern in patterns)

    return sorted(path for path in directory.iterdir() if ours(path.name))


def check_directory(directory: str | Path, *, overwrite: bool = False, restart: bool = False) -> None:
    """Raise OutputError unless a run may write there. Changes nothing on the disk.

    Refused: a path that is not a directory or below a file, no permission to write, and, without one of the two flags,
    output of an earlier run.
    """
    directory = Path(directory)
    nearest = directory
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(
            f"output.directory {directory}: {nearest} is a file, not a directory; choose another directory"
        )
    try:
        # Permission bits say little to the superuser and on some file systems: try it, with a file that has no name.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(
            f"output.directory {directory}: cannot write in {nearest} ({error.strerror}); choose another directory"
        ) from None
    found = [path for path in existing_outputs(directory) if not _UNFINISHED_PATTERN.fullmatch(path.name)]
    if found and not overwrite and not restart:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise OutputError(
            f"{found[0]}{more}: output of an earlier run; continue it with --restart, replace it with --overwrite, or "
            "give another output.directory"
        )


def remove_outputs(directory: str | Path) -> None:
    """Remove the files of an earlier run, and no others."""
    for path in existing_outputs(directory):
        try:
            path.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed: {error.strerror}") from None


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


class Outputs:
    """Trajectory, thermodynamics and checkpoints of a run.

    Parameters
    ----------
    last_step : the run's last step; everything is written there, whatever the intervals
    trajectory_every, thermo_every, checkpoint_every : intervals in steps, from step 0. With 0: no trajectory at all;
        thermodynamics of step 0 and the last step only; a checkpoint at the last step only
    velocities, forces, precision : what the trajectory holds
    """

    def __init__(
        self,
        comm: Comm,
        directory: str | Path,
        *,
        last_step: int,
        trajectory_every: int,
        thermo_every: int,
        checkpoint_every: int,
        velocities: bool = False,
        forces: bool = False,
        precision: str = "single",
    ) -> None:
        self.directory = Path(directory)
        self.last_step = last_step
        self._comm = comm
        self._every = (trajectory_every, thermo_every, checkpoint_every)
        self._velocities = velocities
        self._forces = forces
        self._precision = precision
        self._record: RunRecord | None = None
        self._trajectory: TrajectoryWriter | None = None
        self._thermo: ThermoWriter | None = None
        self._stopped: Path | None = None

    def due(self, step: int) -> Due:
        """What is written at this step; the same on all ranks."""
        trajectory, thermo, checkpoint = (
            step == self.last_step or (every > 0 and step % every == 0) for every in self._every
        )
        return Due(trajectory and self._every[0] > 0, thermo or step == 0, checkpoint)

    def create(self, record: RunRecord | None, *, overwrite: bool = False) -> None:
        """Make the directory and the files of a new run (collective; the record of rank 0 counts).

        Raises OutputError on all ranks. `overwrite` removes the files of an earlier run first.
        """
        with collective_errors(self._comm):
            if self._comm.rank != 0:
                return
            assert record is not None
            self._record = record
            check_directory(self.directory, overwrite=overwrite)
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"output.directory {self.directory}: cannot be made: {error.strerror}") from None
            remove_outputs(self.directory)
            write_extxyz(self.directory / TOPOLOGY, record, record.types, record.positions, {})
            self._thermo = ThermoWriter.create(self.directory / THERMO)
            if self._every[0] > 0:
                self._trajectory = self._create_trajectory(record)

    def _create_trajectory(self, record: RunRecord) -> TrajectoryWriter:
        return TrajectoryWriter.create(
            self.directory / TRAJECTORY,
            species=record.types,
            type_names=record.type_names,
            type_symbols=record.type_symbols,
            masses=np.asarray(record.type_masses)[record.types],
            cell=record.cell,
            pbc=record.pbc,
            precision=self._precision,
            with_velocities=self._velocities,
            with_forces=self._forces,
            input_text=record.input_text,
            provenance={**record.provenance, "model_file": record.model_file, "model_sha256": record.model_sha256},
        )

    def resume(self, record: RunRecord | None, checkpoint: Checkpoint | None) -> None:
        """Continue the files of a run from a checkpoint, cutting off all that came after it (collective; both arguments
        are those of rank 0).

        Raises OutputError on all ranks when a file is missing, damaged, or lacks frames or rows that the checkpoint
        counted.
        """
        with collective_errors(self._comm):
            if self._comm.rank != 0:
                return
            assert record is not None and checkpoint is not None
            self._record = record
            step, thermo, trajectory = checkpoint.step, self.directory / THERMO, self.directory / TRAJECTORY
            has_trajectory = trajectory.exists() or checkpoint.frames_written > 0
            # First look, so that files of another run are refused as they are; later checkpoints go before the frames
            # that they count.
            _compare_counts(thermo, "rows", count_rows(thermo, step), checkpoint.thermo_rows_written)
            if has_trajectory:
                _compare_counts(trajectory, "frames", count_frames(trajectory, step), checkpoint.frames_written)
            remove_checkpoints_after(self.directory, step)
            self._thermo = ThermoWriter.reopen(thermo, step)
            if has_trajectory:
                self._trajectory = TrajectoryWriter.reopen(trajectory, step)
            elif self._every[0] > 0:
                self._trajectory = self._create_trajectory(record)

    def write(
        self,
        step: int,
        time_fs: float,
        system: System,
        *,
        row: Mapping[str, float | int | None] | None = None,
        state: dict[str, Any] | None = None,
        checkpoint: bool = False,
    ) -> None:
        """Write what is due at this step (collective).

        row : thermo.THERMO_COLUMNS, needed on rank 0 where `due(step).observables`
        state : further numbers that a restart needs, kept in the checkpoint; what JSON takes
        checkpoint : write a checkpoint even if none is due

        Raises OutputError on all ranks.
        """
        due = self.due(step)
        due = Due(due.trajectory, due.thermo, due.checkpoint or checkpoint)
        if not due:
            return
        atoms = gather_arrays_by_id(self._comm, system, self._wanted(due, system))
        with collective_errors(self._comm):
            if atoms is None:
                return
            if due.trajectory:
                self._write_frame(step, time_fs, atoms, row)
            if due.thermo:
                assert row is not None and self._thermo is not None
                self._thermo.write(row)
                if self._trajectory is not None:
                    self._trajectory.append_thermo(row)
            if due.checkpoint:
                self._write_checkpoint(step, time_fs, atoms, state or {})

    def _wanted(self, due: Due, system: System) -> dict[str, np.ndarray]:
        """Arrays of the owned atoms that rank 0 needs."""
        owned = slice(0, system.num_owned)
        wanted = {}
        if due.trajectory or due.checkpoint:
            wanted["positions"] = system.positions[owned]
        if (due.trajectory and self._velocities) or due.checkpoint:
            wanted["velocities"] = system.velocities[owned]
        if due.trajectory and self._forces:
            wanted["forces"] = system.owned_forces()
        return wanted

    def _write_frame(
        self, step: int, time_fs: float, atoms: dict[str, np.ndarray], row: Mapping[str, float | int | None] | None
    ) -> None:
        assert self._trajectory is not None and self._record is not None and row is not None
        self._trajectory.append(
            step,
            time_fs,
            atoms["positions"],
            cell=self._record.cell,
            velocities=atoms.get("velocities"),
            forces=atoms.get("forces"),
            observables={name: row[column] for column, name in _OBSERVABLE_OF_COLUMN.items()},
        )

    def _write_checkpoint(self, step: int, time_fs: float, atoms: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        assert self._record is not None and self._thermo is not None
        self._thermo.sync()
        if self._trajectory is not None:
            self._trajectory.sync()
        record = self._record
        checkpoint = Checkpoint(
            step=step,
            time_fs=time_fs,
            positions=atoms["positions"],
            velocities=atoms["velocities"],
            types=record.types,
            type_names=record.type_names,
            type_masses=record.type_masses,
            cell=record.cell,
            pbc=record.pbc,
            settings=record.settings,
            model_file=record.model_file,
            model_sha256=record.model_sha256,
            frames_written=self._trajectory.frames_written if self._trajectory is not None else 0,
            thermo_rows_written=self._thermo.rows_written,
            state=state,
        )
        write_checkpoint(self.directory, checkpoint)

    def write_stopped(
        self, step: int, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        """Atoms of a run that a guard stopped, as stopped-NNNNNNNNN.xyz (rank 0 only); returns its path.

        types (N,), positions (N,3) Å in any order, and further columns such as ids and marks (N, ...). Nothing else is
        written or changed. Raises OutputError.
        """
        assert self._record is not None
        path = self.directory / f"stopped-{step:09d}.xyz"
        write_extxyz(path, self._record, types, positions, columns)
        self._stopped = path
        return path

    def files(self) -> list[Path]:
        """Every file of the run that is there now (rank 0; empty elsewhere)."""
        if self._record is None:
            return []
        names = [self.directory / name for name in _FIXED_NAMES]
        paths = [path for path in names if path.exists()] + sorted(list_checkpoints(self.directory))
        return paths + ([self._stopped] if self._stopped is not None else [])

    def close(self) -> None:
        """Write what is pending and close all files (not collective; may be called again)."""
        writers = [writer for writer in (self._trajectory, self._thermo) if writer is not None]
        for writer in writers:
            writer.close()


def _compare_counts(path: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise OutputError(
            f"{path}: has {found} {what} up to the checkpoint, which counted {expected}; restore it, "
            "or start again with --overwrite"
        )
