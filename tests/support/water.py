"""Small boxes of water for molecular dynamics with the bundled model, and short runs of the program on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np

from allegro_sim.config import load_settings
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.simulation import Simulation
from allegro_sim.units import ACCELERATION

SPACING = 3.1
"""Å between molecules: the density of the liquid."""


def water_molecules(places: np.ndarray, seed: int = 0) -> ase.Atoms:
    """Water molecules, oxygen, hydrogen, hydrogen, at the given places (M, 3), turned at random."""
    rng = np.random.default_rng(seed)
    half_angle, bond = np.radians(104.5 / 2.0), 0.97
    arm = bond * np.array([np.sin(half_angle), np.cos(half_angle), 0.0])
    molecule = np.array([[0.0, 0.0, 0.0], arm, arm * [-1.0, 1.0, 1.0]])
    positions = []
    for place in places:
        q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        positions.append(molecule @ q + place)
    return ase.Atoms("OHH" * len(places), positions=np.concatenate(positions))


def grid(counts: Sequence[int]) -> np.ndarray:
    """Corners of a cubic lattice, (product of counts, 3), in units of its spacing."""
    return np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 3).astype(float)


def write_input(path: Path, model: Path, structure: Path, directory: Path, **sections: dict[str, object]) -> Path:
    """An input file for a short run, every frame in double precision; `sections` add or replace keys."""
    merged: dict[str, dict[str, object]] = {
        "model": {"file": str(model)},
        "structure": {"file": str(structure)},
        "run": {"device": "cpu", "threads": 1, "seed": 7},
        "output": {"directory": str(directory), "velocities": True, "forces": True, "precision": "double"},
    }
    for section, values in sections.items():
        merged[section] = merged.get(section, {}) | values
    lines = []
    for section, values in merged.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
            lines.append(f"{key} = {text}")
    path.write_text("\n".join(lines) + "\n")
    return path


def run_water(folder: Path, model: Path, atoms: ase.Atoms, **sections: dict[str, object]) -> dict[str, np.ndarray]:
    """Run a simulation of `atoms` in this process, on one rank, in `folder` (made).

    Returns per frame: step (T,), time_fs (T,), position, velocity, force (T, N, 3) in Å, Å/fs and kJ/mol/Å, and the
    observables potential_energy, kinetic_energy, total_energy, temperature (T,) in eV and K.
    """
    folder.mkdir(parents=True)
    structure = folder / "structure.traj"  # ASE's own format keeps every bit
    ase.io.write(structure, atoms)
    source = write_input(folder / "input.toml", model, structure, folder / "output", **sections)
    Simulation(load_settings(source), SerialComm()).run()
    with h5py.File(folder / "output" / "trajectory.h5md", "r") as file:
        particles = file["particles/all"]
        frames = {name: particles[name]["value"][()] for name in ("position", "velocity", "force")}
        frames |= {name: group["value"][()] for name, group in file["observables"].items()}
        return frames | {"step": particles["position/step"][()], "time_fs": particles["position/time"][()]}


def with_velocities(atoms: ase.Atoms, positions: np.ndarray, velocities: np.ndarray) -> ase.Atoms:
    """A copy with positions (Å) and velocities (Å/fs)."""
    moved = atoms.copy()
    moved.positions = positions
    moved.set_velocities(velocities / np.sqrt(ACCELERATION))  # ASE's unit is sqrt(eV/Da)
    return moved
