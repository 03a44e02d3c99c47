"""Forces are minus the gradient of the energy, and virials its derivative by strain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Central differences of fourth order: the truncation error, h^4 f^(5)/30, is below 1e-8 of the derivative for the most
# rugged of these models; energies carry some 1e-13 eV of rounding, which h divides.
TOLERANCE = 1.0e-6


def derivative(function: Callable[[float], float], h: float) -> float:
    return (8.0 * (function(h) - function(-h)) - (function(2.0 * h) - function(-2.0 * h))) / (12.0 * h)


def test_forces_are_minus_the_gradient(evaluate, case) -> None:
    forces = evaluate(case).forces
    scale = np.abs(forces).max()
    rng = np.random.default_rng(0)
    for atom in rng.choice(len(forces), 4, replace=False):
        for axis in range(3):

            def energy(h: float, atom: int = atom, axis: int = axis) -> float:
                positions = case.positions.copy()
                positions[atom, axis] += h
                return evaluate(case.changed(positions=positions)).energy

            assert abs(forces[atom, axis] + derivative(energy, 1.0e-4)) < TOLERANCE * scale


def test_virial_is_minus_the_derivative_by_strain(evaluate, case) -> None:
    result = evaluate(case)
    scale = np.abs(result.virial).max()
    for a in range(3):
        for b in range(a, 3):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5

            def energy(h: float, strain: np.ndarray = strain) -> float:
                deformation = np.eye(3) + h * strain
                return evaluate(
                    case.changed(positions=case.positions @ deformation, vectors=case.vectors @ deformation)
                ).energy

            # A strain moves atoms by up to ten times its value.
            assert abs(result.virial[a, b] + derivative(energy, 3.0e-5)) < TOLERANCE * scale


def test_per_atom_virials_sum_to_the_virial(evaluate, case) -> None:
    result = evaluate(case, want_atom_virials=True)
    total = result.atom_virials.sum(axis=0)
    # Fixed point: 2^-41 eV of rounding for each of some 400 edges.
    np.testing.assert_allclose(0.5 * (total + total.T), result.virial, rtol=0, atol=1e-9)


def test_asking_for_virials_changes_nothing_else(evaluate, case) -> None:
    plain, full = evaluate(case), evaluate(case, want_atom_virials=True)
    assert plain.energy == full.energy
    assert (plain.forces == full.forces).all()
    assert (plain.virial == full.virial).all()
    assert plain.atom_virials is None


def test_atomic_energies_sum_to_the_energy(evaluate, case) -> None:
    result = evaluate(case)
    assert abs(result.energies.sum() - result.energy) < 1e-11  # two-word sum against floating point


def test_stress_belongs_to_periodic_cells_only(evaluate, case) -> None:
    result = evaluate(case)
    if case.pbc.all():
        np.testing.assert_allclose(result.stress * abs(np.linalg.det(case.vectors)), -result.virial, rtol=1e-12)
    else:
        assert result.stress is None


def test_forces_and_torque_vanish_in_sum(evaluate, case) -> None:
    """No net force in any structure (each pair's two contributions are one integer with two signs); no torque on a
    cluster.
    """
    result = evaluate(case)
    # The sum of integers is exact; floating-point addition of a dozen forces rounds.
    np.testing.assert_allclose(result.forces.sum(axis=0), 0.0, atol=1e-11)
    if not case.pbc.any():
        torque = np.cross(case.positions, result.forces).sum(axis=0)
        np.testing.assert_allclose(torque, 0.0, atol=1e-9)  # 2^-40 eV/Å a force, arms of 10 Å, some 400 edges
