"""Communication between ranks behind one small class: `SerialComm` without MPI, `MpiComm` over an mpi4py communicator.

MPI is initialised by `world()` and by nothing else: importing this module, or any other, does not touch it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np

from allegro_sim.errors import AllegroSimError, LauncherError

_POLL_SECONDS = 0.02
_GPU_SUPPORT_CUDA = 0  # MPIX_GPU_SUPPORT_CUDA of MPICH's mpi.h
_LAST_WORDS_SECONDS = 1.0
"""Between a message and the end of all ranks: MPICH's launcher drops what it has not passed on by then."""


class SerialComm:
    """One rank, no MPI. Every exchange is a copy."""

    rank = 0
    size = 1
    node_rank = 0
    node_size = 1

    def barrier(self) -> None:
        """Wait for all ranks."""

    def patient_barrier(self) -> None:
        """Wait for all ranks without burning a core: for waits of seconds, such as the first compilation of kernels."""

    def bcast(self, value: Any, root: int = 0) -> Any:
        """`value` of rank `root`, on all ranks."""
        return value

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """List of all ranks' values on `root`, None elsewhere."""
        return [value]

    def allgather(self, value: Any) -> list[Any]:
        """List of all ranks' values, on all ranks."""
        return [value]

    def gather_rows(self, rows: np.ndarray, root: int = 0) -> np.ndarray | None:
        """All ranks' rows (n, ...) one below the other, in the order of ranks, on `root`; None elsewhere."""
        return np.array(rows)

    def allreduce_sum(self, values: np.ndarray) -> np.ndarray:
        """Element-wise sum over ranks. Give integers where the result must not depend on the number of ranks."""
        return np.array(values)

    def allreduce_max(self, values: np.ndarray) -> np.ndarray:
        """Element-wise maximum over ranks. Values must not be NaN."""
        return np.array(values)

    def alltoallv(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Send `counts[r]` rows to each rank r, from `rows` (n, ...) sorted by r; returns those received, by rank."""
        return np.array(rows)

    def alltoall(self, counts: np.ndarray) -> np.ndarray:
        """What every rank has in `counts` (ranks,) for this rank, int64 (ranks,)."""
        return np.array(counts, np.int64)

    def exchange(
        self, send: np.ndarray, send_counts: np.ndarray, receive: np.ndarray, receive_counts: np.ndarray
    ) -> None:
        """Send rows to, and receive rows from, those ranks where there are any (overwrites `receive`).

        send, receive: (n, ...), C-contiguous, rows sorted by rank; counts: int64 (ranks,), how many go to, or come
        from, each rank; this rank's own among them. Arrays of a device must have __cuda_array_interface__.
        """
        receive[...] = send

    def takes_device_memory(self) -> bool | None:
        """Whether the MPI library says that it takes memory of CUDA devices; None where it does not say."""
        return None

    @property
    def library(self) -> str:
        """Name and version of the MPI library."""
        return "no MPI"

    def shift(self, send: np.ndarray, receive: np.ndarray, distance: int) -> None:
        """`send` to the rank that is `distance` further, also if that is this one, by MPI itself, and `receive` from
        the rank as far before (collective; overwrites). Arrays of the host, or with __cuda_array_interface__."""
        receive[...] = send

    def send_recv(
        self, rows: np.ndarray, dest: int | None, source: int | None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Send rows (n, ...) to `dest` and receive rows from `source`; None for no partner; to oneself is a copy.

        out: array of the exact shape to be received (overwritten and returned). Without it the number of rows is
        exchanged first, and a new array is returned.
        """
        received = rows if source is not None else rows[:0]
        if out is None:
            return np.array(received)
        out[...] = received
        return out

    def split(self, color: int) -> Comm:
        """Communicator of the ranks that give the same `color`, in the order of ranks."""
        return self

    def abort(self, code: int) -> NoReturn:
        """End the program on all ranks with exit code `code`."""
        _flush()
        raise SystemExit(code)


class MpiComm(SerialComm):
    """Ranks of an mpi4py communicator. Documentation of the methods: `SerialComm`."""

    def __init__(self, mpi_comm: Any) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = mpi_comm
        self.rank = mpi_comm.Get_rank()
        self.size = mpi_comm.Get_size()
        node = mpi_comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.node_rank = node.Get_rank()
        self.node_size = node.Get_size()
        node.Free()

    def barrier(self) -> None:
        self._comm.Barrier()

    def patient_barrier(self) -> None:
        request = self._comm.Ibarrier()
        while not request.Test():
            time.sleep(_POLL_SECONDS)

    def bcast(self, value: Any, root: int = 0) -> Any:
        return self._comm.bcast(value, root=root)

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        return self._comm.gather(value, root=root)

    def allgather(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def gather_rows(self, rows: np.ndarray, root: int = 0) -> np.ndarray | None:
        rows = np.ascontiguousarray(rows)
        counts = self._comm.gather(len(rows), root=root)
        if self.rank != root:
            self._comm.Gatherv(rows, None, root=root)
            return None
        width = int(np.prod(rows.shape[1:], dtype=np.int64))
        result = np.empty((sum(counts), *rows.shape[1:]), rows.dtype)
        self._comm.Gatherv(rows, [result, (np.array(counts) * width, None)], root=root)
        return result

    def allreduce_sum(self, values: np.ndarray) -> np.ndarray:
        return self._allreduce(values, self._mpi.SUM)

    def allreduce_max(self, values: np.ndarray) -> np.ndarray:
        return self._allreduce(values, self._mpi.MAX)

    def _allreduce(self, values: np.ndarray, operation: Any) -> np.ndarray:
        values = np.ascontiguousarray(values)
        result = np.empty_like(values)
        self._comm.Allreduce(values, result, op=operation)
        return result

    def alltoallv(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows)
        sent = np.ascontiguousarray(counts, dtype=np.int64)
        received = self.alltoall(sent)
        width = int(np.prod(rows.shape[1:], dtype=np.int64))
        result = np.empty((int(received.sum()), *rows.shape[1:]), rows.dtype)
        self._comm.Alltoallv([rows, (sent * width, None)], [result, (received * width, None)])
        return result

    def alltoall(self, counts: np.ndarray) -> np.ndarray:
        sent = np.ascontiguousarray(counts, dtype=np.int64)
        received = np.empty_like(sent)
        self._comm.Alltoall(sent, received)
        return received

    def exchange(
        self, send: np.ndarray, send_counts: np.ndarray, receive: np.ndarray, receive_counts: np.ndarray
    ) -> None:
        starts = [np.concatenate([[0], np.cumsum(counts)]) for counts in (send_counts, receive_counts)]
        requests = []
        # Only between ranks that have something for each other: messages grow with neighbours, not with ranks.
        for rank in np.flatnonzero(receive_counts):
            rows = receive[starts[1][rank] : starts[1][rank + 1]]
            if rank != self.rank:
                requests.append(self._comm.Irecv(rows, source=int(rank)))
            else:
                rows[...] = send[starts[0][rank] : starts[0][rank + 1]]
        for rank in np.flatnonzero(send_counts):
            if rank != self.rank:
                requests.append(self._comm.Isend(send[starts[0][rank] : starts[0][rank + 1]], dest=int(rank)))
        self._mpi.Request.Waitall(requests)

    def takes_device_memory(self) -> bool | None:
        # Extensions of Open MPI and MPICH, found among what mpi4py's own module was linked to.
        library = ctypes.CDLL(self._mpi.__file__)
        answer = ctypes.c_int(0)
        if hasattr(library, "MPIX_Query_cuda_support"):
            return bool(library.MPIX_Query_cuda_support())
        if hasattr(library, "MPIX_GPU_query_support"):
            failed = library.MPIX_GPU_query_support(_GPU_SUPPORT_CUDA, ctypes.byref(answer))
            return None if failed else bool(answer.value)
        return None

    @property
    def library(self) -> str:
        return _first_line(self._mpi.Get_library_version())

    def shift(self, send: np.ndarray, receive: np.ndarray, distance: int) -> None:
        to, origin = (self.rank + distance) % self.size, (self.rank - distance) % self.size
        self._comm.Sendrecv(send, to, recvbuf=receive, source=origin)

    def send_recv(
        self, rows: np.ndarray, dest: int | None, source: int | None, out: np.ndarray | None = None
    ) -> np.ndarray:
        if dest == self.rank and source == self.rank:
            return super().send_recv(rows, dest, source, out)
        rows = np.ascontiguousarray(rows)
        to = self._mpi.PROC_NULL if dest is None else dest
        origin = self._mpi.PROC_NULL if source is None else source
        if out is None:
            count = np.zeros(1, np.int64)
            self._comm.Sendrecv(np.array([len(rows)], np.int64), to, recvbuf=count, source=origin)
            out = np.empty((int(count[0]), *rows.shape[1:]), rows.dtype)
        self._comm.Sendrecv(rows, to, recvbuf=out, source=origin)
        return out

    def split(self, color: int) -> Comm:
        return MpiComm(self._comm.Split(color, self.rank))

    def abort(self, code: int) -> NoReturn:
        _flush()
        time.sleep(_LAST_WORDS_SECONDS)
        self._comm.Abort(code)
        raise SystemExit(code)


def _flush() -> None:
    """What was printed goes out before the end, where it can: a full disk or a closed pipe must not prevent the end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


Comm = SerialComm | MpiComm


def world() -> Comm:
    """Communicator of all ranks of this run; initialises MPI. One serial rank where no MPI library is installed.

    Raises
    ------
    LauncherError : an MPI launcher started several processes, but they do not find each other
    """
    announced, variable = _ranks_announced_by_launcher()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        # mpi4py raises RuntimeError where it is installed but no MPI library can be loaded.
        if announced > 1:
            raise LauncherError(
                f"the launcher started {announced} processes ({variable}={announced}), but no MPI library "
                f"can be loaded ({_first_line(error)}). Install one (pip install mpich, or your site's MPI), "
                "or run without the launcher"
            ) from None
        # ASE takes a loaded mpi4py to mean that MPI runs, and would fail where we did.
        for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
            del sys.modules[name]
        return SerialComm()
    comm = MpiComm(MPI.COMM_WORLD)
    if comm.size == 1 and announced > 1:
        raise LauncherError(
            f"the launcher started {announced} processes ({variable}={announced}), but the MPI library in use sees "
            f"one: they do not belong together. mpi4py uses {_first_line(MPI.Get_library_version())}. Start with the "
            "mpirun of that library (with `pip install mpich`: beside this Python), or build mpi4py for the launcher"
        )
    return comm


def _ranks_announced_by_launcher() -> tuple[int, str]:
    """Number of ranks the launcher's environment tells of (1 without one), and the variable that tells."""
    environment = os.environ
    names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]
    # SLURM_NTASKS alone also stands in a batch script, where nothing was launched; PMIx gives no size of its own.
    if "PMI_RANK" in environment or "PMIX_RANK" in environment:
        names.append("SLURM_NTASKS")
    for name in names:
        if environment.get(name, "").isdigit():
            return int(environment[name]), name
    return 1, ""


def _first_line(value: object) -> str:
    return (str(value).strip().splitlines() or [""])[0]


@contextmanager
def collective_errors(comm: Comm) -> Iterator[None]:
    """Make errors common to all ranks: if any rank raises an AllegroSimError inside, every rank raises.

    All ranks must enter and leave the block together, and there must be no communication inside that a rank would miss
    by raising early. Raised is the error of the lowest failing rank: the same class and message everywhere. Other
    exceptions pass through on their own rank, where the program ends all ranks with `comm.abort`.
    """
    own: AllegroSimError | None = None
    try:
        yield
    except AllegroSimError as error:
        own = error
    outcomes = comm.allgather(None if own is None else (type(own), str(own)))
    for rank, outcome in enumerate(outcomes):
        if outcome is not None:
            if own is not None and rank == comm.rank:
                raise own
            raise outcome[0](outcome[1])
