"""The way of a minimisation as CSV: one row a step, readable while it goes on."""

from __future__ import annotations

from pathlib import Path

from allegro_sim.errors import StorageStop

COLUMNS = ("step", "potential_eV", "largest_force_eV_A")


class DescentWriter:
    """Writes rows of COLUMNS; an older file is replaced, since an interrupted minimisation begins again.

    Raises StorageStop (all methods) when the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream = open(path, "w", encoding="ascii")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise self._stop(error) from None
        self._write(",".join(COLUMNS))

    def write(self, step: int, energy: float, largest_force: float) -> None:
        """Append one row; eV and eV/Å, with the digits that give the same float64 back."""
        self._write(f"{step},{energy!r},{largest_force!r}")

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError as error:
            raise self._stop(error) from None

    def _stop(self, error: OSError) -> StorageStop:
        return StorageStop(f"{self.path}: cannot be written: {error.strerror}. Make space, and start again")

    def close(self) -> None:
        """Close; may be called again."""
        self._stream.close()
