"""`single` follows `double` closely; `mixed` on a CPU is `single`."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

from allegro_sim.evaluation import Evaluation, evaluate
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.weight_file import load_model
from allegro_sim.structure import Structure, structure_of_atoms


@pytest.fixture(scope="module")
def model(inputs: Path) -> AllegroModel:
    return load_model(inputs / "water" / "water.h5")


@pytest.fixture(scope="module")
def water(model: AllegroModel, repository: Path) -> Structure:
    atoms = ase.io.read(repository / "tests" / "data" / "water24.xyz")
    return structure_of_atoms(atoms.repeat((2, 1, 1)), model)


@pytest.fixture(scope="module")
def double(model: AllegroModel, water: Structure) -> Evaluation:
    return evaluate(model, water, device="cpu", precision="double")


def test_single_precision_forces_are_within_1e_5_of_double(model, water, double) -> None:
    single = evaluate(model, water, device="cpu", precision="single")
    error = np.sqrt(((single.forces - double.forces) ** 2).mean() / (double.forces**2).mean())
    assert 1e-9 < error < 1e-5  # the two do differ
    assert np.abs(single.energies - double.energies).max() < 1e-4  # 1e-6 of the network's part of some 10 eV
    assert np.abs(single.virial - double.virial).max() < 1e-5 * np.abs(double.virial).max() + 1e-4


def test_mixed_on_a_cpu_is_single(model, water) -> None:
    single = evaluate(model, water, device="cpu", precision="single")
    mixed = evaluate(model, water, device="cpu", precision="mixed")
    assert (single.forces == mixed.forces).all()
    assert single.energy == mixed.energy


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(threads: int, precision: str, model, water) -> None:
    one = evaluate(model, water, device="cpu", precision=precision, threads=1, want_atom_virials=True)
    several = evaluate(model, water, device="cpu", precision=precision, threads=threads, want_atom_virials=True)
    assert (one.energies == several.energies).all()
    assert (one.forces == several.forces).all()
    assert (one.virial == several.virial).all()
    assert (one.atom_virials == several.atom_virials).all()
