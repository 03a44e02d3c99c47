"""What a run tells about itself before the first step."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import numpy as np

from allegro_sim import __version__
from allegro_sim.cell import Cell
from allegro_sim.model.caveats import jump_warnings

if TYPE_CHECKING:
    from allegro_sim.simulation import Simulation

TITLE = f"allegro-sim {__version__}"


def banner_facts(run: Simulation) -> list[tuple[str, object]]:
    """Label and value of what the banner shows; after the first neighbour list (collective)."""
    settings, dynamics = run.settings, run.settings.dynamics
    atoms = run.system.num_global
    edges, listed, ghosts = run.motion.totals()
    resident, arrays = run.comm.allreduce_max(np.array(_memory_MiB(run)))
    bath = ""
    if dynamics.ensemble == "langevin":
        bath = f", {dynamics.temperature_K:g} K, friction {dynamics.friction_per_ps:g}/ps"
    model = run.start.model
    return [
        ("model", f"{settings.model.file}: types {', '.join(model.type_names)}; cutoff {model.reaches.max():g} Å"),
        ("structure", f"{settings.structure.file}: {atoms} atoms, {_cell_text(run.start.cell)}"),
        ("dynamics", dynamics.ensemble + bath),
        ("steps", f"{run.step} to {settings.run.steps}, {settings.run.timestep_fs:g} fs each"),
        ("device", f"{run.potential.device}, {run.potential.description}"),
        ("precision", run.potential.precision),
        ("ranks, threads", f"{run.comm.size} x {run.threads}"),
        ("decomposition", run.motion.decomposition.describe()),
        *run.motion.facts(),
        ("edges per atom", f"{edges / atoms:.1f} ({listed / atoms:.1f} with the skin)"),
        ("ghosts per atom", f"{ghosts / atoms:.2f}"),
        (
            "memory",
            f"{resident:.0f} MiB in the largest rank, {arrays:.1f} of them for atoms, ghosts and neighbours",
        ),
        ("output", settings.output.directory),
        *(("warning", text) for text in jump_warnings(model)),
    ]


def _memory_MiB(run: Simulation) -> tuple[float, float]:
    """This rank's largest resident memory so far, and what of it is arrays of atoms, ghosts and the list."""
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, run.motion.array_bytes() / 2**20


def _cell_text(cell: Cell) -> str:
    if not cell.pbc.any():
        return "not periodic"
    directions = "".join(name for name, periodic in zip("abc", cell.pbc, strict=True) if periodic)
    lengths = " x ".join(f"{length:.3f}" for length in np.linalg.norm(cell.vectors, axis=1))
    return f"periodic along {directions}, vectors of {lengths} Å"
