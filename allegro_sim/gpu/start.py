"""From what a run is made of to its motion on GPUs: which transport, and whether ranks share a GPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.gpu.transport import choose_transport
from allegro_sim.motion import Parts
from allegro_sim.potential.cuda.potential import CudaPotential


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_motion(
    parts: Parts,
    *,
    steps_ahead: int,
    transport: str,
    images_travel: bool,
    graphs: str = "auto",
    warn: Callable[[str], None] = _to_stderr,
) -> DeviceMotion:
    """The motion of a run on GPUs (collective); parameters as of `DeviceMotion`, transport by its name.

    warn: told where ranks share a GPU, and what must be said before a transport is tried.

    Raises
    ------
    DeviceError : the transport is not there, or steps cannot be graphs and were asked to be
    """
    assert isinstance(parts.potential, CudaPotential)
    executor, comm = parts.potential.engine.executor, parts.comm
    device = executor.device
    found = comm.allgather((device.identity, device.place))
    ranks = Counter(identity for identity, _ in found)
    shared = {place: ranks[identity] for identity, place in found if ranks[identity] > 1}
    if shared and comm.rank == 0:
        listed = ", ".join(f"{count} on {place}" for place, count in shared.items())
        warn(f"several ranks share a GPU ({listed}): they wait for each other, and one rank a GPU is faster")
    chosen = choose_transport(transport, comm, executor, gpus_shared=bool(shared), warn=warn)
    return DeviceMotion(parts, transport=chosen, steps_ahead=steps_ahead, images_travel=images_travel, graphs=graphs)
