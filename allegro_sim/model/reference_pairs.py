"""Pair terms in plain NumPy: the repulsion or Lennard-Jones energy of each directed edge, forward and backward.

Each of the edges ij and ji carries half of the pair's energy.
"""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import LennardJones, Zbl
from allegro_sim.model.reference_geometry import (
    cutoff_backward,
    cutoff_forward,
    polynomial_cutoff_backward,
    polynomial_cutoff_forward,
)


def pair_forward(
    term: Zbl | LennardJones, lengths: np.ndarray, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """Energy of each directed edge (Z,), eV; lengths (Z,) Å, x = d / cutoff (Z,), types (Z,)."""
    if isinstance(term, Zbl):
        return _zbl_forward(term, lengths, x, center_types, neighbor_types)
    energies, _ = _lennard_jones(term, lengths, center_types, neighbor_types)
    return energies * cutoff_forward(x, term.cutoff_exponent)


def pair_backward(
    grad_edge: np.ndarray,
    term: Zbl | LennardJones,
    lengths: np.ndarray,
    x: np.ndarray,
    center_types: np.ndarray,
    neighbor_types: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dd, dE/dx), both (Z,), from the gradient of the edges' energies (Z,)."""
    if isinstance(term, Zbl):
        return _zbl_backward(grad_edge, term, lengths, x, center_types, neighbor_types)
    energies, slopes = _lennard_jones(term, lengths, center_types, neighbor_types)
    cutoff = cutoff_forward(x, term.cutoff_exponent)
    return grad_edge * slopes * cutoff, cutoff_backward(grad_edge * energies, x, term.cutoff_exponent)


def _lennard_jones(
    term: LennardJones, lengths: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energies without the cutoff function, and their derivatives by the lengths, both (Z,); see `LennardJones`.

    Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931).
    """

    def of_edges(numbers: float | np.ndarray) -> np.ndarray:
        return (
            np.asarray(numbers)[center_types, neighbor_types] if np.ndim(numbers) else np.full(lengths.shape, numbers)
        )

    sigma, epsilon, delta = map(of_edges, (term.sigma, term.epsilon, term.delta))
    y, n = lengths - delta, term.power
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # at delta, and closer
        if term.style == "repulsive":
            energies = 0.5 * epsilon * (sigma * y) ** -n
            return energies, -n * energies / y
        q = (sigma / y) ** n
        energies = 2.0 * epsilon * (q * q - q)
        slopes = 2.0 * epsilon * (n * q - 2.0 * n * q * q) / y
    if term.style == "lj_repulsive_only":
        beyond = lengths >= term.end + delta
        return np.where(beyond, 0.0, energies + epsilon), np.where(beyond, 0.0, slopes)
    return energies, slopes


_ZBL_AMPLITUDES = np.array([0.02817, 0.28022, 0.50986, 0.18175])
_ZBL_DECAYS = np.array([0.20162, 0.40290, 0.94229, 3.19980])
_ZBL_LENGTH = 0.46850  # Å


def _zbl_forward(
    zbl: Zbl, lengths: np.ndarray, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> np.ndarray:
    """Energy of each directed edge (Z,): K Z_i Z_j / (2 d) psi(q) u_p(x),  q = (Z_i^0.23 + Z_j^0.23) d / 0.4685 Å.

    psi(q) = sum of four decaying exponentials.
    """
    charges, per_length = _zbl_pair(zbl, center_types, neighbor_types)
    screening = (_ZBL_AMPLITUDES * np.exp(-_ZBL_DECAYS * (per_length * lengths)[:, None])).sum(axis=1)
    return charges / lengths * screening * polynomial_cutoff_forward(x, zbl.cutoff_exponent)


def _zbl_backward(
    grad_edge: np.ndarray,
    zbl: Zbl,
    lengths: np.ndarray,
    x: np.ndarray,
    center_types: np.ndarray,
    neighbor_types: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    charges, per_length = _zbl_pair(zbl, center_types, neighbor_types)
    terms = _ZBL_AMPLITUDES * np.exp(-_ZBL_DECAYS * (per_length * lengths)[:, None])
    screening, slope = terms.sum(axis=1), -per_length * (_ZBL_DECAYS * terms).sum(axis=1)
    cutoff = polynomial_cutoff_forward(x, zbl.cutoff_exponent)
    grad_lengths = grad_edge * charges * (slope - screening / lengths) / lengths * cutoff
    grad_cutoff = grad_edge * charges / lengths * screening
    return grad_lengths, polynomial_cutoff_backward(grad_cutoff, x, zbl.cutoff_exponent)


def _zbl_pair(zbl: Zbl, center_types: np.ndarray, neighbor_types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K Z_i Z_j / 2 and (Z_i^0.23 + Z_j^0.23) / 0.4685 Å of each edge."""
    z_i, z_j = zbl.atomic_numbers[center_types], zbl.atomic_numbers[neighbor_types]
    return 0.5 * zbl.coulomb * z_i * z_j, (z_i**0.23 + z_j**0.23) / _ZBL_LENGTH
