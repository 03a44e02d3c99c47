"""`allegro-tools convert TRAJ.h5md OUT`: a trajectory in another format, one frame in memory at a time."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import numpy as np

from allegro_sim.errors import InputError, OutputError
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.tools.frame_writers import FORMATS, open_writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    endings = ", ".join(FORMATS)
    parser.add_argument("trajectory", type=Path, metavar="TRAJ.h5md", help="trajectory of allegro-sim")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help=f"file to write; its ending says the format: {endings}"
    )
    parser.add_argument("--wrap", action="store_true", help="put atoms into the cell in its periodic directions")
    parser.add_argument(
        "--frames",
        metavar="A:B:C",
        default=":",
        help="frames A to B (without B), every C-th, as Python's slices: 100: or ::10; or one number, --frames=-1",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    """Convert; returns 0.

    Raises OutputError when OUT exists or cannot be written, or the trajectory cannot be read; InputError for frames
    that are not there, and where a package that the format needs is not installed.
    """
    output: Path = args.output
    if output.suffix not in FORMATS:
        raise OutputError(f"{output}: unknown ending; give a name that ends in one of {', '.join(FORMATS)}")
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output}: exists already; give another name or --overwrite")
    # Hidden, with its own ending, which tells MDAnalysis the format.
    unfinished = output.with_name(f".{output.stem}.new{output.suffix}")
    with TrajectoryReader(args.trajectory) as trajectory:
        chosen = chosen_frames(args.frames, trajectory.num_frames)
        if not chosen:
            raise InputError(f"--frames {args.frames}: chooses none of the {trajectory.num_frames} frames")
        try:
            with open_writer(unfinished, trajectory, chosen) as writer:
                for index in chosen:
                    frame = trajectory.frame(index)
                    positions = frame.positions
                    if args.wrap and frame.cell is not None:
                        positions = wrapped(positions, frame.cell, trajectory.pbc)
                    writer.write(frame, positions)
            os.replace(unfinished, output)
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from None
        finally:
            unfinished.unlink(missing_ok=True)
        print(f"{output}: {len(chosen)} frames of {trajectory.num_atoms} atoms")
        for note in writer.notes:
            print(note)
    return 0


def chosen_frames(text: str, count: int) -> range:
    """Indices that `A:B:C` or one number means, of `count` frames. Raises InputError for another form."""
    if found := re.fullmatch(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*(?::\s*(-?\d*)\s*)?", text):
        try:
            start, stop, step = (int(part) if part else None for part in found.groups())
            return range(count)[start:stop:step]
        except ValueError:  # a lone minus, or a step of zero
            pass
    elif re.fullmatch(r"\s*-?\d+\s*", text):
        index = int(text)
        if -count <= index < count:
            return range(index % count, index % count + 1)
        raise InputError(f"--frames {text}: there are {count} frames, from 0")
    raise InputError(f"--frames {text}: expected A:B:C (each may be left out; C not 0), or one number")


def wrapped(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Positions (N, 3), Å, moved by whole cell vectors into the cell (rows are vectors), in the periodic directions."""
    fractional = positions @ np.linalg.inv(cell)
    whole = np.where(pbc, np.floor(fractional), 0.0)
    return positions - whole @ cell
