"""One step of this project's potential against upstream's, on the same frame, alternately, in one run.

    python tools/bench_upstream.py --upstream-python PATH --checkpoint water.ckpt --model inputs/water/water.h5
        --structure inputs/water/water-192.xyz [--compiled water.nequip.pt2] [--no-torch-compile] [--threads 2]
        [--precision single] [--skin 0.5] [--rounds 20] [--json OUT.json]

PATH is an interpreter with nequip and nequip-allegro; it runs this file as a server that evaluates on request. Measured
is energy and forces with the neighbour list at hand, for both. Upstream's paths: `eager`; `torch.compile`, as it trains
(the first evaluation compiles, which takes minutes); and with --compiled a file made by

    nequip-compile water.nequip.zip water.nequip.pt2 --mode aotinductor --device cpu --target ase

Every round runs each path once; medians over the rounds are printed, and the ratio of upstream's best to ours.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 3
"""Evaluations of each path before the first that counts."""


# --- run by upstream's interpreter ------------------------------------------------------------------------------------


def serve(job: dict[str, Any]) -> None:
    """Load upstream's paths, then answer lines of standard input: the name of a path -> seconds of one evaluation."""
    import torch
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_dict
    from nequip.model import ModelFromCheckpoint, ModelFromPackage
    from nequip.utils.global_state import set_global_state

    set_global_state()
    torch.set_num_threads(job["threads"])
    frame = np.load(job["frame"])
    fields = {
        AtomicDataDict.POSITIONS_KEY: frame["positions"],
        AtomicDataDict.ATOM_TYPE_KEY: frame["types"],
        AtomicDataDict.CELL_KEY: frame["cell"],
        AtomicDataDict.PBC_KEY: frame["pbc"],
    }
    data = from_dict({name: torch.as_tensor(value) for name, value in fields.items()})
    data = compute_neighborlist_(data, r_max=job["cutoff"])
    device = job.get("device", "cpu")
    data = {name: value.to(device) for name, value in data.items()}

    load = ModelFromPackage if job["checkpoint"].endswith(".nequip.zip") else ModelFromCheckpoint
    models = {"eager": load(job["checkpoint"], compile_mode="eager")["sole_model"].eval().to(device)}
    if job["torch_compile"]:
        models["torch.compile"] = load(job["checkpoint"], compile_mode="compile")["sole_model"].eval().to(device)
    if job["compiled"]:
        from nequip.model.inference_models import load_compiled_model

        models["aotinductor"] = load_compiled_model(job["compiled"], device)[0]

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def evaluate(name: str) -> tuple[float, Any]:
        given = {key: value.clone() for key, value in data.items()}
        wait()
        start = time.perf_counter()
        result = models[name](given)
        forces = result[AtomicDataDict.FORCE_KEY].detach()
        wait()
        return time.perf_counter() - start, forces

    def answer(**values: Any) -> None:
        print("ANSWER " + json.dumps(values), flush=True)

    for name in models:
        for _ in range(WARM_UP):
            _, forces = evaluate(name)
    versions = {name: importlib.metadata.version(name) for name in ("nequip", "nequip-allegro", "torch")}
    edges = int(data[AtomicDataDict.EDGE_INDEX_KEY].shape[1])
    answer(versions=versions, paths=list(models), forces=forces.tolist(), edges=edges)
    for line in sys.stdin:
        answer(seconds=evaluate(line.strip())[0])


# --- run by ours ------------------------------------------------------------------------------------------------------


class Upstream:
    """The server process."""

    def __init__(self, python: str, job: dict[str, Any]) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
        self._process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), "--serve", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit(f"upstream's interpreter ended with exit code {self._process.wait()}; see its messages above")

    def seconds(self, path: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(path + "\n")
        self._process.stdin.flush()
        return float(self._read()["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Ours:
    """This project's potential with a neighbour list built once, as between two rebuilds of a run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from allegro_sim.model.weight_file import load_model
        from allegro_sim.neighbors import NeighborList
        from allegro_sim.parallel.comm import SerialComm
        from allegro_sim.parallel.domain import Domain
        from allegro_sim.potential import create_potential
        from allegro_sim.structure import read_structure
        from allegro_sim.system import System

        self.model = load_model(arguments.model)
        self.structure = read_structure(arguments.structure, arguments.frame, model=self.model)
        count = len(self.structure.types)
        self.system = System(self.structure.cell, self.model.masses, count)
        self.system.set_owned(np.arange(count), self.structure.types, self.structure.positions, np.zeros((count, 3)))
        self._neighbors = NeighborList(self.model.reaches, arguments.skin)
        self._domain = Domain(SerialComm(), self.structure.cell, self._neighbors)
        self._domain.rebuild(self.system)
        self.potential = create_potential(self.model, "cpu", arguments.precision, arguments.threads)
        self.potential.prepare()
        for _ in range(WARM_UP):
            self.seconds()

    def seconds(self) -> float:
        """One step's work: ghost positions, energies and forces, ghosts' forces to their owners."""
        start = time.perf_counter()
        self._domain.update_positions(self.system)
        self.potential.compute(self.system, self._neighbors)
        self._domain.add_forces(self.system)
        return time.perf_counter() - start

    def forces(self) -> np.ndarray:
        """Forces of the last evaluation in the order of the file, eV/Å (N, 3)."""
        result = np.empty((self.system.num_owned, 3))
        result[self.system.ids[: self.system.num_owned]] = self.system.owned_forces()
        return result


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times in milliseconds by path, in the order they were measured, and what they were measured on."""
    from allegro_sim import __version__

    ours = Ours(arguments)
    structure, model = ours.structure, ours.model
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.npz"
        np.savez(
            frame,
            positions=structure.positions,
            types=structure.types.astype(np.int64),
            cell=structure.cell.vectors,
            pbc=structure.cell.pbc,
        )
        upstream = Upstream(
            arguments.upstream_python,
            {
                "checkpoint": str(Path(arguments.checkpoint).resolve()),
                "compiled": str(Path(arguments.compiled).resolve()) if arguments.compiled else "",
                "torch_compile": not arguments.no_torch_compile,
                "threads": arguments.threads,
                "frame": str(frame),
                "cutoff": float(model.reaches.max()),
            },
        )
        paths = upstream.ready["paths"]
        times: dict[str, list[float]] = {"allegro-sim": [], **{path: [] for path in paths}}
        for _ in range(arguments.rounds):
            times["allegro-sim"].append(1e3 * ours.seconds())
            for path in paths:
                times[path].append(1e3 * upstream.seconds(path))
        upstream.close()
    ours.seconds()
    theirs = np.array(upstream.ready["forces"])
    difference = np.sqrt(np.mean((ours.forces() - theirs) ** 2) / np.mean(theirs**2))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    best = min(paths, key=lambda path: medians[path])
    return {
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "commit": commit(),
        "processor": processor(),
        "upstream": upstream.ready["versions"],
        "atoms": len(structure.types),
        "edges": upstream.ready["edges"],
        "threads": arguments.threads,
        "precision": arguments.precision,
        "description": ours.potential.description,
        "force_difference": float(difference),
        "milliseconds": times,
        "medians": medians,
        "best_upstream": best,
        "ratio": medians[best] / medians["allegro-sim"],
    }


def commit() -> str:
    """Commit of the checkout this file lies in; empty elsewhere."""
    folder = Path(__file__).resolve().parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def processor() -> str:
    """The processor's name, and the number of cores this process may use."""
    import llvmlite.binding

    from allegro_sim.parallel.cores import affinity

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = llvmlite.binding.get_host_cpu_name()
    return f"{names[0] if names else 'unknown'} ({cpu}), {len(affinity())} cores"


def main(argv: list[str] | None = None) -> int:
    if argv is None and sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream-python", required=True, help="interpreter with nequip and nequip-allegro")
    parser.add_argument("--checkpoint", required=True, help="upstream's .ckpt or .nequip.zip of the model")
    parser.add_argument("--compiled", help="the same model as .nequip.pt2, made by nequip-compile")
    parser.add_argument("--no-torch-compile", action="store_true", help="leave out the path that compiles for minutes")
    parser.add_argument("--model", required=True, help="the same model imported: .h5")
    parser.add_argument("--structure", required=True, help="a periodic structure, anything ASE reads")
    parser.add_argument("--frame", type=int, default=-1)
    parser.add_argument("--precision", default="single", choices=("single", "double"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skin", type=float, default=0.5, help="Å, of our neighbour list")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", help="write all times to this file")
    arguments = parser.parse_args(argv)
    result = benchmark(arguments)
    print(f"{result['atoms']} atoms, {result['edges']} edges, {result['threads']} threads; ms per evaluation:")
    for name, values in result["milliseconds"].items():
        print(f"  {name:14s} median {np.median(values):8.2f}   least {min(values):8.2f}   most {max(values):8.2f}")
    print(f"allegro-sim: {result['description']}")
    print(f"forces differ from upstream's by {result['force_difference']:.1e} (relative RMS)")
    print(f"upstream's best path, {result['best_upstream']}, takes {result['ratio']:.1f} times as long")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
