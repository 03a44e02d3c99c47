"""Energies, temperature, pressure and momentum of the whole system, from one integer reduction over ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.kernels.cpu import integrate
from allegro_sim.kernels.cpu.fixed_point import (
    LOW_SCALE,
    integer_to_words,
    sum_columns,
    words_to_float,
    words_to_integer,
)
from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System
from allegro_sim.units import BAR, BOLTZMANN, KINETIC

_AT_REST = 1.0e-6
"""Total momentum below this fraction of its thermal size counts as none."""

_SLIMMEST = 1.0e-9
"""A moment of inertia below this fraction of the largest, or this many Da Å² at all, is none: nothing turns."""


@dataclass(frozen=True)
class KineticSums:
    """One rank's share: two-word sums of kinetic energy by type (nt, 2), eV, and of momentum (3, 2), Da Å/fs."""

    energy_words: np.ndarray
    momentum_words: np.ndarray
    good: bool  # False when a velocity was not finite or out of range
    beside: int = 0  # what the conserved quantity has beside the total energy, 2^-44 eV
    heat: int = 0  # of the bath so far, 2^-44 eV

    @property
    def total(self) -> int:
        """Kinetic energy of all types, 2^-44 eV."""
        return words_to_integer(self.energy_words.sum(axis=0))


@dataclass(frozen=True)
class RankSums:
    """One rank's share of the observables, as integers."""

    faults: int  # energies, forces or velocities that were not finite or out of range
    energy_words: np.ndarray  # (2,) potential energy, eV
    virial_words: np.ndarray  # (9, 2) eV
    kinetic: KineticSums


class Integrator(Protocol):
    """What the loop needs of an integrator.

    device_drift, tables : what a GPU does between the two kicks, and without a bath with the first of them, as data: a
        kernel of kernels/numba_cuda/atoms.py, the arrays and numbers it takes after the control words, before those of
        the look at the moves, and the tables by type among them (and "factors", of the kicks)
    has_bath : whether heat is exchanged, and kinetic energy measured between kick and noise
    """

    conserves_momentum: bool
    has_bath: bool
    heat: int

    @property
    def device_drift(self) -> tuple[str, tuple[str | np.generic, ...]]: ...

    @property
    def tables(self) -> dict[str, np.ndarray]: ...

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
    conserved: float  # eV: the total energy; with a bath, at whole steps and less the bath's heat
    heat: int  # of the bath so far, 2^-44 eV
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


@dataclass(frozen=True)
class Rotation:
    """How the whole system turns about its centre of mass; the same bits on any number of ranks."""

    centre: np.ndarray  # (3,) Å
    momentum: np.ndarray  # (3,) angular, Da Å²/fs
    inertia: np.ndarray  # (3, 3) Da Å²

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Moments (n,), Da Å², and axes (3, n) that the system can turn about: 3, of a line 2, of a point none."""
        moments, axes = np.linalg.eigh(self.inertia)
        free = moments > _SLIMMEST * max(float(moments[-1]), _SLIMMEST)
        return moments[free], axes[:, free]

    def velocity(self) -> np.ndarray:
        """Angular velocity (3,), 1/fs, of a rigid body with this momentum."""
        moments, axes = self.axes
        return axes @ ((self.momentum @ axes) / moments)


def measure_rotation(system: System, comm: Comm) -> Rotation | None:
    """Angular momentum and inertia of a cluster (collective); None where a direction is periodic, or atoms are too far
    apart to sum up."""
    if system.cell.pbc.any():
        return None
    n = system.num_owned
    masses = system.masses[system.types[:n], None]
    weighted = _reduce_columns(masses * system.positions[:n], comm)
    if weighted is None:
        return None
    centre = weighted / float(atoms_by_type(system, comm) @ system.masses)
    x, y, z = (system.positions[:n] - centre).T
    u, v, w = (masses * system.velocities[:n]).T
    m = masses[:, 0]
    columns = (
        y * w - z * v,
        z * u - x * w,
        x * v - y * u,
        m * x * x,
        m * y * y,
        m * z * z,
        m * x * y,
        m * x * z,
        m * y * z,
    )
    sums = _reduce_columns(np.stack(columns, axis=1), comm)
    if sums is None:
        return None
    xx, yy, zz, xy, xz, yz = sums[3:]
    inertia = np.array([[yy + zz, -xy, -xz], [-xy, xx + zz, -yz], [-xz, -yz, xx + yy]])
    return Rotation(centre, sums[:3], inertia)


def _reduce_columns(values: np.ndarray, comm: Comm) -> np.ndarray | None:
    """Sums over all atoms of each column of `values` (n, k), float64 (k,); None where a term is out of range."""
    words = np.zeros((values.shape[1] + 1, 2), np.int64)
    words[-1, 0] = not sum_columns(words[:-1], np.ascontiguousarray(values))
    words = comm.allreduce_sum(words)
    return None if words[-1, 0] else words_to_float(words[:-1])


def degrees_of_freedom(system: System, comm: Comm, conserves_momentum: bool) -> int:
    """3N, less 3 where total momentum is zero now and stays so, and less the number of axes that a cluster could turn
    about where its angular momentum is. At least 1, so that a temperature exists."""
    kinetic, momentum = reduce_kinetic(system, comm)
    freedom = 3 * system.num_global
    if conserves_momentum:
        total_mass = float(atoms_by_type(system, comm) @ system.masses)
        thermal = math.sqrt(2.0 * float(kinetic.sum()) / KINETIC)  # of a body of mass 1 Da
        still = float(np.abs(momentum).max()) <= _AT_REST * thermal * math.sqrt(total_mass)
        freedom -= 3 if still else 0
        rotation = measure_rotation(system, comm)
        if rotation is not None and still:
            moments, _ = rotation.axes
            largest = math.sqrt(float(max(moments, default=0.0)))
            calm = float(np.abs(rotation.momentum).max()) <= _AT_REST * thermal * largest
            freedom -= len(moments) if calm else 0
    return max(freedom, 1)


def atoms_by_type(system: System, comm: Comm) -> np.ndarray:
    """Number of atoms of each type on all ranks, int64 (nt,)."""
    return comm.allreduce_sum(np.bincount(system.types[: system.num_owned], minlength=len(system.masses)))


def temperature_of(kinetic: float, freedom: int) -> float:
    """Temperature, K, of a kinetic energy (eV) spread over so many degrees of freedom."""
    return 2.0 * kinetic / (freedom * BOLTZMANN)


def with_bath(integrator: Integrator, taken: KineticSums, whole: KineticSums, heat: int, good: bool) -> KineticSums:
    """Kinetic sums as they are reported, and what the conserved quantity has beside them.

    taken, whole: between kick and noise, and at whole steps; heat: of this rank's bath so far, 2^-44 eV; good: whether
    every term of it was.
    """
    beside = whole.total - taken.total - heat if integrator.has_bath else 0
    return replace(taken, good=taken.good and whole.good and good, beside=beside, heat=heat)


def rank_sums(system: System, kinetic: KineticSums) -> RankSums:
    """One rank's share, from arrays of the host; the potential must have been computed with its virial."""
    energy_words = np.zeros((1, 2), np.int64)
    good = sum_columns(energy_words, system.energies[: system.num_owned, None])
    return RankSums(len(system.bad_centres) + (not good), energy_words[0], system.virial_words, kinetic)


def measure(own: RankSums, cell: Cell, comm: Comm, freedom: int) -> Observables:
    """Observables of the whole system, from each rank's share (collective)."""
    kinetic = own.kinetic
    fault, energy_words = np.array([[own.faults + (not kinetic.good), 0]], np.int64), own.energy_words[None]
    bath = np.stack([integer_to_words(kinetic.beside), integer_to_words(kinetic.heat)])
    words = np.concatenate([fault, energy_words, own.virial_words, kinetic.momentum_words, bath, kinetic.energy_words])
    reduced = comm.allreduce_sum(words)
    values = words_to_float(reduced)
    virial = values[2:11].reshape(3, 3)
    beside, heat = words_to_integer(reduced[14]), words_to_integer(reduced[15])
    by_type = values[16:]
    total_kinetic = float(by_type.sum())
    pressure = None
    if cell.fully_periodic:
        # P = 2K/(3V) - tr(stress)/3 with stress = -W/V.
        pressure = (2.0 * total_kinetic + float(np.trace(virial))) / (3.0 * cell.volume) * BAR
    potential = float(values[1])
    return Observables(
        potential=potential,
        kinetic=total_kinetic,
        kinetic_by_type=by_type,
        momentum=values[11:14],
        virial=virial,
        temperature=temperature_of(total_kinetic, freedom),
        pressure_bar=pressure,
        conserved=potential + total_kinetic + beside / LOW_SCALE,
        heat=heat,
        faulty=bool(reduced[0, 0]),
    )
