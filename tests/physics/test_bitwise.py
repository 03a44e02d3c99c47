"""A trajectory is the same, bit for bit, on any ranks and threads, in any chunks, with any skin, and through a restart.

Systems of 6 to 24 atoms with the bundled water model, 200 steps, NVE and Langevin, `double` and `single`. One launch
of MPI a rank count runs all systems in one process a rank; what is compared is a digest of every bit of positions,
velocities, forces and energies at steps 0, 50, 100, 150 and 200.

The default run takes all 20 combinations of system, ensemble and precision on one and on two ranks, and on every other
rank count each system in one of its four combinations, another at each count. Each run has one of the 12 combinations
of threads (1, 2), chunk size (two) and skin (0, 0.5, 1 Å); the choice rotates, so that every value of these meets
every system and every rank count. Two runs of each launch are stopped half-way and continued by the next launch, on
another number of ranks. `--slow` takes the full product, and continues every run on every change of the rank count.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from support.water import SPACING, grid, water_molecules, write_input

STEPS = 200
RANKS = (1, 8, 2, 6, 3, 4)  # in the order of launches: restarts go up and down
THREADS = (1, 2)
CHUNKS = (48, 512)  # edges; a few chunks, and many, for these systems
SKINS = (0.0, 0.5, 1.0)
VARIANTS = list(itertools.product(THREADS, CHUNKS, SKINS))
ENSEMBLES = ("nve", "langevin")
PRECISIONS = ("double", "single")


def bulk() -> ase.Atoms:
    atoms = water_molecules(SPACING * grid((2, 2, 2)), seed=1)
    atoms.set_cell([2 * SPACING] * 3)
    atoms.pbc = True
    return atoms


def triclinic() -> ase.Atoms:
    cell = SPACING * np.array([[2.0, 0.0, 0.0], [0.6, 2.0, 0.0], [-0.5, 0.4, 2.0]])
    atoms = water_molecules(0.5 * grid((2, 2, 2)) @ cell, seed=2)
    atoms.set_cell(cell)
    atoms.pbc = True
    return atoms


def smaller_than_the_cutoff() -> ase.Atoms:
    atoms = water_molecules(SPACING * grid((1, 1, 2)), seed=3)
    atoms.set_cell(SPACING * np.array([1.0, 1.0, 2.0]))
    atoms.pbc = True
    return atoms


def slab() -> ase.Atoms:
    atoms = water_molecules(SPACING * grid((2, 2, 2)), seed=4)
    atoms.set_cell([2 * SPACING, 2 * SPACING, 30.0])
    atoms.pbc = (True, True, False)
    return atoms


def cluster() -> ase.Atoms:
    """Five molecules together and one 40 Å away: most bricks between them are empty."""
    return water_molecules(np.concatenate([SPACING * grid((5, 1, 1)), [[40.0, 3.0, 2.0]]]), seed=5)


SYSTEMS: dict[str, Callable[[], ase.Atoms]] = {
    "bulk": bulk,
    "triclinic": triclinic,
    "small_cell": smaller_than_the_cutoff,
    "slab": slab,
    "cluster": cluster,
}
BASES = list(itertools.product(SYSTEMS, ENSEMBLES, PRECISIONS))


class Campaign:
    """All launches, made one after the other as they are asked for; each continues runs that the one before left
    half-way.
    """

    def __init__(self, folder: Path, model: Path, mpirun: Callable, everything: bool) -> None:
        self.folder = folder
        self.mpirun = mpirun
        self.everything = everything
        self.done: dict[int, dict[str, dict[str, str]]] = {}
        for system, make in SYSTEMS.items():
            ase.io.write(folder / f"{system}.traj", make())  # ASE's own format keeps every bit
        for system, ensemble, precision in BASES:
            dynamics: dict[str, object] = {"ensemble": ensemble}
            if ensemble == "langevin":
                dynamics |= {"temperature_K": 300.0, "friction_per_ps": 10.0}
            write_input(
                folder / f"{system}-{ensemble}-{precision}.toml",
                model,
                folder / f"{system}.traj",
                folder / "unused",
                run={"steps": STEPS, "timestep_fs": 0.5, "precision": precision},
                velocities={"temperature_K": 300.0},
                dynamics=dynamics,
                output={"trajectory_every": STEPS // 4, "thermo_every": 0, "checkpoint_every": 0},
            )

    def results(self, ranks: int) -> dict[str, dict[str, str]]:
        """Digests of the launch on so many ranks: job -> step -> digest."""
        for launch, count in enumerate(RANKS[: RANKS.index(ranks) + 1]):
            if count not in self.done:
                self.done[count] = self.launch(launch, count)
        return self.done[ranks]

    def launch(self, launch: int, ranks: int) -> dict[str, dict[str, str]]:
        jobs = []
        for number, base in enumerate(BASES):
            name = "-".join(base)
            # 5 has no divisor in common with 12: successive bases and launches go through all variants.
            rotated = VARIANTS[(5 * number + 7 * launch) % len(VARIANTS)]
            for variant in VARIANTS if self.everything else [rotated] if self.chosen(number, ranks) else []:
                jobs.append(self.job(name, f"{ranks}-{'-'.join(map(str, variant))}", variant))
            if launch > 0 and self.stopped(number, launch - 1):
                half = self.folder / f"{name}-half-{RANKS[launch - 1]}"
                shutil.copytree(half, self.folder / f"{name}-continued-{ranks}")
                jobs.append(self.job(name, f"continued-{ranks}", rotated) | {"restart": True})
            if self.stopped(number, launch):
                job = self.job(name, f"half-{ranks}", rotated)
                job["set"] += [f"run.steps={STEPS // 2}"]
                jobs.append(job)
        plan, results = self.folder / f"jobs-{ranks}.json", self.folder / f"results-{ranks}.json"
        plan.write_text(json.dumps(jobs))
        script = Path(__file__).parent.parent / "support" / "run_jobs.py"
        done = self.mpirun(ranks, sys.executable, script, plan, results, timeout=3600 if self.everything else 400)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(results.read_text())

    def chosen(self, number: int, ranks: int) -> bool:
        """Whether the default run takes this base on so many ranks."""
        system, combination = divmod(number, len(ENSEMBLES) * len(PRECISIONS))
        return ranks <= 2 or combination == (system + (3, 4, 6, 8).index(ranks)) % 4

    def stopped(self, number: int, launch: int) -> bool:
        """Whether this base is stopped half-way in this launch, to be continued in the next."""
        return self.everything or number % 10 == 3 * launch % 10

    def job(self, base: str, label: str, variant: tuple[int, int, float]) -> dict:
        threads, chunk, skin = variant
        directory = self.folder / f"{base}-{label}"
        overrides = [f"run.threads={threads}", f"neighbors.skin_A={skin}", f"output.directory={directory}"]
        return {
            "name": f"{base}/{label}",
            "input": str(self.folder / f"{base}.toml"),
            "set": overrides,
            "chunk_edges": chunk,
        }


@pytest.fixture(scope="module")
def campaign(tmp_path_factory, inputs, mpirun, request) -> Campaign:
    folder = tmp_path_factory.mktemp("bitwise")
    return Campaign(folder, inputs / "water" / "water.h5", mpirun, request.config.getoption("--slow"))


@pytest.fixture(scope="module")
def reference(campaign: Campaign) -> dict[str, dict[str, str]]:
    """base -> step -> digest, of the first run of each base on one rank."""
    found: dict[str, dict[str, str]] = {}
    for name, digests in campaign.results(1).items():
        base, label = name.split("/")
        if not label.startswith("half"):
            found.setdefault(base, digests)
    return found


@pytest.mark.mpi
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("ranks", RANKS)
def test_same_bits_on(ranks: int, campaign: Campaign, reference: dict[str, dict[str, str]]) -> None:
    """Every run of this launch, the halves and the continued ones too, has the digests of the first run on one rank."""
    different = {}
    for name, digests in campaign.results(ranks).items():
        base, label = name.split("/")
        last = STEPS // 2 if label.startswith("half") else STEPS
        expected = {step: digest for step, digest in reference[base].items() if int(step) <= last}
        if digests != expected:
            wrong = [step for step in expected if digests.get(step) != expected[step]]
            different[name] = f"differs first at step {wrong[0]}" if wrong else f"has other frames: {sorted(digests)}"
    assert not different, different


@pytest.mark.mpi
def test_digests_tell_runs_apart(reference: dict[str, dict[str, str]]) -> None:
    """All 20 references have five frames, and no two frames are alike but the first of a system's two ensembles."""
    assert len(reference) == len(BASES)
    assert all(len(digests) == 5 for digests in reference.values())
    later = [digest for digests in reference.values() for step, digest in digests.items() if step != "0"]
    assert len(set(later)) == len(later)
