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


TRIED: dict[str, tuple[Tiling, ...]] = {
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
TRIED_BLOCKS: dict[str, tuple[int, ...]] = {"sc23": (32, 16, 8, 4, 2), "sc23_legacy": (32, 8, 4, 2)}
"""Largest blocks of rows, in units of `probe.unit_rows` (2,048 on an H200)."""
ATOMS = 24_000
REPEATS = 5


@contextmanager
def tiled(tiling: Tiling) -> Iterator[None]:
    """Layouts of float32 that are made meanwhile are tiled so, whatever their width."""
    tiles = {4: tuple((width, tiling.tile) for width, _ in mlp_chain.TILES[4])}
    with patch.dict(mlp_chain.TILES, tiles), patch.dict(mlp_chain.SLABS, {4: (tiling.slabs,)} if tiling.slabs else {}):
        yield


def cases() -> Iterator[tuple[str, Tiling]]:
    for model, tilings in TRIED.items():
        for tiling in tilings:
            yield model, tiling


def key(model: str, tiling: Tiling) -> str:
    return f"tiles/{model}/{tiling}"


@contextmanager
def blocks_of(units: int) -> Iterator[None]:
    """Wide models that are prepared meanwhile have blocks of at most so many units of rows."""
    with patch.object(probe, "most_units", lambda multiprocessors: units):
        yield


def block_cases() -> Iterator[tuple[str, int]]:
    for model, units in TRIED_BLOCKS.items():
        for most in units:
            yield model, most


def block_key(model: str, units: int) -> str:
    return f"tiles/{model}/{units}_units"


def measure_blocks(gpu: Any, model: str, units: int) -> dict[str, Any]:
    """An evaluation in `mixed`, and every kernel and product of it; the facts' description says the rows at a time."""
    with blocks_of(units):
        case = gpu.case(model, "mixed", ATOMS)
        seconds = case.seconds(REPEATS)
        return {
            **case.facts,
            "evaluation_seconds": seconds,
            "median_seconds": float(np.median(seconds)),
            "kernels": case.kernel_seconds(REPEATS),
        }


def measure(gpu: Any, model: str, tiling: Tiling) -> dict[str, Any]:
    """An evaluation in `mixed`, and every MLP's kernel of it."""
    with tiled(tiling):
        case = gpu.case(model, "mixed", ATOMS)
        seconds, kernels = case.seconds(REPEATS), case.kernel_seconds(REPEATS)
    mlps = ("embedding", "latent", "readout")
    return {
        **case.facts,
        "evaluation_seconds": seconds,
        "median_seconds": float(np.median(seconds)),
        "kernels": {name: values for name, values in kernels.items() if name.startswith(mlps)},
    }


def measurements(gpu: Any) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Everything of the phase by its key in the record."""
    for wide, units in block_cases():
        yield block_key(wide, units), partial(measure_blocks, gpu, wide, units)
    for model, tiling in cases():
        yield key(model, tiling), partial(measure, gpu, model, tiling)
