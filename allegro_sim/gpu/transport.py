"""How rows of device arrays get from rank to rank, and how ranks agree: two verbs, several ways, the same bits.

    host        copies through memory of the host, and MPI; always there, also for several ranks on one GPU
    nccl        NVIDIA's NCCL, from GPU to GPU; a GPU for each rank
    cuda-aware  an MPI library that takes memory of GPUs; only where it is asked for, never tried on hardware

`choose_transport` is the one place where the choice is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.parallel.comm import Comm
from allegro_sim.potential.cuda.engine import Executor

TRANSPORTS = ("auto", "host", "nccl", "cuda-aware")


class Transport(Protocol):
    """Exchange of rows between ranks."""

    name: str
    note: str
    """For the banner, or nothing."""
    waits: bool
    """Whether the host waits inside both verbs for what was launched before."""

    def exchange(self, send: Any, send_counts: np.ndarray, receive: Any, receive_counts: np.ndarray) -> None:
        """Send rows to, and receive rows from, every rank (collective; overwrites `receive`).

        send, receive: device arrays (n, width) of 8-byte elements, C-contiguous, rows sorted by rank; counts: int64
        (ranks,), how many go to, or come from, each; this rank's own among them.
        """
        ...

    def take_maximum(self, words: Any) -> None:
        """Each of a few words becomes the largest of all ranks (collective; in place). words: device, int64 (n,)."""
        ...


class HostTransport:
    """Through the host: a copy down, MPI, a copy up."""

    name = "host"
    note = "copies through memory of the host, and MPI"
    waits = True

    def __init__(self, comm: Comm, executor: Executor) -> None:
        self._comm, self._executor = comm, executor

    def exchange(self, send: Any, send_counts: np.ndarray, receive: Any, receive_counts: np.ndarray) -> None:
        outgoing = self._executor.download(send) if len(send) else np.empty(send.shape, send.dtype)
        incoming = np.empty(receive.shape, receive.dtype)
        self._comm.exchange(outgoing, send_counts, incoming, receive_counts)
        if len(receive):
            self._executor.upload(receive, incoming)

    def take_maximum(self, words: Any) -> None:
        take_maximum_by_host(self._comm, self._executor, words)


def take_maximum_by_host(comm: Comm, executor: Executor, words: Any) -> None:
    """`Transport.take_maximum` through memory of the host."""
    own = executor.download(words)
    largest = comm.allreduce_max(own)
    if not np.array_equal(own, largest):
        executor.upload(words, largest)


def choose_transport(
    name: str, comm: Comm, executor: Executor, *, gpus_shared: bool, warn: Callable[[str], None]
) -> Transport:
    """The transport that `name` stands for: "auto" is NCCL where every rank has a GPU of its own, else the host.

    gpus_shared: whether two ranks of this run use one GPU; warn: gets what is to be said before a choice is tried.
    Collective.

    Raises
    ------
    DeviceError : "nccl", and it is not there or ranks share a GPU; "cuda-aware", and MPI does not take memory of GPUs
    """
    if name not in TRANSPORTS:
        raise DeviceError(f"transport {name!r} is unknown; choose one of {', '.join(TRANSPORTS)}")
    if name == "host" or (name == "auto" and (comm.size == 1 or gpus_shared)):
        return HostTransport(comm, executor)
    if name == "cuda-aware":
        from allegro_sim.gpu.cuda_aware import CudaAwareTransport

        return CudaAwareTransport(comm, executor, warn)
    if gpus_shared:
        raise DeviceError(
            'transport "nccl" needs a GPU for each rank, and ranks of this run share one: start fewer ranks, or use '
            'gpu.transport = "host"'
        )
    from allegro_sim.gpu.nccl import NcclTransport, nccl_is_there

    missing = nccl_is_there()
    if missing and name == "auto":
        return HostTransport(comm, executor)
    if missing:
        raise DeviceError(f'transport "nccl" was asked for, but {missing}; use gpu.transport = "host"')
    return NcclTransport(comm, executor)
