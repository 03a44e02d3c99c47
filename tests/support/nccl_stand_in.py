"""The calls of CuPy's NCCL that `gpu/nccl.py` makes, with MPI and memory of the host behind them.

What is sent and received are the bytes at the addresses given, when the group ends; a reduction is MPI's. So a test
that goes through here shows which bytes go where and in which order, not what NCCL makes of it.
"""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from support.cuda_harness import HostDevice, HostExecutor

from allegro_sim.parallel.comm import Comm


class DeviceArray(np.ndarray):
    """An array of the host whose address is found where a CuPy array has it."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])


class NcclExecutor(HostExecutor):
    """A GPU of this rank's own, with a stream."""

    stream = SimpleNamespace(ptr=77)

    def __init__(self, rank: int) -> None:
        super().__init__(device=HostDevice(identity=f"GPU {rank}"))

    def allocate(self, count: int, dtype: Any) -> np.ndarray:
        return super().allocate(count, dtype).view(DeviceArray)


class Nccl(ModuleType):
    """`cupy.cuda.nccl`; num_maxima: reductions so far."""

    NCCL_INT64, NCCL_MAX = 4, 2
    available = True

    def __init__(self, comm: Comm) -> None:
        super().__init__("nccl")
        from mpi4py import MPI

        self._mpi, self._group = MPI, None
        self._comm = MPI.COMM_WORLD.Dup()
        self.num_maxima = 0
        self._size = comm.size

    def get_unique_id(self) -> tuple[int, ...]:
        return (1, 2)

    def NcclCommunicator(self, size: int, identity: tuple[int, ...], rank: int) -> Nccl:
        assert (size, rank, identity) == (self._size, self._comm.Get_rank(), (1, 2))
        return self

    def groupStart(self) -> None:
        assert self._group is None
        self._group = []

    def send(self, place: int, count: int, kind: int, peer: int, stream: int) -> None:
        assert self._group is not None and (kind, stream) == (self.NCCL_INT64, NcclExecutor.stream.ptr)
        self._group.append(self._comm.Isend(words_at(place, count), peer))

    def recv(self, place: int, count: int, kind: int, peer: int, stream: int) -> None:
        assert self._group is not None and (kind, stream) == (self.NCCL_INT64, NcclExecutor.stream.ptr)
        self._group.append(self._comm.Irecv(words_at(place, count), peer))

    def groupEnd(self) -> None:
        self._mpi.Request.Waitall(self._group)
        self._group = None

    def allReduce(self, source: int, target: int, count: int, kind: int, operation: int, stream: int) -> None:
        assert self._group is None and (kind, operation) == (self.NCCL_INT64, self.NCCL_MAX)
        assert stream == NcclExecutor.stream.ptr
        self._comm.Allreduce(words_at(source, count).copy(), words_at(target, count), self._mpi.MAX)
        self.num_maxima += 1


def words_at(place: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array(ctypes.cast(place, ctypes.POINTER(ctypes.c_int64)), (count,))


def install(comm: Comm) -> Nccl:
    """From now on `cupy.cuda.nccl` is this."""
    nccl = Nccl(comm)
    cuda = ModuleType("cupy.cuda")
    cuda.nccl = nccl  # type: ignore[attr-defined]
    sys.modules.update({"cupy": ModuleType("cupy"), "cupy.cuda": cuda, "cupy.cuda.nccl": nccl})
    return nccl
