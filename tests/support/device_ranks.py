"""Device motion on the ranks that this is started on: mpirun -n N python device_ranks.py OUT.npz TRANSPORT SKIN."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from support.device_motion import advance, make, periodic_case, state

from allegro_sim.parallel.comm import Comm, MpiComm, world


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


def main() -> None:
    comm = world()
    try:
        # The device's memory is the host's here, which every MPI library takes, whatever it says of GPUs.
        MpiComm.takes_device_memory = lambda comm: None  # type: ignore[method-assign]
        send_by_device_interface(comm)
        transport, skin = sys.argv[2], float(sys.argv[3])
        results = {}
        for name, bath, pbc in (("nve", False, (True, True, True)), ("langevin", True, (True, False, True))):
            motion = make(periodic_case(pbc=pbc), comm=comm, bath=bath, skin=skin, transport=transport)
            advance(motion, 5)
            found = state(motion)
            builds, most = motion.neighbors.num_builds, comm.allgather(motion.bricks.num_received)
            if found is not None:
                results |= {f"{name}/{key}": value for key, value in found.items()}
                results |= {f"{name}/builds": np.array(builds), f"{name}/received": np.array(most)}
        if comm.rank == 0:
            np.savez(sys.argv[1], **results)
    except Exception:
        traceback.print_exc()
        comm.abort(1)


if __name__ == "__main__":
    main()
