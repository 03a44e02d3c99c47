"""Whole runs with `device = "cuda"`: outputs, restart, guards, minimisation; only the GPU is replaced."""

from __future__ import annotations

import time

import ase
import ase.io
import h5py
import numpy as np
import pytest
from support.cuda_harness import HostDevice, HostExecutor
from support.device_motion import periodic_case
from support.survival import contents, differing

import allegro_sim.potential.cuda.potential as cuda_module
from allegro_sim.config import load_settings
from allegro_sim.errors import GuardStop, RunStopped
from allegro_sim.gpu.descent import DeviceDescent
from allegro_sim.model.weight_file import save_model
from allegro_sim.output.run_files import RunFiles
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.potential.cuda import device
from allegro_sim.simulation import Simulation
from allegro_sim.stops import TIME_IS_UP

pytestmark = pytest.mark.simulator


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose GPU is this processor."""
    monkeypatch.setattr(device, "find_device", lambda local_rank: HostDevice())
    monkeypatch.setattr(cuda_module, "_gpu_executor", lambda local_rank: HostExecutor())


@pytest.fixture
def start(gpu, tmp_path):
    """start(name, device, *settings, restart): a run of ten atoms with a model that takes a moment."""
    case = periodic_case()
    save_model(tmp_path / "model.h5", case.model, {}, [])
    symbols = [case.model.type_names[t] for t in case.types]
    atoms = ase.Atoms(symbols, positions=case.positions, cell=case.vectors, pbc=True)
    ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")

    def begin(name: str, device: str = "cuda", *settings: str, restart: str | None = None) -> Simulation:
        (tmp_path / f"{name}.toml").write_text(f"""
            model.file = "{tmp_path / "model.h5"}"
            structure.file = "{tmp_path / "start.xyz"}"
            run = {{ steps = 8, timestep_fs = 1.0, seed = 1, device = "{device}", precision = "double" }}
            neighbors.skin_A = 0.2
            dynamics = {{ ensemble = "langevin", temperature_K = 400.0, friction_per_ps = 5.0 }}
            output.directory = "{tmp_path / name}"
            output.thermo_every = 3
            output.trajectory_every = 4
            output.checkpoint_every = 5
            output.velocities = true
            output.forces = true
            output.precision = "double"
        """)
        return Simulation(load_settings(tmp_path / f"{name}.toml", settings), SerialComm(), restart=restart)

    begin.folder = tmp_path
    return begin


def frames(folder):
    with h5py.File(folder / "trajectory.h5md", "r", locking=False) as file:
        particles = file["particles/all"]
        return {name: particles[name]["value"][()] for name in ("position", "velocity", "force")} | {
            "step": particles["position/step"][()]
        }


def thermo(folder):
    return np.genfromtxt(folder / "thermo.csv", delimiter=",", names=True)


def test_a_run_writes_what_the_cpu_writes(start):
    for name in ("cpu", "cuda"):
        start(name, name).run()
    found, expected = frames(start.folder / "cuda"), frames(start.folder / "cpu")
    assert found["step"].tolist() == expected["step"].tolist() == [0, 4, 8]
    for name in ("position", "velocity"):
        assert np.abs(found[name] - expected[name]).max() <= 1e-10
    # kJ/mol/Å, a hundred times eV/Å
    assert np.abs(found["force"] - expected["force"]).max() <= 1e-7 * max(1.0, np.abs(expected["force"]).max())
    found, expected = thermo(start.folder / "cuda"), thermo(start.folder / "cpu")
    assert found["step"].tolist() == expected["step"].tolist() == [0, 3, 6, 8]
    for column in expected.dtype.names:
        assert np.allclose(found[column], expected[column], rtol=1e-8, atol=1e-8), column


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_frame_is_written_while_the_next_step_is_computed(start, monkeypatch, device):
    """A disk that takes a frame only once the atoms have moved on; with the GPU, they leave it no earlier than then."""
    often = ("output.trajectory_every=1", "output.thermo_every=1", "output.checkpoint_every=2", "run.steps=5")
    start("free", device, *often).run()
    simulation = start("blocked", device, *often)
    write, waited = RunFiles.write, []

    def wait(files, due, step, *rest):
        deadline = time.monotonic() + 20.0
        while simulation.motion.step == step < 5:
            assert time.monotonic() < deadline, "the run waits for its output"
            time.sleep(0.001)
        waited.append(step)
        write(files, due, step, *rest)

    monkeypatch.setattr(RunFiles, "write", wait)
    simulation.run()
    assert waited == list(range(6))
    assert differing(contents(start.folder / "blocked"), contents(start.folder / "free")) == ["checkpoint/settings"]
    if device == "cuda":
        executor = simulation.potential.engine.executor
        # Ten atoms: ids and three times three numbers each. Checkpoints take no more than the frame beside them.
        crossed = sum(size for way, size in executor.copies if way == "to the host, meanwhile")
        assert crossed == 6 * 10 * (8 + 3 * 24)
        assert len(executor.pinned) == 2 * 4


def test_a_restart_gives_the_bits_of_an_uninterrupted_run(start):
    """Stopped in the middle, continued with another skin, another number of steps ahead, and graphs."""
    whole = start("whole", "cuda", "gpu.graphs=off")
    whole.run()
    first = start("parts")
    ask = iter([0.0, 0.0, TIME_IS_UP])
    first.stops.request = lambda: next(ask, TIME_IS_UP)
    with pytest.raises(RunStopped):
        first.run()
    assert 0 < first.step < 8
    start("parts", "cuda", "neighbors.skin_A=0.6", "gpu.steps_ahead=2", "gpu.graphs=on", restart="").run()
    found, expected = frames(start.folder / "parts"), frames(start.folder / "whole")
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name
    assert (start.folder / "parts/thermo.csv").read_text() == (start.folder / "whole/thermo.csv").read_text()


def test_a_guard_ends_a_run_where_the_cpu_ends(start):
    messages = []
    for name in ("cpu", "cuda"):
        with pytest.raises(GuardStop) as stop:
            start(name, name, "guards.max_force_eV_A=0.01").run()
        messages.append(str(stop.value).replace(f"/{name}/", "/"))
        positions = ase.io.read(start.folder / name / "stopped-000000000.xyz").positions
        assert np.isfinite(positions).all()
    assert messages[0] == messages[1]


def test_a_minimisation_goes_before_a_run(start):
    minimize = ("minimize.max_steps=3", "minimize.force_tolerance_eV_A=1e-9", "run.steps=1")
    found = {}
    for name in ("cpu", "cuda"):
        start(name, name, *minimize).run()
        found[name] = ase.io.read(start.folder / name / "minimized.xyz"), frames(start.folder / name)["position"]
    assert np.abs(found["cuda"][0].positions - found["cpu"][0].positions).max() <= 1e-9
    assert np.abs(found["cuda"][1] - found["cpu"][1]).max() <= 1e-9


def test_a_minimisation_that_is_interrupted_goes_on_with_the_same_bits(start):
    """Continued with another skin; its checkpoint has the velocities of FIRE, by atom."""
    minimize = ("minimize.max_steps=4", "minimize.force_tolerance_eV_A=1e-9", "run.steps=1")
    start("whole", "cuda", *minimize).run()
    first = start("parts", "cuda", *minimize)
    ask = iter([0.0, 0.0, TIME_IS_UP])
    first.stops.request = lambda: next(ask, TIME_IS_UP)
    with pytest.raises(RunStopped, match="in the minimisation"):
        first.run()
    start("parts", "cuda", *minimize, "neighbors.skin_A=0.6", restart="").run()
    for name in ("minimize.csv", "minimized.xyz", "thermo.csv"):
        assert (start.folder / "parts" / name).read_text() == (start.folder / "whole" / name).read_text(), name


def test_a_fault_ends_a_minimisation_and_names_the_atom(start, monkeypatch):
    compute, calls = DeviceDescent.compute, iter(range(100))

    def fail_later(descent):
        compute(descent)
        if next(calls) == 1:
            row = int(np.flatnonzero(descent._rows.ids[:10] == 7)[0])
            descent._rows.faults[row], descent._bricks.status[1] = 1, row + 1

    monkeypatch.setattr(DeviceDescent, "compute", fail_later)
    with pytest.raises(GuardStop, match="in step 2 of the minimisation energy or forces are not finite"):
        start("fault", "cuda", "minimize.max_steps=5", "minimize.force_tolerance_eV_A=1e-9").run()
    stopped = ase.io.read(start.folder / "fault/stopped-000000000.xyz")
    assert np.flatnonzero(stopped.arrays["at_fault"]).tolist() == [7]


def test_the_banner_names_gpus_and_the_way_of_ghosts(start, capsys):
    from allegro_sim.output.screen import Screen

    simulation = start("told", "cuda", "run.steps=1", "gpu.images_travel=true")
    simulation.screen = Screen(enabled=True)
    simulation.describe()
    told = capsys.readouterr().out
    assert "GPUs" in told and "0: here" in told and "halo" in told and "host" in told and "steps ahead" in told
    assert "CUDA graphs" in told and "none: with gpu.images_travel ghosts go through the transport" in told
