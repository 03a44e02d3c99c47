"""Energies, temperature, pressure and momentum of the whole system, from one integer reduction over ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from allegro_sim.kernels.cpu import integrate
from allegro_sim.kernels.cpu.fixed_point import sum_columns, words_to_float
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System
from allegro_sim.units import BAR, BOLTZMANN, KINETIC

_AT_REST = 1.0e-6
"""Total momentum below this fraction of its thermal size counts as none."""


@dataclass(frozen=True)
class KineticSums:
    """One rank's share: two-word sums of kinetic energy by type (nt, 2), eV, and of momentum (3, 2), Da Å/fs."""

    energy_words: np.ndarray
    momentum_words: np.ndarray
    good: bool  # False when a velocity was not finite or out of range


class Integrator(Protocol):
    """What the loop needs of an integrator."""

    conserves_momentum: bool

    def first_half(self, system: System, step: int, *, measure: bool = False) -> None: ...

    def second_half(self, system: System) -> None: ...

    def kinetic_sums(self, system: System) -> KineticSums: ...


@dataclass(frozen=True)
class Observables:
    """The system at one step. `pressure_bar` is None without a fully periodic cell."""

    potential: float  # eV
    kinetic: float  # eV
    kinetic_by_type: np.ndarray  # (nt,) eV
    momentum: np.ndarray  # (3,) Da Å/fs
    virial: np.ndarray  # (3, 3) eV, -dE/dstrain
    temperature: float  # K
    pressure_bar: float | None
    faulty: bool  # some energy, force, virial or velocity was not finite or out of range

    @property
    def total(self) -> float:
        """Potential plus kinetic energy, eV."""
        return self.potential + self.kinetic


def kinetic_sums(system: System) -> KineticSums:
    """Kinetic energy by type and momentum of the owned atoms, from their velocities as they are."""
    energy_words = np.empty((len(system.masses), 2), np.int64)
    momentum_words = np.empty((3, 2), np.int64)
    good = integrate.kinetic_sums(
        energy_words,
        momentum_words,
        system.velocities,
        system.types,
        system.masses,
        KINETIC,
        system.num_owned,
    )
    return KineticSums(energy_words, momentum_words, good)


def reduce_kinetic(system: System, comm: Comm) -> tuple[np.ndarray, np.ndarray]:
    """Kinetic energy by type (nt,), eV, and total momentum (3,), Da Å/fs, over all ranks."""
    own = kinetic_sums(system)
    words = words_to_float(comm.allreduce_sum(np.concatenate([own.energy_words, own.momentum_words])))
    return words[:-3], words[-3:]


def degrees_of_freedom(system: System, comm: Comm, conserves_momentum: bool) -> int:
    """3N - 3 where total momentum is zero now and stays so, else 3N. At least 1, so that a temperature exists."""
    kinetic, momentum = reduce_kinetic(system, comm)
    total_mass = float(atoms_by_type(system, comm) @ system.masses)
    thermal = math.sqrt(2.0 * total_mass * float(kinetic.sum()) / KINETIC)
    still = conserves_momentum and float(np.abs(momentum).max()) <= _AT_REST * thermal
    return max(3 * system.num_global - (3 if still else 0), 1)


def atoms_by_type(system: System, comm: Comm) -> np.ndarray:
    """Number of atoms of each type on all ranks, int64 (nt,)."""
    return comm.allreduce_sum(np.bincount(system.types[: system.num_owned], minlength=len(system.masses)))


def temperature_of(kinetic: float, freedom: int) -> float:
    """Temperature, K, of a kinetic energy (eV) spread over so many degrees of freedom."""
    return 2.0 * kinetic / (freedom * BOLTZMANN)


def measure(system: System, comm: Comm, kinetic: KineticSums, freedom: int) -> Observables:
    """Observables of the whole system; the potential must have been computed with its virial."""
    energy_words = np.zeros((1, 2), np.int64)
    good = sum_columns(energy_words, system.energies[: system.num_owned, None]) and kinetic.good
    fault = np.array([[len(system.bad_centres) + (not good), 0]], np.int64)
    own = np.concatenate([fault, energy_words, system.virial_words, kinetic.momentum_words, kinetic.energy_words])
    reduced = comm.allreduce_sum(own)
    values = words_to_float(reduced)
    virial = values[2:11].reshape(3, 3)
    by_type = values[14:]
    total_kinetic = float(by_type.sum())
    pressure = None
    if system.cell.fully_periodic:
        # P = 2K/(3V) - tr(stress)/3 with stress = -W/V.
        pressure = (2.0 * total_kinetic + float(np.trace(virial))) / (3.0 * system.cell.volume) * BAR
    return Observables(
        potential=float(values[1]),
        kinetic=total_kinetic,
        kinetic_by_type=by_type,
        momentum=values[11:14],
        virial=virial,
        temperature=temperature_of(total_kinetic, freedom),
        pressure_bar=pressure,
        faulty=bool(reduced[0, 0]),
    )
