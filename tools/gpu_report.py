"""Measure the CUDA potential on a GPU: does it run, is it right, how fast is it, how fast is upstream.

    python tools/gpu_report.py --phase prepare --prepared FOLDER [--architecture sm_90] [--upstream-python PATH]
    python tools/gpu_report.py --phase smoke|accuracy|speed|tiles|md|upstream --prepared FOLDER [--record FILE.json]

`prepare` needs no GPU: it compiles every kernel to the machine code that the other phases load, and computes what
their results are compared with. The others write bench/results/DATE-gpu-NAME.json, after every result, and skip what
the file has: each takes at most --seconds (330) and goes on where it stopped when it is started again.

    smoke     versions; rates of copies, products, float32, float64 and special functions; every kernel family once
    accuracy  each bound of docs/accuracy.md: `double`, `single`, `mixed`, bitwise repetition, independence of chunks
    speed     bundled, medium and SC'23-shaped models on water: evaluations, kernel by kernel, against the rates of this
              run and the counts of tools/roofline.py; memory
    tiles     the fused models by other tiles of edges, the wide ones by other blocks of rows
    md        whole steps: the CPU's trajectory, the same bits however launched, steps/s, drift, the largest system
    upstream  nequip and allegro on the same GPU, the same structures, alternately with ours

What a record holds: bench/results/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from allegro_sim.errors import AllegroSimError, OutputError
from allegro_sim.tools import gpu_report_tiles as tiles
from allegro_sim.tools import roofline
from allegro_sim.tools.benchmark_models import (
    SC23_FLOPS,
    SC23_LEGACY_WEIGHTS,
    SC23_WEIGHTS,
    benchmark_model,
    count_weights,
)

PHASES = ("prepare", "smoke", "accuracy", "speed", "tiles", "md", "upstream")
RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results"

SPEED_MODELS = ("bundled", "medium", "sc23", "sc23_legacy")
SPEED_ATOMS = (24_000, 192_000, 192, 3072, 1_536_000)
"""In the order of measurement: those that the goals name first."""

REPEATS = 15
TIMED_SECONDS = 5.0
"""REPEATS evaluations, or 3 at least, where they would take longer than this."""

MIXED_TO_ROUNDED, MIXED_RMS, MIXED_LARGEST, MIXED_ENERGY = 1e-4, 4e-3, 2e-2, 5e-4
SINGLE_RMS, DOUBLE_LARGEST = 1e-5, 1e-9
"""Bounds of docs/accuracy.md: relative RMS of the forces; of the RMS force; eV/atom; eV/Å times max(1, max|F|)."""

SPREADS = 3.0
"""Of the rounding reference under float32 noise: what a kernel may differ from it where that is more than 1e-4."""


# --- what a GPU is asked --------------------------------------------------------------------------------------------


class Case(Protocol):
    """A model in a precision and a structure on the GPU, neighbours listed."""

    facts: dict[str, Any]  # atoms, edges, path, chunks, capacity, padding_share, description

    def seconds(self, repeats: int) -> list[float]:
        """Of each of so many evaluations, after WARM_UP that do not count."""
        ...

    def kernel_seconds(self, repeats: int) -> dict[str, list[float]]:
        """By kernel, summed over the launches of an evaluation, for each of so many evaluations."""
        ...

    def works(self) -> dict[str, roofline.Work]:
        """What each kernel does for an edge, by the names of `kernel_seconds`."""
        ...

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """energies (N,) eV and forces (N, 3) eV/Å of a new evaluation."""
        ...

    def stages(self) -> dict[str, float]:
        """Deviations of every stage from its reference on the kernels' own inputs."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes: peak of the device, held by this case, buffers of a chunk, arrays over atoms and pairs."""
        ...


class Gpu(Protocol):
    """The device, behind what the phases need of it: `gpu_report_device.CudaGpu`."""

    def identity(self) -> dict[str, Any]:
        """gpu, driver, and versions; what is the same for all results of a record."""
        ...

    def ceilings(self) -> dict[str, list[float]]:
        """Rates measured now, each several times: copy (bytes/s), tf32, float32, float64, float64_product,
        special (operations/s)."""
        ...

    def case(self, model: str, precision: str, structure: Any, *, max_rows: int | None = None) -> Case:
        """structure: a number of atoms of water, or arrays (positions, cell, pbc, types)."""
        ...


# --- the record -----------------------------------------------------------------------------------------------------


class Record:
    """Results by key in a JSON file, written whole after every one.

    Raises
    ------
    OutputError : the file is of another commit or GPU
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self._content: dict[str, Any] = {**facts, "results": {}}
        if path.exists():
            self._content = json.loads(path.read_text())
            for name in ("commit", "gpu", "driver"):
                if self._content.get(name) != facts.get(name):
                    raise OutputError(
                        f"{path}: made with {name} {self._content.get(name)!r}, now it is {facts.get(name)!r}; "
                        "give another file with --record"
                    )

    def __contains__(self, key: str) -> bool:
        return key in self._content["results"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._content["results"][key]

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Write the file with one result more."""
        self._content["results"][key] = {**result, "time": datetime.datetime.now().isoformat(timespec="seconds")}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self._content, indent=1) + "\n")
        os.replace(temporary, self.path)


def default_path(gpu: str, date: str) -> Path:
    """bench/results/DATE-gpu-NAME.json."""
    return RESULTS / f"{date}-gpu-{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


@dataclass(frozen=True)
class Item:
    """One result: its key in the record, and the measurement that makes it."""

    key: str
    measure: Callable[[], dict[str, Any]]


def run_items(
    items: Iterator[Item],
    record: Record,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    only: tuple[str, ...] = ("*",),
) -> int:
    """Measure what the record lacks until the time is up; returns how many results were left undone.

    An item that fails, in whatever way, is recorded with its error, and the next goes on. only: patterns of keys.
    """
    start, left = clock(), 0
    for item in items:
        if item.key in record or not any(fnmatch.fnmatchcase(item.key, pattern) for pattern in only):
            continue
        if clock() - start > seconds:
            left += 1
            continue
        began = clock()
        try:
            result = item.measure()
        except Exception as error:  # of the program, the driver, a compiler: device time is too short to stop for one
            result = {"error": f"{type(error).__name__}: {error}"}
            if not isinstance(error, AllegroSimError):
                result["traceback"] = traceback.format_exc().splitlines()[-20:]
        result["took_seconds"] = clock() - began
        record.add(item.key, result)
        print(f"{item.key}: {summary(result)}", flush=True)
    return left


def summary(result: dict[str, Any]) -> str:
    """The numbers of a result that fit a line."""
    shown = (f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float))
    return result.get("error") or ", ".join(shown) or "done"


# --- smoke ----------------------------------------------------------------------------------------------------------


def smoke_items(gpu: Gpu) -> Iterator[Item]:
    """Rates, then an evaluation of 192 atoms: the fused and the wide path, both generations, each precision."""
    yield Item("smoke/ceilings", gpu.ceilings)
    fused, wide = ("bundled", ("mixed", "single", "double")), ("sc23", ("mixed",))
    for model, precisions in (fused, wide, ("legacy", ("mixed",)), ("sc23_legacy", ("mixed",))):
        for precision in precisions:
            yield Item(f"smoke/{model}/{precision}", lambda m=model, p=precision: _smoke(gpu.case(m, p, 192)))


def _smoke(case: Case) -> dict[str, Any]:
    energies, forces = case.results()
    times = case.kernel_seconds(1)
    return {
        **case.facts,
        "finite": bool(np.isfinite(energies).all() and np.isfinite(forces).all()),
        "rms_force": float(np.sqrt(np.mean(forces**2))),
        "net_force": float(np.abs(forces.sum(axis=0)).max()),
        "kernels": {name: {"seconds": values} for name, values in times.items()},
    }


# --- accuracy -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """A structure and what a model gives for it: in float64, and as the rounding reference of `mixed` gives it.

    The rounding reference is of the current generation with tables of pairs of types alone; for other models its
    results are None.
    spread: relative RMS change of the rounding reference's forces under one unit in the last place of noise.
    """

    model: str
    structure: tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]
    energies: np.ndarray
    forces: np.ndarray
    rounded_energies: np.ndarray | None
    rounded_forces: np.ndarray | None
    spread: float


def accuracy_items(gpu: Gpu, expected: dict[str, Expected]) -> Iterator[Item]:
    """Every prepared structure in every precision."""
    for precision in ("mixed", "single", "double"):
        for name, wanted in expected.items():
            yield Item(f"accuracy/{name}/{precision}", lambda w=wanted, p=precision: _accuracy(gpu, w, p))


def _accuracy(gpu: Gpu, wanted: Expected, precision: str) -> dict[str, Any]:
    case = gpu.case(wanted.model, precision, wanted.structure)
    energies, forces = case.results()
    again, stages = case.results(), case.stages()
    small = gpu.case(wanted.model, precision, wanted.structure, max_rows=128).results()
    result = {**case.facts, **deviations(energies, forces, wanted, precision)}
    result |= {"stages": stages, "stages_over_bounds": _over_bounds(stages, precision)}
    result["within_bounds"]["stages"] = not result["stages_over_bounds"]
    result["repeats_bitwise"] = all(np.array_equal(a, b) for a, b in zip((energies, forces), again, strict=True))
    result["same_bits_in_small_chunks"] = all(
        np.array_equal(a, b) for a, b in zip((energies, forces), small, strict=True)
    )
    return result


def _over_bounds(stages: dict[str, float], precision: str) -> dict[str, float]:
    from allegro_sim.tools.gpu_report_device import use_tests

    use_tests()
    from support.stage_reference import over_bounds

    return over_bounds(stages, precision, on_a_gpu=True)


def deviations(energies: np.ndarray, forces: np.ndarray, wanted: Expected, precision: str) -> dict[str, Any]:
    """Deviations and whether each bound of the precision holds; the energy's bound is for the trained water model."""
    difference = forces - wanted.forces
    rms = max(float(np.sqrt(np.mean(wanted.forces**2))), np.finfo(np.float64).tiny)
    found = {
        "force_rms": float(np.sqrt(np.mean(difference**2))) / rms,
        "force_largest": float(np.abs(difference).max()) / rms,
        "force_largest_eV_per_A": float(np.abs(difference).max()),
        "energy_per_atom_eV": float(abs(energies.sum() - wanted.energies.sum())) / len(energies),
    }
    if precision == "double":
        largest = DOUBLE_LARGEST * max(1.0, float(np.abs(wanted.forces).max()))
        holds = {"force_largest_eV_per_A": found["force_largest_eV_per_A"] <= largest}
    elif precision == "single":
        holds = {"force_rms": found["force_rms"] <= SINGLE_RMS}
    else:
        holds = {
            "force_rms": found["force_rms"] <= MIXED_RMS,
            "force_largest": found["force_largest"] <= MIXED_LARGEST,
        }
        if wanted.rounded_forces is not None:
            from_rounded = forces - wanted.rounded_forces
            found["force_rms_to_rounding_reference"] = float(np.sqrt(np.mean(from_rounded**2))) / rms
            apart = max(MIXED_TO_ROUNDED, SPREADS * wanted.spread)
            holds["force_rms_to_rounding_reference"] = found["force_rms_to_rounding_reference"] <= apart
        if wanted.model == "bundled":
            holds["energy_per_atom_eV"] = found["energy_per_atom_eV"] <= MIXED_ENERGY
    return {**found, "within_bounds": holds}


# --- speed ----------------------------------------------------------------------------------------------------------


def speed_items(gpu: Gpu, record: Record, precision: str = "mixed") -> Iterator[Item]:
    """Rates of this run first; then by size, the goals' sizes first, each model."""
    yield Item("speed/ceilings", gpu.ceilings)
    yield Item("speed/sc23_counts", lambda: sc23_counts(gpu))
    for atoms in SPEED_ATOMS:
        for model in SPEED_MODELS:
            key = f"speed/{model}/{precision}/{atoms}"
            yield Item(
                key, lambda m=model, a=atoms: _speed(gpu.case(m, precision, a), record["speed/ceilings"], precision)
            )


def sc23_counts(gpu: Gpu) -> dict[str, Any]:
    """The SC'23-shaped models, and the paper's own, are what they claim: weights, operations and edges an atom.

    Raises
    ------
    AllegroSimError : a count is off by more than one in a hundred (edges: three)
    """
    model = benchmark_model("sc23")
    case = gpu.case("sc23", "mixed", 192)
    counts = {
        "weights": count_weights(model),
        "legacy_weights": count_weights(benchmark_model("sc23_legacy")),
        "flops_as_written": roofline.report(model, "mixed", 9.0)["flops_as_written"],
        "flops_as_computed": roofline.report(model, "mixed", 9.0)["flops_as_computed"],
        "edges_per_atom": case.facts["edges"] / case.facts["atoms"],
    }
    for name, wanted, share in (
        ("weights", SC23_WEIGHTS, 0.01),
        ("legacy_weights", SC23_LEGACY_WEIGHTS, 0.01),
        ("flops_as_written", SC23_FLOPS, 0.01),
        ("edges_per_atom", 9.0, 0.03),
    ):
        if abs(counts[name] / wanted - 1.0) > share:
            raise AllegroSimError(f"the SC'23-shaped model has {counts[name]:.4g} {name}, not {wanted:.4g}")
    return counts


def _speed(case: Case, ceilings: dict[str, list[float]], precision: str) -> dict[str, Any]:
    once = case.seconds(1)[0]
    seconds = case.seconds(max(3, min(REPEATS, int(TIMED_SECONDS / once))))
    kernels = case.kernel_seconds(1 if once > TIMED_SECONDS / REPEATS else REPEATS // 5)
    edges = case.facts["edges"]
    works = case.works()
    return {
        **case.facts,
        "precision": precision,
        "evaluation_seconds": seconds,
        "atom_steps_per_second": case.facts["atoms"] / float(np.median(seconds)),
        "product_flops_per_second": edges * sum(work.products for work in works.values()) / float(np.median(seconds)),
        "kernels": {
            name: {"seconds": values, **shares(works[name], edges, float(np.median(values)), ceilings, precision)}
            for name, values in kernels.items()
        },
        "memory": case.memory(),
    }


def shares(
    work: roofline.Work, edges: float, seconds: float, ceilings: dict[str, list[float]], precision: str
) -> dict[str, float]:
    """Achieved rates of a kernel, and its time at the ceilings of this run over its time: 1 is the roof.

    work: for an edge.
    """
    best = {name: float(np.median(values)) for name, values in ceilings.items() if isinstance(values, list)}
    device = roofline.Gpu(
        "measured",
        *(best[name] for name in ("copy", "tf32", "float32", "float64", "float64_product", "special")),
    )
    times = roofline.unit_times(work, device, precision)
    limit = max(times, key=lambda unit: times[unit])
    flops = work.products + work.plain + work.double
    return {
        "bytes_per_second": edges * work.bytes / seconds,
        "flops_per_second": edges * flops / seconds,
        "fraction_of_roof": edges * times[limit] / seconds,
        "limit": limit,
    }


# --- the command ----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", required=True, choices=PHASES)
    parser.add_argument("--prepared", required=True, type=Path, help="folder of what `prepare` makes")
    parser.add_argument("--record", type=Path, help="JSON file; default bench/results/DATE-gpu-NAME.json")
    parser.add_argument("--seconds", type=float, default=330.0, help="start nothing new after this time")
    parser.add_argument("--only", nargs="+", default=["*"], help="results with such keys alone, as 'md/agree/*'")
    parser.add_argument("--architecture", nargs="+", default=["sm_90"], help="prepare: what to compile for")
    parser.add_argument("--upstream-python", help="prepare and upstream: interpreter with nequip and nequip-allegro")
    parser.add_argument("--bundled-checkpoint", type=Path, help="prepare: upstream's checkpoint of the bundled model")
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments)
    except AllegroSimError as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        return error.exit_code


def _run(arguments: argparse.Namespace) -> int:
    from allegro_sim.tools import gpu_report_prepare as preparation

    if arguments.phase == "prepare":
        preparation.prepare(
            arguments.prepared, arguments.architecture, arguments.upstream_python, arguments.bundled_checkpoint
        )
        return 0
    prepared = preparation.Prepared(arguments.prepared)
    from allegro_sim.tools.gpu_report_device import CudaGpu

    gpu = CudaGpu(prepared)
    facts = {"date": datetime.date.today().isoformat(), "commit": prepared.commit, **gpu.identity()}
    record = Record(arguments.record or default_path(facts["gpu"], facts["date"]), facts)
    if arguments.phase == "smoke":
        items = smoke_items(gpu)
    elif arguments.phase == "accuracy":
        items = accuracy_items(gpu, prepared.expected())
    elif arguments.phase == "speed":
        items = speed_items(gpu, record)
    elif arguments.phase == "tiles":
        items = (Item(key, measure) for key, measure in tiles.measurements(gpu))
    elif arguments.phase == "md":
        from allegro_sim.tools.gpu_report_md import md_items

        items = md_items(prepared.model, lambda: None, prepared.dhfr, prepared.trajectory)
    else:
        from allegro_sim.tools.gpu_report_upstream import upstream_items

        items = upstream_items(gpu, prepared, arguments.upstream_python or sys.executable)
    left = run_items(items, record, arguments.seconds, only=tuple(arguments.only))
    print(f"{record.path}: {left} results left; run the phase again" if left else f"{record.path}: complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
