"""Steps on a real GPU: what the CPU runner shows of launches and bits, shown once more where it counts."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import h5py
import numpy as np
import pytest
from support.device_motion import advance, assert_same_bits, descend, make, periodic_case, state

from allegro_sim.dynamics.fire import Fire
from allegro_sim.kernels.cpu.descent import descend as descend_on_cpu
from allegro_sim.kernels.cpu.fixed_point import forces_to_float

pytestmark = pytest.mark.gpu


def on_gpu(**options):
    from allegro_sim.potential.cuda.device import find_device
    from allegro_sim.potential.cuda.executor import CudaExecutor

    return make(periodic_case(num_atoms=60), executor=CudaExecutor(find_device()), **options)


@pytest.mark.parametrize("bath", [False, True], ids=["nve", "langevin"])
def test_steps_are_those_of_the_cpu(bath):
    found, expected = on_gpu(bath=bath, steps_ahead=20), make(periodic_case(num_atoms=60), "cpu", bath=bath)
    for motion in (found, expected):
        advance(motion, 50)
    found, expected = state(found), state(expected)
    forces = [forces_to_float(x["forces"]) for x in (found, expected)]
    # Forces differ in their last bits: 50 steps amplify them a thousandfold.
    assert np.abs(forces[0] - forces[1]).max() <= 1e-8 * max(1.0, np.abs(forces[1]).max())
    assert np.abs(found["positions"] - expected["positions"]).max() <= 1e-9


@pytest.mark.parametrize("bath", [False, True], ids=["nve", "langevin"])
def test_how_steps_are_launched_does_not_change_a_bit(bath):
    runs = []
    for options in (
        {"steps_ahead": 1, "graphs": "off"},
        {"steps_ahead": 20, "graphs": "off"},
        {"steps_ahead": 20, "graphs": "on"},
        {"images_travel": True},
        {"skin": 0.0, "graphs": "on"},
        {"skin": 0.5},
        {"skin": 0.8},
        {"skin": 1.0},
    ):
        motion = on_gpu(bath=bath, **options)
        advance(motion, 40)
        assert options.get("graphs") != "on" or motion.graph.num_launches > 0
        runs.append(state(motion))
    for found in runs:
        assert_same_bits(found, runs[0])


def test_a_minimisation_has_the_same_bits_however_it_is_launched_and_is_that_of_the_cpu(monkeypatch):
    """And of the same forces an atom moves by the bits of the CPU: the first step."""
    runs = []
    for options in ({}, {"images_travel": True}, {"skin": 0.0}, {"skin": 0.8}, {"chunk_edges": 512}):
        motion = on_gpu(**options)
        slopes = descend(motion, 20)
        runs.append({"slopes": np.array([astuple(slope) for slope in slopes]), **state(motion)})
    for found in runs:
        assert_same_bits(found, runs[0])
    expected = descend(make(periodic_case(num_atoms=60), "cpu"), 20)
    assert np.allclose(runs[0]["slopes"], [astuple(slope) for slope in expected], rtol=1e-6, atol=1e-7)

    motion = on_gpu(skin=2.0)
    descent, fire = motion.descent(), Fire(0.01)
    move = fire.next_move(descent.measure())
    before, forces = (motion.executor.download(motion.rows.owned(name)) for name in ("positions", "forces"))
    velocities = motion.executor.download(motion.rows.owned("velocities"))
    copied, download = [], motion.executor.download
    monkeypatch.setattr(motion.executor, "download", lambda array: (copied.append(array.nbytes), download(array))[1])
    descent.move(move)
    descent.settle(0.0)
    descent.compute()
    descent.measure()
    assert copied == [112]
    descend_on_cpu(before, velocities, forces, *astuple(move), len(before))
    assert np.array_equal(download(motion.rows.owned("positions")), before)
    assert np.array_equal(download(motion.rows.owned("velocities")), velocities)


def test_a_snapshot_is_of_its_step_while_the_next_are_computed():
    """Twice as many as there are sets of memory, each waited for by another thread when the atoms have moved on."""
    names = ("positions", "velocities", "forces")
    motion = on_gpu(bath=True)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(4):
            kept = {name: motion.executor.download(motion.rows.owned(name)) for name in ("ids", *names)}
            snapshot = motion.snapshot(names)
            advance(motion, 5, measure=False)
            for name, found in pool.submit(snapshot.wait).result().items():
                assert np.array_equal(found, kept[name]), name


def test_nccl_carries_the_same_bits():
    from allegro_sim.gpu.nccl import nccl_is_there

    if missing := nccl_is_there():
        pytest.skip(missing)
    runs = []
    for transport in ("host", "nccl"):
        motion = on_gpu(images_travel=True, transport=transport)
        advance(motion, 20)
        runs.append(state(motion))
    assert_same_bits(runs[1], runs[0])


@pytest.mark.parametrize("graphs", ["on", "off"])
def test_a_steady_step_allocates_nothing_and_copies_the_control_words_alone(graphs, monkeypatch):
    import cupy

    motion = on_gpu(steps_ahead=20, skin=2.0, graphs=graphs)
    advance(motion, 6)
    copied = []
    download = motion.executor.download
    monkeypatch.setattr(motion.executor, "download", lambda array: (copied.append(array.nbytes), download(array))[1])
    monkeypatch.setattr(motion.executor, "upload", lambda *_: pytest.fail("a copy to the device"))

    class Counter(cupy.cuda.MemoryHook):
        name = "counter"
        allocations = 0

        def malloc_preprocess(self, **_):
            self.allocations += 1

    with Counter() as counter:
        found = motion.advance(5, measure=False, asked=lambda: 0.0)
    assert found.step == 11 and motion.neighbors.num_builds == 1
    assert counter.allocations == 0
    assert copied == [128]
    assert motion.graph.num_launches == (9 if graphs == "on" else 0)  # all plain steps but the first


@pytest.mark.mpi
def test_ranks_that_share_a_gpu_agree(mpirun, inputs, tmp_path):
    """The program itself, with all its outputs: one, two and four ranks, halos through the host; and on the CPU."""
    frames = {}
    for ranks, device in ((1, "cuda"), (2, "cuda"), (4, "cuda"), (2, "cpu")):
        output = tmp_path / f"{device}-{ranks}"
        changes = [f'run.device="{device}"', f'output.directory="{output}"', "run.steps=40", 'run.precision="double"']
        command = [sys.executable, "-m", "allegro_sim", inputs / "water" / "smoke.toml"]
        done = mpirun(ranks, *command, *(f"--set={change}" for change in changes), timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        with h5py.File(output / "trajectory.h5md") as file:
            atoms = file["particles/all"]
            frames[ranks, device] = [atoms[name]["value"][()] for name in ("position", "velocity", "force")]
    for ranks in (2, 4):
        for found, expected in zip(frames[ranks, "cuda"], frames[1, "cuda"], strict=True):
            assert np.array_equal(found, expected)
    # Forces differ in their last bits.
    assert np.abs(frames[1, "cuda"][0] - frames[2, "cpu"][0]).max() < 1e-6
