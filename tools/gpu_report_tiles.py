"""Phase `tiles` of gpu_report.py: fused MLPs by other tiles than those of `mlp_chain.TILES`, wide ones by other blocks
of rows than those of `probe.most_units`.

Which are fastest follows from registers, caches and latencies together, and is measured, not computed. The fewer rows a
product of cuBLAS has, the more of what it writes is still in the second-level cache (50 MB on an H200; 4 KB a row of
1,024 numbers) when the activation reads it, and the fewer multiprocessors may have work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from allegro_sim.potential.cuda import mlp_chain, probe


@dataclass(frozen=True)
class Tiling:
    """tile: edges, warps along them, warps across the columns; slabs: numbers k of a slab, and slabs under way or in
    use (None: what `mlp_chain` takes)."""

    tile: tuple[int, int, int]
    slabs: tuple[int, int] | None = None

    def __str__(self) -> str:
        return "x".join(map(str, self.tile)) + (f"_{self.slabs[0]}x{self.slabs[1]}" if self.slabs else "")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Layouts of float32 that are made meanwhile are tiled so, whatever their width."""
        tiles = {4: tuple((width, self.tile) for width, _ in mlp_chain.TILES[4])}
        slabs = {4: (self.slabs,)} if self.slabs else {}
        with patch.dict(mlp_chain.TILES, tiles), patch.dict(mlp_chain.SLABS, slabs):
            yield


@dataclass(frozen=True)
class RowBlocks:
    """units: the largest block of rows, in units of `probe.unit_rows` (2,048 on an H200)."""

    units: int

    def __str__(self) -> str:
        return f"{self.units}_units"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wide models that are prepared meanwhile have no larger blocks."""
        with patch.object(probe, "most_units", lambda multiprocessors: self.units):
            yield


Variant = Tiling | RowBlocks

TRIED: dict[str, tuple[Variant, ...]] = {
    "sc23": tuple(map(RowBlocks, (32, 16, 8, 4, 2))),
    "sc23_legacy": tuple(map(RowBlocks, (32, 8, 4, 2))),
    "bundled": (
        Tiling((64, 4, 1)), Tiling((128, 4, 1)), Tiling((32, 2, 1)), Tiling((64, 4, 1), (16, 4)),
        Tiling((64, 4, 1), (32, 2)), Tiling((32, 2, 1), (16, 4)),
    ),
    "degree3": (
        Tiling((64, 4, 1)), Tiling((128, 4, 1)), Tiling((64, 2, 2)), Tiling((64, 4, 1), (16, 4)),
        Tiling((64, 4, 1), (32, 2)),
    ),
    "medium": (
        Tiling((128, 4, 2)), Tiling((64, 4, 2)), Tiling((64, 2, 4)), Tiling((64, 2, 4), (16, 4)),
        Tiling((64, 2, 4), (32, 2)),
    ),
}  # fmt: skip
"""Of each model what the program takes (on an H200) first."""
ATOMS = 24_000
REPEATS = 5


def cases() -> Iterator[tuple[str, Variant]]:
    for model, variants in TRIED.items():
        for variant in variants:
            yield model, variant


def measure(gpu: Any, model: str, variant: Variant) -> dict[str, Any]:
    """An evaluation in `mixed`, and every kernel and product of it."""
    with variant.taken():
        case = gpu.case(model, "mixed", ATOMS)
        seconds, kernels = case.seconds(REPEATS), case.kernel_seconds(REPEATS)
    median = float(np.median(seconds))
    return {**case.facts, "evaluation_seconds": seconds, "median_seconds": median, "kernels": kernels}


def measurements(gpu: Any) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Everything of the phase by its key in the record."""
    for model, variant in cases():
        yield f"tiles/{model}/{variant}", partial(measure, gpu, model, variant)
