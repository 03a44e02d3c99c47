"""`allegro-tools thermo FILE...`: averages of thermodynamics with their errors."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from allegro_sim.tools.blocking import LEAST_BLOCKS, BlockAverage, block_average
from allegro_sim.tools.thermo_table import ThermoTable, discard_start, join_tables

_HEADER = f"{'quantity':<14}{'mean':>16}{'error':>12}{'deviation':>12}{'drift/ps':>13}{'correlation/ps':>16}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="thermo.csv, trajectory, or directory of a run; of a run in several parts: in the order they ran",
    )
    parser.add_argument(
        "--discard",
        metavar="PS|SHARE%",
        help="leave out the beginning: picoseconds (2.5) or a share of the time (20%%)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the averages; returns 0. Raises OutputError or InputError when there is nothing to average."""
    everything = join_tables(args.files)
    table = discard_start(everything, args.discard)
    time = table.columns["time_ps"]
    results = {name: (block_average(table.columns[name]), drift(table, name)) for name in table.quantities()}
    interval = (time[-1] - time[0]) / max(len(table) - 1, 1)
    notes = _notes(table, [result for result, _ in results.values()])
    if args.json:
        print(json.dumps(_as_plain(table, results, interval, notes), indent=1, allow_nan=False))
        return 0
    print(
        f"{', '.join(map(str, args.files))}: {len(table)} rows from {time[0]:g} to {time[-1]:g} ps; "
        f"{len(everything) - len(table)} rows before them discarded"
    )
    print(_HEADER)
    for name, (result, slope) in results.items():
        mark = "" if result.converged or math.isnan(result.error) else ">"
        correlation = 0.5 * interval * result.inefficiency
        print(
            f"{name:<14}{_number(result.mean, result.error):>16}{mark + _short(result.error):>12}"
            f"{_short(result.deviation):>12}{_short(slope):>13}{_short(correlation):>16}"
        )
    for note in notes:
        print(note)
    return 0


def drift(table: ThermoTable, name: str) -> float:
    """Slope of the least-squares line through a column against time, per ps; NaN for fewer than two rows."""
    time, values = table.columns["time_ps"], table.columns[name]
    if len(table) > 1 and np.ptp(values) == 0.0:
        return 0.0  # exactly: the mean of equal numbers may be another one
    centred = time - time.mean()
    return float(centred @ (values - values.mean()) / (centred @ centred)) if len(table) > 1 else math.nan


def _notes(table: ThermoTable, results: list[BlockAverage]) -> list[str]:
    notes = []
    if len(table) < LEAST_BLOCKS:
        notes.append(f"No errors: they need at least {LEAST_BLOCKS} rows.")
    elif not all(result.converged for result in results):
        notes.append("An error with > is a lower bound: the rows span too few of that quantity's correlation times.")
    if not table.evenly_spaced():
        notes.append("The rows are not evenly spaced; each counts once, and errors are approximate.")
    return notes


def _number(value: float, error: float) -> str:
    """With digits down to a hundredth of the error."""
    if not error > 0.0:
        return f"{value:.6g}"
    return f"{value:.{min(max(2 - math.floor(math.log10(error)), 0), 12)}f}"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _as_plain(
    table: ThermoTable, results: dict[str, tuple[BlockAverage, float]], interval: float, notes: list[str]
) -> dict[str, object]:
    """JSON has no NaN: null."""

    def plain(value: float | bool) -> float | bool | None:
        return None if isinstance(value, float) and not np.isfinite(value) else value

    quantities = {}
    for name, (result, slope) in results.items():
        values = asdict(result) | {"drift_per_ps": slope, "correlation_ps": 0.5 * interval * result.inefficiency}
        quantities[name] = {key: plain(value) for key, value in values.items()}
    time = table.columns["time_ps"]
    return {
        "rows": len(table),
        "first_ps": float(time[0]),
        "last_ps": float(time[-1]),
        "quantities": quantities,
        "notes": notes,
    }
