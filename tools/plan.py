"""`allegro-tools plan INPUT.toml --ranks N | --gpus N`: what a run would ask of machines that need not be there."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from allegro_sim.config import Settings, load_settings
from allegro_sim.errors import DeviceError, InputError
from allegro_sim.loads import RankLoad, brick_loads, count_pairs, largest, load_facts, uniform_load
from allegro_sim.model.description import AllegroModel
from allegro_sim.neighbors import NeighborList
from allegro_sim.output.screen import Screen
from allegro_sim.potential.cpu import CpuPotential
from allegro_sim.potential.cuda.engine import BUFFER_BYTES, MEMORY_SHARE, MIN_ROWS
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import system_buffers
from allegro_sim.potential.folding import fold_model
from allegro_sim.start import Start, read_start
from allegro_sim.structure import replicated_atoms
from allegro_sim.tools.device_rates import CPU_RATE, GPU_MEMORY, USABLE_MEMORY, gpu_bounds, measured_gpus

MOST_COUNTED = 2_000_000
"""Atoms up to which every one is counted; beyond, volumes and the density of the structure do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("input", metavar="INPUT.toml", help="the input of a run")
    number = parser.add_mutually_exclusive_group(required=True)
    number.add_argument("--ranks", type=_positive, metavar="N", help="N ranks on CPUs, each with run.threads threads")
    number.add_argument("--gpus", type=_positive, metavar="N", help="N ranks with a GPU each")
    parser.add_argument(
        "--memory-GiB",
        type=float,
        metavar="M",
        help="memory of a rank; default: a share of this machine's, or the GPU's",
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as in allegro-sim"
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, found {text!r}")
    return number


@dataclass(frozen=True)
class System:
    """What is planned for: the structure, its pairs, and where they are."""

    settings: Settings
    start: Start
    num_atoms: int
    pairs_per_atom: np.ndarray  # (2,): listed, and within the cutoffs
    reach: float
    extents: np.ndarray  # (3,) Å, perpendicular to the faces
    grid: str
    load: RankLoad  # the largest values of all ranks
    counted: bool


def run(args: argparse.Namespace) -> int:
    """Print the plan; returns 0. Raises UserError for what is wrong with the input, as a run would."""
    settings = load_settings(args.input, args.overrides)
    if args.memory_GiB is not None and not args.memory_GiB > 0.0:
        raise InputError(f"--memory-GiB {args.memory_GiB:g}: must be above 0")
    start = read_start(settings, Screen(enabled=False), restart=None, overwrite=True)
    ranks = args.gpus or args.ranks
    system = count_system(settings, start, ranks)
    precision = settings.run.precision
    if precision == "auto":
        precision = "mixed" if args.gpus else "single"
    facts = _gpu_facts if args.gpus else _cpu_facts
    costs = list(facts(args, system, precision, ranks))  # before anything is printed: it may refuse the model
    title = f"{args.input}: {system.num_atoms} atoms on {ranks} {'GPUs' if args.gpus else 'ranks'}, {precision}"
    how = "In one rank, at most" if system.counted else "In one rank, from the density"
    screen = Screen()
    screen.banner(f"{title}\n{how}", [("decomposition", system.grid), *load_facts(system.load)])
    screen.banner("Memory and speed", costs)
    return 0


def count_system(settings: Settings, start: Start, ranks: int) -> System:
    """Loads of ranks: of every atom where there are few enough, else from the density of one replica."""
    structure, cell, copies = start.structure, start.cell, settings.structure.replicate
    neighbors = NeighborList(start.model.reaches, settings.neighbors.skin_A)
    pairs = count_pairs(structure.cell, structure.types, structure.positions, neighbors)
    num_atoms = structure.num_atoms * int(np.prod(copies))
    fractional = cell.fractional(structure.positions)
    extents = np.where(cell.pbc, 1.0, np.maximum(np.ptp(fractional, axis=0), 1e-3)) * cell.heights
    counted = num_atoms <= MOST_COUNTED
    if counted:
        _, _, positions, _ = replicated_atoms(structure, copies)
        all_pairs = np.tile(pairs, (num_atoms // len(pairs), 1))
        decomposition, loads = brick_loads(cell, positions, all_pairs, neighbors.reach, ranks)
        grid, load = decomposition.describe(), largest(loads)
    else:
        load = uniform_load(num_atoms, extents, cell.pbc, pairs.mean(axis=0), neighbors.reach, ranks)
        grid = f"{ranks} equal bricks, halo {neighbors.reach:.2f} Å"
    return System(settings, start, num_atoms, pairs.mean(axis=0), neighbors.reach, extents, grid, load, counted)


# ------------------------------------------------------------------------------------------------------------- on CPUs


def _cpu_facts(args: argparse.Namespace, system: System, precision: str, ranks: int) -> Iterator[tuple[str, str]]:
    threads = system.settings.run.threads or 1
    model = system.start.model
    work = _workspace_bytes(model, precision, threads)
    program = _resident_bytes()
    total = program + work + system.load.array_bytes
    yield "threads", f"{threads} a rank" + ("" if system.settings.run.threads else "; run.threads sets another number")
    yield (
        "memory",
        f"{total / 2**20:.0f} MiB a rank: {program / 2**20:.0f} for the program (as this process), "
        f"{work / 2**20:.1f} for the potential, {system.load.array_bytes / 2**20:.2f} for arrays",
    )
    if precision == "double":
        yield "speed", "not measured in double"
    else:
        seconds = CPU_RATE.seconds_for(model, system.load.edges) / threads
        yield (
            "speed",
            f"about {_speed(system, seconds)}: forces alone, as measured on {CPU_RATE.processor} ({CPU_RATE.record}), "
            "scaled by edges and multiply-adds, which is off by tens of percent for other models; the rest of a step "
            "comes on top, and is most of it in small systems",
        )
    if args.memory_GiB is None:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks
        share = f"{available / 2**30:.3g} GiB a rank, this machine's memory divided by ranks"
    else:
        available = args.memory_GiB * 2.0**30
        share = f"{args.memory_GiB:g} GiB a rank"
    yield "largest", _largest(system, ranks, lambda load: program + work + load.array_bytes, available, share)


def _workspace_bytes(model: AllegroModel, precision: str, threads: int) -> float:
    """Of all threads of a rank."""
    potential = CpuPotential(model, precision=precision, threads=1)
    return float(threads * potential.workspace_bytes())


def _resident_bytes() -> float:
    """The program with its libraries: this process, which has loaded what a run loads."""
    # Linux counts KiB, macOS bytes.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


# ------------------------------------------------------------------------------------------------------------- on GPUs


def _gpu_facts(args: argparse.Namespace, system: System, precision: str, ranks: int) -> Iterator[tuple[str, str]]:
    model = system.start.model
    try:
        layout = Layout(model, precision)
    except DeviceError as error:
        raise DeviceError(f"{system.settings.model.file}: cannot run on a GPU: {error}") from None
    constants = float(sum(array.nbytes for array in layout.constants.values()))

    def device_bytes(load: RankLoad, memory: float = np.inf) -> float:
        atoms = system_buffers(
            rows=int(load.owned + load.ghosts),
            owned=int(load.owned),
            listed=int(load.listed),
            chunks=0,
            atom_virials=False,
        )
        edge = layout.bytes_per_edge + layout.bytes_per_center / 4
        chunk = min(float(BUFFER_BYTES), memory / MEMORY_SHARE, max(load.edges, MIN_ROWS) * edge)
        return sum(buffer.nbytes for buffer in atoms.values()) + chunk + constants

    host = _resident_bytes() + system.load.array_bytes
    yield (
        "memory",
        f"{device_bytes(system.load) / 2**20:.0f} MiB on the device: atoms, ghosts, neighbours and the buffers of a "
        f"chunk (at most {BUFFER_BYTES / 2**20:.0f} MiB and 1/{MEMORY_SHARE} of the GPU's memory); "
        f"{host / 2**20:.0f} MiB on the host",
    )
    multiply_adds = fold_model(model).multiply_adds[1]
    work = system.load.edges * multiply_adds
    measured = list(measured_gpus(precision, multiply_adds))
    for rate in measured:
        seconds = work / rate.multiply_adds_per_second
        yield (
            f"speed, {rate.gpu}",
            f"{_speed(system, seconds)}: forces alone, scaled by edges and multiply-adds from {rate.source}",
        )
    if not measured:
        yield "speed", f"not measured: there is no record of a GPU in {precision}"
    for gpu, seconds_per_atom in gpu_bounds(model, precision, float(system.pairs_per_atom[1])):
        seconds = seconds_per_atom * system.load.owned
        yield (
            f"bound, {gpu.name}",
            f"at most {_speed(system, seconds)}: peak rates of the data sheet (tools/roofline.py), not a measurement",
        )
    if args.memory_GiB is not None:
        share = f"{args.memory_GiB:g} GiB a GPU"
        memory = args.memory_GiB * 2.0**30
        yield "largest", _largest(system, ranks, partial(device_bytes, memory=memory), memory, share)
        return
    for name, memory in GPU_MEMORY.items():
        share = f"{100 * USABLE_MEMORY:.0f} % of {memory / 1e9:.0f} GB a GPU"
        needed = partial(device_bytes, memory=memory)
        yield f"largest, {name}", _largest(system, ranks, needed, USABLE_MEMORY * memory, share)


# -------------------------------------------------------------------------------------------------------- both of them


def _speed(system: System, seconds: float) -> str:
    """Of steps that take so many seconds."""
    steps = 1.0 / seconds
    ns_per_day = 86400e-6 * steps * system.settings.run.timestep_fs
    return f"{steps:.{0 if steps >= 100.0 else 2}f} steps/s, {ns_per_day:.3g} ns/day"


def _largest(system: System, ranks: int, bytes_of: Callable[[RankLoad], float], available: float, share: str) -> str:
    """The most atoms, at this density, in a periodic box as long in all directions, that fit the memory of a rank."""
    density = system.num_atoms / float(np.prod(system.extents))

    def fits(atoms: float) -> bool:
        edge = np.full(3, (atoms / density) ** (1.0 / 3.0))
        periodic = np.ones(3, dtype=bool)
        load = uniform_load(atoms, edge, periodic, system.pairs_per_atom, system.reach, ranks)
        return bool(bytes_of(load) <= available)

    if not fits(float(ranks)):
        return f"nothing fits {share}"
    low, high = float(ranks), float(ranks)
    while fits(high):
        low, high = high, 2.0 * high
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return f"{low / 1e6:.3g} million atoms of this density fit {share}"
