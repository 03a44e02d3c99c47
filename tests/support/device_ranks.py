"""Device motion on the ranks that this is started on: mpirun -n N python device_ranks.py OUT.npz TRANSPORT SKIN."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from support.device_motion import advance, descend, make, periodic_case, state
from support.nccl_stand_in import Nccl, NcclExecutor, install

from allegro_sim.dynamics.fire import Slope
from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.parallel.comm import Comm, MpiComm, world
from allegro_sim.potential.cuda.chunks import ChunkTable

STEPS = 4
WIDE = 0.5
"""A skin that no atom leaves in these steps, Å."""


class CudaMemory:
    """What mpi4py is shown of a device array, and no more."""

    def __init__(self, array: np.ndarray) -> None:
        place, typestr = array.__array_interface__["data"][0], array.dtype.str
        self.__cuda_array_interface__ = {"shape": array.shape, "typestr": typestr, "data": (place, False), "version": 3}


def send_by_device_interface(comm: Comm) -> None:
    """mpi4py finds addresses and lengths by __cuda_array_interface__ alone, also for a message to oneself."""
    for distance in range(comm.size):
        send, receive = np.arange(30.0).reshape(10, 3) * (comm.rank + 1), np.zeros((10, 3))
        comm.shift(CudaMemory(send), CudaMemory(receive), distance)  # type: ignore[arg-type]
        assert np.array_equal(receive * (comm.rank + 1), send * ((comm.rank - distance) % comm.size + 1))


def watch_room(motion: DeviceMotion, *, halve: bool) -> Callable[[], None]:
    """halve: the rank with the most edges has room for half of them from now. Returns a check, to be made afterwards,
    that this came to light there, at the start, and nothing elsewhere (all collective)."""
    engine, recovered = motion.potential.engine, []
    recover = engine.recover
    engine.recover = lambda: (recovered.append(motion.step), recover())  # type: ignore[method-assign]
    table, comm = engine.table, motion.comm
    assert table is not None
    short = int(np.argmax(comm.allgather(table.edges))) if halve else -1
    if comm.rank == short:
        half = table.edges // 2
        engine._take(ChunkTable(table.centers, half, table.max_centers, half))

    def check() -> None:
        assert comm.allgather(recovered) == [[0] if rank == short else [] for rank in range(comm.size)]

    return check


def go_ahead(motion: DeviceMotion, nccl: Nccl) -> None:
    """All steps in one go, in which a list grows old, or else a rank has room for half of its edges."""
    before = nccl.num_maxima
    check = watch_room(motion, halve=motion.neighbors.skin >= WIDE)
    found = motion.advance(STEPS, measure=True, asked=lambda: 0.0)
    assert nccl.num_maxima - before == 2 * STEPS  # twice a step that was launched, wherever they ended
    assert found.step < STEPS
    advance(motion, STEPS - found.step)
    check()


def minimised(motion: DeviceMotion, slopes: list[Slope]) -> dict[str, np.ndarray]:
    found = (state(motion) or {}) | {"slopes": np.array([astuple(slope) for slope in slopes])}
    return {f"minimised/{key}": value for key, value in found.items()}


def minimise_ahead(comm: Comm, nccl: Nccl, skin: float, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The host waits for the slope alone, though lists grow old, or a rank has room for half of its edges."""
    executor = NcclExecutor(comm.rank)
    motion = make(periodic_case(), comm=comm, skin=skin, transport="nccl", executor=executor)
    check = watch_room(motion, halve=skin >= WIDE)
    before = nccl.num_maxima
    executor.copies.clear()
    slopes = descend(motion, STEPS)
    waits = executor.copies.count(("to the host", 112))
    assert waits > STEPS + 1 and nccl.num_maxima - before == STEPS + waits
    check()
    found = minimised(motion, slopes)
    for key in expected.keys() & found.keys():
        assert np.array_equal(found[key], expected[key]), key
    return found


def main() -> None:
    comm = world()
    try:
        # The device's memory is the host's here, which every MPI library takes, whatever it says of GPUs.
        MpiComm.takes_device_memory = lambda comm: None  # type: ignore[method-assign]
        send_by_device_interface(comm)
        transport, skin = sys.argv[2], float(sys.argv[3])
        results, nccl = {}, None
        if transport == "nccl":  # all steps in one go, whatever happens in between
            nccl = install(comm)
            DeviceMotion._planned = lambda motion: motion.steps_ahead  # type: ignore[method-assign]
        for name, bath, pbc in (("nve", False, (True, True, True)), ("langevin", True, (True, False, True))):
            executor = NcclExecutor(comm.rank) if nccl else None
            if nccl and bath:
                skin = max(skin, WIDE)
            options = {"bath": bath, "skin": skin, "transport": transport, "steps_ahead": 20, "executor": executor}
            motion = make(periodic_case(pbc=pbc), comm=comm, **options)
            assert motion.steps_ahead == (20 if comm.size == 1 or transport == "nccl" else 1)
            if nccl:
                go_ahead(motion, nccl)
            else:
                advance(motion, STEPS)
            found = state(motion)
            builds, most = motion.neighbors.num_builds, comm.allgather(motion.bricks.num_received)
            if found is not None:
                results |= {f"{name}/{key}": value for key, value in found.items()}
                results |= {f"{name}/builds": np.array(builds), f"{name}/received": np.array(most)}
        if nccl is None:
            motion = make(periodic_case(), comm=comm, skin=skin, transport=transport)
            results |= minimised(motion, descend(motion, STEPS))
        else:
            for skin in (float(sys.argv[3]), WIDE):
                results |= minimise_ahead(comm, nccl, skin, results)
        if comm.rank == 0:
            np.savez(sys.argv[1], **results)
    except Exception:
        traceback.print_exc()
        comm.abort(1)


if __name__ == "__main__":
    main()
