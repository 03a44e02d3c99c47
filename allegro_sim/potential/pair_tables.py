"""Constants of the pair term by ordered pair of types, as the kernels of the CPU and of CUDA read them."""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import LennardJones


def lennard_jones_tables(term: LennardJones, num_types: int) -> np.ndarray:
    """What the kernels read of each ordered pair of types, (3, nt * nt): the length whose power the term is, sigma or,
    of style "repulsive", 1/sigma, Å; the factor of the powers, 2 epsilon or epsilon / 2, eV; delta, Å."""
    sigma, epsilon, delta = (term.table(name, num_types).ravel() for name in ("sigma", "epsilon", "delta"))
    one_power = term.style == "repulsive"
    return np.stack([1.0 / sigma if one_power else sigma, (0.5 if one_power else 2.0) * epsilon, delta])
