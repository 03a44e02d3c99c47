"""Stand-in potentials for tests of the integrators: forces from positions in fixed point, without a neighbour list."""

from __future__ import annotations

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.kernels.cpu.fixed_point import FORCE_SCALE
from allegro_sim.system import System


def make_system(masses: np.ndarray, types: np.ndarray, positions: np.ndarray) -> System:
    """One rank's system without a cell, at rest."""
    system = System(Cell(None, False), masses, len(types))
    system.set_owned(np.arange(len(types)), types, positions, np.zeros((len(types), 3)))
    return system


class TetheredAtoms:
    """Each atom tied to its own place by a spring: E = k x²/2, with a quartic part E += q x⁴/4 along each axis."""

    def __init__(self, anchors: np.ndarray, stiffness: np.ndarray, quartic: float = 0.0) -> None:
        self.anchors = anchors
        self.stiffness = stiffness[:, None]
        self.quartic = quartic

    def compute(self, system: System) -> None:
        n = system.num_owned
        x = system.positions[:n] - self.anchors[system.ids[:n]]
        stiffness = self.stiffness[system.ids[:n]]
        system.energies[:n] = (0.5 * stiffness * x**2 + 0.25 * self.quartic * x**4).sum(axis=1)
        system.forces[:n] = np.rint(-(stiffness * x + self.quartic * x**3) * FORCE_SCALE).astype(np.int64)


class Chain:
    """Atoms in a row, each tied to the next by a spring of rest length zero; what one gets the other gives."""

    def __init__(self, stiffness: float) -> None:
        self.stiffness = stiffness

    def compute(self, system: System) -> None:
        n = system.num_owned
        stretch = np.diff(system.positions[:n], axis=0)
        pull = np.rint(self.stiffness * stretch * FORCE_SCALE).astype(np.int64)
        system.energies[:n] = 0.0
        system.energies[: n - 1] = 0.5 * self.stiffness * (stretch**2).sum(axis=1)
        system.forces[:n] = 0
        system.forces[: n - 1] += pull
        system.forces[1:n] -= pull
