"""Molecular dynamics with other networks than the usual one, through the whole loop: energy, and bits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from support.golden import golden_model, golden_structure
from support.legacy import legacy_model, legacy_structure
from support.run_jobs import digest_frames
from support.water import run_water, write_input

from allegro_sim.config import load_settings
from allegro_sim.model.weight_file import save_model
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.simulation import Simulation


@pytest.fixture(scope="module", params=["legacy", "scatter_features"])
def network(request: pytest.FixtureRequest) -> str:
    """Legacy: the edge itself taken out of its environment, channels mixed. Both: ordered cutoffs, and ZBL to keep
    atoms apart."""
    return request.param


@pytest.fixture(scope="module")
def model(network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.h5"
    loaded = legacy_model("pair_cutoffs_zbl") if network == "legacy" else golden_model("scatter_shared_weights")
    save_model(path, loaded, {}, [])
    return path


@pytest.fixture
def atoms(network: str) -> ase.Atoms:
    if network == "legacy":
        positions, cell, _, types = legacy_structure("pair_cutoffs_zbl", "triclinic")
        return ase.Atoms(["HO"[t] for t in types], positions, cell=cell, pbc=True)
    golden = golden_structure("scatter_shared_weights", "triclinic")
    return ase.Atoms(["OH"[t] for t in golden.types], golden.positions, cell=golden.cell, pbc=True)


def _run(folder: Path, model: Path, atoms: ase.Atoms, steps: int, timestep: float, every: int, **run: object):
    return run_water(
        folder,
        model,
        atoms,
        run={"steps": steps, "timestep_fs": timestep, "precision": "double", **run},
        velocities={"temperature_K": 300.0},
        dynamics={"ensemble": "nve"},
        output={"trajectory_every": every, "thermo_every": 0, "checkpoint_every": 0},
    )


def test_energy_fluctuation_falls_fourfold_as_the_timestep_halves(tmp_path, model, atoms):
    """Velocity Verlet's energy error is of order dt² where forces are derivatives of the energy."""
    fluctuations = []
    for timestep in (0.2, 0.1):
        every = round(0.2 / timestep)
        frames = _run(tmp_path / str(timestep), model, atoms, 200 * every, timestep, every)
        fluctuations.append(frames["total_energy"].std())
    assert abs(fluctuations[0] / fluctuations[1] - 4.0) < 0.6


def test_bits_do_not_depend_on_threads(tmp_path, model, atoms):
    for threads in (1, 3):
        _run(tmp_path / str(threads), model, atoms, 40, 0.2, 20, threads=threads)
    digests = [digest_frames(next((tmp_path / str(threads)).rglob("trajectory.h5md"))) for threads in (1, 3)]
    assert digests[0] == digests[1]
    assert np.size(list(digests[0])) >= 3


def test_bits_do_not_depend_on_ranks_and_survive_a_restart_on_others(tmp_path, model, atoms, mpirun):
    """40 steps on one rank; on two; and 20 on two, continued on one. Both precisions, with a thermostat."""
    structure = tmp_path / "structure.traj"
    ase.io.write(structure, atoms)
    jobs = []
    for precision in ("double", "single"):
        for name, steps in (("one", 40), ("two", 40), ("half", 20)):
            source = write_input(
                tmp_path / f"{name}-{precision}.toml",
                model,
                structure,
                tmp_path / f"{name}-{precision}",
                run={"steps": steps, "timestep_fs": 0.2, "precision": precision},
                dynamics={"ensemble": "langevin", "temperature_K": 300.0, "friction_per_ps": 5.0},
                output={"trajectory_every": 20, "thermo_every": 0, "checkpoint_every": 20},
            )
            if name != "one":
                jobs.append({"name": source.stem, "input": str(source), "set": []})
    listed = tmp_path / "jobs.json"
    listed.write_text(json.dumps(jobs))
    script = Path(__file__).resolve().parent.parent / "support" / "run_jobs.py"
    done = mpirun(2, sys.executable, script, listed, tmp_path / "results.json", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    on_two = json.loads((tmp_path / "results.json").read_text())
    for precision in ("double", "single"):
        Simulation(load_settings(tmp_path / f"one-{precision}.toml"), SerialComm()).run()
        more = load_settings(tmp_path / f"half-{precision}.toml", ["run.steps=40"])
        Simulation(more, SerialComm(), restart="").run()
        whole, continued = (
            digest_frames(tmp_path / f"{name}-{precision}" / "trajectory.h5md") for name in ("one", "half")
        )
        assert len(whole) == 3
        assert on_two[f"two-{precision}"] == whole
        assert continued == whole
