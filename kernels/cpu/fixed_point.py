"""Sums that do not depend on the order of their terms: 64-bit fixed point.

Integers add in any order to the same bits, so sums over atoms, threads, chunks and ranks are reproducible.

- Forces and per-atom virials: one 64-bit integer in units of 2^-40 eV/Å (eV); range 8.3e6.
- Sums over all atoms (energies, virials, momenta): two words, units of 2^-12 and 2^-44, so that 1e9 atoms fit in range
  and 1e-12 eV still counts.
"""

from __future__ import annotations

import numpy as np

from .compilation import kernel

FORCE_SCALE = float(2**40)
"""Integer units per eV/Å (forces) and per eV (per-atom virials)."""

FORCE_LIMIT = float(2**22)
"""Largest magnitude of a single contribution, eV/Å; beyond it, or not finite, is a fault."""

HIGH_SCALE = float(2**12)
LOW_SCALE = float(2**44)
SUM_LIMIT = float(2**36)
"""Largest magnitude of a single term of a two-word sum."""

_WORD_SHIFT = 32
"""One unit of the high word is 2^32 of the low one."""


@kernel(inline="always")
def to_fixed(value):
    """float64 -> int64 in units of 2^-40, rounded to nearest. The caller has checked |value| < FORCE_LIMIT."""
    return np.int64(np.rint(value * FORCE_SCALE))


@kernel
def add_overflows(total, term):
    """True when the int64 sum `total + term` would leave the range."""
    result = total + term
    return ((total ^ result) & (term ^ result)) < 0


@kernel
def add_to_words(words, value):
    """Add one float64 to a two-word sum (accumulates).

    words: int64 (2,), high and low part. Returns False, and adds nothing, when `value` is not finite or out of range.
    """
    if not (abs(value) < SUM_LIMIT):
        return False
    high = np.rint(value * HIGH_SCALE)
    low = np.rint((value - high / HIGH_SCALE) * LOW_SCALE)
    words[0] += np.int64(high)
    words[1] += np.int64(low)
    return True


@kernel
def sum_columns(words, values):
    """Two-word sums over the rows of `values` (overwrites).

    words: int64 (K, 2) OUTPUT; values: float64 (N, K). Returns False when a term is not finite or out of range.
    """
    words[:] = 0
    good = True
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            good = add_to_words(words[column], values[row, column]) and good
    return good


def words_to_float(words: np.ndarray) -> np.ndarray:
    """Value of two-word sums: int64 (..., 2) -> float64 (...)."""
    return words[..., 0].astype(np.float64) / HIGH_SCALE + words[..., 1].astype(np.float64) / LOW_SCALE


def words_to_integer(words: np.ndarray) -> int:
    """A two-word sum, int64 (2,), as one whole number of 2^-44, which never overflows and has one form only."""
    return (int(words[0]) << _WORD_SHIFT) + int(words[1])


def integer_to_words(number: int) -> np.ndarray:
    """The inverse: int64 (2,), the low word not negative."""
    return np.array([number >> _WORD_SHIFT, number & ((1 << _WORD_SHIFT) - 1)], np.int64)


def forces_to_float(fixed: np.ndarray) -> np.ndarray:
    """Fixed-point forces (int64) in eV/Å (float64)."""
    return fixed.astype(np.float64) / FORCE_SCALE
