"""Between the whole system on rank 0, in the order of the input, and the atoms of each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from allegro_sim.parallel.comm import Comm
from allegro_sim.system import System


def initial_share(comm: Comm, count: int) -> slice:
    """Contiguous share of `count` atoms this rank begins with; the first `migrate` then places them by position."""
    return slice(comm.rank * count // comm.size, (comm.rank + 1) * count // comm.size)


def gather_by_id(comm: Comm, system: System, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Per-atom arrays of all owned atoms, in the order of ids, on rank 0; None elsewhere (collective).

    names: attributes of `System` with one row an atom, such as "positions" or "forces" (as they are stored).
    """
    owned = slice(0, system.num_owned)
    arrays = gather_arrays(comm, {"ids": system.ids[owned]} | {name: getattr(system, name)[owned] for name in names})
    return None if arrays is None else in_order_of_ids(arrays)


def gather_arrays(comm: Comm, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Arrays with one row an owned atom, (num_owned, ...), those of all ranks one below the other, on rank 0; None
    elsewhere (collective)."""
    gathered = {name: comm.gather_rows(array) for name, array in arrays.items()}
    return {name: rows for name, rows in gathered.items() if rows is not None} or None


def in_order_of_ids(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of the arrays of all atoms, beside "ids", in their order."""
    ordered = {name: np.empty_like(rows) for name, rows in arrays.items()}
    for name, rows in arrays.items():
        ordered[name][arrays["ids"]] = rows
    return ordered
