"""The writer of H5MD trajectories; the layout of the file, and why a kill costs at most one frame: `output/h5md.py`.

writer = TrajectoryWriter.create(path, species=..., type_names=..., type_symbols=..., masses=..., cell=..., pbc=...)
writer.append(step, time_fs, positions, cell=..., velocities=..., forces=..., observables={...})    # one frame
writer.append_thermo(row)                           # a row of thermo.THERMO_COLUMNS, at an interval of its own
writer.sync()                                       # on the disk: call before a checkpoint is written
writer.close()
writer = TrajectoryWriter.reopen(path, last_step)   # everything after last_step is cut off
writer.cut                                          # what was cut off, in words; "" if nothing was
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from allegro_sim.errors import OutputError
from allegro_sim.output.h5md import (
    DTYPES,
    GROUPS,
    LIBVER_DATASETS,
    LIBVER_FILE,
    OBSERVABLES,
    count_complete,
    count_stored,
    create_column,
    create_frames,
    create_header,
    give_back,
    match_end_of_file,
    read_steps,
    reporting,
)
from allegro_sim.output.thermo import THERMO_COLUMNS, check_row
from allegro_sim.units import KJ_PER_MOL

_PENDING_ROWS = 256
_CHUNK_CACHE_BYTES = 1 << 14
"""Of each dataset. HDF5 would keep a megabyte of each, of frames that nobody asks for again."""

_INDEX_BYTES = 1 << 16
"""Generous: chunks of the scalars beside a frame, and what the indices of all datasets grow by."""


class TrajectoryWriter:
    """The one writer of a trajectory file. Attributes: path, frames_written, thermo_rows_written."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        all_atoms = file["particles/all"]
        self._values = {name: all_atoms[f"{name}/value"] for name in GROUPS if name in all_atoms}
        self._edges = all_atoms["box/edges/value"] if "edges" in all_atoms["box"] else None
        self._observables = {name: file[f"observables/{name}/value"] for name in OBSERVABLES}
        self._time: h5py.Dataset = all_atoms["position/time"]
        self._step: h5py.Dataset = all_atoms["position/step"]
        self._thermo = {name: file[f"thermo/{name}"] for name in THERMO_COLUMNS}
        self._pending: list[dict[str, Any]] = []
        self.cut = ""
        self._closed = False
        self.frames_written = len(self._step)
        self.thermo_rows_written = len(self._thermo["step"])
        self._last_step = int(self._step[-1]) if self.frames_written else -1

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        species: np.ndarray,
        type_names: Sequence[str],
        type_symbols: Sequence[str],
        masses: np.ndarray,
        cell: np.ndarray | None,
        pbc: Sequence[bool] | np.ndarray,
        precision: str = "single",
        with_velocities: bool = False,
        with_forces: bool = False,
        input_text: str = "",
        provenance: Mapping[str, Any] | None = None,
    ) -> TrajectoryWriter:
        """A new file without frames.

        Parameters
        ----------
        species : int (N,)          index into type_names, atoms in input order
        type_names, type_symbols    of each type: its name in the model, its element symbol
        masses : float (N,)         Da
        cell : float (3, 3) or None lattice vectors as rows, Å; None writes a box without edges
        pbc : bool (3,)             periodic directions
        precision : "single" or "double": positions, velocities and forces as float32 or float64
        input_text : the resolved input; provenance : anything JSON takes

        Raises OutputError when the file exists or cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise OutputError(f"{path}: exists already; use --restart to continue it or --overwrite")
        # Made under another name and renamed when complete: a kill in here leaves no half-made trajectory.
        unfinished = path.with_name(f".{path.name}.new")
        with reporting(path, "cannot be created"):
            h5py.File(unfinished, "w", libver=LIBVER_FILE).close()
            with h5py.File(unfinished, "r+", libver=LIBVER_DATASETS, locking=False) as file:
                create_header(file, species, type_names, type_symbols, masses, input_text, provenance or {})
                groups = ["position"] + ["velocity"] * with_velocities + ["force"] * with_forces
                create_frames(file, len(species), groups, DTYPES[precision], cell is not None, pbc)
                for name, unit in THERMO_COLUMNS.items():
                    create_column(file.require_group("thermo"), name, unit)
            os.replace(unfinished, path)
        return cls._open(path)

    @classmethod
    def _open(cls, path: Path) -> TrajectoryWriter:
        # No lock: readers may look at a running trajectory, and parallel file systems often have no locks at all.
        with reporting(path, "cannot be opened as a trajectory of this program"):
            file = h5py.File(path, "r+", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
            try:
                return cls(path, file)
            except KeyError:
                file.close()
                raise

    @classmethod
    def reopen(cls, path: str | Path, last_step: int | None = None) -> TrajectoryWriter:
        """Open for appending after `last_step`, by default after the last whole frame: what follows is removed from
        every dataset, and so is whatever a kill left half-written.

        Raises OutputError when the file is missing, damaged or not a trajectory of this program.
        """
        path = Path(path)
        if not path.is_file():
            raise OutputError(f"{path}: is missing; a restart continues the output of the run it restarts")
        stored = match_end_of_file(path)
        try:
            writer = cls._open(path)
            with reporting(path, "is damaged and cannot be continued"):
                writer._cut(last_step, stored)
        except OutputError:
            if stored is not None:  # left as it was found
                os.truncate(path, stored)
            raise
        return writer

    def _cut(self, last_step: int | None, stored: int | None) -> None:
        """stored: length in bytes of a file that was cut short, see `match_end_of_file`."""
        by_frame = [self._step, self._time, *self._per_frame()]
        by_row = list(self._thermo.values())
        frames = count_complete(read_steps(self._step), by_frame, last_step)
        rows = count_complete(read_steps(self._thermo["step"]), by_row, last_step)
        if stored is not None:
            frames = min([frames, *(count_stored(dataset, stored) for dataset in by_frame)])
            rows = min([rows, *(count_stored(dataset, stored) for dataset in by_row)])
        excess = [max(map(len, by_frame)) - frames, max(map(len, by_row)) - rows]
        if any(excess):
            # Steps first: frames that are being removed no longer count, should a kill come in between.
            for dataset, kept in ((self._step, frames), (self._time, frames), (self._thermo["step"], rows)):
                dataset.resize(kept, axis=0)
            self._file.flush()
            for datasets, kept in ((by_frame, frames), (by_row, rows)):
                for dataset in datasets:
                    dataset.resize(kept, axis=0)
            self._file.flush()
            self.cut = (
                f"kept {frames} frames and {rows} rows of thermodynamics, "
                f"cut off {excess[0]} frames and {excess[1]} rows after them"
            )
        self.frames_written, self.thermo_rows_written = frames, rows
        self._last_step = int(self._step[-1]) if frames else -1

    def _per_frame(self) -> list[h5py.Dataset]:
        edges = [] if self._edges is None else [self._edges]
        return [*self._values.values(), *edges, *self._observables.values()]

    def _needed(self) -> list[str]:
        return [*self._values, *(["box"] if self._edges is not None else [])]

    @property
    def with_velocities(self) -> bool:
        return "velocity" in self._values

    @property
    def with_forces(self) -> bool:
        return "force" in self._values

    @property
    def frame_size(self) -> int:
        """Bytes that the next frame takes at most, without the thermo rows beside it."""
        atoms = sum(values.dtype.itemsize * math.prod(values.shape[1:]) for values in self._values.values())
        return atoms + _INDEX_BYTES

    def append(
        self,
        step: int,
        time_fs: float,
        positions: np.ndarray,
        *,
        cell: np.ndarray | None = None,
        velocities: np.ndarray | None = None,
        forces: np.ndarray | None = None,
        observables: Mapping[str, float | None] | None = None,
    ) -> None:
        """Write one frame and hand it to the operating system.

        positions (N,3) Å, unwrapped; cell (3,3) Å, velocities (N,3) Å/fs and forces (N,3) eV/Å (stored in kJ/mol/Å):
        needed where the file has them, else ignored; observables: values for OBSERVABLES, NaN where missing.
        Steps must increase. Raises OutputError when the disk takes no more.
        """
        if step <= self._last_step:
            raise ValueError(f"frame of step {step} after that of step {self._last_step}")
        arrays = {"position": positions, "velocity": velocities, "force": forces, "box": cell}
        missing = [name for name in self._needed() if arrays[name] is None]
        if missing:
            raise ValueError(f"the trajectory stores the {missing[0]} of every frame; step {step} came without")
        frame = self.frames_written
        with reporting(self.path, f"the frame of step {step} cannot be written"):
            self._reserve(self.frame_size)
            for name, dataset in self._values.items():
                array = np.asarray(arrays[name])
                dataset.resize(frame + 1, axis=0)
                dataset[frame] = array * KJ_PER_MOL if name == "force" else array
            if self._edges is not None:
                self._edges.resize(frame + 1, axis=0)
                self._edges[frame] = cell
            for name, dataset in self._observables.items():
                value = (observables or {}).get(name)
                dataset.resize(frame + 1, axis=0)
                dataset[frame] = np.nan if value is None else value
            self._write_frame_and_rows(step, time_fs)
        self.frames_written, self._last_step = frame + 1, step

    def append_thermo(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row of THERMO_COLUMNS to the group `thermo`; it is written with the next frame, sync or close."""
        check_row(row)
        self._pending.append(dict(row))
        if len(self._pending) >= _PENDING_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand all that was given so far to the operating system."""
        with reporting(self.path, "cannot be written"):
            if self._pending:
                self._reserve(_INDEX_BYTES)
            self._write_frame_and_rows()

    def _reserve(self, size: int) -> None:
        """Take so many bytes from the disk before HDF5 is given anything: it does not bear it well when a write fails.

        Raises OSError when there is too little. Where the file system cannot reserve, the write itself will fail.
        """
        if self._file.driver == "sec2" and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file.id.get_vfd_handle(), self._file.id.get_filesize(), size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise

    def _write_frame_and_rows(self, step: int | None = None, time_fs: float = 0.0) -> None:
        """Values, flush, then the steps by which they count, flush."""
        pending, self._pending = self._pending, []
        rows = self.thermo_rows_written + len(pending)
        for name, dataset in self._thermo.items():
            if pending and name != "step":
                dataset.resize(rows, axis=0)
                column = [row[name] for row in pending]
                dataset[rows - len(pending) :] = [np.nan if value is None else value for value in column]
        self._file.flush()
        if pending:
            self._thermo["step"].resize(rows, axis=0)
            self._thermo["step"][rows - len(pending) :] = [row["step"] for row in pending]
            self.thermo_rows_written = rows
        if step is not None:
            for dataset, value in ((self._time, time_fs), (self._step, step)):
                dataset.resize(self.frames_written + 1, axis=0)
                dataset[self.frames_written] = value
        if pending or step is not None:
            self._file.flush()

    def sync(self) -> None:
        """Return when all that was given so far is on the disk."""
        self.flush()
        with reporting(self.path, "cannot be written"):
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Write what is pending and close; may be called again. After an error, `abandon` is what is left to do."""
        if not self._closed:
            self.flush()
            self._closed = True
            with reporting(self.path, "cannot be closed"):
                self._file.close()
                give_back(self.path)

    def abandon(self) -> None:
        """Close without writing anything more, after a write that failed; may be called again.

        What HDF5 still holds would now reach the file in another order, and a frame could count without its values. As
        it is, the file is that of a run killed in the middle of that write.
        """
        if not self._closed:
            self._closed = True  # HDF5 does not survive a second attempt to close what it could not
            sink = os.open(os.devnull, os.O_RDWR)
            os.dup2(sink, self._file.id.get_vfd_handle())
            os.close(sink)
            with contextlib.suppress(OSError, RuntimeError):
                self._file.close()
