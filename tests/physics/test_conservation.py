"""Newton's equations are kept: energy, reversibility, and the same path as another program's velocity Verlet.

24 atoms of water near 300 K with the bundled model, in `double`, from an equilibrated state: tests/data/water24.xyz,
after 8 ps of Langevin dynamics at 300 K with the same model.
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
    """Least-squares slope of the total energy over 20 ps, eV/atom/ps, within the bound and two standard errors.

    Four stretches of 5 ps from the equilibrated positions with velocities of their own: the bundled model is of
    demonstration quality, and a single long run may leave the liquid after 5 ps or more (oxygens fall into each other,
    0.7 Å apart, and the temperature soars). A stretch in which that happened is of another system, and drawn anew.
    """
    every = round(5.0 / timestep)
    stretches: list[tuple[np.ndarray, np.ndarray]] = []
    for seed in range(1, 17):
        if len(stretches) == 4:
            break
        frames = run_water(
            tmp_path / str(seed),
            model,
            water,
            run={"steps": round(5000.0 / timestep), "timestep_fs": timestep, "precision": "double", "seed": seed},
            velocities={"temperature_K": 300.0},
            dynamics={"ensemble": "nve"},
            output={"trajectory_every": every, "thermo_every": 0, "checkpoint_every": 0},
        )
        if frames["temperature"].max() < 700.0:  # 24 atoms fluctuate by 15 %
            stretches.append((frames["time_fs"] * 1.0e-3, frames["total_energy"] / len(water)))
    assert len(stretches) == 4, "the water hardly ever stays a liquid"
    slope, error = common_slope(stretches)
    print(f"timestep {timestep} fs: drift {slope:.2e} +- {error:.2e} eV/atom/ps")
    assert abs(slope) < bound + 2.0 * error


def common_slope(stretches: list[tuple[np.ndarray, np.ndarray]], blocks: int = 10) -> tuple[float, float]:
    """Least-squares slope common to all stretches, each with an offset of its own, and its standard error from averages
    over blocks of half a picosecond, longer than the energy's correlation.
    """
    times, values = [], []
    for t, y in stretches:
        length = len(t) // blocks
        t = t[: blocks * length].reshape(blocks, length).mean(axis=1)
        y = y[: blocks * length].reshape(blocks, length).mean(axis=1)
        times.append(t - t.mean())
        values.append(y - y.mean())
    t, y = np.concatenate(times), np.concatenate(values)
    slope = (t @ y) / (t @ t)
    residuals = y - slope * t
    freedom = len(y) - len(stretches) - 1
    return float(slope), float(np.sqrt((residuals @ residuals) / freedom / (t @ t)))
