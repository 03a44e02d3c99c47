"""Which golden models the CUDA potential is run with by default, and how its modules are compiled for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.golden import MODELS

PRECISIONS = ("double", "single", "mixed")

FAST_BUILD = "-O0"
"""For models that run a few structures: the compiler takes half as long, the kernels twice."""

TABLE_SHARE = 6
"""By default one in so many of the cases made by a table of pairs, and of each model at most one precision."""

ONCE = {
    "repeated_harmonics": "double", "repeated_everywhere": "mixed",
    "scatter_one_layer": "single", "scatter_shared_weights": "mixed", "scatter_so3": "double", "scatter_l3_parity": "",
    "lj_tables": "double", "lj_repulsive_only": "", "lj_repulsive": "", "lj_simple": "",
}  # fmt: skip
"""The one precision by default, or none, of models that have irreps more than once, of those with `scatter_features`
and of those with a Lennard-Jones term, each form of which tests/kernels/test_cuda_edges.py has."""


def golden_cases(*precisions: str) -> Iterator[Any]:
    """(name, precision): every model in each of these precisions; those that are not run by default are slow."""
    for n, name in enumerate(MODELS):
        for p, precision in enumerate(PRECISIONS):
            if precision in precisions:
                always = not name.startswith("pairwise") or n % TABLE_SHARE == p
                always = always and precision == ONCE.get(name, precision)
                yield pytest.param(name, precision, marks=() if always else (pytest.mark.slow,))
