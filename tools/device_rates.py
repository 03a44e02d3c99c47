"""How fast and how large devices are: what was measured on them, or the bound that their peak rates set. No figure here
is a guess: where nothing was measured, it says so."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allegro_sim.errors import ModelFileError, OutputError
from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.folding import fold_model
from allegro_sim.tools.benchmark_models import benchmark_model
from allegro_sim.tools.roofline import EDGES_PER_CENTER, GPUS, Gpu, floor, kernel_works

RECORDS = Path(__file__).resolve().parent.parent / "bench" / "results"
"""Records of measurements in a checkout; an installed package has none."""

GPU_MEMORY = {"A100": 80e9, "H100": 80e9, "H200": 141e9}
"""Bytes, as the vendor states them for the models of `roofline.GPUS`."""

USABLE_MEMORY = 0.9
"""Share of a GPU's memory left for the run, beside CUDA's context and libraries."""


@dataclass(frozen=True)
class CpuRate:
    """One core evaluating forces: `seconds` for `edges` of a model with `multiply_adds` an edge."""

    processor: str
    record: str
    precision: str
    multiply_adds: int
    edges: int
    seconds: float

    def seconds_for(self, model: AllegroModel, edges: float) -> float:
        """Of one core for so many edges of a model, in proportion to multiply-adds."""
        return self.seconds * edges / self.edges * fold_model(model).multiply_adds[1] / self.multiply_adds


CPU_RATE = CpuRate(
    processor="AMD EPYC (znver5)",
    record="bench/results/2026-11-22-cpu-water-192.json",
    precision="single",
    multiply_adds=12704,  # of its model now; when it was measured they were 15776, and the time may be a little long
    edges=7336,
    seconds=5.397854999500851e-3,
)
"""The median of the record; other models are scaled from it."""


@dataclass(frozen=True)
class GpuRate:
    """Measured evaluations of forces: edges times multiply-adds a second, and where it was measured."""

    gpu: str
    source: str
    precision: str
    multiply_adds_per_second: float


def gpu_bounds(model: AllegroModel, precision: str, edges_per_atom: float) -> list[tuple[Gpu, float]]:
    """GPUs and the least seconds an atom that bytes and operations allow on each (tools/roofline.py)."""
    works = kernel_works(model, precision)
    return [(gpu, floor(works, gpu, precision, edges_per_atom)) for gpu in GPUS]


def measured_gpus(precision: str, multiply_adds: int, folder: Path = RECORDS) -> Iterator[GpuRate]:
    """Of each GPU's record (bench/results/README.md) in this precision the fastest measurement of the model that is
    nearest to one of so many multiply-adds an edge: wide models keep a GPU busier. None without records.

    Raises OutputError for a record that cannot be read.
    """
    for path in sorted(folder.glob("*-gpu-*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            rates = []
            for key, result in record["results"].items():
                parts = key.split("/")
                if len(parts) == 4 and parts[0] == "speed" and parts[2] == precision and "error" not in result:
                    edges = int(parts[3]) * EDGES_PER_CENTER[parts[1]]
                    own = fold_model(benchmark_model(parts[1])).multiply_adds[1]
                    distance = abs(math.log(own / multiply_adds))
                    rates.append((-distance, edges * own / statistics.median(result["evaluation_seconds"]), key))
            if rates:
                _, fastest, key = max(rates)
                yield GpuRate(str(record["gpu"]), f"{path.name}, {key}", precision, fastest)
        except (KeyError, TypeError, ValueError, OSError, ModelFileError) as error:
            raise OutputError(f"{path}: is not a record of measurements: {error!r}") from None
