"""Every Numba kernel on some hundred elements, in several blocks; and counts that do not fit 32 bits."""

from __future__ import annotations

import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.device_motion import advance, descend, make, periodic_case, state

from allegro_sim.dynamics.guard import Limits
from allegro_sim.errors import StructureError
from allegro_sim.kernels.cpu.fixed_point import forces_to_float
from allegro_sim.kernels.numba_cuda import control as word
from allegro_sim.kernels.numba_cuda.catalogue import KERNELS

pytestmark = pytest.mark.simulator


def test_every_kernel_on_hundreds_of_elements(monkeypatch):
    """Steps of 80 atoms and their ghosts are the CPU's; what migrates is checked by itself; no kernel is left out."""
    threads: dict[str, int] = {}
    run_numba = HostExecutor._run_numba

    def note(executor, kernel, grid, block, arguments):
        threads[kernel] = max(threads.get(kernel, 0), grid * block)
        run_numba(executor, kernel, grid, block, arguments)

    monkeypatch.setattr(HostExecutor, "_run_numba", note)
    case = periodic_case(80, pbc=(True, True, False))
    limits = Limits(1.0, force=1e6)
    for bath in (False, True):
        found, expected = (make(case, device, bath=bath, skin=0.0, limits=limits) for device in ("cuda", "cpu"))
        for motion in (found, expected):
            advance(motion, 1)
            if bath:
                descend(motion, 1)
        executor = found.executor
        executor.check_guards()
        found, expected = state(found), state(expected)
        forces = [forces_to_float(x["forces"]) for x in (found, expected)]
        assert np.abs(forces[0] - forces[1]).max() <= 1e-9 * max(1.0, np.abs(forces[1]).max())
        assert np.abs(found["positions"] - expected["positions"]).max() <= 1e-11

    count, random = np.int32(300), np.random.default_rng(0)
    ids, types = random.permutation(300), random.integers(0, 2, 300).astype(np.int32)
    position_bits, velocity_bits = random.integers(-(2**62), 2**62, (2, 300, 3))
    order, packed = random.permutation(300), np.zeros((300, 8), np.int64)
    executor.call("pack_atoms", 300, packed, order, ids, types, position_bits, velocity_bits, count)()
    outputs = [np.zeros_like(array) for array in (ids, types, position_bits, velocity_bits)]
    executor.call("unpack_atoms", 300, *outputs, packed, count)()
    for output, array in zip(outputs, (ids, types, position_bits, velocity_bits), strict=True):
        assert np.array_equal(output, array[order])

    control, status = np.zeros(word.WORDS, np.int64), np.zeros(8, np.int32)
    for found, room, expected in ((0, 0, 0), (1, 7, 0), (0, 7, 1)):
        control[word.FOUND], status[0] = found, room
        executor.call("look_at_room", 64, control, status)()
        assert control[word.OVERFLOW] == expected

    assert set(threads) == set(KERNELS)
    assert all(64 <= number <= 1024 for number in threads.values()), threads


class ManyGhosts:
    """NumPy, but sums of how many copies atoms have are large."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def cumsum(values, out):
        out[...] = 2**31


def test_more_ghosts_than_32_bits_count_are_refused():
    executor = HostExecutor()
    executor.arrays = ManyGhosts()
    with pytest.raises(StructureError, match="2147483648 ghosts of one rank's atoms are too many: use more ranks"):
        make(periodic_case(4), executor=executor)
