"""Langevin dynamics keeps the set temperature, oxygen and hydrogen alike (momenta at half steps)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.water import write_input

from allegro_sim.config import load_settings
from allegro_sim.dynamics.observables import KineticSums
from allegro_sim.kernels.cpu.fixed_point import words_to_float
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.simulation import Simulation
from allegro_sim.units import BOLTZMANN

TEMPERATURE = 300.0


def temperatures(simulation: Simulation) -> np.ndarray:
    """Run, and return the temperature of each type at every step, (steps, nt), K, from the kinetic energies
    reported.
    """
    kinetic = []
    reported = simulation.integrator.kinetic_sums

    def record(system) -> KineticSums:
        sums = reported(system)
        kinetic.append(words_to_float(sums.energy_words))
        return sums

    simulation.integrator.kinetic_sums = record
    simulation.run()
    counts = np.bincount(simulation.system.types[: simulation.system.num_owned])
    return 2.0 * np.array(kinetic)[1:] / (3 * counts * BOLTZMANN)


def mean_with_error(values: np.ndarray, blocks: int = 25) -> tuple[float, float]:
    """Mean, and its standard error from block averages; blocks are many times the bath's 10 fs."""
    means = values[: len(values) // blocks * blocks].reshape(blocks, -1).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(blocks))


@pytest.mark.parametrize(
    ("steps", "timestep"),
    [(5000, 0.5), pytest.param(40000, 0.5, marks=pytest.mark.slow), pytest.param(40000, 1.0, marks=pytest.mark.slow)],
)
def test_every_type_has_the_set_temperature(
    steps: int, timestep: float, tmp_path: Path, inputs: Path, repository: Path
) -> None:
    """Within four standard errors (one run in 10,000 would miss): at most 2.5 % in the short run, 1 % in the long.

    At 1 fs full-step momenta of hydrogen would be several per cent cold.
    """
    source = write_input(
        tmp_path / "input.toml",
        inputs / "water" / "water.h5",
        repository / "tests" / "data" / "water24.xyz",
        tmp_path / "output",
        run={"steps": steps, "timestep_fs": timestep, "precision": "single"},
        dynamics={"ensemble": "langevin", "temperature_K": TEMPERATURE, "friction_per_ps": 100.0},
        output={"trajectory_every": 0, "thermo_every": 1, "checkpoint_every": 0},
    )
    series = temperatures(Simulation(load_settings(source), SerialComm()))
    for values in series.T:
        mean, error = mean_with_error(values)
        assert error < (0.025 if steps < 10000 else 0.01) * TEMPERATURE
        assert abs(mean - TEMPERATURE) < 4.0 * error
