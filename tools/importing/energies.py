"""Cutoffs, norms, scales and shifts of a model, from its options and tensors."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from allegro_sim.tools.importing.options import Options, Tensors


def read_cutoffs(options: Options, tensors: Tensors, type_names: list[str], notes: list[str]) -> np.ndarray:
    """Cutoff radius per ordered pair of types; pairs the table leaves out have r_max."""
    r_max = options.take_length("r_max")
    table = options.take("per_edge_type_cutoff", "mapping", None)
    cutoffs = np.full((len(type_names), len(type_names)), r_max)
    unknown: set[str] = set()
    for center, row in (table or {}).items():
        entries = row if isinstance(row, dict) else dict.fromkeys(type_names, row)
        unknown |= {name for name in (center, *entries) if name not in type_names}
        for neighbor, cutoff in entries.items():
            if not isinstance(cutoff, (int, float)) or not 0 < cutoff <= r_max:
                raise options.error(
                    f"per_edge_type_cutoff.{center}.{neighbor}", f"is {cutoff!r}; 0 to r_max is expected"
                )
            if center in type_names and neighbor in type_names:
                cutoffs[type_names.index(center), type_names.index(neighbor)] = cutoff
    if unknown:
        notes.append(
            f"per_edge_type_cutoff names {', '.join(sorted(unknown))}, no types of the model; as upstream, ignored"
        )
    tensors.expect("edge_norm._rmax_recip", 1.0 / cutoffs if table is not None else 1.0 / r_max, 1e-12)
    return cutoffs


def read_environment_norms(
    options: Options, tensors: Tensors, type_names: list[str], num_layers: int, tolerance: float
) -> np.ndarray:
    """1/sqrt(average number of neighbours), by type of the centre."""
    found = options.take("avg_num_neighbors")
    if isinstance(found, dict):
        if set(found) != set(type_names):
            names = ", ".join(map(str, found))
            raise options.error("avg_num_neighbors", f"names {names}; the types are {', '.join(type_names)}")
        counts = [found[name] for name in type_names]
    else:
        counts = [found]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < n < inf for n in counts):
        raise options.error("avg_num_neighbors", f"is {found!r}; positive numbers are expected")
    norms = np.array([1.0 / sqrt(n) for n in counts])
    for name in ("allegro.avg_num_neighbors_norm.norm_const", "edge_eng_sum.norm_module.norm_const",
                 *(f"allegro.tps.{k}.scatter_factor" for k in range(num_layers))):  # fmt: skip
        tensors.expect_constant(name, norms, tolerance)
    tensors.expect_constant("edge_eng_sum._factor", norms / sqrt(2.0), tolerance)
    return np.ascontiguousarray(np.broadcast_to(norms, (len(type_names),)))


def read_per_type(tensors: Tensors, name: str, num_types: int, absent: float, trained: bool) -> np.ndarray:
    """Scales or shifts of all types; stored empty, as one number, or one a type (in nequip 0.7 one-dimensional)."""
    shape = tensors.shape(name)
    if 0 in shape:
        tensors.take(name, weight=False)
        return np.full(num_types, absent)
    if shape not in ((1, 1), (num_types, 1), (1,), (num_types,)):
        raise tensors.error(name, f"has shape {shape}; (1, 1) or ({num_types}, 1) is expected")
    return np.ascontiguousarray(np.broadcast_to(tensors.take(name, weight=trained).ravel(), (num_types,)))
