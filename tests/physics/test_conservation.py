"""Newton's equations are kept: energy, reversibility, and the same path as another program's velocity Verlet.

24 atoms of water at 300 K with the bundled model, in `double`, from an equilibrated state (tests/data/water24.xyz: 5
ps of Langevin dynamics with the same model).
"""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.md.verlet import VelocityVerlet
from support.water import run_water, with_velocities

from allegro_sim import AllegroCalculator
from allegro_sim.units import ACCELERATION


@pytest.fixture(scope="module")
def model(inputs: Path) -> Path:
    return inputs / "water" / "water.h5"


@pytest.fixture
def water(repository: Path) -> ase.Atoms:
    return ase.io.read(repository / "tests" / "data" / "water24.xyz")


def run_nve(folder: Path, model: Path, atoms: ase.Atoms, *, steps: int, timestep: float, every: int = 1):
    return run_water(
        folder,
        model,
        atoms,
        run={"steps": steps, "timestep_fs": timestep, "precision": "double"},
        dynamics={"ensemble": "nve"},
        output={"trajectory_every": every, "thermo_every": 0, "checkpoint_every": 0},
    )


def test_energy_fluctuation_falls_fourfold_as_the_timestep_halves(
    tmp_path: Path, model: Path, water: ase.Atoms
) -> None:
    """The energy that velocity Verlet conserves differs from the true one by a term in dt², so does the fluctuation."""
    fluctuations = []
    for timestep in (1.0, 0.5, 0.25):
        every = round(1.0 / timestep)
        frames = run_nve(tmp_path / str(timestep), model, water, steps=100 * every, timestep=timestep, every=every)
        fluctuations.append(frames["total_energy"].std())
    ratios = np.array(fluctuations[:-1]) / np.array(fluctuations[1:])
    # The next term in dt^4 adds (w dt)^2/4, 10 % for an O-H stretch at 1 fs.
    assert (np.abs(ratios - 4.0) < 0.6).all(), (fluctuations, ratios)


def test_reversed_velocities_lead_back(tmp_path: Path, model: Path, water: ase.Atoms) -> None:
    there = run_nve(tmp_path / "there", model, water, steps=100, timestep=0.5, every=100)
    turned = with_velocities(water, there["position"][-1], -there["velocity"][-1])
    back = run_nve(tmp_path / "back", model, turned, steps=100, timestep=0.5, every=100)
    # Rounding, 1e-15 Å and 2^-40 eV/Å a step, grows with the divergence of trajectories over 50 fs.
    np.testing.assert_allclose(back["position"][-1], water.positions, rtol=0, atol=1e-8)
    np.testing.assert_allclose(-back["velocity"][-1], water.get_velocities() * np.sqrt(ACCELERATION), rtol=0, atol=1e-8)


def test_momentum_and_centre_of_mass_stay(tmp_path: Path, model: Path, water: ase.Atoms) -> None:
    frames = run_nve(tmp_path / "run", model, water, steps=100, timestep=0.5, every=10)
    masses = water.get_masses()[:, None]
    momentum = (masses * frames["velocity"]).sum(axis=1)
    np.testing.assert_allclose(momentum, np.tile(momentum[0], (len(momentum), 1)), atol=1e-11)


def test_same_path_as_the_velocity_verlet_of_ase(tmp_path: Path, model: Path, water: ase.Atoms) -> None:
    """ASE's integrator over our calculator, with our constants, 100 steps: rounding alone is left."""
    calculator = AllegroCalculator(model, device="cpu", precision="double")
    names = list(calculator.model.type_names)
    water.set_masses([calculator.model.masses[names.index(symbol)] for symbol in water.symbols])
    start = water.get_velocities()
    ours = run_nve(tmp_path / "run", model, water, steps=100, timestep=0.5, every=100)
    water.set_velocities(start)
    water.calc = calculator
    VelocityVerlet(water, timestep=0.5 * np.sqrt(ACCELERATION)).run(100)  # ASE's unit of time is Å sqrt(Da/eV)
    np.testing.assert_allclose(water.positions, ours["position"][-1], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("timestep", "bound"), [(0.5, 1.0e-5), (0.25, 2.0e-6)])
def test_energy_does_not_drift(timestep: float, bound: float, tmp_path: Path, model: Path, water: ase.Atoms) -> None:
    """Least-squares slope of the total energy over 20 ps, eV/atom/ps, within the bound and two standard errors."""
    every = round(5.0 / timestep)
    frames = run_nve(tmp_path / "run", model, water, steps=round(20000.0 / timestep), timestep=timestep, every=every)
    times, energies = frames["time_fs"] * 1.0e-3, frames["total_energy"] / len(water)
    slope, error = slope_with_error(times, energies)
    print(f"timestep {timestep} fs: drift {slope:.2e} +- {error:.2e} eV/atom/ps, rms {energies.std():.2e} eV/atom")
    assert abs(slope) < bound + 2.0 * error


def slope_with_error(times: np.ndarray, values: np.ndarray, blocks: int = 20) -> tuple[float, float]:
    """Least-squares slope and its standard error, from averages over blocks longer than any correlation."""
    length = len(times) // blocks
    t = times[: blocks * length].reshape(blocks, length).mean(axis=1)
    y = values[: blocks * length].reshape(blocks, length).mean(axis=1)
    slope, offset = np.polyfit(t, y, 1)
    residuals = y - (slope * t + offset)
    error = np.sqrt((residuals**2).sum() / (blocks - 2) / ((t - t.mean()) ** 2).sum())
    return float(slope), float(error)
