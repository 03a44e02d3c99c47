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
    return _lennard_jones_forward(term, lengths, x)


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
    return _lennard_jones_backward(grad_edge, term, lengths, x)


def _lennard_jones_forward(term: LennardJones, lengths: np.ndarray, x: np.ndarray) -> np.ndarray:
    """2 epsilon (q^2 - q) u_p(x),  q = (sigma / d)^6; u = 1 where there is no cutoff function.

    Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931).
    """
    q = (term.sigma / lengths) ** 6
    return 2.0 * term.epsilon * (q * q - q) * cutoff_forward(x, term.cutoff_exponent)


def _lennard_jones_backward(
    grad_edge: np.ndarray, term: LennardJones, lengths: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    q = (term.sigma / lengths) ** 6
    grad_lengths = grad_edge * 2.0 * term.epsilon * (6.0 * q - 12.0 * q * q) / lengths
    grad_cutoff = grad_edge * 2.0 * term.epsilon * (q * q - q)
    cutoff = cutoff_forward(x, term.cutoff_exponent)
    return grad_lengths * cutoff, cutoff_backward(grad_cutoff, x, term.cutoff_exponent)


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
