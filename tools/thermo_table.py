"""Rows of thermodynamics from the files of one run or of its restarts, as one table."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from allegro_sim.errors import InputError, OutputError
from allegro_sim.output.directory import THERMO
from allegro_sim.output.thermo import THERMO_COLUMNS, count_rows
from allegro_sim.output.trajectory_reader import TrajectoryReader


@dataclass(frozen=True)
class ThermoTable:
    """R rows in the order of their steps; columns: name -> float64 (R,), NaN where a quantity does not exist."""

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["step"])

    def quantities(self) -> list[str]:
        """Names of the columns that hold measured quantities that exist: not step and time, not what is all NaN."""
        return [
            name
            for name, values in self.columns.items()
            if name not in ("step", "time_ps") and np.isfinite(values).all()
        ]

    def rows(self, chosen: np.ndarray | slice) -> ThermoTable:
        """The chosen rows."""
        return ThermoTable({name: values[chosen] for name, values in self.columns.items()})

    def evenly_spaced(self) -> bool:
        """Whether all intervals between rows are the same, but for the last: a run's last step is always written."""
        return len(set(np.diff(self.columns["step"])[:-1].tolist())) <= 1


def is_trajectory(path: Path) -> bool:
    """Whether the name is that of an HDF5 file; anything else is read as text."""
    return path.suffix in (".h5md", ".h5", ".hdf5")


def read_table(path: str | Path) -> ThermoTable:
    """Whole rows of a thermo.csv, of a trajectory's `thermo` group, or of the thermo.csv in a run's directory.

    Raises OutputError when the file is missing, damaged, or neither.
    """
    path = Path(path)
    if path.is_dir():
        path = path / THERMO
    return _read_trajectory(path) if is_trajectory(path) else _read_csv(path)


def _read_csv(path: Path) -> ThermoTable:
    if not path.is_file():
        raise OutputError(f"{path}: there is no such file; give thermo.csv, a trajectory, or the directory of a run")
    rows = count_rows(path)  # of a file that is still written to, or was cut short: the whole ones
    with open(path, newline="", encoding="ascii") as stream:
        lines = csv.reader(stream)
        names = next(lines)
        values = [[float(field) if field else np.nan for field in next(lines)] for _ in range(rows)]
    return _filled(path, names, np.array(values, dtype=np.float64).reshape(rows, len(names)))


def _read_trajectory(path: Path) -> ThermoTable:
    with TrajectoryReader(path):
        pass  # its messages for what is not a trajectory
    try:
        with h5py.File(path, "r", locking=False) as file:
            columns = [file["thermo"][name][()] for name in THERMO_COLUMNS]
    except (KeyError, OSError, RuntimeError) as error:
        raise OutputError(f"{path}: its group `thermo` cannot be read: {error}") from None
    rows = min(len(column) for column in columns)
    values = np.array([column[:rows] for column in columns], dtype=np.float64).T
    return _filled(path, list(THERMO_COLUMNS), values[values[:, 0] >= 0])


def _filled(path: Path, names: Sequence[str], values: np.ndarray) -> ThermoTable:
    if not len(values):
        raise OutputError(f"{path}: has no rows of thermodynamics yet")
    return ThermoTable({name: values[:, column] for column, name in enumerate(names)})


def join_tables(paths: Sequence[Path]) -> ThermoTable:
    """The tables of a run and of its restarts, given in the order in which they ran, one after the other.

    Each file counts from its first step on: what an earlier one has from there on had been computed again. Raises
    OutputError when a file does not continue the one before it: it begins where that one begins, or earlier.
    """
    tables = [read_table(path) for path in paths]
    joined = tables[0]
    for path, before, table in zip(paths[1:], paths, tables[1:], strict=False):
        first = table.columns["step"][0]
        if first <= joined.columns["step"][0]:
            raise OutputError(
                f"{path}: begins at step {first:.0f}, so it does not continue {before}; give the files of one run and "
                "its restarts, in the order in which they ran"
            )
        kept = joined.rows(joined.columns["step"] < first)
        joined = ThermoTable(
            {name: np.concatenate([values, table.columns[name]]) for name, values in kept.columns.items()}
        )
    return joined


def discard_start(table: ThermoTable, text: str | None) -> ThermoTable:
    """The table without its first part: "2.5" leaves out the first 2.5 ps, "20%" the first fifth of the time.

    Raises InputError for another form, and when no rows are left.
    """
    if text is None:
        return table
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(%?)", text.strip())
    if found is None:
        raise InputError(f"--discard {text}: expected picoseconds, such as 2.5, or a share of the time, such as 20%")
    time = table.columns["time_ps"]
    length = float(found[1]) * (0.01 * (time[-1] - time[0]) if found[2] else 1.0)
    # Times are products of decimal numbers: the row that was meant must not be lost to rounding.
    kept = table.rows(time >= time[0] + length - 1.0e-9)
    if not len(kept):
        raise InputError(f"--discard {text}: nothing is left of {time[-1] - time[0]:g} ps")
    return kept
