"""Small trajectories with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allegro_sim.output.thermo import THERMO_COLUMNS
from allegro_sim.output.trajectory import TrajectoryWriter

ORTHOGONAL = np.diag([7.0, 8.0, 9.0])
TRICLINIC = np.array([[7.0, 0.0, 0.0], [1.5, 8.0, 0.0], [-0.5, 2.0, 9.0]])
NUM_ATOMS = 6
SPECIES = np.array([0, 1, 1, 0, 1, 1])


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
        masses=np.array([15.999, 1.008])[SPECIES],
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
