"""Phase `tiles` of gpu_report.py: fused MLPs by other tiles than those of `mlp_chain.TILES`, wide ones by other blocks
of rows than those of `probe.most_units`.

Which are fastest follows from registers, caches and latencies together, and is measured, not computed. The fewer rows a
product of cuBLAS has, the more of what it writes is still in the second-level cache (50 MB on an H200; 4 KB a row of
1,024 numbers) when the activation reads it, and the fewer multiprocessors may have work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from allegro_sim.potential.cuda import mlp_chain, probe

Tile = tuple[int, int, int]
"""Edges, warps along them, warps across the columns."""

TRIED: dict[str, tuple[Tile, ...]] = {
    "bundled": ((64, 4, 1), (128, 4, 1), (32, 2, 1)),
    "degree3": ((64, 4, 1), (128, 4, 1), (64, 2, 2)),
    "medium": ((128, 4, 2), (64, 4, 2), (64, 2, 4)),
}
TRIED_BLOCKS: dict[str, tuple[int, ...]] = {"sc23": (32, 16, 8, 4, 2), "sc23_legacy": (32, 8, 4, 2)}
"""Largest blocks of rows, in units of `probe.unit_rows` (2,048 on an H200)."""
ATOMS = 24_000
REPEATS = 5


@contextmanager
def all_tiles(tile: Tile) -> Iterator[None]:
    """Layouts that are made meanwhile have this tile, whatever their width."""
    with patch.dict(mlp_chain.TILES, {4: tuple((width, tile) for width, _ in mlp_chain.TILES[4])}):
        yield


def cases() -> Iterator[tuple[str, Tile]]:
    for model, tiles in TRIED.items():
        for tile in tiles:
            yield model, tile


def key(model: str, tile: Tile) -> str:
    return f"tiles/{model}/{'x'.join(map(str, tile))}"


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


def measure(gpu: Any, model: str, tile: Tile) -> dict[str, Any]:
    """An evaluation in `mixed`, and every MLP's kernel of it."""
    with all_tiles(tile):
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
    for model, tile in cases():
        yield key(model, tile), partial(measure, gpu, model, tile)
