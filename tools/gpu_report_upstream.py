"""Upstream on the same GPU as ours, alternately: the phase `upstream` of tools/gpu_report.py."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allegro_sim.errors import AllegroSimError
from allegro_sim.tools.bench_upstream import Upstream
from allegro_sim.tools.benchmark_models import benchmark_model, water_box
from allegro_sim.tools.gpu_report import Gpu, Item

if TYPE_CHECKING:
    from allegro_sim.tools.gpu_report_prepare import Prepared

ATOMS = 3072
MODELS = ("bundled", "medium")
ROUNDS = 20
COMPILE_SECONDS = 240.0
"""Upstream's ahead-of-time compilation is given up after this."""

TRITON = "enable_TritonContracter"
"""Upstream's modifier for its Triton tensor product."""


def upstream_items(gpu: Gpu, prepared: Prepared, python: str) -> Iterator[Item]:
    """Eager evaluation first; then ahead-of-time compilation with the Triton tensor product."""
    for path in ("eager", "aotinductor"):
        for model in MODELS:
            yield Item(f"upstream/{model}/{path}", lambda m=model, p=path: compare(gpu, prepared.folder, m, p, python))


def compare(gpu: Gpu, folder: Path, model: str, path: str, python: str) -> dict[str, Any]:
    """Seconds of each evaluation of upstream's path and of ours in `mixed`, one after the other, ROUNDS times.

    Raises
    ------
    AllegroSimError : there is no checkpoint, or upstream's compilation takes too long
    """
    checkpoint = folder / f"{model}.ckpt"
    if not checkpoint.exists():
        raise AllegroSimError(f"{checkpoint}: prepare with --upstream-python and --bundled-checkpoint")
    compiled, compile_seconds = "", 0.0
    if path == "aotinductor":
        target = folder / f"{model}.nequip.pt2"
        compile_seconds = compile_upstream(python, checkpoint, target)
        compiled = str(target.resolve())
    weights = benchmark_model(model)
    positions, cell, types = water_box(ATOMS, weights)
    with tempfile.TemporaryDirectory() as temporary:
        frame = Path(temporary) / "frame.npz"
        np.savez(frame, positions=positions, types=types.astype(np.int64), cell=cell, pbc=np.ones(3, bool))
        upstream = Upstream(
            python,
            {
                "checkpoint": str(checkpoint.resolve()),
                "compiled": compiled,
                "torch_compile": False,
                "threads": 4,
                "frame": str(frame),
                "cutoff": float(weights.reaches.max()),
                "device": "cuda",
            },
        )
        try:
            case = gpu.case(model, "mixed", ATOMS)
            times: dict[str, list[float]] = {"ours": [], "upstream": []}
            for _ in range(ROUNDS):
                times["ours"] += case.seconds(1)
                times["upstream"].append(upstream.seconds(path))
        finally:
            upstream.close()
    result = {
        **case.facts,
        "versions": upstream.ready["versions"],
        "upstream_edges": upstream.ready["edges"],
        "compile_seconds": compile_seconds,
        "seconds": times,
        "ratio": float(np.median(times["upstream"]) / np.median(times["ours"])),
    }
    if model == "bundled":  # the others have other random weights
        theirs, ours = np.array(upstream.ready["forces"]), case.results()[1]
        result["force_difference"] = float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))
    return result


def compile_upstream(python: str, checkpoint: Path, target: Path) -> float:
    """Upstream's own compilation for the GPU; seconds it took, 0 if the file is there.

    Raises
    ------
    AllegroSimError : it fails, or takes longer than COMPILE_SECONDS
    """
    if target.exists():
        return 0.0
    command = [
        str(Path(python).parent / "nequip-compile"), str(checkpoint), str(target),
        "--mode", "aotinductor", "--device", "cuda", "--target", "ase", "--modifiers", TRITON,
    ]  # fmt: skip
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        raise AllegroSimError(f"{json.dumps(command)} did not end within {COMPILE_SECONDS:.0f} s") from None
    except OSError as error:
        raise AllegroSimError(f"{command[0]} cannot be started: {error}") from None
    if done.returncode != 0:
        raise AllegroSimError(f"{json.dumps(command)} failed:\n{done.stderr[-2000:]}")
    return time.monotonic() - start
