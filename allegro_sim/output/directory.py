"""The output directory: which files in it are this program's, and whether a run may write there."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from allegro_sim.errors import OutputError, StorageStop
from allegro_sim.output.checkpoint import CHECKPOINT_PATTERN, list_checkpoints
from allegro_sim.output.h5md import is_cut_short
from allegro_sim.output.lock import LOCK, check_lock
from allegro_sim.output.thermo import count_rows, has_header
from allegro_sim.output.trajectory_reader import count_frames

TRAJECTORY = "trajectory.h5md"
TOPOLOGY = "topology.xyz"
THERMO = "thermo.csv"
MINIMIZED = "minimized.xyz"
MINIMIZATION = "minimize.csv"
FIXED_NAMES = (TRAJECTORY, TOPOLOGY, THERMO, MINIMIZATION, MINIMIZED)
_STOPPED_PATTERN = re.compile(r"(stopped|guard-[a-z]+)-\d{9,}\.xyz")
_UNFINISHED_PATTERN = re.compile(
    r"\.(trajectory\.h5md|topology\.xyz|minimized\.xyz|(checkpoint|stopped|guard-[a-z]+)-\d{9,}\.(h5|xyz))\.new"
)
_UNFINISHED_LOCK = re.compile(rf"\.{re.escape(LOCK)}\.([0-9a-f]{{32}}|new)")

SPARE_BYTES = 1 << 20
"""What must be left on the disk beside the file that is written: rows of the thermo file, indices, the log."""


def existing_outputs(directory: str | Path) -> list[Path]:
    """Files in the directory that bear the names of this program's output, sorted; the lock is none of them."""
    patterns = (CHECKPOINT_PATTERN, _STOPPED_PATTERN)
    return _find(directory, lambda name: name in FIXED_NAMES or any(p.fullmatch(name) for p in patterns))


def _unfinished(directory: str | Path) -> list[Path]:
    """What a kill left behind of files that were being made under another name."""
    patterns = (_UNFINISHED_PATTERN, _UNFINISHED_LOCK)
    return _find(directory, lambda name: any(pattern.fullmatch(name) for pattern in patterns))


def _find(directory: str | Path, wanted: Callable[[str], bool]) -> list[Path]:
    directory = Path(directory)
    if not directory.is_dir():
        return []
    try:
        return sorted(path for path in directory.iterdir() if wanted(path.name))
    except OSError as error:
        raise OutputError(f"{directory}: cannot be read: {error.strerror}") from None


def check_directory(directory: str | Path, *, overwrite: bool = False, restart: bool = False) -> None:
    """Raise OutputError unless a run may begin to write there. Changes nothing on the disk.

    Refused: a path that is not a directory or below a file, no permission to write, the lock of another run, and,
    without one of the two flags, output of an earlier run.
    """
    directory = Path(directory)
    nearest = directory
    while not os.path.lexists(nearest) and nearest != nearest.parent:
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
    check_lock(directory)
    if not overwrite and not restart:
        refuse_existing(directory)


def refuse_existing(directory: str | Path) -> None:
    """Raise OutputError where there is output of an earlier run."""
    found = existing_outputs(directory)
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise OutputError(
            f"{found[0]}{more}: output of an earlier run; continue it with --restart, replace it with --overwrite, or "
            "give another output.directory"
        )


def has_only_begun(directory: str | Path) -> bool:
    """Whether all that a run has left in this directory is from before its first checkpoint, which it makes at step 0.

    Such a run is continued by beginning again. Raises OutputError when a file is not what its name says.
    """
    directory = Path(directory)
    if not directory.is_dir() or list_checkpoints(directory):
        return False
    thermo, trajectory = directory / THERMO, directory / TRAJECTORY
    later_rows = count_rows(thermo) - count_rows(thermo, 0) if has_header(thermo) else 0
    # After a write that failed nobody can read it; step 0 has its checkpoint before the next frame.
    readable = trajectory.exists() and not is_cut_short(trajectory)
    later_frames = count_frames(trajectory) - count_frames(trajectory, 0) if readable else 0
    return later_rows == 0 and later_frames == 0


def remove_outputs(directory: str | Path) -> None:
    """Remove the files of an earlier run, and no others."""
    for path in [*existing_outputs(directory), *_unfinished(directory)]:
        _remove(path)


def remove_unfinished(directory: str | Path) -> None:
    """Remove what a kill left behind of files that were being made."""
    for path in _unfinished(directory):
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed: {error.strerror}") from None


def require_space(directory: str | Path, size: int, what: str) -> None:
    """Raise StorageStop when the disk has no room for `size` bytes and a little more; `what` names them."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    # Some file systems tell nothing, in which case a write must fail first.
    if disk.f_blocks > 0 and free < size + SPARE_BYTES:
        raise StorageStop(
            f"{what} needs {size / 2**20:.1f} MiB and some space to spare; the disk of {directory} has "
            f"{free / 2**20:.1f} MiB left"
        )
