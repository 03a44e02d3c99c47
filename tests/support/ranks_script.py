"""Run under mpirun: the checks of `neighborhoods.py` and of communicators on many numbers of ranks.

The world is divided into groups of 1, 2, 3, ... ranks, so that one launch tests many numbers of ranks. Prints one line
of totals at the end; any failure prints its traceback and ends all ranks.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.neighborhoods import KINDS, check_case, random_case

from allegro_sim.errors import StructureError
from allegro_sim.parallel.comm import Comm, SerialComm, collective_errors, world


def check_communicator(comm: Comm) -> None:
    """Every method of a communicator, against what it must give."""
    ranks = list(range(comm.size))
    assert comm.allgather(comm.rank) == ranks
    assert comm.gather(comm.rank) == (ranks if comm.rank == 0 else None)
    assert comm.bcast(comm.rank, root=comm.size - 1) == comm.size - 1
    np.testing.assert_array_equal(comm.allreduce_sum(np.array([1, comm.rank])), [comm.size, sum(ranks)])
    np.testing.assert_array_equal(comm.allreduce_max(np.array([-1.0, comm.rank])), [-1.0, comm.size - 1])
    # Rank r sends s + 1 rows to each rank s (none at all to itself when it is rank 1).
    counts = np.array([0 if comm.rank == 1 == s else s + 1 for s in ranks])
    rows = np.repeat(np.array([[comm.rank, s] for s in ranks]), counts, axis=0)
    expected = [[r, comm.rank] for r in ranks for _ in range(0 if r == 1 == comm.rank else comm.rank + 1)]
    np.testing.assert_array_equal(comm.alltoallv(rows, counts), np.reshape(expected, (-1, 2)))
    gathered = comm.gather_rows(np.full((comm.rank, 2), float(comm.rank)))
    if gathered is not None:
        np.testing.assert_array_equal(gathered, np.repeat(ranks, ranks)[:, None] * np.ones((1, 2)))
    # A ring, then a line whose ends have no partner.
    up, down = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    received = comm.send_recv(np.full((comm.rank + 1, 3), comm.rank), up, down)
    np.testing.assert_array_equal(received, np.full((down + 1, 3), down))
    top, bottom = comm.rank == comm.size - 1, comm.rank == 0
    received = comm.send_recv(np.full((2, 3), comm.rank), None if top else up, None if bottom else down)
    np.testing.assert_array_equal(received, np.full((0 if bottom else 2, 3), down))
    comm.barrier()
    comm.patient_barrier()
    # The lowest failing rank speaks for all; without failures nothing is raised.
    with collective_errors(comm):
        pass
    try:
        with collective_errors(comm):
            if comm.rank >= comm.size // 2:
                raise StructureError(f"rank {comm.rank}")
    except StructureError as error:
        assert str(error) == f"rank {comm.size // 2}"
    else:
        raise AssertionError("collective_errors did not raise")


def main() -> None:
    everyone = world()
    try:
        if everyone.rank == 0:  # the others find the kernels in the cache
            check_case(SerialComm(), random_case("bulk", 10, 0.5, 0))
        everyone.patient_barrier()
        cases = empty = several_hops = 0
        for number, sizes in enumerate(((8,), (6, 2), (4, 3, 1), (7, 1))):
            assert sum(sizes) == everyone.size
            comm = everyone.split(int(np.searchsorted(np.cumsum(sizes), everyone.rank, side="right")))
            check_communicator(comm)
            for index, kind in enumerate(KINDS):
                for count in (60, (0, 1, 3, 8)[(index + number) % 4])[: 1 + index % 2]:
                    seed = 1000 * number + 10 * index + count
                    domain = check_case(comm, random_case(kind, count, [0.0, 0.7][(index + number) % 2], seed), seed)
                    owned = comm.allgather(len(domain.neighbors.row_offsets) - 1)
                    cases += 1
                    empty += min(owned) == 0 and count > 0
                    several_hops += any(
                        domain.decomposition.hops(direction) > 1 and domain.decomposition.grid[direction] > 1
                        for direction in range(3)
                    )
        totals = everyone.allreduce_max(np.array([cases, empty, several_hops]))
        if everyone.rank == 0:
            print(f"cases {totals[0]}, with an empty rank {totals[1]}, with several hops {totals[2]}")
    except BaseException:
        traceback.print_exc()
        everyone.abort(1)


main()
