"""Evaluation, calculator and molecular dynamics with device = "cuda": only the GPU is replaced."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from support.cuda_harness import HostDevice, HostExecutor
from support.legacy import legacy_model

import allegro_sim.potential.cuda.potential as cuda_module
from allegro_sim.calculator import AllegroCalculator
from allegro_sim.config import load_settings
from allegro_sim.model.weight_file import save_model
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.potential.cuda import device
from allegro_sim.simulation import Simulation

pytestmark = pytest.mark.simulator


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose GPU is this processor."""
    monkeypatch.setattr(device, "find_device", lambda local_rank: HostDevice())
    monkeypatch.setattr(cuda_module, "_gpu_executor", lambda local_rank: HostExecutor())


def test_calculator_gives_the_cpus_numbers(gpu, repository, inputs):
    results = {}
    for name in ("cpu", "cuda", "auto"):
        atoms = ase.io.read(repository / "tests" / "data" / "water24.xyz")
        atoms.calc = AllegroCalculator(inputs / "water" / "water.h5", device=name, precision="double")
        results[name] = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_stresses()
        assert atoms.calc._evaluator.potential.device == ("cpu" if name == "cpu" else "cuda")
    for wanted, found, again in zip(*results.values(), strict=True):
        assert np.abs(np.asarray(found) - wanted).max() <= 1e-9 * max(1.0, np.abs(wanted).max())
        assert np.array_equal(found, again)
    assert "auto, since there is CPU runner" in atoms.calc._evaluator.potential.description


def run(folder, inputs, repository, name, precision="double", steps=4, model=None):
    """Positions, forces (2^-40 eV/Å), and how often the list was built."""
    text = f"""
        model.file = "{model or inputs / "water" / "water.h5"}"
        structure.file = "{repository / "tests" / "data" / "water24.xyz"}"
        run = {{ steps = {steps}, timestep_fs = 2.0, seed = 1, device = "{name}", precision = "{precision}" }}
        velocities.temperature_K = 900.0
        neighbors.skin_A = 0.1
        dynamics.ensemble = "nve"
        output.directory = "{folder / name}"
        output.thermo_every = 1
    """
    (folder / f"{name}.toml").write_text(text)
    simulation = Simulation(load_settings(folder / f"{name}.toml"), SerialComm())
    simulation.run()
    system = simulation.motion.atoms()
    order = np.argsort(system.ids[: system.num_owned])
    positions, forces = (array[: system.num_owned][order] for array in (system.positions, system.forces))
    return simulation, positions, forces


def test_dynamics_follow_those_of_the_cpu_through_rebuilds(gpu, inputs, repository, tmp_path):
    _, positions, forces = run(tmp_path, inputs, repository, "cpu")
    simulation, found_positions, found_forces = run(tmp_path, inputs, repository, "cuda")
    assert simulation.motion.neighbors.num_builds > 2
    # Forces agree to a unit or two of 2^-40; four steps do not amplify that.
    assert np.abs(found_positions - positions).max() <= 1e-12
    assert np.abs(found_forces - forces).max() <= 2**10
    table = (tmp_path / "cuda" / "thermo.csv").read_text().splitlines()
    assert len(table) >= 5


@pytest.mark.parametrize(
    "name",
    [
        "uuup_self_edge",
        pytest.param("three_layer_cutoffs", marks=pytest.mark.slow),
        pytest.param("replaced_layer_cutoffs", marks=pytest.mark.slow),
    ],
)
def test_dynamics_of_the_legacy_generation_follow_those_of_the_cpu(gpu, inputs, repository, tmp_path, name):
    file = tmp_path / "model.h5"
    save_model(file, legacy_model(name), {}, [])
    _, positions, forces = run(tmp_path, inputs, repository, "cpu", steps=2, model=file)
    simulation, found_positions, found_forces = run(tmp_path, inputs, repository, "cuda", steps=2, model=file)
    assert simulation.potential.device == "cuda"
    assert np.abs(found_positions - positions).max() <= 1e-12
    assert np.abs(found_forces - forces).max() <= 2**10
    assert np.abs(forces).max() > 2**30


def test_mixed_is_the_default_of_a_run_on_a_gpu(gpu, inputs, repository, tmp_path):
    simulation, *_ = run(tmp_path, inputs, repository, "auto", "auto", steps=1)
    assert (simulation.potential.device, simulation.potential.precision) == ("cuda", "mixed")
    for part in ("CPU runner", "TF32", "chunks of", "padding"):
        assert part in simulation.potential.description
