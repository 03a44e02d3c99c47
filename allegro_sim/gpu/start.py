"""From what a run is made of to its motion on GPUs: which transport."""

from __future__ import annotations

from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.gpu.transport import choose_transport
from allegro_sim.motion import Parts
from allegro_sim.potential.cuda.potential import CudaPotential


def make_motion(
    parts: Parts, *, steps_ahead: int, transport: str, images_travel: bool, graphs: str = "auto"
) -> DeviceMotion:
    """The motion of a run on GPUs (collective); parameters as of `DeviceMotion`, transport by its name.

    Raises
    ------
    DeviceError : the transport is not there, or steps cannot be graphs and were asked to be
    """
    assert isinstance(parts.potential, CudaPotential)
    executor, comm = parts.potential.engine.executor, parts.comm
    shared = len(set(comm.allgather(executor.device.place))) < comm.size
    chosen = choose_transport(transport, comm, executor, gpus_shared=shared)
    return DeviceMotion(parts, transport=chosen, steps_ahead=steps_ahead, images_travel=images_travel, graphs=graphs)
