"""Steps with everything on the device: the CPU's, and the same bits however they are launched."""

from __future__ import annotations

import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.device_motion import Case, advance, assert_same_bits, make, periodic_case, small_model, state

from allegro_sim.dynamics.guard import Limits
from allegro_sim.errors import DeviceError
from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.kernels.cpu.fixed_point import forces_to_float
from allegro_sim.potential.cuda.chunks import ChunkTable

pytestmark = pytest.mark.simulator

CLUSTER = (np.array([[0.0, 0, 0], [1.1, 0.1, 0], [0.2, 1.3, 0.2]]), None, np.zeros(3, bool), np.array([0, 1, 0]))


def cluster(speed: float = 0.02) -> Case:
    """Three atoms, no ghosts: a step takes next to nothing."""
    return Case(small_model(), *CLUSTER, speed=speed)


@pytest.mark.parametrize("bath", [False, True], ids=["nve", "langevin"])
def test_steps_are_those_of_the_cpu(bath):
    found, expected = make(periodic_case(), bath=bath), make(periodic_case(), "cpu", bath=bath)
    for motion in (found, expected):
        advance(motion, 6)
    assert found.neighbors.num_builds > 1
    found, expected = state(found), state(expected)
    forces = [forces_to_float(x["forces"]) for x in (found, expected)]
    assert np.abs(forces[0] - forces[1]).max() <= 1e-9 * max(1.0, np.abs(forces[1]).max())
    # A force that is off by 1e-9 eV/Å moves the lightest atom by 1e-12 Å in six steps.
    assert np.abs(found["positions"] - expected["positions"]).max() <= 1e-11
    assert np.abs(found["velocities"] - expected["velocities"]).max() <= 1e-11
    # Kinetic energy and heat, units of 2^-44 eV; the kinetic energy of a noise of 0.1 Å/fs is good to 1e-12 eV.
    assert np.abs(found["bath"] - expected["bath"]).max() <= 2**44 * 1e-9


@pytest.mark.parametrize("bath", [False, True], ids=["nve", "langevin"])
def test_how_steps_are_launched_does_not_change_a_bit(bath):
    """One at a time or ahead, images copied or sent, chunks, order of threads and blocks, age of the list."""
    runs = {}
    for name, options in {
        "one at a time": {"steps_ahead": 1, "graphs": "off"},
        "graphs": {"steps_ahead": 6, "graphs": "on"},
        "images travel": {"images_travel": True},
        "small chunks": {"chunk_edges": 128},
        "reversed": {"order": "reverse", "block_order": "reverse"},
        "a list for every step": {"skin": 0.0},
        "a wide skin": {"skin": 0.8},
    }.items():
        motion = make(periodic_case(), bath=bath, **{"graphs": "off"} | options)
        advance(motion, 6)
        runs[name] = state(motion)
        motion.executor.check_guards()
        assert (motion.graph.num_launches > 0) == (name == "graphs")
    for found in runs.values():
        assert_same_bits(found, runs["one at a time"])


@pytest.mark.parametrize(
    "position", [pytest.param(n, marks=() if n in (1, 2, 11, 20) else pytest.mark.slow) for n in range(1, 21)]
)
def test_a_rebuild_at_any_of_the_steps_launched_ahead(position, monkeypatch):
    """Twenty steps in one go; the list grows old in the step of this number, wherever the last rebuild left it."""
    monkeypatch.setattr(DeviceMotion, "_planned", lambda motion: motion.steps_ahead)
    runs, builds = [], []
    positions, *others = CLUSTER
    positions = positions + np.array([[0.0, 0, 0], [0.0, 0, 0], [50.0, 0, 0]])
    for steps_ahead in (1, 20):
        motion = make(Case(small_model(), positions, *others), steps_ahead=steps_ahead, skin=4.0)
        # An atom that no other sees, 0.01 Å a step: it passes half the skin in the step of this number.
        lone = int(np.flatnonzero(motion.rows.ids[:3] == 2)[0])
        motion.rows.velocities[lone] = [0.01, 0.0, 0.0]
        motion.rows.built[lone] = motion.rows.positions[lone] - [2.0 - 0.01 * (position - 0.5), 0.0, 0.0]
        found = advance(motion, 20)
        runs.append(state(motion))
        builds.append(motion.neighbors.num_builds)
        if steps_ahead == 20:
            assert found[0].step == position  # launched twenty, done up to the one that needed the host
    assert builds[0] == builds[1] == 2
    assert_same_bits(runs[1], runs[0])


def test_an_overflow_in_steps_launched_ahead_is_made_good_before_any_atom_moves(monkeypatch):
    monkeypatch.setattr(DeviceMotion, "_planned", lambda motion: motion.steps_ahead)
    expected = make(periodic_case(), steps_ahead=1, skin=0.8, graphs="off")
    motion = make(periodic_case(), steps_ahead=4, skin=0.8, graphs="on")
    engine, recovered = motion.potential.engine, []
    recover = engine.recover
    monkeypatch.setattr(engine, "recover", lambda: (recovered.append(motion.step), recover()))
    # Room for half of the edges there are: the next evaluation overflows.
    half = engine.table.edges // 2
    engine._take(ChunkTable(engine.table.centers, half, engine.table.max_centers, half))
    for one in (expected, motion):
        advance(one, 5)
    assert recovered == [0]  # before the first step was done
    assert_same_bits(state(motion), state(expected))


@pytest.mark.parametrize("steps_ahead", [1, 5])
@pytest.mark.parametrize(
    ("what", "limits"),
    [
        ("displacement", Limits(displacement=0.015)),
        ("force", Limits(displacement=1.0, force=1e-3)),
        ("distance", Limits(displacement=1.0, distances=np.full((2, 2), 1.2))),
    ],
)
def test_a_broken_limit_stops_the_steps_where_the_cpu_stops(what, limits, steps_ahead):
    found = {}
    for device in ("cpu", "cuda"):
        motion = make(cluster(speed=0.01), device, limits=limits, steps_ahead=steps_ahead, skin=1.0)
        advances = [motion.advance(5, measure=False, asked=lambda: 0.0)]
        while not advances[-1].between:
            advances.append(motion.advance(5 - motion.step, measure=False, asked=lambda: 0.0))
        system = motion.atoms()
        order = np.argsort(system.ids[:3])
        values, at_fault = motion.guard.values(what, system, motion.pairs())
        found[device] = advances[-1], system.positions[:3][order], values[order], at_fault[order]
        after = motion.advance(1, measure=False, asked=lambda: 0.0)  # a warning: the run goes on
        assert after.step == advances[-1].step + 1 and not after.between
    (expected, positions, values, at_fault), (seen, *others) = found["cpu"], found["cuda"]
    assert (seen.step, seen.fault, seen.broken.tolist()) == (expected.step, False, expected.broken.tolist())
    assert seen.broken[["displacement", "force", "distance"].index(what)] == 1.0
    assert np.allclose(others[0], positions, rtol=0, atol=1e-12)
    assert np.allclose(others[1], values, rtol=0, atol=1e-9) and np.array_equal(others[2], at_fault)


def test_a_position_that_is_not_finite_is_a_fault():
    for device in ("cpu", "cuda"):
        motion = make(cluster(), device)
        if device == "cuda":
            motion.rows.velocities[1, 2] = np.inf
        else:
            motion.system.velocities[1, 2] = np.inf
        found = motion.advance(3, measure=False, asked=lambda: 0.0)
        assert found.between and found.fault and found.step == 0


def test_nothing_but_scalars_crosses_in_a_steady_step():
    """The control words once for the steps launched ahead; no allocation; the host never waits in between; and once
    two plain steps are done, a single launch a step."""
    motion = make(periodic_case(), steps_ahead=12, skin=2.0, graphs="on")
    executor: HostExecutor = motion.executor
    advance(motion, 1)
    executor.copies.clear()
    memory = len(executor._memory)
    (found,) = [motion.advance(4, measure=True, asked=lambda: 0.0)]
    assert found.step == 5 and motion.neighbors.num_builds == 1
    assert executor.copies == [("to the host", 128)]
    assert len(executor._memory) == memory
    launches = executor.launches
    (found,) = [motion.advance(4, measure=False, asked=lambda: 0.0)]
    assert found.step == 9 and motion.neighbors.num_builds == 1
    assert executor.launches == launches and [graph.num_launches for graph in executor.graphs] == [6]


def test_a_new_list_of_the_same_atoms_keeps_what_was_prepared():
    """Nothing is planned, bound or allocated anew, unless an array must grow; and these numbers cross."""
    motion = make(periodic_case(), skin=0.0)
    executor: HostExecutor = motion.executor
    advance(motion, 1)
    engine = motion.potential.engine
    plan, kick, builds = engine.plan, motion.integration.calls, motion.neighbors.num_builds
    motion.sums()
    summing = list(motion.integration._sums.values())
    memory = len(executor._memory)
    executor.copies.clear()
    advance(motion, 3, measure=False)
    assert motion.neighbors.num_builds == builds + 3
    assert engine.plan is plan and motion.integration.calls is kick
    assert list(motion.integration._sums.values()) == summing and len(summing) == 1
    assert len(executor._memory) == memory
    control, extremes, number, images, status = 128, 72, 8, 4, 32
    down, up = "to the host", "to the device"
    assert executor.copies == 3 * [
        (down, control), (down, extremes), (down, number), (up, images), (down, number), (up, control), (down, status),
    ]  # fmt: skip


def test_launches_of_a_step_are_these():
    """So that a kernel more does not come unseen."""
    motion = make(cluster(), limits=Limits(1.0, 100.0, np.full((2, 2), 0.1)), bath=True, skin=2.0)
    motion.executor.called.clear()
    motion.advance(1, measure=True, asked=lambda: 0.0)
    assert motion.executor.called == [
        "first_kick", "kinetic_sums", "langevin_drift", "look_at_forces", "look_at_distances", "second_half",
    ]  # fmt: skip
    motion = make(cluster(), skin=2.0)
    motion.executor.called.clear()
    motion.advance(1, measure=True, asked=lambda: 0.0)
    assert motion.executor.called == ["verlet_first_half", "second_half"]


def test_memory_of_an_atom():
    """Arrays of atoms and ghosts, without the list: 600 bytes an atom are the most for all together."""
    motion = make(periodic_case())
    rows = motion.rows
    local = sum(getattr(rows, name)[:1].nbytes for name in ("ids", "types", "positions", "images", "forces"))
    local += rows.order_keys[:1].nbytes + rows.faults[:1].nbytes
    owned = sum(getattr(rows, name)[:1].nbytes for name in ("velocities", "energies", "before", "built", "heat"))
    assert local <= 81 and owned <= 88


@pytest.mark.parametrize("limit", [200, 3000, 6000])
def test_memory_that_runs_out_is_one_message(limit):
    with pytest.raises(DeviceError, match=r"CPU runner is out of memory: .* could not be allocated. Use more GPUs"):
        make(periodic_case(num_atoms=40), memory_limit=limit)
