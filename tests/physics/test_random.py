"""Random numbers: Random123's own answers, the right distribution, and nothing but (seed, step, atom) decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.springs import make_system

from allegro_sim.dynamics.observables import degrees_of_freedom, kinetic_sums, reduce_kinetic, temperature_of
from allegro_sim.dynamics.velocities import draw_velocities
from allegro_sim.kernels.cpu.fixed_point import words_to_float
from allegro_sim.kernels.cpu.philox import fill_normals, log_unit, philox4x32, sincos_turns, three_normals
from allegro_sim.parallel.comm import SerialComm

KNOWN_ANSWERS = [  # kat_vectors of Random123: philox4x32, 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected) -> None:
    assert tuple(int(word) for word in philox4x32(*map(np.uint64, counter), *map(np.uint64, key))) == expected


def test_logarithm_and_sine_agree_with_the_library() -> None:
    """To a few units in the last place (2e-16) over all magnitudes that occur."""
    for u in np.concatenate([np.linspace(0.001, 0.999, 997), 2.0 ** -np.arange(1, 33), 1.0 - 2.0 ** -np.arange(2, 33)]):
        assert log_unit(u) == pytest.approx(math.log(u), rel=1e-15)
        assert sincos_turns(u) == pytest.approx((math.sin(2 * math.pi * u), math.cos(2 * math.pi * u)), abs=1.5e-15)
    assert sincos_turns(0.25) == (1.0, 0.0)


def test_normals_have_the_moments_of_a_normal_distribution() -> None:
    """300,000 deviates: standard errors of mean, variance, skewness, kurtosis 0.0018, 0.0026, 0.0045, 0.009; five
    each.
    """
    sample = np.empty((100_000, 3))
    fill_normals(sample, np.arange(100_000), 5, 17, 2)
    x = sample.ravel()
    assert abs(x.mean()) < 0.009
    assert abs(x.var() - 1.0) < 0.013
    assert abs((x**3).mean()) < 0.035
    assert abs((x**4).mean() - 3.0) < 0.09
    # Fraction within one standard deviation: 0.6827, standard error 0.0009.
    assert abs((np.abs(x) < 1.0).mean() - 0.6827) < 0.0045
    # Components of an atom are independent: standard error 0.003.
    assert np.abs(np.corrcoef(sample.T) - np.eye(3)).max() < 0.016


@pytest.mark.parametrize("changed", [{"seed": 4}, {"step": 8}, {"atom": 1}, {"purpose": 1}, {"step": 7 + 2**32}])
def test_every_argument_gives_other_numbers(changed: dict[str, int]) -> None:
    usual = {"seed": 3, "step": 7, "atom": 0, "purpose": 2}
    assert set(three_normals(*usual.values())).isdisjoint(three_normals(*(usual | changed).values()))


def test_successive_steps_and_atoms_are_uncorrelated() -> None:
    """20,000 pairs each: standard error 0.007."""
    first, second = np.empty((20_000, 3)), np.empty((20_000, 3))
    ids = np.arange(20_000)
    fill_normals(first, ids, 0, 100, 2)
    fill_normals(second, ids, 0, 101, 2)
    assert np.abs((first * second).mean(axis=0)).max() < 0.035
    assert np.abs((first[:-1] * first[1:]).mean(axis=0)).max() < 0.035


@pytest.fixture
def water_like():
    types = np.tile(np.array([0, 1, 1]), 40)
    return make_system(np.array([15.999, 1.008]), types, np.zeros((len(types), 3)))


@pytest.mark.parametrize(("conserves", "freedom"), [(True, 3 * 120 - 3), (False, 3 * 120)])
def test_velocities_have_exactly_the_temperature_and_no_momentum(water_like, conserves: bool, freedom: int) -> None:
    comm = SerialComm()
    draw_velocities(water_like, comm, 300.0, 1, conserves)
    assert degrees_of_freedom(water_like, comm, conserves) == freedom
    kinetic, momentum = reduce_kinetic(water_like, comm)
    # Sums count 2^-44 an atom and component.
    assert temperature_of(kinetic.sum(), freedom) == pytest.approx(300.0, rel=1e-10)
    assert np.abs(momentum).max() < 1e-11


def test_velocities_do_not_depend_on_where_an_atom_is_stored(water_like) -> None:
    draw_velocities(water_like, SerialComm(), 300.0, 1, True)
    expected = water_like.velocities[:120].copy()
    order = np.random.default_rng(0).permutation(120)
    water_like.set_owned(order, water_like.types[order], np.zeros((120, 3)), np.zeros((120, 3)))
    draw_velocities(water_like, SerialComm(), 300.0, 1, True)
    assert (water_like.velocities[:120] == expected[order]).all()


def test_light_and_heavy_atoms_share_the_temperature() -> None:
    types = np.arange(30_000) % 2
    system = make_system(np.array([15.999, 1.008]), types, np.zeros((len(types), 3)))
    draw_velocities(system, SerialComm(), 300.0, 1, True)
    by_type = words_to_float(kinetic_sums(system).energy_words)
    # 45,000 degrees of freedom each: standard error 0.7 %.
    assert by_type[0] / by_type[1] == pytest.approx(1.0, abs=0.035)


@pytest.mark.parametrize("conserves", [True, False])
def test_one_atom_and_zero_temperature_are_safe(conserves: bool) -> None:
    system = make_system(np.array([10.0]), np.array([0]), np.zeros((1, 3)))
    draw_velocities(system, SerialComm(), 300.0, 1, conserves)
    kinetic, _ = reduce_kinetic(system, SerialComm())
    assert temperature_of(kinetic.sum(), degrees_of_freedom(system, SerialComm(), conserves)) == pytest.approx(300.0)
    draw_velocities(system, SerialComm(), 0.0, 1, conserves)
    assert (system.velocities[:1] == 0.0).all()
    assert degrees_of_freedom(system, SerialComm(), conserves) >= 1
