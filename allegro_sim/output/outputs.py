"""All files of a run, written by rank 0 at their intervals; the other ranks only hand over their atoms.

    outputs = Outputs(comm, directory, Intervals(last_step=..., trajectory=..., thermo=..., checkpoint=...))
    outputs.create(record, overwrite=...)                     # or: resume(record, checkpoint); locks the directory
    due = outputs.due(step)                                   # what must be computed for this step, and written
    outputs.write(due, step, time_fs, take, row=row, state=...)  # collective
    outputs.close()

A thread of rank 0 writes, in the order given (`writer_thread`), while the run goes on: `write` returns when it has the
atoms of this step, or knows where they will be (`snapshot`). It waits only where those of two steps before are still to
be written. What the files hold, and in which order it reaches the disk: `run_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from allegro_sim.output.checkpoint import Checkpoint
from allegro_sim.output.directory import MINIMIZED
from allegro_sim.output.intervals import Due, Intervals
from allegro_sim.output.record import RunRecord
from allegro_sim.output.run_files import Row, RunFiles
from allegro_sim.output.snapshot import Take
from allegro_sim.output.writer_thread import WriterThread
from allegro_sim.parallel.collect import gather_arrays, in_order_of_ids
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.timers import Timers

_PATIENCE_SECONDS = 5.0
"""How long a run that ends by an error waits for the files of the steps before it."""


class Outputs:
    """Trajectory, thermodynamics and checkpoints of a run.

    Parameters
    ----------
    intervals : when what is written
    checkpoint_every_minutes : wall time after which `asks` for a checkpoint; 0: never
    velocities, forces, precision : what the trajectory holds
    timers : those of the run, where the time that it waits for the writer is accounted
    """

    def __init__(
        self,
        comm: Comm,
        directory: str | Path,
        intervals: Intervals,
        *,
        checkpoint_every_minutes: float = 0.0,
        velocities: bool = False,
        forces: bool = False,
        precision: str = "single",
        timers: Timers | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._comm = comm
        self._intervals = intervals
        self._every_seconds = 60.0 * checkpoint_every_minutes
        self._velocities = velocities
        self._forces = forces
        self._timers = timers or Timers()
        self._files = RunFiles(
            self.directory,
            trajectory=intervals.trajectory > 0,
            velocities=velocities,
            forces=forces,
            precision=precision,
        )
        self._writer = WriterThread()
        self._last_checkpoint = monotonic()

    @property
    def notes(self) -> list[str]:
        """What `create` and `resume` cut off or removed, for the user (rank 0)."""
        return self._files.notes

    def due(self, step: int) -> Due:
        """What is written at this step; the same on all ranks."""
        return self._intervals.due(step)

    def next_due(self, step: int) -> int:
        """The first step after `step` at which something is written; at the latest the last of the run."""
        return self._intervals.next_due(step)

    def asks(self) -> bool:
        """Whether this rank wants a checkpoint to be written now; rank 0 alone may, the others answer no.

        The last one is too old by wall time; or a write has failed, which the next `write` tells all ranks.
        """
        waited = monotonic() - self._last_checkpoint
        return self._comm.rank == 0 and (self._writer.failed or 0.0 < self._every_seconds <= waited)

    # ------------------------------------------------------------------------------------------------ before the first

    def create(self, record: RunRecord | None, *, overwrite: bool = False) -> None:
        """Make the directory and the files of a new run (collective; the record of rank 0 counts).

        Raises OutputError on all ranks. `overwrite` removes the files of an earlier run first.
        """
        with self._on_rank_0() as here:
            if here:
                assert record is not None
                self._files.create(record, overwrite=overwrite)

    def resume(
        self, record: RunRecord | None, checkpoint: Checkpoint | None, found: Sequence[Path] | None = None
    ) -> None:
        """Continue the files of a run from a checkpoint, as `RunFiles.resume` (collective; the arguments are those of
        rank 0). Raises OutputError on all ranks."""
        with self._on_rank_0() as here:
            if here:
                assert record is not None and checkpoint is not None
                self._files.resume(record, checkpoint, found)

    @contextmanager
    def _on_rank_0(self) -> Iterator[bool]:
        """Whether this is rank 0, which opens the files; errors are common to all, and leave the directory unlocked."""
        with collective_errors(self._comm):
            try:
                yield self._comm.rank == 0
            except BaseException:
                self.abandon()
                raise

    # ------------------------------------------------------------------------------------------------- during the run

    def write(
        self,
        due: Due,
        step: int,
        time_fs: float,
        take: Take,
        *,
        row: Row | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Have written what is due at this step (collective). Nothing that is given may change afterwards.

        take : how to get this rank's atoms, as they are now
        row, state : see `RunFiles.write`; needed on rank 0

        Raises StorageStop on all ranks when an earlier write has failed.
        """
        names = self._wanted(due)
        with collective_errors(self._comm):
            if self._comm.rank == 0:
                with self._timers("wait for the disk"):
                    self._writer.wait_for_room(holds_atoms=bool(names))
        atoms = self._collect(take, names) if names else dict
        if atoms is not None and self._comm.rank == 0:
            if due.checkpoint:
                self._last_checkpoint = monotonic()
            job = partial(self._files.write, due, step, time_fs, atoms, row, state)
            self._writer.submit(job, holds_atoms=bool(names))

    def _wanted(self, due: Due) -> list[str]:
        """Names of the arrays that are needed of the atoms."""
        wanted = {
            "positions": due.trajectory or due.checkpoint,
            "velocities": (due.trajectory and self._velocities) or due.checkpoint,
            "forces": due.trajectory and self._forces,
        }
        return [name for name, needed in wanted.items() if needed]

    def _collect(self, take: Take, names: list[str]) -> Callable[[], dict[str, np.ndarray]] | None:
        """What returns the arrays of all atoms, in the order of ids, to the writer; None where this is not rank 0."""
        snapshot = take(names)
        if self._comm.size == 1:
            return lambda: in_order_of_ids(snapshot.wait())
        arrays = gather_arrays(self._comm, snapshot.wait())
        return None if arrays is None else partial(in_order_of_ids, arrays)

    def write_stopped(
        self, step: int, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        """Atoms of a run that a guard stopped, as stopped-NNNNNNNNN.xyz (rank 0 only), at once; returns its path.

        types (N,), positions (N,3) Å in any order, and further columns such as ids and marks (N, ...). Nothing else is
        written or changed. Raises OutputError.
        """
        return self._files.write_atoms(f"stopped-{step:09d}.xyz", types, positions, columns)

    def write_minimized(self, types: np.ndarray, positions: np.ndarray, forces: np.ndarray) -> Path:
        """The structure after a minimisation, with its forces (N,3) eV/Å, as minimized.xyz; as `write_stopped`."""
        return self._files.write_atoms(MINIMIZED, types, positions, {"force_eV_A": forces})

    def write_excerpt(
        self, guard: str, step: int, types: np.ndarray, positions: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> Path:
        """Some of the atoms, which a guard has found, as guard-NAME-NNNNNNNNN.xyz; as `write_stopped`."""
        return self._files.write_atoms(f"guard-{guard}-{step:09d}.xyz", types, positions, columns)

    def files(self) -> list[Path]:
        """Every file of the run that is there now (rank 0; empty elsewhere)."""
        return self._files.paths()

    # --------------------------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Return when all is written, all files are closed and the directory is released (collective; may be called
        again).

        Raises StorageStop on all ranks when something cannot be written.
        """
        with collective_errors(self._comm):
            try:
                with self._timers("wait for the disk"):
                    self._writer.drain()
                self._files.close()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close all files as they are and release the directory (not collective; may be called again).

        What was given before is still written, unless that takes longer than `_PATIENCE_SECONDS`, as where a disk no
        longer answers: then the files, and the lock, are left as they are.
        """
        if self._writer.end(_PATIENCE_SECONDS):
            self._files.abandon()
