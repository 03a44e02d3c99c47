"""`allegro-tools plot FILE...`: thermodynamics against time and pair distribution functions, as one PNG."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import InputError, OutputError
from allegro_sim.output.directory import TRAJECTORY
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.tools.frame_writers import require_package
from allegro_sim.tools.pair_distribution import PairDistributions, pair_distributions
from allegro_sim.tools.thermo import drift
from allegro_sim.tools.thermo_table import ThermoTable, discard_start, is_trajectory, join_tables

MOST_FRAMES = 200
"""Frames of pair distribution functions, evenly chosen where there are more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="thermo.csv, trajectory, or directory of a run; of a run in several parts: in the order they ran",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.png", help="default: beside the first FILE")
    parser.add_argument(
        "--discard",
        metavar="PS|SHARE%",
        help="leave out the beginning: picoseconds (2.5) or a share of the time (20%%), counted over all files",
    )
    parser.add_argument("--r-max", type=float, metavar="Å", help="reach of g(r); default: 10 Å or half the cell")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.png if it exists")


def run(args: argparse.Namespace) -> int:
    """Draw; returns 0. Raises OutputError and InputError: nothing to draw, OUT exists, matplotlib is not installed."""
    require_package("matplotlib", "plotting")
    first: Path = args.files[0]
    output = args.output or (first / "plot.png" if first.is_dir() else first.with_suffix(".png"))
    if output.suffix != ".png":
        raise OutputError(f"{output}: give a name that ends in .png")
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output}: exists already; give another name with -o, or --overwrite")
    table = discard_start(join_tables(args.files), args.discard)
    distributions = _distributions(args, float(table.columns["time_ps"][0]))
    figure = draw(table, distributions)
    unfinished = output.with_name(f".{output.name}.new")
    try:
        figure.savefig(unfinished, dpi=110, format="png")
        os.replace(unfinished, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{output}: {len(table)} rows of thermodynamics", end="")
    print(f", g(r) of {distributions.num_frames} frames" if distributions else "")
    return 0


def _distributions(args: argparse.Namespace, start_ps: float) -> PairDistributions | None:
    """Of the last trajectory among the files, from the time on with which the table begins."""
    paths = [path / TRAJECTORY if path.is_dir() else path for path in args.files]
    paths = [path for path in paths if is_trajectory(path) and path.exists()]
    if not paths:
        if args.r_max is not None:
            raise InputError("--r-max: there is no trajectory among the files")
        return None
    with TrajectoryReader(paths[-1]) as trajectory:
        begin = int(np.searchsorted(1.0e-3 * trajectory.times_fs(), start_ps - 1.0e-9))
        frames = range(begin, trajectory.num_frames)
        if not frames:
            return None
        frames = frames[:: -(-len(frames) // MOST_FRAMES)]
        if trajectory.frame(frames[0]).cell is None or not trajectory.pbc.all():
            print(f"{paths[-1]}: not periodic in all directions: no g(r)")
            return None
        return pair_distributions(trajectory, frames, reach=args.r_max)


def draw(table: ThermoTable, distributions: PairDistributions | None) -> Any:
    """The figure: temperature, energies, conserved quantity and pressure on the left, g(r) by pair on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [_temperature, _energies, _conserved]
    if "pressure_bar" in table.quantities():
        panels.append(_pressure)
    functions = distributions.functions if distributions else {}
    columns = 1 + -(-len(functions) // len(panels))
    figure = Figure(figsize=(6.4 + 3.6 * (columns - 1), 2.1 * len(panels)), constrained_layout=True)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(panels), columns, width_ratios=[1.7] + [1.0] * (columns - 1))
    shared = None
    for row, panel in enumerate(panels):
        axes = figure.add_subplot(grid[row, 0], sharex=shared)
        shared = shared or axes
        panel(axes, table)
        axes.grid(alpha=0.3)
        axes.ticklabel_format(axis="y", useOffset=False)
        if row == len(panels) - 1:
            axes.set_xlabel("time (ps)")
        else:
            axes.tick_params(labelbottom=False)
    for place, (names, values) in enumerate(functions.items()):
        assert distributions is not None
        column, row = divmod(place, len(panels))
        axes = figure.add_subplot(grid[row, 1 + column])
        axes.plot(distributions.centres, values, linewidth=1.0, color="black")
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        # A bond stands far above the liquid's structure, which would be a flat line beside it.
        beyond = values[distributions.centres > 1.5]
        highest = 1.3 * float(beyond.max(initial=1.0))
        if values.max() > 2.0 * highest:
            axes.set_ylim(0.0, highest)
            note = f"peak {values.max():.0f} at {distributions.centres[values.argmax()]:.2f} Å"
            axes.annotate(note, (0.97, 0.93), xycoords="axes fraction", ha="right", va="top", fontsize=8)
        else:
            axes.set_ylim(bottom=0.0)
        axes.set_ylabel(f"g(r), {'–'.join(names)}")
        axes.grid(alpha=0.3)
        if row == len(panels) - 1 or place == len(functions) - 1:
            axes.set_xlabel("r (Å)")
    return figure


def _temperature(axes: Any, table: ThermoTable) -> None:
    values = table.columns["temperature_K"]
    axes.plot(table.columns["time_ps"], values, color="tab:red", linewidth=0.9)
    axes.axhline(values.mean(), color="0.6", linewidth=0.8, zorder=0)
    axes.set_ylabel("temperature (K)")
    axes.set_title(f"mean {values.mean():.1f} K", fontsize=9, loc="right")


def _energies(axes: Any, table: ThermoTable) -> None:
    for name, color in (("total_eV", "0.6"), ("potential_eV", "tab:blue"), ("kinetic_eV", "tab:orange")):
        values = table.columns[name]
        label = f"{name[:-3]}, from {values[0]:.4f}"
        axes.plot(table.columns["time_ps"], values - values[0], color=color, linewidth=0.9, label=label)
    axes.set_ylabel("energies − first (eV)")
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=3,
        loc="lower right",
        columnspacing=1.0,
        handlelength=1.2,
        bbox_to_anchor=(1.0, 0.97),
        borderaxespad=0.0,
    )


def _conserved(axes: Any, table: ThermoTable) -> None:
    values = table.columns["conserved_eV"]
    axes.plot(table.columns["time_ps"], values - values[0], color="black", linewidth=0.9)
    axes.set_ylabel("conserved − first (eV)")
    axes.set_title(f"from {values[0]:.4f} eV, slope {drift(table, 'conserved_eV'):.2e} eV/ps", fontsize=9, loc="right")


def _pressure(axes: Any, table: ThermoTable) -> None:
    values = 1.0e-3 * table.columns["pressure_bar"]
    axes.plot(table.columns["time_ps"], values, color="tab:green", linewidth=0.9)
    axes.axhline(values.mean(), color="0.6", linewidth=0.8, zorder=0)
    axes.set_ylabel("pressure (kbar)")
    axes.set_title(f"mean {values.mean():.2f} kbar", fontsize=9, loc="right")
