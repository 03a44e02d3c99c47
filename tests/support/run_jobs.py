"""Runs a list of simulations on the ranks it is started on, and writes digests of their trajectories.

    mpirun -n RANKS python run_jobs.py JOBS.json RESULTS.json

JOBS.json: list of {"name", "input", "set": [...], "restart": bool, "chunk_edges": int | null}. RESULTS.json: job name
-> step -> digest of every bit of that frame.
"""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from pathlib import Path

import h5py
import numpy as np

from allegro_sim.config import load_settings
from allegro_sim.parallel.comm import Comm, world
from allegro_sim.potential import create_potential
from allegro_sim.simulation import Simulation


def digest_frames(path: Path) -> dict[str, str]:
    """Step -> hash of positions, velocities, forces and observables of each frame of a trajectory."""
    with h5py.File(path, "r", locking=False) as file:
        particles, observables = file["particles/all"], file["observables"]
        steps = particles["position/step"][()]
        arrays = [particles[name]["value"] for name in ("position", "velocity", "force")]
        assert all(array.dtype == np.float64 for array in arrays), "digests need trajectories in double precision"
        arrays += [observables[name]["value"] for name in sorted(observables)]
        assert all(len(array) == len(steps) for array in arrays)
        digests = {}
        for frame, step in enumerate(steps):
            content = b"".join(np.ascontiguousarray(array[frame]).tobytes() for array in arrays)
            digests[str(step)] = hashlib.sha256(content).hexdigest()[:16]
    return digests


def run_job(job: dict, comm: Comm) -> dict[str, str]:
    settings = load_settings(job["input"], job["set"])
    simulation = Simulation(settings, comm, restart="" if job.get("restart") else None)
    if job.get("chunk_edges") is not None:
        simulation.potential = create_potential(
            simulation.start.model,
            device=settings.run.device,
            precision=simulation.potential.precision,
            threads=simulation.threads,
            chunk_edges=job["chunk_edges"],
        )
    simulation.run()
    return digest_frames(settings.output.directory / "trajectory.h5md") if comm.rank == 0 else {}


def main() -> None:
    comm = world()
    try:
        jobs = json.loads(Path(sys.argv[1]).read_text())
        results = {job["name"]: run_job(job, comm) for job in jobs}
    except Exception:
        traceback.print_exc()
        comm.abort(1)
    if comm.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
