"""Draws the README's figure, a run against time: `python tools/make_figure.py DIRECTORY OUT.png`."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_thermo(path: Path) -> dict[str, list[float]]:
    """Columns of a thermo.csv by name; empty cells are left out with their column."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(line for line in file if not line.startswith("#"))]
    return {name: [float(row[name]) for row in rows] for name in rows[0] if all(row[name] for row in rows)}


def draw(thermo: dict[str, list[float]], output: Path) -> None:
    """Temperature above, potential and total energy (from their start) below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.0, 4.2), sharex=True, constrained_layout=True)
    above.plot(thermo["time_ps"], thermo["temperature_K"], color="tab:red", linewidth=1.0)
    above.set_ylabel("temperature (K)")
    for name, color in (("potential_eV", "tab:blue"), ("total_eV", "black")):
        values = thermo[name]
        below.plot(thermo["time_ps"], [v - values[0] for v in values], color=color, linewidth=1.0, label=name[:-3])
    below.set_ylabel("energy − start (eV)")
    below.set_xlabel("time (ps)")
    below.legend(frameon=False, loc="best")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="output directory of a run")
    parser.add_argument("output", type=Path, help="image to write")
    args = parser.parse_args()
    draw(read_thermo(args.directory / "thermo.csv"), args.output)


if __name__ == "__main__":
    main()
