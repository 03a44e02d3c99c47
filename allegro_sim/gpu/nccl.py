"""Rows of device arrays from GPU to GPU by NCCL, on the executor's stream. Importing this loads CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.parallel.comm import Comm
from allegro_sim.potential.cuda.engine import Executor


def nccl_is_there() -> str:
    """Empty where NCCL can be used, else why it cannot."""
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        return f"CuPy cannot load NCCL ({error}); install the wheel nvidia-nccl-cu13 (or -cu12)"
    if not nccl.available:
        return "CuPy cannot load NCCL; install the wheel nvidia-nccl-cu13 (or -cu12)"
    return ""


class NcclTransport:
    """Grouped sends and receives; nothing waits for the host. Collective to create: one GPU a rank."""

    name = "nccl"
    note = "from GPU to GPU"
    waits = False

    def __init__(self, comm: Comm, executor: Executor) -> None:
        from cupy.cuda import nccl

        self._nccl = nccl
        self._executor = executor
        identity = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
        self._communicator = nccl.NcclCommunicator(comm.size, identity, comm.rank)

    def exchange(self, send: Any, send_counts: np.ndarray, receive: Any, receive_counts: np.ndarray) -> None:
        """See `Transport.exchange`."""
        stream = self._executor.stream.ptr  # type: ignore[attr-defined]
        starts = [np.concatenate([[0], np.cumsum(counts)]) for counts in (send_counts, receive_counts)]
        self._nccl.groupStart()
        for rank in np.flatnonzero(send_counts + receive_counts).tolist():  # few, of thousands
            for array, counts, start, verb in (
                (send, send_counts, starts[0], self._communicator.send),
                (receive, receive_counts, starts[1], self._communicator.recv),
            ):
                if counts[rank]:
                    row = array.nbytes // len(array)
                    place = array.data.ptr + int(start[rank]) * row
                    verb(place, int(counts[rank]) * row // 8, self._nccl.NCCL_INT64, rank, stream)
        self._nccl.groupEnd()

    def take_maximum(self, words: Any) -> None:
        """See `Transport.take_maximum`."""
        stream = self._executor.stream.ptr  # type: ignore[attr-defined]
        place = words.data.ptr
        self._communicator.allReduce(place, place, words.size, self._nccl.NCCL_INT64, self._nccl.NCCL_MAX, stream)
