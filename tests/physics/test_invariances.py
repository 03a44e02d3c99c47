"""Energy and forces do not depend on where the system is, how it is turned, or in which order its atoms come."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_sim.kernels.cpu.fixed_point import FORCE_SCALE

# Double precision: a rotated structure has other roundings, some 1e-15 an operation through a few hundred of them.
TOLERANCE = 1.0e-10


def assert_same(result, expected, rotation=None, order=None) -> None:
    """`result` is `expected`, its atoms reordered, and then rotated."""
    rotation = np.eye(3) if rotation is None else rotation
    order = np.arange(len(expected.energies)) if order is None else order
    scale = max(1.0, np.abs(expected.forces).max())
    assert abs(result.energy - expected.energy) < TOLERANCE * max(1.0, np.abs(expected.energies).max()) * len(order)
    np.testing.assert_allclose(result.energies, expected.energies[order], atol=TOLERANCE * scale)
    np.testing.assert_allclose(result.forces, expected.forces[order] @ rotation, atol=TOLERANCE * scale)
    virial = rotation.T @ expected.virial @ rotation
    np.testing.assert_allclose(result.virial, virial, atol=TOLERANCE * max(1.0, np.abs(virial).max()))


def random_rotation(seed: int) -> np.ndarray:
    """Proper rotation, (3, 3), rows are images of the axes: x' = x @ rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def test_translation(evaluate, case) -> None:
    moved = case.changed(positions=case.positions + np.array([1.7, -23.4, 101.3]))
    assert_same(evaluate(moved), evaluate(case))


@pytest.mark.parametrize("seed", [1, 2])
def test_rotation(evaluate, case, seed) -> None:
    rotation = random_rotation(seed)
    turned = case.changed(positions=case.positions @ rotation, vectors=case.vectors @ rotation)
    assert_same(evaluate(turned), evaluate(case), rotation)


def test_reflection_and_inversion(evaluate, case) -> None:
    """Also makes the cell left-handed."""
    for improper in (np.diag([1.0, 1.0, -1.0]), -random_rotation(3)):
        mirrored = case.changed(positions=case.positions @ improper, vectors=case.vectors @ improper)
        assert_same(evaluate(mirrored), evaluate(case), improper)


def test_permutation_of_atoms(evaluate, case) -> None:
    order = np.random.default_rng(4).permutation(len(case.types))
    permuted = case.changed(positions=case.positions[order], types=case.types[order])
    assert_same(evaluate(permuted), evaluate(case), order=order)


def test_whole_lattice_vectors_added_to_single_atoms(evaluate, case) -> None:
    """An atom may be given by any of its periodic copies."""
    copies = np.random.default_rng(5).integers(-3, 4, (len(case.types), 3)) * case.pbc
    assert_same(evaluate(case.changed(positions=case.positions + copies @ case.vectors)), evaluate(case))


def test_another_basis_of_the_same_lattice(evaluate, case) -> None:
    if not case.pbc.all():
        pytest.skip("a lattice in three directions")
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    assert_same(evaluate(case.changed(vectors=basis @ case.vectors)), evaluate(case))


def test_supercell(evaluate, case) -> None:
    """Two copies of the cell along each periodic direction: every copy feels the same."""
    counts = np.where(case.pbc, [2, 1, 3], 1)
    places = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 3)
    replicas, atoms = len(places), len(case.types)
    large = case.changed(
        positions=(case.positions[None] + (places @ case.vectors)[:, None]).reshape(-1, 3),
        vectors=case.vectors * counts[:, None],
        types=np.tile(case.types, replicas),
    )
    result, expected = evaluate(large), evaluate(case)
    scale = max(1.0, np.abs(expected.forces).max())
    np.testing.assert_allclose(
        result.energies.reshape(replicas, atoms), np.tile(expected.energies, (replicas, 1)), atol=TOLERANCE * scale
    )
    np.testing.assert_allclose(
        result.forces.reshape(replicas, atoms, 3), np.tile(expected.forces, (replicas, 1, 1)), atol=TOLERANCE * scale
    )
    np.testing.assert_allclose(
        result.virial, replicas * expected.virial, atol=TOLERANCE * replicas * max(1.0, np.abs(expected.virial).max())
    )


def test_repeated_evaluation_gives_the_same_bits(evaluate, case) -> None:
    first = evaluate(case)
    evaluate(case.changed(positions=case.positions + 0.1))
    again = evaluate(case)
    assert first.energy == again.energy
    assert (first.forces == again.forces).all()


def test_forces_are_sums_of_integers(evaluate, case) -> None:
    """Sums over centres are made in fixed point, so every force is a whole number of units."""
    units = evaluate(case).forces * FORCE_SCALE
    assert (units == np.rint(units)).all()
