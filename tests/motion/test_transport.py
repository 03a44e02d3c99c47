"""Exchanges between ranks: what goes where, and which transport is taken."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from support.cuda_harness import HostDevice, HostExecutor
from support.nccl_stand_in import DeviceArray

from allegro_sim.errors import DeviceError
from allegro_sim.gpu import nccl as nccl_module
from allegro_sim.gpu.cuda_aware import CudaAwareTransport
from allegro_sim.gpu.nccl import NcclTransport
from allegro_sim.gpu.transport import HostTransport, choose_transport
from allegro_sim.parallel.comm import SerialComm

pytestmark = pytest.mark.simulator


class ManyRanks(SerialComm):
    """A rank of several that are not there."""

    size = 3
    rank = 1


def test_the_host_copies_rows_of_one_rank():
    executor = HostExecutor()
    send, receive = np.arange(12.0).reshape(4, 3), np.zeros((4, 3))
    HostTransport(SerialComm(), executor).exchange(send, np.array([4]), receive, np.array([4]))
    assert np.array_equal(receive, send)
    assert [direction for direction, _ in executor.copies] == ["to the host", "to the device"]


def test_nothing_to_exchange_is_no_copy():
    executor, nothing = HostExecutor(), np.zeros((0, 3))
    HostTransport(SerialComm(), executor).exchange(nothing, np.zeros(1, int), nothing, np.zeros(1, int))
    assert executor.copies == []


class FakeNccl(ModuleType):
    """Notes what is sent and received; the communicator of rank 1 of 3."""

    NCCL_INT64, NCCL_MAX = "int64", "max"
    available = True

    def __init__(self):
        super().__init__("nccl")
        self.calls = []
        self.NcclCommunicator = lambda size, identity, rank: SimpleNamespace(
            send=lambda *given: self.calls.append(("send", *given)),
            recv=lambda *given: self.calls.append(("recv", *given)),
            allReduce=lambda *given: self.calls.append(("allReduce", *given)),
        )

    def get_unique_id(self):
        return (1, 2)

    def groupStart(self):
        self.calls.append("start")

    def groupEnd(self):
        self.calls.append("end")


def test_nccl_gets_the_rows_of_each_rank(monkeypatch):
    """Places, numbers of 8-byte words, peers and the stream; only between ranks that have something for each other."""
    fake = FakeNccl()
    monkeypatch.setitem(__import__("sys").modules, "cupy", ModuleType("cupy"))
    monkeypatch.setitem(__import__("sys").modules, "cupy.cuda", SimpleNamespace(nccl=fake))
    executor = SimpleNamespace(stream=SimpleNamespace(ptr=77))
    transport = NcclTransport(ManyRanks(), executor)
    send, receive = np.zeros((5, 3)).view(DeviceArray), np.zeros((4, 3)).view(DeviceArray)
    transport.exchange(send, np.array([2, 0, 3]), receive, np.array([0, 0, 4]))
    start, row = send.data.ptr, 24
    assert fake.calls == [
        "start",
        ("send", start, 6, "int64", 0, 77),
        ("send", start + 2 * row, 9, "int64", 2, 77),
        ("recv", receive.data.ptr, 12, "int64", 2, 77),
        "end",
    ]
    fake.calls.clear()
    words = np.zeros(16, np.int64).view(DeviceArray)
    transport.take_maximum(words)
    assert fake.calls == [("allReduce", words.data.ptr, words.data.ptr, 16, "int64", "max", 77)]


def test_what_other_ranks_found_is_copied_up_and_nothing_else(monkeypatch):
    comm, executor = ManyRanks(), HostExecutor()
    words = np.array([0, 7, 1], np.int64)
    monkeypatch.setattr(comm, "allreduce_max", lambda own: np.maximum(own, [0, 7, 1]))
    HostTransport(comm, executor).take_maximum(words)
    assert executor.copies == [("to the host", 24)]
    monkeypatch.setattr(comm, "allreduce_max", lambda own: np.maximum(own, [1, 7, 0]))
    HostTransport(comm, executor).take_maximum(words)
    assert words.tolist() == [1, 7, 1] and executor.copies[1:] == [("to the host", 24), ("to the device", 24)]


def test_the_transport_is_chosen_in_one_place(monkeypatch):
    executor = HostExecutor(device=HostDevice())
    alone, many = SerialComm(), ManyRanks()

    def choose(name, comm, shared=False):
        return choose_transport(name, comm, executor, gpus_shared=shared, warn=said.append).name

    said = []

    assert choose("auto", alone) == choose("host", many) == choose("auto", many, shared=True) == "host"
    with pytest.raises(DeviceError, match="a GPU for each rank"):
        choose("nccl", many, shared=True)
    monkeypatch.setattr(nccl_module, "nccl_is_there", lambda: "it is not installed")
    assert choose("auto", many) == "host"
    with pytest.raises(DeviceError, match="it is not installed"):
        choose("nccl", many)
    monkeypatch.setattr(nccl_module, "nccl_is_there", lambda: "")
    monkeypatch.setattr(nccl_module, "NcclTransport", lambda comm, executor: SimpleNamespace(name="nccl"))
    assert choose("auto", many) == choose("nccl", many) == "nccl"
    with pytest.raises(DeviceError, match="unknown"):
        choose("pigeon", many)
    assert not said
    # Of one rank alone the probe is a copy.
    assert choose("cuda-aware", alone) == choose("cuda-aware", alone, shared=True) == "cuda-aware"
    assert "untested on hardware" in said[0] and "probe is sent now" in said[0]


class Library(SerialComm):
    """A rank of one whose MPI library says what it is told to, and sends what it is told to."""

    library = "Some MPI 1.0"

    def __init__(self, says, falsifies=False):
        self.says, self.falsifies, self.seen = says, falsifies, []

    def takes_device_memory(self):
        return self.says

    def shift(self, send, receive, distance):
        self.seen.append("probe")
        receive[...] = send + (self.falsifies and len(send) > 1)

    def exchange(self, send, send_counts, receive, receive_counts):
        self.seen.append("exchange")
        super().exchange(send, send_counts, receive, receive_counts)


def test_an_mpi_that_does_not_take_memory_of_gpus_is_refused_before_the_first_step():
    comm = Library(False)
    with pytest.raises(DeviceError, match=r'Some MPI 1.0 says that it is not built for CUDA .* gpu.transport = "host"'):
        CudaAwareTransport(comm, HostExecutor(), comm.seen.append)
    assert comm.seen == []  # it was asked, and nothing was tried
    comm = Library(None, falsifies=True)
    with pytest.raises(DeviceError, match="1 messages of the probe came with other numbers than were sent"):
        CudaAwareTransport(comm, HostExecutor(), comm.seen.append)
    assert "if the run ends here without another word" in comm.seen[0] and comm.seen[1:] == ["probe", "probe"]


def test_mpi_gets_device_arrays_after_the_stream_and_no_copies():
    comm, executor = Library(True), HostExecutor()
    transport = CudaAwareTransport(comm, executor, comm.seen.append)
    executor.wait = lambda: comm.seen.append("wait")
    executor.copies.clear()
    comm.seen.clear()
    send, receive = np.arange(12.0).reshape(4, 3), np.zeros((4, 3))
    transport.exchange(send, np.array([4]), receive, np.array([4]))
    assert np.array_equal(receive, send)
    assert comm.seen == ["wait", "exchange"] and executor.copies == []
