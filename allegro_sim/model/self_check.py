"""Self-checks: small structures with the results a right evaluation gives, kept inside every weight file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.model.description import AllegroModel
from allegro_sim.model.reference import evaluate_structure

REFERENCE_SOURCE = "reference (NumPy, float64)"


@dataclass(frozen=True)
class SelfCheck:
    """One structure and its results, float64.

    positions (N, 3) Å; cell (3, 3) Å, rows are lattice vectors, or None; pbc (3,) bool; types (N,) int64; energy eV;
    energies (N,) eV; forces (N, 3) eV/Å; virial (3, 3) eV = -dE/dstrain; source: what computed the results, a text that
    begins with "upstream" or "reference".
    """

    positions: np.ndarray
    cell: np.ndarray | None
    pbc: np.ndarray
    types: np.ndarray
    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    source: str


@dataclass(frozen=True)
class Deviation:
    """Largest deviation of one quantity from its expected value, and the bound it is held to, both in `unit`."""

    quantity: str
    largest: float
    bound: float
    unit: str

    @property
    def passed(self) -> bool:
        return self.largest <= self.bound  # False for NaN


def check_structures(model: AllegroModel) -> list[tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]]:
    """Structures to check a model on, always the same for a model: (positions, cell | None, pbc, types) each.

    A periodic one in a skewed cell smaller than two cutoffs (so that several images of an atom take part), some of its
    positions outside the cell, and a cluster without a cell. All types occur in each. Atoms are as dense as gives some
    24 neighbours inside the largest reach (8 with more than 32 types, each of which needs an atom), and no closer to
    each other than bonds are.
    """
    rng = np.random.default_rng(20230203)
    num_atoms = max(16, model.num_types)
    num_neighbors = 24.0 if model.num_types <= 32 else 8.0
    nearest = min(1.0, 0.6 * float(model.cutoffs.min()))
    volume = max(4.0 / 3.0 * np.pi * float(model.reaches.max()) ** 3 / num_neighbors, (1.6 * nearest) ** 3)
    edge = (num_atoms * volume) ** (1.0 / 3.0)
    skewed = edge * np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.15, 0.25, 1.0]])
    structures: list[tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]] = []
    for periodic in (True, False):
        fractional = _place(rng, num_atoms, skewed, nearest, periodic)
        if periodic:
            fractional += rng.integers(-1, 2, fractional.shape)
        types = rng.permutation(np.arange(num_atoms) % model.num_types)
        structures.append((fractional @ skewed, skewed if periodic else None, np.full(3, periodic), types))
    return structures


def _place(rng: np.random.Generator, num_atoms: int, cell: np.ndarray, nearest: float, periodic: bool) -> np.ndarray:
    """Fractional coordinates (N, 3) of random atoms no closer than `nearest` (Å), one after the other."""
    placed = np.empty((0, 3))
    while len(placed) < num_atoms:
        trial = rng.random(3)
        separation = placed - trial
        if periodic:
            separation -= np.rint(separation)
        if (np.linalg.norm(separation @ cell, axis=1) > nearest).all():
            placed = np.vstack([placed, trial])
    return placed


def make_reference_self_checks(model: AllegroModel) -> list[SelfCheck]:
    """Self-checks from the project's own reference, for models imported where upstream is not installed."""
    checks = []
    for positions, cell, pbc, types in check_structures(model):
        result = evaluate_structure(model, positions, cell, pbc, types)
        checks.append(
            SelfCheck(
                positions,
                cell,
                pbc,
                types,
                result.energy,
                result.energies,
                result.forces,
                result.virial,
                REFERENCE_SOURCE,
            )
        )
    return checks


# Relative bounds. double: the project's promise against upstream in float64. single: forces as promised (relative RMS);
# energies and virial some five times upstream's own float32 rounding on trained models (up to 4e-6 of the network's
# energy, 7e-6 of the virial). mixed: three times the largest effect of TF32 products measured on forces (3e-3).
_ENERGIES = {"double": 1e-10, "single": 2e-5, "mixed": 1e-2}
_FORCES = {"double": 1e-9, "single": 1e-5, "mixed": 1e-2}
_VIRIAL = {"double": 1e-9, "single": 5e-5, "mixed": 2e-2}


def compare(
    model: AllegroModel,
    check: SelfCheck,
    *,
    energies: np.ndarray,
    forces: np.ndarray,
    virial: np.ndarray,
    precision: str,
) -> tuple[Deviation, ...]:
    """Deviations of computed results from a self-check's, each with its bound for "double", "single" or "mixed".

    energies (N,) eV, forces (N, 3) eV/Å, virial (3, 3) eV, as `SelfCheck` has them. Bounds, E_i and F and W meaning the
    expected values:

        double           energies 1e-10 max(1, max|E_i|);   forces, any component, 1e-9 max(1, max|F|);   virial
                         1e-9 max(1, max|W|)
        single (mixed)   energies 2e-5 (1e-2) max(1, max|E_i - shift_i|): the shift is added in float64;   forces, root
                         mean square, 1e-5 (1e-2) RMS(F);   virial 5e-5 (2e-2) max(1, max|W|)

    The total energy may deviate N times as much as an atomic one. Raises KeyError for another precision.
    """
    energy_error = np.abs(energies - check.energies)
    force_error = forces - check.forces
    if precision == "double":
        energy_scale = _at_least_one(check.energies)
        force = Deviation(
            "forces", float(np.abs(force_error).max()), _FORCES[precision] * _at_least_one(check.forces), "eV/Å"
        )
    else:
        energy_scale = _at_least_one(check.energies - model.shifts[check.types])
        force = Deviation("forces (RMS)", _rms(force_error), _FORCES[precision] * _rms(check.forces), "eV/Å")
    bound = _ENERGIES[precision] * energy_scale
    virial_bound = _VIRIAL[precision] * _at_least_one(check.virial)
    return (
        Deviation("energy", abs(float(np.sum(energies)) - check.energy), bound * len(check.energies), "eV"),
        Deviation("atomic energies", float(energy_error.max()), bound, "eV"),
        force,
        Deviation("virial", float(np.abs(virial - check.virial).max()), virial_bound, "eV"),
    )


def _at_least_one(values: np.ndarray) -> float:
    return max(1.0, float(np.abs(values).max()))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
