"""A minimisation with everything on the device: the CPU's steps, and the same bits however they are launched."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.cuda_runner import CpuModule
from support.device_motion import assert_same_bits, descend, make, periodic_case, state

from allegro_sim.cell import Cell
from allegro_sim.descent import HostDescent
from allegro_sim.dynamics.fire import Fire, Move, slope_of
from allegro_sim.gpu.module import module_source
from allegro_sim.kernels.cpu import descent as cpu
from allegro_sim.kernels.cpu.fixed_point import forces_to_float
from allegro_sim.kernels.numba_cuda import control as word
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.potential.cuda.chunks import ChunkTable
from allegro_sim.system import System

pytestmark = pytest.mark.simulator


def atoms(count: int, force: float = 1.0, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities, forces (integers)."""
    rng = np.random.default_rng(count)
    positions, velocities, forces = rng.standard_normal((3, count, 3))
    return 10.0 * positions, speed * velocities, np.rint(force * 2.0**40 * forces).astype(np.int64)


def moved_by_numpy(move: Move, positions, velocities, forces):
    """The step as operations on whole arrays."""
    forces, velocities, moves = forces_to_float(forces), velocities.copy(), np.zeros_like(positions)
    if move.back:
        moves -= move.back * velocities
        velocities[:] = 0.0
    velocities += move.step * forces
    velocities *= move.kept
    velocities += move.along * forces
    moves += move.step * velocities
    lengths = np.sqrt((moves[:, 0] ** 2 + moves[:, 1] ** 2) + moves[:, 2] ** 2)
    far = lengths > move.longest
    factors = move.longest / lengths[far, None]
    moves[far] *= factors
    velocities[far] *= factors
    return positions + moves, velocities, far


@pytest.mark.parametrize("back", [0.0, 0.25], ids=["downhill", "uphill"])
def test_an_atom_moves_by_the_same_bits_on_both_sides(back):
    """Of the same forces: some atoms would move farther than the longest move."""
    move = Move(back, step=0.5, kept=0.75, along=0.11, longest=0.6)
    start = atoms(140)
    positions, velocities, far = moved_by_numpy(move, *start)
    assert 10 < far.sum() < 130
    host, device = [[array.copy() for array in start] for _ in range(2)]
    cpu.descend(*host, *astuple(move), 140)
    control, numbers = np.zeros(word.WORDS, np.int64), [np.float64(x) for x in (9.0, *astuple(move))]
    executor = HostExecutor()
    executor.launch("descend", 140, control, *device, start[0], *numbers, np.int32(140))
    for found in (host, device):
        assert np.array_equal(found[0], positions) and np.array_equal(found[1], velocities)
    assert not control.any()
    numbers[0] = np.float64(0.25)
    executor.launch("descend", 140, control, *device, start[0], *numbers, np.int32(140))
    assert np.flatnonzero(control).tolist() == [word.FOUND, word.REBUILD]


@pytest.mark.parametrize(("force", "speed"), [(1.0, 0.0), (3e4, 1e-7), (1e-9, 50.0)])
@pytest.mark.parametrize("owned", [0, 1, 300])
def test_slopes_of_the_same_atoms_have_the_same_bits_on_both_sides(owned, force, speed):
    positions, velocities, forces = atoms(owned + 5, force, speed)
    energies = np.random.default_rng(0).standard_normal(owned + 5) * 100.0
    system = System(Cell(None, False), np.ones(1), owned + 5)
    system.set_owned(np.arange(owned), np.zeros(owned), positions[:owned], velocities[:owned])
    system.forces[:owned], system.energies[:owned] = forces[:owned], energies[:owned]
    expected = HostDescent(SerialComm(), system, None, None, None).measure()
    if owned == 300:
        f, v = forces_to_float(forces[:owned]), velocities[:owned]
        sums = np.array([(f * v).sum(), (f * f).sum(), (v * v).sum()])
        size = np.array([math.sqrt(sums[1] * sums[2]), sums[1], sums[2]])
        assert (np.abs(astuple(expected)[2:5] - sums) <= 1e-11 * size).all()
    slope, control, status = np.zeros((7, 2), np.int64), np.zeros(word.WORDS, np.int64), np.zeros(8, np.int32)
    module = CpuModule(module_source(), order="random:1", block_order="reverse")
    grid, block, number = (owned // 128 + 1,), (128,), np.int32(owned)
    control[word.FOUND], status[0] = 1, 77
    module.launch("slope_maxima", grid, block, (slope, control, status, forces, velocities, number))
    module.launch("slope_sums", grid, block, (slope, status, energies, forces, velocities, number))
    assert slope_of(slope[5].view(np.float64), slope[:5]) == expected and not expected.faulty
    assert slope[6].tolist() == [1, 77]
    status[1] = 3
    module.launch("slope_sums", grid, block, (slope, status, energies, forces, velocities, number))
    assert slope[0].tolist() == [1, 0]


def test_steps_are_those_of_the_cpu():
    found, expected = make(periodic_case()), make(periodic_case(), "cpu")
    slopes = [descend(motion, 12) for motion in (found, expected)]
    assert found.neighbors.num_builds > 1
    assert slopes[1][-1].largest_force < 0.8 * slopes[1][0].largest_force
    # Forces are off by 1e-12 eV/Å at first, and a dozen short steps do not amplify that by much.
    for one, other in zip(*slopes, strict=True):
        assert np.allclose(astuple(one), astuple(other), rtol=1e-8, atol=1e-9)
    found, expected = state(found), state(expected)
    assert np.abs(found["positions"] - expected["positions"]).max() <= 1e-9
    assert np.abs(found["velocities"] - expected["velocities"]).max() <= 1e-9


def test_how_steps_are_launched_does_not_change_a_bit():
    runs = {}
    for name, options in {
        "plain": {},
        "images travel, small chunks": {"images_travel": True, "chunk_edges": 128},
        "reversed, a wide skin": {"order": "reverse", "block_order": "reverse", "skin": 0.8},
        "a list for every step": {"skin": 0.0},
    }.items():
        motion = make(periodic_case(), **options)
        slopes = descend(motion, 5)
        runs[name] = {"slopes": np.array([astuple(slope) for slope in slopes]), **state(motion)}
        motion.executor.check_guards()
        assert (motion.neighbors.num_builds > 1) == ("wide" not in name)
    for found in runs.values():
        assert_same_bits(found, runs["plain"])


def test_an_overflow_is_made_good_before_the_slope_is_told(monkeypatch):
    runs, recovered = [], []
    for overflows in (False, True):
        motion = make(periodic_case(), skin=0.8)
        descent, fire = motion.descent(), Fire(0.1)
        descent.rest()
        descent.move(fire.next_move(descent.measure()))
        descent.settle(0.0)
        if overflows:
            engine = motion.potential.engine
            recover = engine.recover
            monkeypatch.setattr(engine, "recover", lambda recover=recover: (recovered.append(True), recover()))
            half = engine.table.edges // 2
            engine._take(ChunkTable(engine.table.centers, half, engine.table.max_centers, half))
        descent.compute()
        runs.append({"slope": np.array(astuple(descent.measure())), **state(motion)})
    assert recovered
    assert_same_bits(runs[1], runs[0])


def test_nothing_but_the_slope_crosses_in_a_step_with_the_same_list():
    """One short download, for which the host waits; no allocation; and these launches beside the potential's."""
    motion = make(periodic_case(), skin=2.0)
    executor: HostExecutor = motion.executor
    descend(motion, 1)
    descent, fire = motion.descent(), Fire(0.1)
    slope = descent.measure()
    executor.copies.clear()
    executor.called.clear()
    memory, waits = len(executor._memory), executor.waits
    for _ in range(3):
        descent.move(fire.next_move(slope))
        descent.settle(0.0)
        descent.compute()
        slope = descent.measure()
    assert motion.neighbors.num_builds == 1
    assert executor.copies == 3 * [("to the host", 112)]
    assert len(executor._memory) == memory and executor.waits == waits
    assert executor.called == 3 * ["descend", "copy_positions", "add_forces", "slope_maxima", "slope_sums"]
