"""The phase `md` of tools/gpu_report.py: whole steps on a GPU, neighbour lists and all.

    md/agree    `double` against the CPU: forces, and positions after 200 steps of NVE
    md/bits     the same bits however steps are launched, whatever the skin and the way of ghosts
    md/graphs   the same for the smallest box, with and without CUDA graphs (refused where products are cuBLAS's)
    md/speed    steps/s with rebuilds, and what of a step is not the network: by model, ensemble and size of water; and
                for DHFR in water, alone and in copies (inputs/dhfr)
    md/drift    slope of the total energy in NVE, by precision
    md/largest  the largest box of water that runs, by model

Everything here runs where an executor is given, so the tests take it through the CPU runner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.dynamics.guard import Guard, Limits
from allegro_sim.dynamics.langevin import Langevin
from allegro_sim.dynamics.observables import Integrator, degrees_of_freedom, measure
from allegro_sim.dynamics.velocities import draw_velocities
from allegro_sim.dynamics.velocity_verlet import VelocityVerlet
from allegro_sim.errors import AllegroSimError
from allegro_sim.gpu.motion import DeviceMotion
from allegro_sim.gpu.start import make_motion
from allegro_sim.kernels.cpu.fixed_point import forces_to_float
from allegro_sim.model.description import AllegroModel
from allegro_sim.motion import HostMotion, Parts
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.potential.cpu import CpuPotential
from allegro_sim.potential.cuda.engine import Executor
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.potential.interface import Potential
from allegro_sim.structure import Structure, replicated_atoms, replicated_cell
from allegro_sim.system import System
from allegro_sim.timers import Timers
from allegro_sim.tools.benchmark_models import water_box
from allegro_sim.tools.gpu_report import Item

MODELS = ("bundled", "medium", "sc23")
DHFR_COPIES = {23_558: (1, 1, 1), 1_060_110: (3, 3, 5)}
"""Atoms -> copies of DHFR in water along each vector of its cell."""
SPEED_ATOMS = (192, 24_000, 192_000, 3072, 1_536_000)
LARGEST_ATOMS = (6_291_456, 12_288_000, 24_000_000, 44_294_784, 87_654_336, 126_432_576)
TEMPERATURE_K = 300.0
TIMESTEP_FS = 0.5
QUIET = 1e-4
BLOCKS, BLOCK_SECONDS = 4, 0.6
"""Blocks of steps that are timed, after one that is not, and how long each should take; of 10 to 2,000 steps."""

AGREE_ATOMS, AGREE_STEPS, AGREE_LARGEST = 192, 200, 1e-7
DRIFT_ATOMS, DRIFT_STEPS, DRIFT_EVERY = 576, 20_000, 50


Box = tuple[np.ndarray, np.ndarray, np.ndarray]
"""positions (N, 3) Å, cell (3, 3) Å, types (N,)"""


@dataclass(frozen=True)
class Options:
    """How steps are taken; none of it changes a bit."""

    skin: float = 1.0
    steps_ahead: int = 20
    transport: str = "host"
    images_travel: bool = False
    graphs: str = "auto"


def start_motion(
    model: AllegroModel,
    precision: str,
    atoms: int | Box,
    ensemble: str = "nve",
    options: Options | None = None,
    *,
    executor: Executor | None = None,
    device: str = "cuda",
) -> DeviceMotion | HostMotion:
    """At 300 K, forces computed; atoms: of water, or a box; executor: None for the GPU."""
    options = options or Options()
    positions, vectors, types = water_box(atoms, model) if isinstance(atoms, int) else atoms
    comm, cell, count = SerialComm(), Cell(vectors, True), len(types)
    system = System(cell, model.masses, count)
    system.set_owned(np.arange(count), types, positions, np.zeros((count, 3)))
    integrator: Integrator = VelocityVerlet(TIMESTEP_FS, model.masses)
    if ensemble == "langevin":
        integrator = Langevin(TIMESTEP_FS, model.masses, TEMPERATURE_K, 1.0, 0)
    potential: Potential
    if device == "cpu":
        potential = CpuPotential(model, precision=precision)
    else:
        potential = CudaPotential(model, precision=precision, executor=executor)
    guard = Guard(Limits(1.0))
    parts = Parts(comm, system, cell, model.reaches, options.skin, potential, integrator, guard, Timers())
    motion: DeviceMotion | HostMotion
    if device == "cpu":
        motion = HostMotion(parts)
    else:
        motion = make_motion(
            parts,
            steps_ahead=options.steps_ahead,
            transport=options.transport,
            images_travel=options.images_travel,
            graphs=options.graphs,
        )
    motion.place()
    draw_velocities(motion.atoms(), comm, TEMPERATURE_K, 0, integrator.conserves_momentum)
    motion.start(0)
    return motion


def advance(motion: DeviceMotion | HostMotion, steps: int, *, measured: bool = False) -> None:
    """So many steps; measured: observables can be asked for after the last. Raises AllegroSimError on a fault."""
    last = motion.step + steps
    while motion.step < last:
        found = motion.advance(last - motion.step, measure=measured, asked=lambda: 0.0)
        if found.between:
            raise AllegroSimError(f"the step after {found.step} is at fault: {found}")


def snapshot(motion: DeviceMotion | HostMotion) -> dict[str, np.ndarray]:
    """Positions, velocities and forces (integers) by id."""
    system = motion.atoms()
    owned = system.num_owned
    order = np.argsort(system.ids[:owned])
    return {name: getattr(system, name)[:owned][order] for name in ("positions", "velocities", "forces")}


def md_items(
    models: Callable[[str], AllegroModel],
    executor: Callable[[], Executor | None],
    dhfr: Callable[[], tuple[AllegroModel, Structure]],
    expected: Callable[[], dict[str, np.ndarray]],
) -> Iterator[Item]:
    """models: by name; executor: what to run on, anew for each item; None: the GPU; dhfr: its model and structure;
    expected: the CPU's `trajectory`."""

    def dhfr_speed(atoms: int, ensemble: str) -> dict[str, Any]:
        model, structure = dhfr()
        return speed(model, copies_of(structure, DHFR_COPIES[atoms]), ensemble, executor)

    def of_speed(name: str) -> AllegroModel:
        return models(name) if name == "bundled" else quiet(models(name))

    yield Item("md/agree/bundled", lambda: agree(models("bundled"), executor, expected()))
    for precision in ("mixed", "double"):
        yield Item(f"md/bits/bundled/{precision}", lambda p=precision: bits(models("bundled"), p, executor))
    for atoms in SPEED_ATOMS:
        for name in MODELS:
            for ensemble in ("nve", "langevin"):
                key = f"md/speed/{name}/{ensemble}/{atoms}"
                yield Item(key, lambda n=name, e=ensemble, a=atoms: speed(of_speed(n), a, e, executor))
    for atoms in DHFR_COPIES:
        for ensemble in ("nve", "langevin"):
            yield Item(f"md/speed/dhfr/{ensemble}/{atoms}", lambda e=ensemble, a=atoms: dhfr_speed(a, e))
    small = SPEED_ATOMS[0]
    for name in MODELS:
        for graphs in ("on", "off"):
            key, options = f"md/graphs/{name}/{graphs}/{small}", Options(graphs=graphs)
            yield Item(key, lambda n=name, o=options: speed(of_speed(n), small, "langevin", executor, options=o))
    for precision in ("mixed", "single", "double"):
        yield Item(f"md/drift/bundled/{precision}", lambda p=precision: drift(models("bundled"), p, executor))
    for name in ("bundled", "sc23"):
        for atoms in LARGEST_ATOMS:
            yield Item(f"md/largest/{name}/{atoms}", lambda n=name, a=atoms: largest(of_speed(n), a, executor))


def quiet(model: AllegroModel) -> AllegroModel:
    """A model of random weights with next to no forces: theirs would tear the water apart within a hundred steps.

    What a step computes is the same, and atoms that hardly feel each other leave the list as fast as those of water.
    """
    return replace(model, scales=QUIET * model.scales)


def copies_of(structure: Structure, counts: tuple[int, int, int]) -> Box:
    """So many copies along each vector of the cell."""
    _, types, positions, _ = replicated_atoms(structure, counts)
    return positions, replicated_cell(structure.cell, counts).vectors, types


def trajectory(
    model: AllegroModel, atoms: int = AGREE_ATOMS, steps: int = AGREE_STEPS, **where: Any
) -> dict[str, np.ndarray]:
    """NVE in `double`: forces (N, 3) eV/Å at the start, positions (N, 3) Å after the steps, by id.

    where: device or executor of `start_motion`.
    """
    motion = start_motion(model, "double", atoms, **where)
    forces = forces_to_float(snapshot(motion)["forces"])
    advance(motion, steps)
    return {"forces": forces, "positions": snapshot(motion)["positions"]}


def agree(
    model: AllegroModel,
    executor: Callable[[], Executor | None],
    expected: dict[str, np.ndarray],
    atoms: int = AGREE_ATOMS,
    steps: int = AGREE_STEPS,
) -> dict[str, Any]:
    """Largest deviations from what the CPU's `trajectory` gave."""
    found = trajectory(model, atoms, steps, executor=executor())
    largest_force, deviation = (float(np.abs(found[key] - expected[key]).max()) for key in ("forces", "positions"))
    bound = 1e-9 * max(1.0, float(np.abs(expected["forces"]).max()))
    return {
        "force_largest_eV_per_A": largest_force,
        "position_largest_A": deviation,
        "steps": steps,
        "within_bounds": {
            "force_largest_eV_per_A": largest_force <= bound,
            "position_largest_A": deviation <= AGREE_LARGEST,
        },
    }


VARIANTS = {
    "one step at a time": Options(steps_ahead=1),
    "launch by launch": Options(graphs="off"),
    "graphs": Options(graphs="on"),
    "a narrow skin": Options(skin=0.5),
    "images by the host": Options(images_travel=True),
    "images by NCCL": Options(images_travel=True, transport="nccl"),
}


def bits(
    model: AllegroModel,
    precision: str,
    executor: Callable[[], Executor | None],
    atoms: int = 3072,
    steps: int = 100,
    variants: dict[str, Options] = VARIANTS,
) -> dict[str, Any]:
    """Whether every way of taking steps gives the bits of the usual one; of a way that is not there, why."""

    def run(options: Options) -> dict[str, np.ndarray]:
        motion = start_motion(model, precision, atoms, "langevin", options, executor=executor())
        advance(motion, steps)
        return snapshot(motion)

    expected = run(Options())
    same: dict[str, bool | str] = {}
    for name, options in variants.items():
        try:
            found = run(options)
            same[name] = all(np.array_equal(found[key], values) for key, values in expected.items())
        except AllegroSimError as error:
            same[name] = str(error)
    return {"steps": steps, "atoms": atoms, "same_bits": same}


def speed(
    model: AllegroModel,
    box: int | Box,
    ensemble: str,
    executor: Callable[[], Executor | None],
    precision: str = "mixed",
    block: int | None = None,
    options: Options | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Seconds a step, rebuilds included, for each of BLOCKS; and of an evaluation of the network alone."""
    motion = start_motion(model, precision, box, ensemble, options, executor=executor())
    assert isinstance(motion, DeviceMotion)
    atoms = motion.rows.num_owned

    def timed(call: Callable[[], None], count: int) -> float:
        motion.executor.download(motion.control)  # all that was launched before is done
        start = clock()
        call()
        motion.executor.download(motion.control)
        return (clock() - start) / count

    warm_up = block or 10
    advance(motion, warm_up)  # first launches, and what is captured
    once = timed(lambda: advance(motion, warm_up), warm_up)
    steps = block or max(10, min(2000, int(BLOCK_SECONDS / once)))
    blocks = BLOCKS if steps * once < 2.0 * BLOCK_SECONDS else 1
    builds = motion.neighbors.num_builds
    seconds = [timed(lambda: advance(motion, steps), steps) for _ in range(blocks)]
    builds = motion.neighbors.num_builds - builds
    network = [timed(motion.potential.engine.launch, 1) for _ in range(blocks)]
    step, alone = float(np.median(seconds)), float(np.median(network))
    return {
        "atoms": atoms,
        "ghosts": motion.rows.num_ghosts,
        "listed": motion.neighbors.num_edges,
        "precision": precision,
        "steps_a_block": steps,
        "rebuilds": builds,
        "graphs": dict(motion.facts())["CUDA graphs"],
        "graphs_captured": motion.graph.num_captures,
        "graphs_launched": motion.graph.num_launches,
        "step_seconds": seconds,
        "network_seconds": network,
        "steps_per_second": 1.0 / step,
        "atom_steps_per_second": atoms / step,
        "outside_network_seconds": step - alone,
        "outside_network_share": 1.0 - alone / step,
        "atom_and_pair_bytes": motion.array_bytes(),
        "chunk_buffer_bytes": motion.potential.engine.chunk_bytes,
    }


def drift(
    model: AllegroModel,
    precision: str,
    executor: Callable[[], Executor | None],
    atoms: int = DRIFT_ATOMS,
    steps: int = DRIFT_STEPS,
    every: int = DRIFT_EVERY,
) -> dict[str, Any]:
    """Slope of the total energy by least squares, with a standard error from blocks; eV/atom/ps."""
    motion = start_motion(model, precision, atoms, executor=executor())
    comm, cell = SerialComm(), motion.decomposition.cell
    freedom = degrees_of_freedom(motion.atoms(), comm, True)
    energies = []
    for _ in range(steps // every):
        advance(motion, every, measured=True)
        energies.append(measure(motion.sums(), cell, comm, freedom).total / atoms)
    times = 1e-3 * TIMESTEP_FS * every * np.arange(1, len(energies) + 1)
    blocks = np.array_split(np.arange(len(energies)), 4)
    slopes = [float(np.polyfit(times[b], np.array(energies)[b], 1)[0]) for b in blocks if len(b) > 1]
    return {
        "atoms": atoms,
        "picoseconds": float(times[-1]),
        "slope_eV_per_atom_per_ps": float(np.polyfit(times, energies, 1)[0]),
        "slopes_of_quarters": slopes,
        "energies_eV_per_atom": energies,
    }


def largest(
    model: AllegroModel, atoms: int, executor: Callable[[], Executor | None], precision: str = "mixed", steps: int = 2
) -> dict[str, Any]:
    """A few steps of a box of this size: seconds, and bytes of atoms and pairs."""
    motion = start_motion(model, precision, atoms, executor=executor())
    assert isinstance(motion, DeviceMotion)
    start = time.perf_counter()
    advance(motion, steps)
    motion.executor.download(motion.control)
    return {
        "atoms": atoms,
        "ghosts": motion.rows.num_ghosts,
        "listed": motion.neighbors.num_edges,
        "step_seconds": (time.perf_counter() - start) / steps,
        "atom_and_pair_bytes": motion.array_bytes(),
        "chunk_buffer_bytes": motion.potential.engine.chunk_bytes,
    }
