"""Results of a potential as bits: integer forces and virials by atom, to compare with `==`."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.potential import Geometry, make_system

from allegro_sim.model.description import AllegroModel
from allegro_sim.potential import create_potential
from allegro_sim.system import System

Bits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Integer forces of every atom, energies, virial words, integer atom virials."""


def bits(
    potential: Any, structure: Geometry, *, skin: float = 0.0, want_virial: bool = True, want_atom_virials: bool = True
) -> Bits:
    """What a CUDA potential makes of a structure."""
    system, neighbors = make_system(potential.engine.layout.model, structure, skin)
    potential.compute(system, neighbors, want_virial=want_virial, want_atom_virials=want_atom_virials)
    assert len(system.bad_centres) == 0
    return by_atom(system)


def compute_bits(
    model: AllegroModel,
    geometry: Geometry,
    precision: str,
    *,
    skin: float = 0.0,
    threads: int = 1,
    chunk_edges: int | None = None,
) -> Bits:
    """What the CPU potential makes of a structure."""
    system, neighbors = make_system(model, geometry, skin)
    potential = create_potential(model, "cpu", precision, threads, chunk_edges)
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert len(system.bad_centres) == 0
    return by_atom(system)


def by_atom(system: System) -> Bits:
    """What a system holds, ghosts' shares added to their atoms as the halo does: ghost rows differ with the skin."""
    local = system.num_local
    forces, virials = np.zeros((system.num_global, 3), np.int64), np.zeros((system.num_global, 9), np.int64)
    np.add.at(forces, system.ids[:local], system.forces[:local])
    if system.atom_virials is not None:
        np.add.at(virials, system.ids[:local], system.atom_virials[:local])
    energies = np.empty(system.num_global)
    energies[system.ids[: system.num_owned]] = system.energies[: system.num_owned]
    return forces, energies, system.virial_words.copy(), virials


def same(first: Bits, second: Bits) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def relative_rms(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def cluster(spacing: float) -> Geometry:
    """A jittered block of 4 x 4 x 4 atoms of two types."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return spacing * (grid + rng.uniform(-0.1, 0.1, grid.shape)), None, np.zeros(3, bool), np.arange(64) % 2
