"""The protein in water of inputs/dhfr: minimised, then 1 ps at 300 K; it must still be that protein, in water."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.neighborlist import build_neighbor_list, natural_cutoffs

from allegro_sim.output.trajectory_reader import TrajectoryReader


def bonded_pairs(atoms: ase.Atoms, inside: np.ndarray) -> np.ndarray:
    """Covalent bonds among the atoms `inside`, (pairs, 2): within 1.1 times the sum of radii; hydrogen's below 1.3 Å,
    which leaves hydrogen bonds out."""
    found = build_neighbor_list(atoms, natural_cutoffs(atoms, mult=1.1), self_interaction=False, bothways=False)
    pairs = np.array([(i, j) for i in np.flatnonzero(inside) for j in found.get_neighbors(i)[0] if inside[j]])
    with_hydrogen = (atoms.numbers[pairs] == 1).any(axis=1)
    return pairs[~with_hydrogen | (lengths(atoms.positions, atoms.cell.array, pairs) < 1.3)]


def lengths(positions: np.ndarray, cell: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Distances of pairs, Å, by the nearest image."""
    return np.linalg.norm(separations(positions, cell, pairs), axis=1)


def separations(positions: np.ndarray, cell: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Vectors from the first to the second atom of pairs, Å, by the nearest image."""
    vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    return vectors - np.round(vectors @ np.linalg.inv(cell)) @ cell


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_protein_in_water_holds_for_a_picosecond(tmp_path: Path, inputs: Path) -> None:
    command = [sys.executable, "-m", "allegro_sim", str(inputs / "dhfr" / "nvt.toml")]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]

    atoms = ase.io.read(inputs / "dhfr" / "dhfr.pdb.gz")
    cell = atoms.cell.array
    in_water = np.array([name.strip() == "HOH" for name in atoms.arrays["residuenames"]])
    bonds = bonded_pairs(atoms, ~in_water)
    before = lengths(atoms.positions, cell, bonds)
    oxygens = np.flatnonzero(in_water & (atoms.numbers == 8))
    assert (atoms.numbers[oxygens + 1] == 1).all() and (atoms.numbers[oxygens + 2] == 1).all()
    with TrajectoryReader(tmp_path / "dhfr-nvt" / "trajectory.h5md") as trajectory:
        frames = [np.asarray(frame.positions, np.float64) for frame in trajectory]
    assert len(frames) == 51
    for positions in frames:
        # A bond that breaks is soon twice as long; the largest thermal stretch, of O-H at 300 K, is about a quarter.
        assert (lengths(positions, cell, bonds) < 1.4 * before).all()
        first, second = (separations(positions, cell, np.stack([oxygens, oxygens + n], axis=1)) for n in (1, 2))
        sizes = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
        assert max(size.max() for size in sizes) < 1.25
        angles = np.degrees(np.arccos((first * second).sum(axis=1) / (sizes[0] * sizes[1])))
        # GFN2-xTB's water: 0.96 Å, 107 degrees.
        assert abs(np.mean(sizes) - 0.97) < 0.02 and abs(angles.mean() - 106.5) < 2.0
    thermo = np.genfromtxt(tmp_path / "dhfr-nvt" / "thermo.csv", delimiter=",", names=True)
    # Once the bath has acted for half a picosecond; one sample of so many atoms scatters by 1.6 K.
    assert abs(thermo["temperature_K"][thermo["time_ps"] > 0.5].mean() - 300.0) < 10.0
