"""Rows of device arrays from rank to rank by an MPI library that takes memory of GPUs. Never tried on hardware.

An MPI library that is not aware of GPUs takes their addresses for the host's, and dies or sends other bytes. So it is
asked first, where it can be asked, and then a few numbers are sent and compared before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.gpu.arrays import new_array, to_device
from allegro_sim.gpu.transport import take_maximum_by_host
from allegro_sim.parallel.comm import Comm
from allegro_sim.potential.cuda.engine import Executor

_INSTEAD = 'use gpu.transport = "host", or "nccl"'
_PROBED = 1024
"""Numbers of a probe's message, and a single one: short messages go other ways than long ones."""


class CudaAwareTransport:
    """MPI on device memory; the host waits for what was launched, then for MPI. Collective to create: sends a probe.

    warn: told before the probe, since the program may end in it.

    Raises
    ------
    DeviceError : the MPI library says that it cannot, or the probe came back with other numbers
    """

    name = "cuda-aware"
    note = "MPI on memory of GPUs; untested on hardware, but for the probe at the start of this run"
    waits = True

    def __init__(self, comm: Comm, executor: Executor, warn: Callable[[str], None]) -> None:
        self._comm, self._executor = comm, executor
        answers = comm.allgather(comm.takes_device_memory())
        if False in answers:
            raise DeviceError(
                f'transport "cuda-aware" was asked for, but {comm.library} says that it is not built for CUDA '
                f"(MPIX_Query_cuda_support, MPIX_GPU_query_support; rank {answers.index(False)}); {_INSTEAD}"
            )
        says = "says that it takes memory of GPUs" if True in answers else "does not say whether it takes GPUs' memory"
        warn(
            f'transport "cuda-aware", untested on hardware: {comm.library} {says}. A probe is sent now; if the run '
            f"ends here without another word, it does not: {_INSTEAD}"
        )
        self._probe()

    def exchange(
        self, send: np.ndarray, send_counts: np.ndarray, receive: np.ndarray, receive_counts: np.ndarray
    ) -> None:
        """See `Transport.exchange`. mpi4py finds the addresses of device arrays by __cuda_array_interface__."""
        self._executor.wait()  # MPI knows nothing of the stream
        with self._executor.working():  # a rank's own rows are copied there
            self._comm.exchange(send, send_counts, receive, receive_counts)

    def take_maximum(self, words: Any) -> None:
        """See `Transport.take_maximum`. Through the host, which has to wait in any case."""
        take_maximum_by_host(self._comm, self._executor, words)

    def _probe(self) -> None:
        """Numbers from device to device: to this rank itself, its neighbours, and ranks farther and farther off."""
        comm, executor = self._comm, self._executor
        distances = [0] + [2**n for n in range(comm.size.bit_length()) if 2**n < comm.size]
        wrong = 0
        for distance in distances:
            for count in (1, _PROBED):
                numbers = np.arange(count) + 1.0
                send = to_device(executor, numbers * (comm.rank + 1), "a probe of MPI")
                receive = new_array(executor, count, np.float64, "a probe of MPI")
                executor.upload(receive, np.zeros(count))
                executor.wait()
                with executor.working():
                    comm.shift(send, receive, distance)
                source = (comm.rank - distance) % comm.size
                wrong += not np.array_equal(executor.download(receive), numbers * (source + 1))
        failed = comm.allreduce_sum(np.array([wrong]))[0]
        if failed:
            raise DeviceError(
                f'transport "cuda-aware": {failed} messages of the probe came with other numbers than were sent, so '
                f"{comm.library} does not take memory of GPUs; {_INSTEAD}"
            )
