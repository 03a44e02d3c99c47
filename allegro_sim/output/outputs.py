"""All files of a run, written by rank 0 at their intervals; the other ranks only hand over their atoms.

    outputs = Outputs(comm, directory, last_step=..., trajectory_every=..., thermo_every=..., checkpoint_every=...)
    outputs.create(record, overwrite=...)                     # or: resume(record, checkpoint); locks the directory
    due = outputs.due(step)                                   # what must be computed for this step, and written
    outputs.write(due, step, time_fs, system, row=row, state=...)  # collective
    outputs.close()

A checkpoint is written after the frame and the thermo row of its step, and after those are on the disk. So everything
up to the newest checkpoint is in the files, and a restart only has to cut off what came after it. After a write that
failed, nothing more is written: the files are as a kill at that moment would have left them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from allegro_sim.errors import OutputError, StorageStop
from allegro_sim.output.checkpoint import (
    Checkpoint,
    checkpoint_size,
    list_checkpoints,
    remove_checkpoints_after,
    write_checkpoint,
)
from allegro_sim.output.directory import (
    FIXED_NAMES,
    MINIMIZED,
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
from allegro_sim.output.lock import RunLock
from allegro_sim.output.record import RunRecord, write_extxyz
from allegro_sim.output.thermo import ThermoWriter, count_rows
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import count_frames
from allegro_sim.parallel.collect import gather_arrays_by_id
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.system import System

_OBSERVABLE_OF_COLUMN = {
    "potential_eV": "potential_energy",
    "kinetic_eV": "kinetic_energy",
    "total_eV": "total_energy",
    "conserved_eV": "conserved_energy",
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

    def with_checkpoint(self) -> Due:
        """The same, and a checkpoint."""
        return Due(self.trajectory, self.thermo, True)

    def __bool__(self) -> bool:
        return self.trajectory or self.thermo or self.checkpoint


class Outputs:
    """Trajectory, thermodynamics and checkpoints of a run.

    Parameters
    ----------
    last_step : the run's last step; everything is written there, whatever the intervals
    trajectory_every, thermo_every, checkpoint_every : intervals in steps, from step 0. With 0: no trajectory at all;
        thermodynamics or a checkpoint of step 0 and the last step only
    checkpoint_every_minutes : wall time after which `overdue` asks for a checkpoint; 0: never
    velocities, forces, precision : what the trajectory holds

    Attributes
    ----------
    notes : list of str; what `create` and `resume` cut off or removed, for the user (rank 0)
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
        checkpoint_every_minutes: float = 0.0,
        velocities: bool = False,
        forces: bool = False,
        precision: str = "single",
    ) -> None:
        self.directory = Path(directory)
        self.last_step = last_step
        self.notes: list[str] = []
        self._comm = comm
        self._every = (trajectory_every, thermo_every, checkpoint_every)
        self._every_seconds = 60.0 * checkpoint_every_minutes
        self._velocities = velocities
        self._forces = forces
        self._precision = precision
        self._record: RunRecord | None = None
        self._lock: RunLock | None = None
        self._trajectory: TrajectoryWriter | None = None
        self._thermo: ThermoWriter | None = None
        self._extra_files: list[Path] = []
        self._last_checkpoint = monotonic()

    def due(self, step: int) -> Due:
        """What is written at this step; the same on all ranks."""
        trajectory, thermo, checkpoint = (
            step == self.last_step or (every > 0 and step % every == 0) for every in self._every
        )
        return Due(trajectory and self._every[0] > 0, thermo or step == 0, checkpoint or step == 0)

    def next_due(self, step: int) -> int:
        """The first step after `step` at which something is written; at the latest the last of the run."""
        return min([self.last_step, *((step // every + 1) * every for every in self._every if every > 0)])

    def overdue(self) -> bool:
        """Whether the last checkpoint is too old by wall time; rank 0 alone knows, the others answer no."""
        waited = monotonic() - self._last_checkpoint
        return self._comm.rank == 0 and 0.0 < self._every_seconds <= waited

    def create(self, record: RunRecord | None, *, overwrite: bool = False) -> None:
        """Make the directory and the files of a new run (collective; the record of rank 0 counts).

        Raises OutputError on all ranks. `overwrite` removes the files of an earlier run first.
        """
        with self._on_rank_0() as here:
            if here:
                assert record is not None
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
                if self._every[0] > 0:
                    self._trajectory = self._create_trajectory(record)

    @contextmanager
    def _on_rank_0(self) -> Iterator[bool]:
        """Whether this is rank 0, which opens the files; errors are common to all, and leave the directory unlocked."""
        with collective_errors(self._comm):
            try:
                yield self._comm.rank == 0
            except BaseException:
                self.abandon()
                raise

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

    def resume(
        self, record: RunRecord | None, checkpoint: Checkpoint | None, found: Sequence[Path] | None = None
    ) -> None:
        """Continue the files of a run from a checkpoint, cutting off all that came after it (collective; the arguments
        are those of rank 0).

        found : the checkpoints that were in the directory when this one was chosen

        Raises OutputError on all ranks when a file is missing, damaged, or lacks frames or rows that the checkpoint
        counted, or when another run has made checkpoints since.
        """
        with self._on_rank_0() as here:
            if here:
                assert record is not None and checkpoint is not None
                self._record = record
                self._take_lock()
                if found is not None and list(found) != list_checkpoints(self.directory):
                    raise OutputError(
                        f"{self.directory}: another run has gone on there meanwhile; start this one again"
                    )
                self._continue_files(record, checkpoint)

    def _continue_files(self, record: RunRecord, checkpoint: Checkpoint) -> None:
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
        elif self._every[0] > 0:
            self._trajectory = self._create_trajectory(record)
        self.notes += [f"{writer.path}: {writer.cut}" for writer in self._writers() if writer.cut]

    def _writers(self) -> list[TrajectoryWriter | ThermoWriter]:
        return [writer for writer in (self._trajectory, self._thermo) if writer is not None]

    def write(
        self,
        due: Due,
        step: int,
        time_fs: float,
        system: System,
        *,
        row: Mapping[str, float | int | None] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Write what is due at this step (collective).

        row : thermo.THERMO_COLUMNS, needed on rank 0 where `due.observables`
        state : further numbers that a restart needs, kept in the checkpoint; what JSON takes

        Raises StorageStop on all ranks when there is too little space, or a write fails.
        """
        atoms = gather_arrays_by_id(self._comm, system, self._wanted(due, system))
        with collective_errors(self._comm):
            if atoms is None:
                return
            try:
                if due.trajectory:
                    self._write_frame(step, time_fs, atoms, row)
                if due.thermo:
                    assert row is not None and self._thermo is not None
                    self._thermo.write(row)
                    if self._trajectory is not None:
                        self._trajectory.append_thermo(row)
                if due.checkpoint:
                    self._write_checkpoint(step, time_fs, atoms, state or {})
            except (OutputError, StorageStop, OSError) as error:
                self.abandon()
                raise StorageStop(f"stopped at step {step}: {error}. {self._advice()}") from None

    def _advice(self) -> str:
        newest = next(iter(list_checkpoints(self.directory)), None)
        if newest is None:
            return "There is no checkpoint yet. Make space, and start again with --restart"
        return f"{newest} is whole. Make space, and continue with --restart"

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
        require_space(self.directory, self._trajectory.frame_size, "the next frame")
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
        self._last_checkpoint = monotonic()

    def write_stopped(
        self, step: int, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        """Atoms of a run that a guard stopped, as stopped-NNNNNNNNN.xyz (rank 0 only); returns its path.

        types (N,), positions (N,3) Å in any order, and further columns such as ids and marks (N, ...). Nothing else is
        written or changed. Raises OutputError.
        """
        return self._write_atoms(f"stopped-{step:09d}.xyz", types, positions, columns)

    def write_minimized(self, types: np.ndarray, positions: np.ndarray, forces: np.ndarray) -> Path:
        """The structure after a minimisation, with its forces (N,3) eV/Å, as minimized.xyz; as `write_stopped`."""
        return self._write_atoms(MINIMIZED, types, positions, {"force_eV_A": forces})

    def write_excerpt(
        self, guard: str, step: int, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        """Some of the atoms, which a guard has found, as guard-NAME-NNNNNNNNN.xyz; as `write_stopped`."""
        return self._write_atoms(f"guard-{guard}-{step:09d}.xyz", types, positions, columns)

    def _write_atoms(
        self, name: str, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        assert self._record is not None
        path = self.directory / name
        write_extxyz(path, self._record, types, positions, columns)
        if name not in FIXED_NAMES:
            self._extra_files.append(path)
        return path

    def files(self) -> list[Path]:
        """Every file of the run that is there now (rank 0; empty elsewhere)."""
        if self._record is None:
            return []
        names = [self.directory / name for name in FIXED_NAMES]
        paths = [path for path in names if path.exists()] + sorted(list_checkpoints(self.directory))
        return paths + self._extra_files

    def close(self) -> None:
        """Write what is pending, close all files and release the directory (collective; may be called again).

        Raises StorageStop on all ranks when something cannot be written.
        """
        with collective_errors(self._comm):
            try:
                for writer in self._writers():
                    writer.close()
            except OutputError as error:
                raise StorageStop(f"{error}. {self._advice()}") from None
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close all files as they are and release the directory (not collective; may be called again)."""
        for writer in self._writers():
            writer.abandon()
        if self._lock is not None:
            self._lock.release()


def _compare_counts(path: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise OutputError(
            f"{path}: has {found} {what} up to the checkpoint, which counted {expected}; restore it, "
            "or start again with --overwrite"
        )
