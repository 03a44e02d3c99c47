"""Small trajectories with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.kernels.cpu.fixed_point import FORCE_SCALE
from allegro_sim.output.record import RunRecord
from allegro_sim.output.thermo import THERMO_COLUMNS
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.system import System

ORTHOGONAL = np.diag([7.0, 8.0, 9.0])
TRICLINIC = np.array([[7.0, 0.0, 0.0], [1.5, 8.0, 0.0], [-0.5, 2.0, 9.0]])
NUM_ATOMS = 6
SPECIES = np.array([0, 1, 1, 0, 1, 1])
MASSES = np.array([15.999, 1.008])


def positions_at(step: int) -> np.ndarray:
    """Unwrapped: atoms leave the cell as steps go by. Exact in float32."""
    return np.arange(3.0 * NUM_ATOMS).reshape(NUM_ATOMS, 3) * 0.25 + step


def velocities_at(step: int) -> np.ndarray:
    return np.arange(3.0 * NUM_ATOMS).reshape(NUM_ATOMS, 3)[::-1] * 0.001 + step * 1.0e-5


def forces_at(step: int) -> np.ndarray:
    """eV/Å."""
    return np.sin(positions_at(step))


def thermo_row(step: int) -> dict[str, float | int | None]:
    row: dict[str, float | int | None] = {name: step + 0.1 * n for n, name in enumerate(THERMO_COLUMNS)}
    return row | {"step": step}


def create(path: Path, *, cell: np.ndarray | None = ORTHOGONAL, pbc: bool = True, **options) -> TrajectoryWriter:
    """A writer for two waters."""
    return TrajectoryWriter.create(
        path,
        species=SPECIES,
        type_names=("Ow", "Hw"),
        type_symbols=("O", "H"),
        masses=MASSES[SPECIES],
        cell=cell,
        pbc=[pbc] * 3,
        **options,
    )


def append(writer: TrajectoryWriter, step: int, cell: np.ndarray | None = ORTHOGONAL) -> None:
    """The frame of a step, half a femtosecond each."""
    writer.append(
        step,
        0.5 * step,
        positions_at(step),
        cell=cell,
        velocities=velocities_at(step),
        forces=forces_at(step),
        observables={"potential_energy": -step, "temperature": 300.0 + step},
    )


def record() -> RunRecord:
    """Of a run of two waters."""
    return RunRecord(
        types=SPECIES.astype(np.int32),
        positions=positions_at(0),
        type_names=("O", "H"),
        type_symbols=("O", "H"),
        type_masses=MASSES,
        cell=ORTHOGONAL,
        pbc=np.array([True, True, True]),
        settings={"run": {"steps": 20}},
        input_text="[run]\nsteps = 20\n",
        model_file="model.h5",
        model_sha256="00",
        provenance={"allegro_sim": "1.0"},
    )


def system_at(step: int) -> System:
    """The atoms of a step, in another order than that of their ids."""
    system = System(Cell(ORTHOGONAL, True), MASSES, NUM_ATOMS)
    order = np.array([3, 0, 5, 1, 4, 2])
    system.set_owned(
        order,
        SPECIES[order],
        positions_at(step)[order],
        velocities_at(step)[order],
    )
    system.forces[:NUM_ATOMS] = np.rint(forces_at(step)[order] * FORCE_SCALE)
    return system
