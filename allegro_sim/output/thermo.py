"""Thermodynamics as CSV: one row a sampled step, readable by any program while the run goes on.

    writer = ThermoWriter.create(path)              # header line
    writer.write({"step": 0, "time_ps": 0.0, ...})  # keys are THERMO_COLUMNS
    writer.sync()                                   # on the disk: call before a checkpoint is written
    writer.close()
    writer = ThermoWriter.reopen(path, last_step)   # rows after last_step, and a row cut short by a kill, are removed
    writer.cut                                      # what was removed, in words; "" if nothing was

Numbers are written with the fewest digits that give the same float64 back, so rows of two runs compare bit for bit. A
quantity that does not exist (None or NaN: pressure and volume without a fully periodic cell) is an empty field.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from allegro_sim.errors import OutputError

THERMO_COLUMNS: dict[str, str] = {
    "step": "",
    "time_ps": "ps",
    "temperature_K": "K",
    "potential_eV": "eV",
    "kinetic_eV": "eV",
    "total_eV": "eV",
    "conserved_eV": "eV",
    "pressure_bar": "bar",
    "volume_A3": "Angstrom+3",
}
"""Column name -> unit (as in the H5MD group `thermo/`); the order is the order of the file."""


def check_row(row: Mapping[str, float | int | None]) -> None:
    """Raises ValueError unless the row has exactly the columns: a mistake of the program, not of the user."""
    if row.keys() != THERMO_COLUMNS.keys():
        raise ValueError(f"a thermo row needs the columns {', '.join(THERMO_COLUMNS)}; it has {', '.join(row)}")


def _field(value: float | int | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _step_of(line: bytes) -> int | None:
    """Step of a row, or None when the line is not a row."""
    fields = line.decode("ascii", "replace").split(",")
    try:
        numbers = [float(field) for field in fields[1:] if field.strip()]
        step = int(fields[0])
    except ValueError:
        return None
    return step if len(fields) == len(THERMO_COLUMNS) and numbers else None


class ThermoWriter:
    """Appends rows to thermo.csv; every row reaches the operating system before `write` returns."""

    def __init__(self, path: Path, stream: FileIO, rows: int, last_step: int, cut: str = "") -> None:
        self.path = path
        self.rows_written = rows
        self.cut = cut
        self._stream = stream
        self._last_step = last_step

    @classmethod
    def create(cls, path: str | Path) -> ThermoWriter:
        """A new file with its header line. Raises OutputError when it exists already or cannot be written."""
        path = Path(path)
        try:
            stream = FileIO(path, "x")  # without a buffer: what cannot be written is not tried again later
        except FileExistsError:
            raise OutputError(f"{path}: exists already; use --restart to continue it or --overwrite") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
        writer = cls(path, stream, rows=0, last_step=-1)
        writer._write_line(",".join(THERMO_COLUMNS))
        return writer

    @classmethod
    def reopen(cls, path: str | Path, last_step: int | None = None) -> ThermoWriter:
        """Open for appending after `last_step`, by default after the last whole row; all that follows is cut off.

        Raises OutputError when the file is missing, has other columns, or is damaged before that row.
        """
        path = Path(path)
        keep, rows, step = _find_end(path, last_step)
        try:
            excess = path.stat().st_size - keep
            if excess:
                os.truncate(path, keep)
            stream = FileIO(path, "a")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
        return cls(
            path, stream, rows, step, f"kept {rows} rows, cut off the {excess} bytes after them" if excess else ""
        )

    def write(self, row: Mapping[str, float | int | None]) -> None:
        """Append one row. Steps must increase. Raises OutputError when the disk takes no more."""
        check_row(row)
        step = int(row["step"] or 0)
        if step <= self._last_step:
            raise ValueError(f"thermo row of step {step} after that of step {self._last_step}")
        self._write_line(",".join([str(step)] + [_field(row[name]) for name in THERMO_COLUMNS if name != "step"]))
        self._last_step = step
        self.rows_written += 1

    def _write_line(self, line: str) -> None:
        remaining = (line + "\n").encode("ascii")
        try:
            while remaining:
                remaining = remaining[self._stream.write(remaining) :]
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """Return when all rows are on the disk."""
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Close; may be called again. There is never anything left to write."""
        self._stream.close()

    abandon = close


def _find_end(path: Path, last_step: int | None) -> tuple[int, int, int]:
    """Bytes to keep, rows in them, and the step of the last one (-1 when there is none)."""
    try:
        with open(path, "rb") as stream:
            return _find_end_of(stream, path, last_step)
    except FileNotFoundError:
        raise OutputError(f"{path}: is missing; a restart continues the output of the run it restarts") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from None


def _find_end_of(stream: BinaryIO, path: Path, last_step: int | None) -> tuple[int, int, int]:
    header = stream.readline().decode("ascii", "replace").rstrip("\n")
    if header != ",".join(THERMO_COLUMNS):
        raise OutputError(f"{path}: its first line is {header[:80]!r}, not the header of this program's thermo file")
    keep, rows, step = stream.tell(), 0, -1
    for line in stream:
        if not line.endswith(b"\n"):  # cut short by a kill
            break
        following = _step_of(line)
        if following is None or following <= step:
            raise OutputError(f"{path}: row {rows + 1} is damaged: {line[:80]!r}")
        if last_step is not None and following > last_step:
            break
        keep, rows, step = stream.tell(), rows + 1, following
    return keep, rows, step


def count_rows(path: str | Path, last_step: int | None = None) -> int:
    """Whole rows of a thermo file, up to and with `last_step`. Raises OutputError as `ThermoWriter.reopen` does."""
    return _find_end(Path(path), last_step)[1]


def has_header(path: str | Path) -> bool:
    """Whether the file is there and its first line is whole; before that, a kill left nothing in it."""
    try:
        with open(path, "rb") as stream:
            return stream.readline().endswith(b"\n")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from None
