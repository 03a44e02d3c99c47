"""From what a run is made of to its motion on GPUs: which GPU, which transport."""

from __future__ import annotations

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.dynamics.guard import Guard
from allegro_sim.dynamics.observables import Integrator
from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.gpu.transport import choose_transport
from allegro_sim.parallel.comm import Comm
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.system import System
from allegro_sim.timers import Timers


def make_motion(
    comm: Comm,
    system: System,
    cell: Cell,
    cutoffs: np.ndarray,
    skin: float,
    potential: CudaPotential,
    integrator: Integrator,
    guard: Guard,
    timers: Timers,
    *,
    steps_ahead: int,
    transport: str,
    images_travel: bool,
) -> DeviceMotion:
    """The motion of a run on GPUs (collective); parameters as of `DeviceMotion`, transport by its name.

    Raises
    ------
    DeviceError : the transport is not there
    """
    executor = potential.engine.executor
    places = comm.allgather(executor.device.place)
    return DeviceMotion(
        comm,
        system,
        cell,
        cutoffs,
        skin,
        potential,
        integrator,
        guard,
        timers,
        transport=choose_transport(transport, comm, executor, gpus_shared=len(set(places)) < comm.size),
        steps_ahead=steps_ahead,
        images_travel=images_travel,
    )
