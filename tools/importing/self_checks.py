"""Upstream's results for an imported model, from another interpreter run as a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.description import LennardJones, Zbl
from allegro_sim.model.self_check import SelfCheck
from allegro_sim.tools.importing.model_source import Source

SCRIPT = Path(__file__).resolve().parent.parent / "upstream.py"
Structure = tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]  # positions, cell, pbc, types


def run_script(python: Path, verb: str, job: dict[str, Any], folder: Path, search_path: Sequence[Path] = ()) -> None:
    """Run one job of tools/upstream.py, its packages looked for in `search_path` before the interpreter's own.

    Raises CheckpointImportError with the end of its output when it fails.
    """
    job_file = folder / "job.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PMI_", "PMIX_", "OMPI_"))}
    if search_path:
        environment["PYTHONPATH"] = os.pathsep.join(str(place.resolve()) for place in search_path)
    try:
        done = subprocess.run(
            [str(python), str(SCRIPT), verb, str(job_file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            cwd=folder,
        )
    except OSError as error:
        raise CheckpointImportError(
            f"--upstream-python {python}: cannot be started: {error.strerror or error}"
        ) from error
    if done.returncode != 0:
        tail = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise CheckpointImportError(
            f"--upstream-python {python}: upstream failed on this checkpoint (exit code {done.returncode}):\n  {tail}\n"
            "Without the option the self-checks are made by this project's reference."
        )


def upstream_self_checks(
    python: Path,
    source: Source,
    structures: Sequence[Structure],
    *,
    raw_weights: bool,
    pair_term: Zbl | LennardJones | None,
    search_path: Sequence[Path] = (),
) -> list[SelfCheck]:
    """Results of upstream, in float64, for structures (positions Å, cell Å or None, pbc, types).

    pair_term: of the imported model. The exponent of its cutoff upstream chose otherwise before nequip 0.17; a
    Lennard-Jones term is mended in upstream's process.
    Raises CheckpointImportError when upstream cannot be run or fails.
    """
    mended = isinstance(pair_term, LennardJones)
    with tempfile.TemporaryDirectory(prefix="allegro-import-") as name:
        folder = Path(name)
        arrays: dict[str, np.ndarray] = {}
        for index, (positions, cell, pbc, types) in enumerate(structures):
            arrays |= {
                f"{index}/positions": positions,
                f"{index}/pbc": pbc,
                f"{index}/types": np.asarray(types, np.int64),
            }
            if cell is not None:
                arrays[f"{index}/cell"] = cell
        np.savez(folder / "structures.npz", allow_pickle=False, **arrays)
        job = {
            "checkpoint": str(source.path.resolve()),
            "config": source.full_config(),
            "model_name": source.model_name,
            "raw_weights": raw_weights,
            "pair_cutoff_exponent": None if pair_term is None else pair_term.cutoff_exponent,
            "mend_lennard_jones": mended,
            "structures": str(folder / "structures.npz"),
            "output": str(folder / "results.npz"),
            "count": len(structures),
        }
        run_script(python, "evaluate", job, folder, search_path)
        with np.load(folder / "results.npz") as results:
            versions = json.loads(str(results["versions"]))
            shown = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            return [
                SelfCheck(
                    positions,
                    cell,
                    pbc,
                    types,
                    float(results[f"{index}/energy"]),
                    results[f"{index}/energies"],
                    results[f"{index}/forces"],
                    results[f"{index}/virial"],
                    f"upstream ({shown}), float64" + (", its Lennard-Jones term mended" if mended else ""),
                )
                for index, (positions, cell, pbc, types) in enumerate(structures)
            ]
