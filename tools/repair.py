"""`allegro-tools repair FILE...`: what a killed run left, cut to its last whole frame or row."""

from __future__ import annotations

import argparse
from pathlib import Path

from allegro_sim.errors import AllegroSimError, OutputError, RestartError
from allegro_sim.output.checkpoint import is_checkpoint, load_checkpoint
from allegro_sim.output.descent import cut_descent, is_descent
from allegro_sim.output.directory import existing_outputs
from allegro_sim.output.lock import check_lock
from allegro_sim.output.thermo import ThermoWriter, has_header
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader

_HDF5 = b"\x89HDF"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="trajectory, thermo.csv, checkpoint, or an output directory"
    )


def run(args: argparse.Namespace) -> int:
    """Repair each; returns 0, or 2 where one could not be repaired, which does not keep the others from it."""
    code = 0
    for path in _expand(args.files):
        try:
            print(f"{path}: {repair(path)}", flush=True)
        except AllegroSimError as error:
            print(f"not repaired: {error}", flush=True)
            code = error.exit_code
    return code


def _expand(paths: list[Path]) -> list[Path]:
    """Directories replaced by the files of a run in them."""
    found: list[Path] = []
    for path in paths:
        found += [p for p in existing_outputs(path) if p.suffix != ".xyz"] if path.is_dir() else [path]
    return found


def repair(path: Path) -> str:
    """Cut one file to its last whole entry; returns what was done, in words.

    Raises OutputError or RestartError when a run is writing to it, when it is none of the files of a run, or when it is
    damaged in another way than by a kill.
    """
    check_lock(path.parent)
    if is_checkpoint(path):
        try:
            checkpoint = load_checkpoint(path)
        except RestartError as error:
            raise RestartError(f"{error}. A checkpoint is whole or of no use; --restart passes over this one") from None
        return f"whole, step {checkpoint.step}"
    try:
        with open(path, "rb") as file:
            start = file.read(len(_HDF5))
        of_minimization = is_descent(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from None
    if start == _HDF5:
        done = _cut(TrajectoryWriter.reopen(path), "frames_written", "frames")
        _verify(path)
        return done
    if of_minimization:
        return cut_descent(path)
    if not has_header(path):
        raise OutputError(f"{path}: is no trajectory, thermo file or checkpoint of this program, or has only begun")
    return _cut(ThermoWriter.reopen(path), "rows_written", "rows")


def _verify(path: Path) -> None:
    """Raise OutputError where frames of a trajectory are damaged."""
    with TrajectoryReader(path) as trajectory:
        if damaged := trajectory.damaged_frames():
            raise OutputError(
                f"{path}: the checksums of {len(damaged)} of {len(trajectory)} frames differ, and nothing mends them: "
                f"{', '.join(map(str, damaged[:10]))}{' ...' if len(damaged) > 10 else ''}, counted from 0. The others "
                "are whole"
            )


def _cut(writer: TrajectoryWriter | ThermoWriter, count: str, what: str) -> str:
    writer.close()
    return writer.cut or f"whole, {getattr(writer, count)} {what}"
