"""Between the whole system on rank 0, in the order of the input, and the atoms of each rank."""

from __future__ import annotations

from collections.abc import Sequence

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
    return gather_arrays_by_id(comm, system, {name: getattr(system, name)[: system.num_owned] for name in names})


def gather_arrays_by_id(comm: Comm, system: System, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """As `gather_by_id`, for any arrays with one row an owned atom (num_owned, ...), in the order of local rows."""
    ids = comm.gather_rows(system.ids[: system.num_owned])
    gathered: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        rows = comm.gather_rows(array)
        if ids is not None and rows is not None:
            ordered = np.empty_like(rows)
            ordered[ids] = rows
            gathered[name] = ordered
    return gathered if ids is not None else None
