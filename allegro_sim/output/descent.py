"""The way of a minimisation as CSV: one row a step, readable while it goes on."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

from allegro_sim.errors import OutputError, StorageStop

COLUMNS = ("step", "potential_eV", "largest_force_eV_A")
_HEADER = (",".join(COLUMNS) + "\n").encode()


class DescentWriter:
    """Writes rows of COLUMNS, each handed to the operating system before `write` returns.

    Parameters
    ----------
    path : a file that is there is continued
    first_step : step of the next row; rows from there on are cut off. With 0 the file begins anew

    Raises
    ------
    OutputError : the file to be continued has another header, or lacks rows before `first_step`
    StorageStop (all methods) : the disk takes no more
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = path
        try:
            keep = _find_end(path, first_step) if first_step > 0 and path.exists() else 0
            self._stream = FileIO(path, "a")  # without a buffer: what cannot be written is not tried again later
            self._stream.truncate(keep)
        except OSError as error:
            raise self._stop(error) from None
        if not keep:
            self._write(_HEADER)

    def write(self, step: int, energy: float, largest_force: float) -> None:
        """Append one row; eV and eV/Å, with the digits that give the same float64 back."""
        self._write(f"{step},{energy!r},{largest_force!r}\n".encode())

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[self._stream.write(line) :]
        except OSError as error:
            raise self._stop(error) from None

    def sync(self) -> None:
        """Return when all rows are on the disk."""
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._stop(error) from None

    def _stop(self, error: OSError) -> StorageStop:
        return StorageStop(f"{self.path}: cannot be written: {error.strerror}. Make space, and continue with --restart")

    def close(self) -> None:
        """Close; may be called again."""
        self._stream.close()


def _find_end(path: Path, first_step: int) -> int:
    """Bytes of the header and of the rows before `first_step`."""
    header, *rows = path.read_bytes().splitlines(keepends=True) or [b""]
    numbered = [(row.split(b",")[0], row) for row in rows if row.endswith(b"\n")]
    before = [(int(step), row) for step, row in numbered if step.isdigit() and int(step) < first_step]
    steps = [step for step, _ in before]
    if header != _HEADER or steps != list(range(first_step - len(steps), first_step)) or not steps:
        raise OutputError(
            f"{path}: does not go up to step {first_step - 1}, after which the checkpoint was made; restore it, or "
            "start again with --overwrite"
        )
    return len(header) + sum(len(row) for _, row in before)


def is_descent(path: Path) -> bool:
    """Whether the file begins as those of `DescentWriter` do. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def cut_descent(path: Path) -> str:
    """Remove a row that a kill cut short; returns what was done, in words. Raises OutputError."""
    try:
        content = path.read_bytes()
        keep, rows = content.rfind(b"\n") + 1, content.count(b"\n") - 1
        if keep == len(content):
            return f"whole, {rows} rows"
        os.truncate(path, keep)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    return f"kept {rows} rows, cut off the {len(content) - keep} bytes after them"
