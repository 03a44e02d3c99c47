"""Velocity Verlet and BAOAB on springs, where the right answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from support.springs import Chain, TetheredAtoms, make_system

from allegro_sim.dynamics.guard import Guard, Limits
from allegro_sim.dynamics.langevin import Langevin
from allegro_sim.dynamics.observables import degrees_of_freedom, kinetic_sums, measure, rank_sums, reduce_kinetic
from allegro_sim.dynamics.velocities import draw_velocities
from allegro_sim.dynamics.velocity_verlet import VelocityVerlet
from allegro_sim.kernels.cpu.fixed_point import LOW_SCALE, words_to_float
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.units import ACCELERATION, BOLTZMANN

COMM = SerialComm()
MASSES = np.array([15.999, 1.008])


def advance(system, potential, integrator, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        integrator.first_half(system, step)
        potential.compute(system)
        integrator.second_half(system)


def tethered(atoms: int, quartic: float = 0.0):
    """Atoms of two types on springs; the light ones at the frequency of an O-H stretch, 0.7 rad/fs."""
    rng = np.random.default_rng(0)
    types = np.arange(atoms) % 2
    anchors = rng.normal(size=(atoms, 3))
    frequency = np.array([0.1, 0.7])[types]
    potential = TetheredAtoms(anchors, MASSES[types] * frequency**2 / ACCELERATION, quartic)
    system = make_system(MASSES, types, anchors.copy())
    return system, potential


def test_velocity_verlet_retraces_its_path_when_velocities_are_reversed() -> None:
    """Anharmonic springs; each step rounds at 1e-16 Å and forces at 1e-12 eV/Å."""
    system, potential = tethered(50, quartic=20.0)
    draw_velocities(system, COMM, 300.0, 1, True)
    start = system.positions[:50].copy()
    potential.compute(system)
    integrator = VelocityVerlet(0.5, MASSES)
    advance(system, potential, integrator, 100)
    assert np.abs(system.positions[:50] - start).max() > 0.01
    system.velocities *= -1.0
    advance(system, potential, integrator, 100)
    assert np.abs(system.positions[:50] - start).max() < 1e-11


def test_velocity_verlet_has_the_frequency_of_its_discrete_map() -> None:
    """One spring: x_n = A cos(n phi) with cos(phi) = 1 - (w dt)²/2, exactly."""
    system, potential = tethered(2)
    system.positions[1] += [0.1, 0.0, 0.0]
    potential.compute(system)
    advance(system, potential, VelocityVerlet(0.5, MASSES), 200)
    phi = np.arccos(1.0 - 0.5 * (0.7 * 0.5) ** 2)
    assert system.positions[1, 0] - potential.anchors[1, 0] == pytest.approx(0.1 * np.cos(200 * phi), abs=1e-10)


def test_energy_error_falls_fourfold_when_the_step_is_halved() -> None:
    errors = []
    for halving in range(3):
        system, potential = tethered(40, quartic=20.0)
        draw_velocities(system, COMM, 300.0, 1, True)
        potential.compute(system)
        integrator = VelocityVerlet(0.4 / 2**halving, MASSES)
        totals = []
        for step in range(100 * 2**halving):
            advance(system, potential, integrator, 1, step)
            totals.append(measure(rank_sums(system, integrator.kinetic_sums(system)), system.cell, COMM, 117).total)
        errors.append(np.std(totals))
    # The leading error is dt²; the next, dt⁴, changes a ratio by about (w dt)² = 0.08.
    assert errors[0] / errors[1] == pytest.approx(4.0, abs=0.4)
    assert errors[1] / errors[2] == pytest.approx(4.0, abs=0.2)


def test_velocity_verlet_conserves_momentum() -> None:
    types = np.arange(30) % 2
    system = make_system(MASSES, types, np.random.default_rng(1).normal(size=(30, 3)))
    draw_velocities(system, COMM, 300.0, 1, True)
    potential = Chain(2.0)
    potential.compute(system)
    advance(system, potential, VelocityVerlet(0.5, MASSES), 1000)
    # The forces add up to exactly zero; 30,000 kicks round at 1e-17 Da Å/fs each.
    assert np.abs(reduce_kinetic(system, COMM)[1]).max() < 1e-11
    # A cluster: it neither moves nor turns.
    assert degrees_of_freedom(system, COMM, conserves_momentum=True) == 84


def test_moving_system_keeps_all_degrees_of_freedom() -> None:
    system = make_system(MASSES, np.arange(30) % 2, np.zeros((30, 3)))
    draw_velocities(system, COMM, 300.0, 1, True)
    system.velocities[:30, 0] += 0.01
    assert degrees_of_freedom(system, COMM, conserves_momentum=True) == 90


def test_langevin_has_the_set_temperature_at_half_steps_and_is_cold_at_whole_ones() -> None:
    """Stiff springs at w dt = 0.35: whole-step momenta are cold by (w dt)²/4 = 3.06 %.

    500 atoms of each type, 1,500 degrees of freedom, friction of 0.05/fs: 4000 steps hold some 100 independent samples,
    so the standard error is about 0.4 %.
    """
    system, potential = tethered(1000)
    draw_velocities(system, COMM, 300.0, 1, False)
    potential.compute(system)
    integrator = Langevin(0.5, MASSES, 300.0, friction_per_ps=50.0, seed=2)
    advance(system, potential, integrator, 500)
    half, whole = [], []
    for step in range(500, 4500):
        integrator.first_half(system, step, measure=True)
        potential.compute(system)
        integrator.second_half(system)
        half.append(words_to_float(integrator.kinetic_sums(system).energy_words))
        whole.append(words_to_float(kinetic_sums(system).energy_words))
    freedom = 3 * 500
    temperature = 2.0 * np.mean(half, axis=0) / (freedom * BOLTZMANN)
    cold = 2.0 * np.mean(whole, axis=0) / (freedom * BOLTZMANN)
    assert temperature / 300.0 == pytest.approx(1.0, abs=0.016)
    assert cold[1] / temperature[1] == pytest.approx(1.0 - 0.35**2 / 4.0, abs=0.004)
    assert cold[0] / temperature[0] == pytest.approx(1.0 - 0.05**2 / 4.0, abs=0.004)


def test_langevin_without_friction_is_velocity_verlet() -> None:
    """Two half-drifts round otherwise than a whole one."""
    paths = []
    for integrator in (VelocityVerlet(0.5, MASSES), Langevin(0.5, MASSES, 300.0, friction_per_ps=0.0, seed=0)):
        system, potential = tethered(20, quartic=5.0)
        draw_velocities(system, COMM, 300.0, 1, True)
        potential.compute(system)
        advance(system, potential, integrator, 50)
        paths.append(system.positions[:20].copy())
    assert np.abs(paths[0] - paths[1]).max() < 1e-12


def run_langevin(timestep: float, femtoseconds: float, friction_per_ps: float = 100.0):
    """Observables of every step on anharmonic springs, from rest: a bath of 300 K, ten times as strong as usual."""
    system, potential = tethered(40, quartic=20.0)
    potential.compute(system)
    integrator = Langevin(timestep, MASSES, 300.0, friction_per_ps, seed=4)
    found = []
    for step in range(round(femtoseconds / timestep)):
        integrator.first_half(system, step, measure=True)
        potential.compute(system)
        integrator.second_half(system)
        found.append(measure(rank_sums(system, integrator.kinetic_sums(system)), system.cell, COMM, 120))
    return found


def test_langevin_conserves_energy_less_heat_as_well_as_velocity_verlet_conserves_energy() -> None:
    """The bath brings some 3 eV; what is left of the change is of second order in the time step."""
    spread = []
    for halving in range(3):
        found = run_langevin(0.4 / 2**halving, 200.0)
        conserved = np.array([observables.conserved for observables in found])
        assert found[-1].total - found[0].total > 50.0 * np.ptp(conserved)
        assert found[-1].total - found[0].total == pytest.approx(found[-1].heat / LOW_SCALE, rel=0.1)
        spread.append(conserved.std())
    # Other noise at each time step: a standard deviation over some 40 periods scatters by a tenth or so.
    assert spread[0] / spread[1] == pytest.approx(4.0, abs=1.2)
    assert spread[1] / spread[2] == pytest.approx(4.0, abs=1.2)


def test_without_friction_the_conserved_quantity_is_the_energy_at_whole_steps() -> None:
    system, potential = tethered(40, quartic=20.0)
    draw_velocities(system, COMM, 300.0, 1, True)
    potential.compute(system)
    integrator = Langevin(0.4, MASSES, 300.0, friction_per_ps=0.0, seed=0)
    for step in range(50):
        integrator.first_half(system, step, measure=True)
        potential.compute(system)
        integrator.second_half(system)
        found = measure(rank_sums(system, integrator.kinetic_sums(system)), system.cell, COMM, 120)
        whole = measure(rank_sums(system, kinetic_sums(system)), system.cell, COMM, 120)
        assert found.heat == 0
        # The same whole numbers of 2^-44 eV, added to another float64.
        assert found.conserved == pytest.approx(whole.total, abs=1e-12) and found.total != whole.total


def test_heat_does_not_depend_on_how_atoms_are_shared_out() -> None:
    """As whole numbers, exactly; and it goes on from a number that was kept."""
    system, potential = tethered(20)
    potential.compute(system)
    integrator = Langevin(0.5, MASSES, 300.0, friction_per_ps=50.0, seed=2)
    advance(system, potential, integrator, 5)
    shares = []
    for chosen in (np.arange(0, 20, 3), np.setdiff1d(np.arange(20), np.arange(0, 20, 3))):
        part, potential = tethered(20)
        part.set_owned(chosen, part.types[:20][chosen], part.positions[:20][chosen], np.zeros((len(chosen), 3)))
        potential.compute(part)
        shares.append(Langevin(0.5, MASSES, 300.0, friction_per_ps=50.0, seed=2))
        advance(part, potential, shares[-1], 3)
        kept, shares[-1] = shares[-1].heat, Langevin(0.5, MASSES, 300.0, friction_per_ps=50.0, seed=2)
        shares[-1].heat = kept
        advance(part, potential, shares[-1], 2, first=3)
    assert sum(share.heat for share in shares) == integrator.heat != 0


def test_langevin_noise_follows_the_atom_not_its_row() -> None:
    integrator = Langevin(0.5, MASSES, 300.0, friction_per_ps=50.0, seed=2)
    system, potential = tethered(20)
    potential.compute(system)
    advance(system, potential, integrator, 5)
    expected = system.positions[:20].copy()
    system, potential = tethered(20)
    order = np.random.default_rng(3).permutation(20)
    types, positions = system.types[:20][order], system.positions[:20][order]
    system.set_owned(order, types, positions, np.zeros((20, 3)))
    potential.compute(system)
    advance(system, potential, integrator, 5)
    assert (system.positions[:20] == expected[order]).all()


def test_guard_names_atoms_that_jump_and_those_with_bad_forces() -> None:
    system, _ = tethered(6)
    guard = Guard(Limits(displacement=0.5))
    guard.remember(system)
    system.positions[4, 1] += 0.49
    assert not guard.broken(system).any()
    system.positions[2, 0] += 0.6
    assert guard.broken(system).tolist() == [1.0, 0.0, 0.0]
    moved, far = guard.values("displacement", system, NeighborList(np.ones((2, 2)), 0.0))
    assert np.flatnonzero(far).tolist() == [2] and moved[2] == pytest.approx(0.6)
    guard.remember(system)
    system.positions[1] = np.nan
    assert guard.broken(system)[0] == 1.0
    assert guard.offenders(system, COMM).marked.tolist() == [False, True, False, False, False, False]
    system.bad_centres = np.array([3])
    offenders = guard.offenders(system, COMM)
    assert guard.fault(system) and offenders.ids[offenders.marked].tolist() == [3]
    assert "atoms 3 " in offenders.describe(7) and "step 7" in offenders.describe(7)
    assert np.isfinite(offenders.positions).all()
