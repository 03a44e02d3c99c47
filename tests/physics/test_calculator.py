"""The ASE calculator: ASE's units, signs and conventions, and messages for what cannot be had."""

from __future__ import annotations

import ase
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from support.random_models import random_model, random_structure

from allegro_sim import AllegroCalculator
from allegro_sim.errors import StructureError
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.weight_file import save_model


@pytest.fixture(scope="module")
def model():
    return random_model(21, zbl=True)


@pytest.fixture(scope="module")
def calculator(model) -> AllegroCalculator:
    return AllegroCalculator(model, device="cpu", precision="double")


def make_atoms(model, pbc=True) -> ase.Atoms:
    positions, cell, periodic, types = random_structure(2, model, num_atoms=10, pbc=(pbc,) * 3)
    return ase.Atoms(numbers=model.atomic_numbers[types], positions=positions, cell=cell, pbc=periodic)


def test_results_are_those_of_the_evaluation(model, calculator) -> None:
    atoms = make_atoms(model)
    atoms.calc = calculator
    expected = Evaluator(model, device="cpu").evaluate(
        np.array([{1: 0, 8: 1}[z] for z in atoms.numbers]),
        atoms.positions,
        structure_cell(atoms),
        want_atom_virials=True,
    )
    assert atoms.get_potential_energy() == expected.energy
    assert atoms.get_potential_energy(force_consistent=True) == expected.energy
    assert (atoms.get_forces() == expected.forces).all()
    assert (atoms.get_potential_energies() == expected.energies).all()
    assert (atoms.get_stress(voigt=False) == expected.stress).all()


def structure_cell(atoms: ase.Atoms):
    from allegro_sim.cell import Cell

    return Cell(np.array(atoms.cell), atoms.pbc)


def test_stress_has_the_sign_and_order_of_ase(model, calculator) -> None:
    """ASE's own numerical stress, by central differences of the energy (step 1e-5: good to some 1e-6 of the
    largest).
    """
    atoms = make_atoms(model)
    atoms.calc = calculator
    stress = atoms.get_stress()
    assert stress.shape == (6,)
    numerical = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    np.testing.assert_allclose(stress, numerical, atol=1e-5 * np.abs(stress).max())


def test_stresses_of_atoms_add_up_to_the_stress(model, calculator) -> None:
    atoms = make_atoms(model)
    atoms.calc = calculator
    stresses = atoms.get_stresses()
    assert stresses.shape == (len(atoms), 6)
    np.testing.assert_allclose(stresses.sum(axis=0), atoms.get_stress(), atol=1e-11)  # fixed point, a few hundred edges


def test_atoms_that_moved_or_changed_cell_are_evaluated_anew(model, calculator) -> None:
    atoms = make_atoms(model)
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    atoms.rattle(0.05, seed=1)
    moved = atoms.get_potential_energy()
    assert moved != before
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    assert atoms.get_potential_energy() not in (before, moved)
    fresh = atoms.copy()
    fresh.calc = AllegroCalculator(model, device="cpu")
    assert fresh.get_potential_energy() == atoms.get_potential_energy()


def test_no_stress_without_a_periodic_cell(model, calculator) -> None:
    atoms = make_atoms(model, pbc=False)
    atoms.cell = None
    atoms.calc = calculator
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="pbc"):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="pbc"):
        atoms.get_stresses()


def test_element_that_is_not_in_the_model_is_named(calculator) -> None:
    atoms = ase.Atoms("OAu", positions=[[0, 0, 0], [0, 0, 2]])
    atoms.calc = calculator
    with pytest.raises(StructureError, match="Au"):
        atoms.get_potential_energy()


def test_types_name_the_model_type_of_a_symbol(model, calculator) -> None:
    dimer = [[0, 0, 0], [0, 0, 1.2]]
    deuterated = ase.Atoms("CH", positions=dimer)
    deuterated.calc = AllegroCalculator(model, device="cpu", types={"C": "O"})
    plain = ase.Atoms("OH", positions=dimer)
    plain.calc = calculator
    assert deuterated.get_potential_energy() == plain.get_potential_energy()


def test_two_atoms_at_one_place_are_named(calculator) -> None:
    atoms = ase.Atoms("OHH", positions=[[0, 0, 0], [0, 0, 1], [0, 0, 1]])
    atoms.calc = calculator
    with pytest.raises(StructureError, match="atoms 1 and 2"):
        atoms.get_potential_energy()


def test_position_that_is_not_finite_is_named(calculator) -> None:
    atoms = ase.Atoms("OHH", positions=[[0, 0, 0], [0, 0, 1], [0, np.nan, 1]])
    atoms.calc = calculator
    with pytest.raises(StructureError, match="2"):
        atoms.get_potential_energy()


def test_model_may_be_the_path_of_a_weight_file(model, calculator, tmp_path) -> None:
    path = tmp_path / "model.h5"
    save_model(path, model, {}, [])
    atoms = make_atoms(model)
    atoms.calc = AllegroCalculator(str(path), device="cpu")
    other = make_atoms(model)
    other.calc = calculator
    assert atoms.get_potential_energy() == other.get_potential_energy()
