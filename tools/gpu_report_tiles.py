"""Phase `tiles` of gpu_report.py: fused MLPs by other tiles than those of `mlp_chain.TILES`.

Which tiles are fastest follows from registers, shared memory and latencies together, and is measured, not computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from allegro_sim.potential.cuda import mlp_chain

Tile = tuple[int, int, int]
"""Edges, warps along them, warps across the columns."""

TRIED: dict[str, tuple[Tile, ...]] = {
    "bundled": ((64, 4, 1), (128, 4, 1), (32, 2, 1)),
    "degree3": ((64, 4, 1), (128, 4, 1), (64, 2, 2)),
    "medium": ((128, 4, 2), (64, 4, 2), (64, 2, 4)),
}
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
