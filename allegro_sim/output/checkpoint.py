"""Checkpoints: all that a run needs to go on, on any number of ranks, with the same bits.

    path = write_checkpoint(directory, checkpoint)              # atomic; the last two are kept
    checkpoint = load_checkpoint(path)                          # RestartError when damaged
    path, checkpoint = newest_checkpoint(directory, warn=...)   # falls back to the one before, with a warning

A file is written under a temporary name in the same directory, forced to the disk, and renamed: under its own name it
is whole. It begins with a 512-byte text block (an HDF5 user block, which every HDF5 program skips) that holds the
length and the SHA-256 of the rest; both are verified before HDF5 sees the file, so that damage is always noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from allegro_sim.errors import OutputError, RestartError
from allegro_sim.output.h5md import reason

CHECKPOINT_VERSION = 1
CHECKPOINT_PATTERN = re.compile(r"checkpoint-(\d{9,})\.h5")
KEPT = 2
"""Checkpoints that stay; one would do, two survive a damaged disk block."""

_BLOCK = 512
_MAGIC = b"allegro-sim checkpoint\n"
_ARRAYS = {"positions": "<f8", "velocities": "<f8", "types": "<i4", "type_masses": "<f8", "pbc": "?"}


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` steps; atoms in the order of their ids, which is the order of the input.

    In a minimisation, the step is 0 and the velocities are those of its fictitious motion.
    """

    step: int
    time_fs: float
    positions: np.ndarray  # (N, 3) float64 Å, unwrapped
    velocities: np.ndarray  # (N, 3) float64 Å/fs
    types: np.ndarray  # (N,) int32, index into type_names
    type_names: tuple[str, ...]
    type_masses: np.ndarray  # (types,) float64 Da
    cell: np.ndarray | None  # (3, 3) float64 Å, rows = lattice vectors, as given; None without a cell
    pbc: np.ndarray  # (3,) bool
    settings: dict[str, Any]  # the resolved settings, section -> key -> value; what JSON takes
    model_file: str = ""
    model_sha256: str = ""
    frames_written: int = 0  # of the trajectory, up to and with this step
    thermo_rows_written: int = 0
    state: dict[str, Any] = field(default_factory=dict)  # further numbers of integrators; what JSON takes

    @property
    def num_atoms(self) -> int:
        return len(self.types)

    @property
    def minimization(self) -> dict[str, Any] | None:
        """State of the minimisation that this checkpoint was made in; None: the dynamics have begun."""
        return self.state.get("minimization")

    @property
    def last_output(self) -> int:
        """Step up to which trajectory and thermodynamics count: -1, before that of step 0, in a minimisation."""
        return self.step if self.minimization is None else -1


def checkpoint_path(directory: str | Path, step: int) -> Path:
    """DIRECTORY/checkpoint-000001000.h5."""
    return Path(directory) / f"checkpoint-{step:09d}.h5"


def list_checkpoints(directory: str | Path) -> list[Path]:
    """Checkpoints of a directory by name, newest (largest step) first; their content is not looked at."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if CHECKPOINT_PATTERN.fullmatch(path.name)]
    return sorted(found, key=_step_in_name, reverse=True)


def _step_in_name(path: Path) -> int:
    match = CHECKPOINT_PATTERN.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def checkpoint_size(num_atoms: int) -> int:
    """Bytes that a checkpoint takes at most, unless its settings are very long."""
    return 52 * num_atoms + (1 << 18)


def write_checkpoint(directory: str | Path, checkpoint: Checkpoint, keep: int = KEPT) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Returns its path once it is on the disk. Raises OutputError when it cannot be written; those before it then stay.
    """
    path = checkpoint_path(directory, checkpoint.step)
    unfinished = path.with_name(f".{path.name}.new")
    try:
        _write_hdf5(unfinished, checkpoint)
        _seal(unfinished)
        os.replace(unfinished, path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {reason(error)}") from None
    for old in list_checkpoints(directory)[keep:]:
        old.unlink(missing_ok=True)
    return path


def _write_hdf5(path: Path, checkpoint: Checkpoint) -> None:
    with h5py.File(path, "w", userblock_size=_BLOCK) as file:
        for name, dtype in _ARRAYS.items():
            file.create_dataset(name, data=np.asarray(getattr(checkpoint, name), dtype=dtype))
        if checkpoint.cell is not None:
            file.create_dataset("cell", data=np.asarray(checkpoint.cell, dtype="<f8"))
        file.create_dataset("type_names", data=list(checkpoint.type_names), dtype=h5py.string_dtype())
        for name in ("settings", "state"):  # JSON writes each float64 so that it reads back as the same bits
            file.create_dataset(name, data=json.dumps(getattr(checkpoint, name)), dtype=h5py.string_dtype())
        file.attrs["version"] = CHECKPOINT_VERSION
        for name in ("step", "time_fs", "model_file", "model_sha256", "frames_written", "thermo_rows_written"):
            file.attrs[name] = getattr(checkpoint, name)


def _seal(path: Path) -> None:
    """Fill in the text block and force the file to the disk."""
    with open(path, "r+b") as file:
        length, digest = _digest(file)
        file.seek(0)
        file.write(_block(length, digest))
        file.flush()
        os.fsync(file.fileno())


def _digest(file: BufferedReader | BufferedRandom) -> tuple[int, str]:
    """Length and SHA-256 of what follows the text block."""
    file.seek(_BLOCK)
    digest = hashlib.file_digest(file, "sha256")
    return file.tell() - _BLOCK, digest.hexdigest()


def _block(length: int, digest: str) -> bytes:
    return (_MAGIC + f"version {CHECKPOINT_VERSION}\nlength {length}\nsha256 {digest}\n".encode()).ljust(_BLOCK, b"\0")


def _sync_directory(directory: Path) -> None:
    """Make a rename in this directory permanent."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint, or was one before it was damaged: by its name, or its first line."""
    if CHECKPOINT_PATTERN.fullmatch(Path(path).name):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises RestartError when it is missing, not a checkpoint of this program, of a newer version, truncated or altered.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            block = file.read(_BLOCK)
            if not block.startswith(_MAGIC):
                raise RestartError(f"{path}: is not a checkpoint of this program; give a checkpoint-NNNNNNNNN.h5 file")
            version = re.match(rb"version (\d{1,9})\n", block[len(_MAGIC) :])
            if version and int(version.group(1)) > CHECKPOINT_VERSION:
                raise RestartError(
                    f"{path}: is of checkpoint version {int(version.group(1))}; this program reads up to "
                    f"{CHECKPOINT_VERSION}; restart with the newer program"
                )
            if block != _block(*_digest(file)):
                raise RestartError(f"{path}: is damaged (length or checksum differ); restart from another checkpoint")
        return _read_hdf5(path)
    except FileNotFoundError:
        raise RestartError(f"{path}: there is no such checkpoint file") from None
    except OSError as error:
        raise RestartError(f"{path}: cannot be read: {reason(error)}") from None


def _read_hdf5(path: Path) -> Checkpoint:
    with h5py.File(path, "r") as file:
        values: dict[str, Any] = {name: file[name][()] for name in _ARRAYS}
        values["cell"] = file["cell"][()] if "cell" in file else None
        values["type_names"] = tuple(file["type_names"].asstr()[()])
        for name in ("settings", "state"):
            values[name] = json.loads(file[name].asstr()[()])
        for name in ("step", "frames_written", "thermo_rows_written"):
            values[name] = int(file.attrs[name])
        values["time_fs"] = float(file.attrs["time_fs"])
        for name in ("model_file", "model_sha256"):
            values[name] = str(file.attrs[name])
        return Checkpoint(**values)


def newest_checkpoint(directory: str | Path, warn: Callable[[str], None]) -> tuple[Path, Checkpoint]:
    """The newest checkpoint of a directory that is whole.

    `warn` gets a message for each damaged one that is passed over. Raises RestartError when there is none at all, or
    none that is whole.
    """
    paths = list_checkpoints(directory)
    if not paths:
        raise RestartError(
            f"{directory}: has no checkpoint to restart from; start the run without --restart (with --overwrite where "
            "output of an earlier run is to be replaced)"
        )
    for path in paths:
        try:
            return path, load_checkpoint(path)
        except RestartError as error:
            warn(f"{error}. Trying the checkpoint before it.")
    raise RestartError(f"{directory}: all {len(paths)} checkpoints are damaged; start again with --overwrite")


def remove_checkpoints_after(directory: str | Path, step: int) -> None:
    """Remove checkpoints of later steps: a run that goes on from `step` makes its own."""
    for path in list_checkpoints(directory):
        if _step_in_name(path) > step:
            path.unlink(missing_ok=True)
