"""`allegro-tools convert TRAJ.h5md OUT.xyz`: a trajectory as extended XYZ, one frame in memory at a time."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from allegro_sim.errors import OutputError
from allegro_sim.output.trajectory_reader import Frame, TrajectoryReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("trajectory", type=Path, metavar="TRAJ.h5md", help="trajectory of allegro-sim")
    parser.add_argument("output", type=Path, metavar="OUT.xyz", help="extended XYZ to write (.xyz or .extxyz)")
    parser.add_argument("--wrap", action="store_true", help="put atoms into the cell in its periodic directions")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.xyz if it exists")


def run(args: argparse.Namespace) -> int:
    """Convert; returns 0. Raises OutputError when OUT exists, cannot be written, or the trajectory cannot be read."""
    output: Path = args.output
    if output.suffix not in (".xyz", ".extxyz"):
        raise OutputError(f"{output}: give a name that ends in .xyz or .extxyz; other formats are not written")
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output}: exists already; give another name or --overwrite")
    unfinished = output.with_name(f".{output.name}.new")
    with TrajectoryReader(args.trajectory) as trajectory:
        try:
            with open(unfinished, "w", encoding="utf-8") as stream:
                for frame in trajectory:
                    ase.io.write(stream, atoms_of(trajectory, frame, wrap=args.wrap), format="extxyz")
            os.replace(unfinished, output)
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from None
        finally:
            unfinished.unlink(missing_ok=True)
        print(f"{output}: {trajectory.num_frames} frames of {trajectory.num_atoms} atoms")
    return 0


def atoms_of(trajectory: TrajectoryReader, frame: Frame, *, wrap: bool = False) -> ase.Atoms:
    """A frame as ASE's Atoms, in ASE's units; energy and forces, where there are any, as a calculator's results.

    `info` holds step and time_fs. Stored velocities become momenta.
    """
    symbols = np.array(trajectory.symbols)[trajectory.species]
    atoms = ase.Atoms(
        symbols=list(symbols),
        positions=frame.positions,
        masses=trajectory.masses,
        cell=frame.cell,
        pbc=trajectory.pbc,
        info={"step": frame.step, "time_fs": frame.time_fs},
    )
    if trajectory.type_names != trajectory.symbols:
        atoms.set_array("type", np.array(trajectory.type_names)[trajectory.species])
    if frame.velocities is not None:
        atoms.set_velocities(frame.velocities / ase.units.fs)
    if wrap:
        atoms.wrap()
    results: dict[str, object] = {}
    if not np.isnan(frame.observables.get("potential_energy", np.nan)):
        results["energy"] = frame.observables["potential_energy"]
    if frame.forces is not None:
        results["forces"] = frame.forces
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
