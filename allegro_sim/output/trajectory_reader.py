"""Frame by frame through a trajectory of this program, also one that a kill cut short or that is still growing.

with TrajectoryReader(path) as trajectory:
    for frame in trajectory:
        frame.positions, frame.cell, ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from allegro_sim.errors import OutputError
from allegro_sim.output.h5md import GROUPS, count_complete, count_whole, is_checksum_error, read_steps
from allegro_sim.units import KJ_PER_MOL

_PER_FRAME = ("position", "velocity", "force", "box/edges")


@dataclass(frozen=True)
class Frame:
    """One frame; atoms in input order."""

    step: int
    time_fs: float
    positions: np.ndarray  # (N, 3) float64 Å, unwrapped
    cell: np.ndarray | None  # (3, 3) float64 Å, rows are lattice vectors
    velocities: np.ndarray | None  # (N, 3) float64 Å/fs
    forces: np.ndarray | None  # (N, 3) float64 eV/Å
    observables: dict[str, float]  # h5md.OBSERVABLES


class TrajectoryReader:
    """Reads the frames that count.

    Attributes
    ----------
    num_atoms, num_frames : int
    type_names, symbols : tuple of str, per type
    species : int32 (N,), index into them
    masses : float64 (N,), Da
    pbc : bool (3,)
    input_text : str; provenance : dict

    Raises OutputError when the file is missing, damaged, or not a trajectory of this program.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise OutputError(f"{self.path}: there is no such trajectory file")
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise OutputError(f"{self.path}: is not an HDF5 file, or damaged: {error}") from None
        try:
            self._read_header()
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            self._file.close()
            raise OutputError(f"{self.path}: is not a trajectory of this program, or damaged: {error}") from None

    def _read_header(self) -> None:
        file = self._file
        all_atoms = file["particles/all"]
        self._atoms = all_atoms
        self.species = all_atoms["species"][()].astype(np.int32)
        self.masses = all_atoms["mass"][()]
        self.type_names = tuple(file["parameters/types/name"].asstr()[()])
        self.symbols = tuple(file["parameters/types/element"].asstr()[()])
        self.input_text: str = file["parameters/input"].asstr()[()]
        self.provenance: dict[str, Any] = json.loads(file["parameters/provenance"].asstr()[()])
        boundary = [
            value.decode() if isinstance(value, bytes) else value for value in all_atoms["box"].attrs["boundary"]
        ]
        self.pbc = np.array([value == "periodic" for value in boundary])
        values = [all_atoms[f"{name}/value"] for name in _PER_FRAME if name in all_atoms]
        values += [group["value"] for group in file["observables"].values()]
        steps = read_steps(all_atoms["position/step"])
        self.num_frames = count_complete(steps, [all_atoms["position/time"], *values])
        self._steps = steps[: self.num_frames]
        self.num_atoms = len(self.species)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[Frame]:
        return (self.frame(index) for index in range(self.num_frames))

    def frame(self, index: int) -> Frame:
        """Frame number `index`; negative counts from the end. Raises OutputError when it cannot be read."""
        if not -self.num_frames <= index < self.num_frames:
            raise OutputError(f"{self.path}: has {self.num_frames} whole frames; there is no frame {index}")
        index %= self.num_frames
        try:
            forces = self._values("force", index)
            cell = self._values("box/edges", index)
            return Frame(
                step=int(self._steps[index]),
                time_fs=float(self._atoms["position/time"][index]),
                positions=np.asarray(self._atoms["position/value"][index], dtype=np.float64),
                cell=cell,
                velocities=self._values("velocity", index),
                forces=None if forces is None else forces / KJ_PER_MOL,
                observables={name: float(group["value"][index]) for name, group in self._file["observables"].items()},
            )
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            if is_checksum_error(error):
                raise OutputError(f"{self.path}: frame {index} is damaged (its checksum differs)") from None
            raise OutputError(f"{self.path}: frame {index} cannot be read: {error}") from None

    def _values(self, name: str, index: int) -> np.ndarray | None:
        return np.asarray(self._atoms[f"{name}/value"][index], dtype=np.float64) if name in self._atoms else None

    def damaged_frames(self) -> list[int]:
        """Numbers of the frames whose positions, velocities or forces have another checksum; reads all of them."""
        datasets = [self._atoms[f"{name}/value"] for name in GROUPS if name in self._atoms]
        return [index for index in range(self.num_frames) if not all(_is_sound(data, index) for data in datasets)]

    def times_fs(self) -> np.ndarray:
        """Times of all frames, fs, float64 (num_frames,)."""
        return np.asarray(self._atoms["position/time"][: self.num_frames], dtype=np.float64)

    def frames_up_to(self, last_step: int | None = None) -> int:
        """Number of frames that count and are not after `last_step`; by default of all."""
        return count_whole(self._steps, last_step)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TrajectoryReader:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _is_sound(dataset: h5py.Dataset, index: int) -> bool:
    try:
        dataset[index]
    except (OSError, RuntimeError) as error:
        if is_checksum_error(error):
            return False
        raise OutputError(f"{dataset.file.filename}: frame {index} cannot be read: {error}") from None
    return True


def count_frames(path: str | Path, last_step: int | None = None) -> int:
    """Frames of a trajectory, up to and with `last_step`. Raises OutputError as TrajectoryReader does."""
    with TrajectoryReader(path) as trajectory:
        return trajectory.frames_up_to(last_step)
