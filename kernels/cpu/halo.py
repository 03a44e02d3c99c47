"""Packing and unpacking of halo exchanges."""

from __future__ import annotations

from .compilation import kernel
from .fixed_point import add_overflows


@kernel
def gather_rows(out, values, rows):
    """out[k] = values[rows[k]] (overwrites).

    out: float64 (n, 3) OUTPUT; values: float64 (N, 3); rows: int64 (n,).
    """
    for k in range(rows.shape[0]):
        for c in range(values.shape[1]):
            out[k, c] = values[rows[k], c]


@kernel
def add_rows(values, rows, terms, overflowed):
    """values[rows[k]] += terms[k] (accumulates), for rows that are all different.

    values: int64 (N, K) OUTPUT; rows: int64 (n,); terms: int64 (n, K); overflowed: int64 (n,) OUTPUT, its first
    entries become the rows where a sum left the range of 64 bits; those entries of `values` are left as they were.
    Returns their number.
    """
    count = 0
    for k in range(rows.shape[0]):
        row = rows[k]
        bad = False
        for c in range(values.shape[1]):
            if add_overflows(values[row, c], terms[k, c]):
                bad = True
            else:
                values[row, c] += terms[k, c]
        if bad:
            overflowed[count] = row
            count += 1
    return count
