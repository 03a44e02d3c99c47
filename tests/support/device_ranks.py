"""Device motion on the ranks that this is started on: mpirun -n N python device_ranks.py OUT.npz."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from support.device_motion import advance, make, periodic_case, state

from allegro_sim.parallel.comm import world


def main() -> None:
    comm = world()
    try:
        results = {}
        for name, bath, pbc in (("nve", False, (True, True, True)), ("langevin", True, (True, False, True))):
            motion = make(periodic_case(pbc=pbc), comm=comm, bath=bath, skin=0.1)
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
