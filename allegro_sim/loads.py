"""What a run asks of its ranks: atoms, ghosts, pairs, traffic and memory.

Counted by a dry run on the ranks that it has, and by `allegro-tools plan` for ranks that are not there; both print
`load_facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import Comm, SerialComm
from allegro_sim.parallel.decomposition import Decomposition, choose_grid
from allegro_sim.parallel.domain import Domain
from allegro_sim.system import System

BYTES_SENT = 48
"""For each ghost of another rank and step: its position there and its force back, three numbers of 8 bytes each."""

MOST_BRICKS = 64
"""Bricks that `brick_loads` counts: the fullest."""


@dataclass(frozen=True)
class RankLoad:
    """One rank, or the largest values of several.

    Attributes
    ----------
    owned, ghosts : atoms
    received : ghosts that come from other ranks; the others are the rank's own periodic images
    listed : pairs of the neighbour list, those of the skin included
    edges : pairs within their cutoffs
    """

    owned: float
    ghosts: float
    received: float
    listed: float
    edges: float

    @property
    def array_bytes(self) -> float:
        """Atoms and ghosts (ids, types, positions, images, forces, velocities, energies, with an eighth to spare) and
        the list; velocities and energies have room for ghosts too."""
        rows = 1.125 * (self.owned + self.ghosts)
        return rows * (8 + 4 + 24 + 12 + 24 + 24 + 8) + self.owned * (8 + 24) + 4.5 * self.listed

    @property
    def sent_bytes(self) -> float:
        """Received and sent by the rank in one step, together, between two builds of the list."""
        return BYTES_SENT * self.received


def largest(loads: Sequence[RankLoad]) -> RankLoad:
    """The largest of each value."""
    return RankLoad(*np.max([(x.owned, x.ghosts, x.received, x.listed, x.edges) for x in loads], axis=0).tolist())


def load_facts(load: RankLoad) -> list[tuple[str, str]]:
    """Label and value of what a rank holds and moves; of the largest values of all ranks."""
    return [
        ("atoms", f"{load.owned:.0f} and {load.ghosts:.0f} ghosts in the largest rank"),
        ("pairs", f"{load.listed:.0f} listed, {load.edges:.0f} of them within the cutoff"),
        ("halo", f"{load.received:.0f} ghosts from other ranks; {load.sent_bytes / 1024:.1f} KiB a step"),
        ("arrays", f"{load.array_bytes / 2**20:.2f} MiB for atoms, ghosts and neighbours"),
    ]


def load_of_run(system: System, neighbors: NeighborList, domain: Domain, comm: Comm) -> RankLoad:
    """The largest values of all ranks, after the neighbour list was built (collective)."""
    own = RankLoad(
        owned=system.num_owned,
        ghosts=system.num_ghosts,
        received=domain.halo.count_received(),
        listed=neighbors.num_edges,
        edges=neighbors.count_within_cutoffs(system),
    )
    values = np.array([own.owned, own.ghosts, own.received, own.listed, own.edges], dtype=np.float64)
    return RankLoad(*comm.allreduce_max(values).tolist())


def count_pairs(cell: Cell, types: np.ndarray, positions: np.ndarray, neighbors: NeighborList) -> np.ndarray:
    """Listed pairs and those within the cutoffs of every atom, int64 (N, 2); neighbors: for one rank, built here."""
    count = len(types)
    system = System(cell, np.ones(len(neighbors.cutoffs)), count)
    system.set_owned(np.arange(count), types, positions, np.zeros((count, 3)))
    Domain(SerialComm(), cell, neighbors).rebuild(system)
    offsets, others = neighbors.row_offsets, neighbors.indices
    placed = system.positions[: system.num_local] + system.images[: system.num_local] @ cell.vectors
    within = np.empty(count, np.int64)
    # By blocks of centres: the vectors of all pairs at once would be many times the list.
    for start in range(0, count, 4096):
        end = min(start + 4096, count)
        centres = np.repeat(np.arange(start, end), np.diff(offsets[start : end + 1]))
        rows = others[offsets[start] : offsets[end]]
        squared = ((placed[rows] - placed[centres]) ** 2).sum(axis=1)
        near = squared < neighbors.cutoffs[system.types[centres], system.types[rows]] ** 2
        within[start:end] = np.bincount(centres[near] - start, minlength=end - start)
    # Rows of the list are in the order of owned rows: on one rank, by id or not.
    found = np.empty((count, 2), np.int64)
    found[system.ids[:count], 0], found[system.ids[:count], 1] = np.diff(offsets), within
    return found


class _Imagined(SerialComm):
    """One rank of many that are not there, for what needs no exchange."""

    def __init__(self, size: int) -> None:
        self.size = size


def brick_loads(
    cell: Cell, positions: np.ndarray, pairs: np.ndarray, reach: float, ranks: int
) -> tuple[Decomposition, list[RankLoad]]:
    """The decomposition that so many ranks would make, and what each of its fullest bricks holds, as they would count.

    positions: (N, 3), Å; pairs: (N, 2), see `count_pairs`; reach: Å, of the neighbour list. A ghost is a copy of an
    atom in the brick widened by the halo; directions are exchanged in turn, so that those of a direction that is not
    divided are the rank's own copies, of what it has by then.
    """
    system = System(cell, np.ones(1), len(positions))
    system.set_owned(np.arange(len(positions)), np.zeros(len(positions), int), positions, np.zeros(positions.shape))
    decomposition = Decomposition(_Imagined(ranks), cell, reach)
    decomposition.update_bounds(system)
    fractional = cell.fractional(positions)
    fractional -= np.where(cell.pbc, np.floor(fractional), 0.0)
    rank_of = decomposition.rank_of(fractional)
    fullest = np.argsort(-np.bincount(rank_of, minlength=ranks), kind="stable")[:MOST_BRICKS]
    assert decomposition.grid is not None
    loads = []
    for rank in fullest:
        decomposition.coordinates = np.array(np.unravel_index(rank, tuple(decomposition.grid)), np.int64)
        lower, upper = decomposition.brick()
        copies = [
            _copies(fractional[:, k], lower[k], upper[k], decomposition.halo_fraction[k], bool(cell.pbc[k]))
            if cell.pbc[k] or decomposition.grid[k] > 1
            else np.ones(len(positions), np.int64)
            for k in range(3)
        ]
        mine = (decomposition.brick_of(fractional) == decomposition.coordinates).astype(np.int64)
        stages = [
            (copies[0] - mine[:, 0]) * mine[:, 1] * mine[:, 2],
            copies[0] * (copies[1] - mine[:, 1]) * mine[:, 2],
            copies[0] * copies[1] * (copies[2] - mine[:, 2]),
        ]
        own = rank_of == rank
        loads.append(
            RankLoad(
                owned=int(own.sum()),
                ghosts=int(sum(stage.sum() for stage in stages)),
                received=int(sum(stage.sum() for stage, n in zip(stages, decomposition.grid, strict=True) if n > 1)),
                listed=int(pairs[own, 0].sum()),
                edges=int(pairs[own, 1].sum()),
            )
        )
    return decomposition, loads


def _copies(place: np.ndarray, lower: float, upper: float, width: float, periodic: bool) -> np.ndarray:
    """How many copies of wrapped coordinates (N,) lie between the widened bounds, along one direction."""
    if not periodic:
        return ((place >= lower - width) & (place <= upper + width)).astype(np.int64)
    return (np.floor(upper + width - place) - np.ceil(lower - width - place) + 1.0).astype(np.int64)


def uniform_load(
    atoms: float, extents: np.ndarray, periodic: np.ndarray, pairs_per_atom: np.ndarray, reach: float, ranks: int
) -> RankLoad:
    """The same for a system of even density, from volumes alone: where its atoms are too many to be counted.

    extents: (3,) Å, perpendicular to the faces; pairs_per_atom: (2,), listed and within the cutoffs.
    """
    grid = np.array(choose_grid(ranks, extents, periodic, reach))
    edges = extents / grid
    widened = edges + np.where(periodic | (grid > 1), 2.0 * reach, 0.0)
    density = atoms / float(np.prod(extents))
    own = density * float(np.prod(edges))
    received, volume = 0.0, float(np.prod(edges))
    for k in range(3):
        larger = volume / edges[k] * widened[k]
        received += density * (larger - volume) if grid[k] > 1 else 0.0
        volume = larger
    return RankLoad(own, density * volume - own, received, own * pairs_per_atom[0], own * pairs_per_atom[1])
