"""The mean of a correlated series and its error, by blocking (Flyvbjerg & Petersen, J. Chem. Phys. 91, 461, 1989)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST_BLOCKS = 16
"""Levels with fewer blocks say too little about the error to be used: theirs is uncertain by 18 % and more."""


@dataclass(frozen=True)
class BlockAverage:
    """What a series says about the mean of the process behind it.

    Attributes
    ----------
    mean, deviation : of the samples
    error : one standard error of the mean; NaN for fewer than LEAST_BLOCKS samples
    uncertainty : one standard error of `error`
    inefficiency : samples that are worth one independent sample, at least 1; NaN with the error
    converged : whether the error has stopped growing with the length of the blocks; if not, it is a lower bound, and
        the series is too short for its correlations
    """

    mean: float
    deviation: float
    error: float
    uncertainty: float
    inefficiency: float
    converged: bool


def block_average(values: np.ndarray) -> BlockAverage:
    """Blocking of evenly spaced samples (n,), n >= 1.

    Neighbouring samples are averaged in pairs, again and again; each level gives an estimate c0 / (n' - 1) of the
    square of the error (their equation 26), with the relative uncertainty of the error 1 / sqrt(2 (n' - 1)) (equation
    28). It grows until blocks are longer than the correlations. Taken is the first level which none of the following
    exceeds by more than its own uncertainty. An odd sample at the end of a level is left out of the next.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.min() == values.max():  # no rounding of a mean, as of the volume
        return BlockAverage(float(values[0]), 0.0, 0.0, 0.0, 1.0, True)
    mean = float(values.mean())
    blocks = values - mean  # energies have a large constant part
    deviation = float(np.sqrt((blocks**2).mean()))
    if len(values) < LEAST_BLOCKS:
        return BlockAverage(mean, deviation, math.nan, math.nan, math.nan, False)
    errors, uncertainties = [], []
    while len(blocks) >= LEAST_BLOCKS:
        count = len(blocks)
        errors.append(math.sqrt(float(blocks.var()) / (count - 1)))
        uncertainties.append(errors[-1] / math.sqrt(2.0 * (count - 1)))
        even = count // 2 * 2
        blocks = 0.5 * (blocks[0:even:2] + blocks[1:even:2])
    level = next(
        level
        for level in range(len(errors))
        if all(
            later - errors[level] <= sigma
            for later, sigma in zip(errors[level + 1 :], uncertainties[level + 1 :], strict=True)
        )
    )
    inefficiency = (errors[level] / errors[0]) ** 2
    # The last level has none after it to confirm it.
    converged = level < len(errors) - 1
    return BlockAverage(mean, deviation, errors[level], uncertainties[level], max(inefficiency, 1.0), converged)
