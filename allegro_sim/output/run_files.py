"""The files of a run as rank 0 has them: opened, continued after a checkpoint, written, closed.

    files = RunFiles(directory, trajectory=True)
    files.create(record, overwrite=...)                 # or: resume(record, checkpoint, found); locks the directory
    files.write(due, step, time_fs, atoms, row, state)
    files.close();  files.abandon()

A checkpoint is written after the frame and the thermo row of its step, and after those are on the disk. So everything
up to the newest checkpoint is in the files, and a restart only has to cut off what came after it. After a write that
failed, nothing more is written: the files are as a kill at that moment would have left them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import OutputError, StorageStop
from allegro_sim.kernels.cpu.fixed_point import forces_to_float
from allegro_sim.output.checkpoint import (
    Checkpoint,
    checkpoint_size,
    list_checkpoints,
    remove_checkpoints_after,
    write_checkpoint,
)
from allegro_sim.output.directory import (
    FIXED_NAMES,
    THERMO,
    TOPOLOGY,
    TRAJECTORY,
    check_directory,
    refuse_existing,
    remove_outputs,
    remove_unfinished,
    require_space,
)
from allegro_sim.output.h5md import is_cut_short
from allegro_sim.output.intervals import Due
from allegro_sim.output.lock import RunLock
from allegro_sim.output.record import RunRecord, write_extxyz
from allegro_sim.output.thermo import ThermoWriter, count_rows
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import count_frames

Row = Mapping[str, float | int | None]

_OBSERVABLE_OF_COLUMN = {
    "potential_eV": "potential_energy",
    "kinetic_eV": "kinetic_energy",
    "total_eV": "total_energy",
    "conserved_eV": "conserved_energy",
    "temperature_K": "temperature",
    "pressure_bar": "pressure",
}


class RunFiles:
    """Trajectory, thermodynamics and checkpoints of a run in one directory.

    One thread at a time; `write_atoms` and `paths` alone may be called while another is in `write`.

    Parameters
    ----------
    trajectory : whether there is one
    velocities, forces, precision : what it holds

    Attributes
    ----------
    notes : list of str; what `create` and `resume` cut off or removed, for the user
    """

    def __init__(
        self,
        directory: Path,
        *,
        trajectory: bool,
        velocities: bool = False,
        forces: bool = False,
        precision: str = "single",
    ) -> None:
        self.directory = directory
        self.notes: list[str] = []
        self._has_trajectory = trajectory
        self._velocities = velocities
        self._forces = forces
        self._precision = precision
        self._record: RunRecord | None = None
        self._lock: RunLock | None = None
        self._trajectory: TrajectoryWriter | None = None
        self._thermo: ThermoWriter | None = None
        self._extra_files: list[Path] = []

    # ------------------------------------------------------------------------------------------------ before the first

    def create(self, record: RunRecord, *, overwrite: bool = False) -> None:
        """Make the directory and the files of a new run. `overwrite` removes the files of an earlier run first.

        Raises OutputError.
        """
        self._record = record
        check_directory(self.directory, overwrite=overwrite)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"output.directory {self.directory}: cannot be made: {error.strerror}") from None
        self._take_lock()
        if not overwrite:  # once more, now that no other run can come in between
            refuse_existing(self.directory)
        remove_outputs(self.directory)
        write_extxyz(self.directory / TOPOLOGY, record, record.types, record.positions, {})
        self._thermo = ThermoWriter.create(self.directory / THERMO)
        if self._has_trajectory:
            self._trajectory = self._create_trajectory(record)

    def _take_lock(self) -> None:
        self._lock = RunLock.acquire(self.directory)
        if self._lock.replaced is not None:
            self.notes.append(f"{self._lock.path}: was left behind by a run that has ended ({self._lock.replaced})")

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

    def resume(self, record: RunRecord, checkpoint: Checkpoint, found: Sequence[Path] | None = None) -> None:
        """Continue the files of a run from a checkpoint, cutting off all that came after it.

        found : the checkpoints that were in the directory when this one was chosen

        Raises OutputError when a file is missing, damaged, or lacks frames or rows that the checkpoint counted, or when
        another run has made checkpoints since.
        """
        self._record = record
        self._take_lock()
        if found is not None and list(found) != list_checkpoints(self.directory):
            raise OutputError(f"{self.directory}: another run has gone on there meanwhile; start this one again")
        step, thermo, trajectory = checkpoint.last_output, self.directory / THERMO, self.directory / TRAJECTORY
        has_trajectory = trajectory.exists() or checkpoint.frames_written > 0
        if trajectory.exists() and is_cut_short(trajectory):
            # After a write that failed; nobody can read it before.
            writer = TrajectoryWriter.reopen(trajectory)
            self.notes += [f"{trajectory}: {writer.cut}"]
            writer.close()
        # First look, so that files of another run are refused as they are; later checkpoints go before the frames that
        # they count.
        _compare_counts(thermo, "rows", count_rows(thermo, step), checkpoint.thermo_rows_written)
        if has_trajectory:
            _compare_counts(trajectory, "frames", count_frames(trajectory, step), checkpoint.frames_written)
        remove_checkpoints_after(self.directory, checkpoint.step)
        remove_unfinished(self.directory)
        self._thermo = ThermoWriter.reopen(thermo, step)
        if has_trajectory:
            self._trajectory = TrajectoryWriter.reopen(trajectory, step)
        elif self._has_trajectory:
            self._trajectory = self._create_trajectory(record)
        self.notes += [f"{writer.path}: {writer.cut}" for writer in self._writers() if writer.cut]

    def _writers(self) -> list[TrajectoryWriter | ThermoWriter]:
        return [writer for writer in (self._trajectory, self._thermo) if writer is not None]

    # ------------------------------------------------------------------------------------------------- during the run

    def write(
        self,
        due: Due,
        step: int,
        time_fs: float,
        atoms: Callable[[], dict[str, np.ndarray]],
        row: Row | None,
        state: dict[str, Any] | None,
    ) -> None:
        """Write what is due at this step.

        atoms : returns what is needed of "positions", "velocities" and "forces", as `System` stores them, of all atoms
            in the order of their ids
        row : thermo.THERMO_COLUMNS, needed where `due.observables`
        state : further numbers that a restart needs, kept in the checkpoint; what JSON takes

        Raises StorageStop when there is too little space, or a write fails; nothing can be written after that.
        """
        try:
            arrays = atoms()
            if due.trajectory:
                self._write_frame(step, time_fs, arrays, row)
            if due.thermo:
                assert row is not None and self._thermo is not None
                self._thermo.write(row)
                if self._trajectory is not None:
                    self._trajectory.append_thermo(row)
            if due.checkpoint:
                self._write_checkpoint(step, time_fs, arrays, state or {})
        except (OutputError, StorageStop, OSError) as error:
            self._close_as_they_are()
            raise StorageStop(f"stopped at step {step}: {error}. {self._advice()}") from None

    def _advice(self) -> str:
        newest = next(iter(list_checkpoints(self.directory)), None)
        if newest is None:
            return "There is no checkpoint yet. Make space, and start again with --restart"
        return f"{newest} is whole. Make space, and continue with --restart"

    def _write_frame(self, step: int, time_fs: float, atoms: dict[str, np.ndarray], row: Row | None) -> None:
        assert self._trajectory is not None and self._record is not None and row is not None
        require_space(self.directory, self._trajectory.frame_size, "the next frame")
        self._trajectory.append(
            step,
            time_fs,
            atoms["positions"],
            cell=self._record.cell,
            velocities=atoms.get("velocities"),
            forces=forces_to_float(atoms["forces"]) if "forces" in atoms else None,
            observables={name: row[column] for column, name in _OBSERVABLE_OF_COLUMN.items()},
        )

    def _write_checkpoint(self, step: int, time_fs: float, atoms: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        assert self._record is not None and self._thermo is not None
        require_space(self.directory, checkpoint_size(len(self._record.types)), "the next checkpoint")
        for writer in self._writers():
            writer.sync()
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

    def write_atoms(
        self, name: str, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        """Atoms in a file of their own, as extended XYZ; returns its path. Raises OutputError.

        types (N,), positions (N,3) Å in any order, and further columns such as ids and marks (N, ...).
        """
        assert self._record is not None
        path = self.directory / name
        write_extxyz(path, self._record, types, positions, columns)
        if name not in FIXED_NAMES:
            self._extra_files.append(path)
        return path

    def paths(self) -> list[Path]:
        """Every file of the run that is there now."""
        if self._record is None:
            return []
        names = [self.directory / name for name in FIXED_NAMES]
        paths = [path for path in names if path.exists()] + sorted(list_checkpoints(self.directory))
        return paths + self._extra_files

    # --------------------------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Write what is pending and close the files. Raises StorageStop when something cannot be written."""
        try:
            for writer in self._writers():
                writer.close()
        except OutputError as error:
            raise StorageStop(f"{error}. {self._advice()}") from None

    def abandon(self) -> None:
        """Close all files as they are and release the directory; may be called again."""
        self._close_as_they_are()
        if self._lock is not None:
            self._lock.release()

    def _close_as_they_are(self) -> None:
        for writer in self._writers():
            writer.abandon()


def _compare_counts(path: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise OutputError(
            f"{path}: has {found} {what} up to the checkpoint, which counted {expected}; restore it, "
            "or start again with --overwrite"
        )
