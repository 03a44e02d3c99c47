"""Random structures of every kind, and what must hold for neighbour lists and halos on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.cell import Cell
from allegro_sim.model.reference_edges import brute_force_edges
from allegro_sim.neighbors import LIST_MARGIN, NeighborList
from allegro_sim.parallel.collect import gather_by_id, initial_share
from allegro_sim.parallel.comm import Comm
from allegro_sim.parallel.domain import Domain
from allegro_sim.system import System

KINDS = ("bulk", "triclinic", "slab", "wire", "cluster", "tiny", "far", "two droplets")


@dataclass(frozen=True)
class Case:
    """A structure with the settings of its neighbour list."""

    name: str
    vectors: np.ndarray | None
    pbc: np.ndarray
    positions: np.ndarray
    types: np.ndarray
    cutoffs: np.ndarray
    skin: float

    @property
    def cell(self) -> Cell:
        return Cell(self.vectors, self.pbc)


def random_case(kind: str, count: int, skin: float, seed: int) -> Case:
    """A random structure of `count` atoms of two types, with cutoffs that differ for every ordered pair of types."""
    rng = np.random.default_rng(seed)
    pbc = np.ones(3, bool)
    edge = max((count / 0.05) ** (1 / 3), 2.5)
    vectors: np.ndarray | None = np.diag(edge * rng.uniform(0.7, 1.5, 3))
    if kind in ("triclinic", "slab", "wire", "far"):
        vectors = vectors + rng.uniform(-0.6, 0.6, (3, 3)) * edge
        if abs(np.linalg.det(vectors)) < 0.2 * edge**3:
            vectors = np.diag([edge, edge, edge]) + np.triu(rng.uniform(-1.5, 1.5, (3, 3)) * edge, 1)
        vectors = vectors[rng.permutation(3)]  # half of these are left-handed
    if kind == "tiny":
        vectors = np.eye(3) * rng.uniform(1.0, 2.5) + rng.uniform(-0.3, 0.3, (3, 3))
        count = min(count, 4)
    fractional = rng.random((count, 3))
    if kind in ("slab", "wire"):
        pbc[rng.permutation(3)[: 1 if kind == "slab" else 2]] = False
        fractional[:, ~pbc] *= 0.6
    positions = fractional @ vectors
    if kind == "slab" and rng.random() < 0.5:  # the direction that is not periodic has no vector at all
        vectors = np.where(pbc[:, None], vectors, 0.0)
        positions = fractional @ Cell(vectors, pbc).vectors
    if kind in ("cluster", "two droplets"):
        pbc[:] = False
        vectors = None
        positions += rng.uniform(-100.0, 100.0, 3)
        if kind == "two droplets":
            positions[count // 2 :] += rng.normal(size=3) * 1.0e5
    if kind in ("bulk", "triclinic", "far"):  # paths that have left the cell long ago
        spread = 1000 if kind == "far" else 3
        positions += rng.integers(-spread, spread + 1, (count, 3)) @ vectors
    if kind == "bulk" and count:  # atoms exactly on faces of the cell and of bricks, and one rounding error below
        positions[: count // 3] = np.round(fractional[: count // 3] * 6) / 6 @ vectors
        positions[0] = -1.0e-17
    types = rng.integers(0, 2, count).astype(np.int32)
    cutoffs = rng.uniform(1.5, 4.0, (2, 2))
    return Case(f"{kind}, {count} atoms, skin {skin}, seed {seed}", vectors, pbc, positions, types, cutoffs, skin)


def distribute(comm: Comm, case: Case) -> System:
    """Each rank's first share of the atoms, in blocks of ids; velocities are a function of the id."""
    count = len(case.positions)
    system = System(case.cell, np.ones(2), count)
    share = initial_share(comm, count)
    ids = np.arange(count)[share]
    system.set_owned(ids, case.types[share], case.positions[share], velocities_of(ids))
    return system


def velocities_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(ids + 0.1), np.cos(ids * 2.0), -1.0 * ids], axis=1)


def global_edges(comm: Comm, system: System, neighbors: NeighborList) -> np.ndarray | None:
    """The lists of all ranks as rows (id of i, id of j, n0, n1, n2, row order is the list's) (Z, 5) on rank 0.

    Sorted by the centre's id with each centre's order kept, so that the canonical order is part of a comparison.
    """
    i = np.repeat(np.arange(system.num_owned), np.diff(neighbors.row_offsets))
    j = neighbors.indices
    images = system.images[j].astype(np.int64) - system.images[i]
    rows = comm.gather_rows(np.column_stack([system.ids[i], system.ids[j], images]))
    return None if rows is None else rows[np.argsort(rows[:, 0], kind="stable")]


def brute_force(case: Case, positions: np.ndarray, extra: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges (Z, 5) as in `global_edges`, and their vectors (Z, 3), of all pairs within cutoff + extra."""
    centers, others, shifts, vectors = brute_force_edges(
        positions, case.cell.vectors, case.pbc, case.types, case.cutoffs + extra
    )
    return np.column_stack([centers, others, shifts]), vectors


def compare_lists(comm: Comm, case: Case, system: System, neighbors: NeighborList, built_here: bool) -> None:
    """The union of all ranks' lists, in canonical order, is the brute-force list.

    built_here: the list was built at these positions, so that it also holds the skin and nothing more; else only the
    pairs within the cutoff are compared, as a potential does after dropping the others.
    """
    edges = global_edges(comm, system, neighbors)
    gathered = gather_by_id(comm, system, ["positions"])
    if edges is None or gathered is None:
        return
    positions = gathered["positions"]
    cell = case.cell.vectors
    n = edges[:, 2:].astype(np.float64)
    vectors = positions[edges[:, 1]] - positions[edges[:, 0]]
    vectors = vectors + ((n[:, 0:1] * cell[0] + n[:, 1:2] * cell[1]) + n[:, 2:3] * cell[2])
    squared = (vectors[:, 0] ** 2 + vectors[:, 1] ** 2) + vectors[:, 2] ** 2
    cutoffs = case.cutoffs[case.types[edges[:, 0]], case.types[edges[:, 1]]]
    within = squared < cutoffs**2
    expected, expected_vectors = brute_force(case, positions, 0.0)
    np.testing.assert_array_equal(edges[within], expected, err_msg=case.name)
    assert vectors[within].tobytes() == expected_vectors.tobytes(), case.name
    if built_here:
        # At least all within the skin, and none further out than the margin allows.
        inside, _ = brute_force(case, positions, case.skin)
        outside, _ = brute_force(case, positions, case.skin + 2.0 * LIST_MARGIN)
        found = set(map(tuple, edges.tolist()))
        assert len(found) == len(edges), f"{case.name}: an edge twice"
        assert set(map(tuple, inside.tolist())) <= found <= set(map(tuple, outside.tolist())), case.name


def check_rows(comm: Comm, case: Case, system: System) -> None:
    """Every atom has one owner; every local row is a different (id, image); rows carry the owner's data bit for bit."""
    owned, local = system.num_owned, system.num_local
    names = ["ids", "types", "positions", "velocities", "images"]
    whole = comm.bcast(gather_by_id(comm, system, names))
    counts = comm.gather(owned)
    if counts is not None:
        assert sum(counts) == system.num_global, f"{case.name}: {counts} atoms owned"
        np.testing.assert_array_equal(whole["ids"], np.arange(system.num_global))
        np.testing.assert_array_equal(whole["types"], case.types)
        np.testing.assert_array_equal(whole["velocities"], velocities_of(whole["ids"]))
    ids = system.ids[:local]
    assert system.positions[:local].tobytes() == whole["positions"][ids].tobytes(), case.name
    np.testing.assert_array_equal(system.types[:local], case.types[ids])
    assert not system.images[:local, ~case.pbc].any(), case.name
    rows = np.column_stack([ids, system.images[:local]])
    assert len(np.unique(rows, axis=0)) == local, f"{case.name}: a copy twice on rank {comm.rank}"


def check_returned_forces(comm: Comm, case: Case, domain: Domain, system: System, rng: np.random.Generator) -> None:
    """What any rank holds for an atom, on whatever row, arrives at the owner once; integers are conserved."""
    local, owned = system.num_local, system.num_owned
    system.forces[:local] = rng.integers(-(2**50), 2**50, (local, 3))
    system.atom_virials = np.zeros((system.capacity, 9), np.int64)
    system.atom_virials[:local] = rng.integers(-(2**50), 2**50, (local, 9))
    expected = np.zeros((system.num_global, 12), np.int64)
    np.add.at(expected[:, :3], system.ids[:local], system.forces[:local])
    np.add.at(expected[:, 3:], system.ids[:local], system.atom_virials[:local])
    expected = comm.allreduce_sum(expected)
    system.bad_centres = np.empty(0, np.int64)
    domain.add_forces(system, with_atom_virials=True)
    ids = system.ids[:owned]
    np.testing.assert_array_equal(system.forces[:owned], expected[ids, :3], err_msg=case.name)
    np.testing.assert_array_equal(system.atom_virials[:owned], expected[ids, 3:], err_msg=case.name)
    assert len(system.bad_centres) == 0
    system.atom_virials = None


def check_case(comm: Comm, case: Case, seed: int = 0) -> Domain:
    """Everything that must hold: list, ghosts, moves within the skin, forces, and then far moves with migration."""
    rng = np.random.default_rng([seed, comm.rank])
    system = distribute(comm, case)
    neighbors = NeighborList(case.cutoffs, case.skin)
    domain = Domain(comm, case.cell, neighbors)
    assert neighbors.must_rebuild(system, comm)
    domain.rebuild(system)
    check_rows(comm, case, system)
    compare_lists(comm, case, system, neighbors, built_here=True)
    check_returned_forces(comm, case, domain, system, rng)

    if case.skin > 0.0:
        # Every atom by just under half the skin, in any direction: the old list still serves.
        step = rng.normal(size=(system.num_owned, 3))
        step *= 0.499999 * case.skin / np.linalg.norm(step, axis=1, keepdims=True)
        system.positions[: system.num_owned] += step
        assert not neighbors.must_rebuild(system, comm)
        domain.update_positions(system)
        check_rows(comm, case, system)
        compare_lists(comm, case, system, neighbors, built_here=False)

    # Across any number of bricks, out of the cell and back. Clusters spread over a few hundred Å.
    system.positions[: system.num_owned] += rng.uniform(-1.0, 1.0, (system.num_owned, 3)) * rng.choice([0.3, 3.0, 30.0])
    domain.rebuild(system)
    check_rows(comm, case, system)
    compare_lists(comm, case, system, neighbors, built_here=True)
    check_returned_forces(comm, case, domain, system, rng)
    return domain
