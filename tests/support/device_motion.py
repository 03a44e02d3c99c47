"""Molecular dynamics with everything on the device, the device being this processor (`cuda_harness`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from support.cuda_harness import HostExecutor
from support.random_models import random_model, random_structure

from allegro_sim.cell import Cell
from allegro_sim.dynamics.fire import Fire, Slope
from allegro_sim.dynamics.guard import Guard, Limits
from allegro_sim.dynamics.langevin import Langevin
from allegro_sim.dynamics.velocity_verlet import VelocityVerlet
from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.gpu.start import make_motion
from allegro_sim.model.description import AllegroModel
from allegro_sim.motion import Advance, HostMotion, Parts
from allegro_sim.parallel.collect import gather_by_id, initial_share
from allegro_sim.parallel.comm import Comm, SerialComm
from allegro_sim.potential.cpu import CpuPotential
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.potential.interface import Potential
from allegro_sim.system import System
from allegro_sim.timers import Timers


def small_model() -> AllegroModel:
    """A model whose kernels run in a moment."""
    return random_model(
        1, l_max=1, num_layers=1, num_scalar_features=4, num_tensor_features=4, per_pair_cutoffs=True, r_max=3.0
    )


@dataclass(frozen=True)
class Case:
    """A system to run: positions, cell (or None), pbc and types; speed: Å/fs, of the velocities drawn."""

    model: AllegroModel
    positions: np.ndarray
    vectors: np.ndarray | None
    pbc: np.ndarray
    types: np.ndarray
    speed: float = 0.01

    @property
    def velocities(self) -> np.ndarray:
        return self.speed * np.random.default_rng(0).standard_normal(self.positions.shape)


def periodic_case(num_atoms: int = 10, seed: int = 2, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Case:
    """A skewed cell, in some directions smaller than the cutoff and the skin."""
    model = small_model()
    return Case(model, *random_structure(seed, model, num_atoms=num_atoms, pbc=pbc))


def make(
    case: Case,
    device: str = "cuda",
    *,
    comm: Comm | None = None,
    bath: bool = False,
    skin: float = 0.3,
    timestep: float = 1.0,
    limits: Limits | None = None,
    steps_ahead: int = 4,
    images_travel: bool = False,
    transport: str = "host",
    graphs: str = "auto",
    chunk_edges: int = 256,
    start: int = 0,
    executor: Any = None,
    **options: Any,
) -> DeviceMotion | HostMotion:
    """A motion at its start, forces computed; options: those of `HostExecutor`, the executor where none is given."""
    comm = comm or SerialComm()
    model, cell = case.model, Cell(case.vectors, case.pbc)
    system = System(cell, model.masses, len(case.types))
    share = initial_share(comm, len(case.types))
    system.set_owned(
        np.arange(len(case.types))[share], case.types[share], case.positions[share], case.velocities[share]
    )
    integrator = Langevin(timestep, model.masses, 300.0, 5.0, 3) if bath else VelocityVerlet(timestep, model.masses)
    potential: Potential
    if device == "cpu":
        potential = CpuPotential(model, precision="double", threads=1)
    else:
        executor = executor or HostExecutor(**options)
        potential = CudaPotential(model, precision="double", chunk_edges=chunk_edges, executor=executor)
    guard = Guard(limits or Limits(1.0))
    parts = Parts(comm, system, cell, model.reaches, skin, potential, integrator, guard, Timers())
    motion: DeviceMotion | HostMotion
    if device == "cpu":
        motion = HostMotion(parts)
    else:
        motion = make_motion(
            parts, steps_ahead=steps_ahead, transport=transport, images_travel=images_travel, graphs=graphs
        )
    motion.place()
    motion.atoms()
    motion.start(start)
    return motion


def advance(motion: DeviceMotion | HostMotion, steps: int, *, measure: bool = True) -> list[Advance]:
    """So many steps; what every call of `advance` found."""
    found = []
    last = motion.step + steps
    while motion.step < last:
        found.append(motion.advance(last - motion.step, measure=measure, asked=lambda: 0.0))
    return found


def descend(motion: DeviceMotion | HostMotion, steps: int) -> list[Slope]:
    """So many steps of a minimisation, from rest; the slope before and after each."""
    descent, fire = motion.descent(), Fire(max_move=0.1)
    descent.rest()
    slopes = [descent.measure()]
    for _ in range(steps):
        descent.move(fire.next_move(slopes[-1]))
        descent.settle(0.0)
        descent.compute()
        slopes.append(descent.measure())
    return slopes


def state(motion: DeviceMotion | HostMotion) -> dict[str, np.ndarray] | None:
    """Positions, velocities, forces (integers) and energies by id on rank 0, and the kinetic sums of all ranks."""
    system, comm = motion.atoms(), motion.comm
    arrays = gather_by_id(comm, system, ("positions", "velocities", "forces", "energies"))
    sums = motion.sums()
    kinetic = sums.kinetic
    words = np.concatenate(
        [kinetic.energy_words.ravel(), kinetic.momentum_words.ravel(), sums.virial_words.ravel(), sums.energy_words]
    )
    words = comm.allreduce_sum(words)
    exact = comm.allreduce_sum(np.array([kinetic.beside, kinetic.heat, sums.faults], np.int64))
    return None if arrays is None else {**arrays, "words": words, "bath": exact}


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name
