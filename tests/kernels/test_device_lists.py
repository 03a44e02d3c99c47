"""The neighbour list, ghosts and sums on the device, kernel by kernel, against those of the host and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.cuda_runner import CpuModule
from support.random_models import random_model, random_structure

from allegro_sim.cell import Cell
from allegro_sim.errors import StructureError
from allegro_sim.gpu import sorting
from allegro_sim.gpu.atoms import DeviceAtoms
from allegro_sim.gpu.bricks import DeviceBricks, ordered_numbers
from allegro_sim.gpu.module import KERNELS, module_source
from allegro_sim.gpu.neighbors import DeviceNeighbors
from allegro_sim.gpu.transport import HostTransport
from allegro_sim.kernels.cpu.fixed_point import words_to_float
from allegro_sim.kernels.numba_cuda import control as word
from allegro_sim.neighbors import NeighborList
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.decomposition import NO_EXTREMES, Decomposition
from allegro_sim.parallel.domain import Domain
from allegro_sim.system import System

pytestmark = pytest.mark.simulator


def on_device(cell, positions, types, cutoffs, skin, **options):
    """Atoms, bricks and list of one rank, built."""
    executor = HostExecutor(**options)
    executor.load_module(module_source(), KERNELS)
    atoms, comm = DeviceAtoms(executor), SerialComm()
    decomposition = Decomposition(comm, cell, NeighborList(cutoffs, skin).reach)
    control, status = np.zeros(word.WORDS, np.int64), np.zeros(8, np.int32)
    bricks = DeviceBricks(atoms, decomposition, HostTransport(comm, executor), control, status)
    system = System(cell, np.ones(len(cutoffs)), len(types))
    system.set_owned(np.arange(len(types)), types, positions, np.zeros(positions.shape))
    atoms.take(system)
    neighbors = DeviceNeighbors(atoms, decomposition, cutoffs, skin)
    bricks.rebuild()
    neighbors.build()
    executor.check_guards()
    return atoms, bricks, neighbors


def on_host(cell, positions, types, cutoffs, skin):
    system = System(cell, np.ones(len(cutoffs)), len(types))
    system.set_owned(np.arange(len(types)), types, positions, np.zeros(positions.shape))
    neighbors = NeighborList(cutoffs, skin)
    Domain(SerialComm(), cell, neighbors).rebuild(system)
    return system, neighbors


def rows_by_atom(ids, images, offsets, indices, owned):
    """Atom -> its neighbours in order, as (id, images beyond the centre's)."""
    found = {}
    for i in range(owned):
        others = indices[offsets[i] : offsets[i + 1]]
        found[int(ids[i])] = [(int(ids[j]), *(images[j] - images[i]).tolist()) for j in others]
    return found


CASES = {
    "skewed": (random_structure(1, random_model(0), num_atoms=14), 3.5),
    "a cell smaller than the cutoff": (random_structure(2, random_model(0), num_atoms=3), 4.5),
    "a slab": (random_structure(3, random_model(0), num_atoms=12, pbc=(True, False, True)), 3.5),
    "a cluster": (random_structure(4, random_model(0), num_atoms=16, pbc=(False, False, False)), 4.0),
    "one atom": ((np.array([[0.3, -9.0, 4.0]]), None, np.zeros(3, bool), np.array([1])), 4.0),
    "no neighbours": ((np.array([[0.0, 0, 0], [50.0, 0, 0]]), None, np.zeros(3, bool), np.array([0, 1])), 4.0),
}


@pytest.mark.parametrize("name", CASES)
def test_list_is_that_of_the_host(name):
    """The same pairs in the same order, at positions many cells away from home."""
    (positions, vectors, pbc, types), reach = CASES[name]
    cell = Cell(vectors, pbc)
    if cell.pbc.any():
        positions = positions + np.where(cell.pbc, np.random.default_rng(0).integers(-3, 4, positions.shape), 0) @ (
            cell.vectors
        )
    cutoffs = np.array([[reach, 0.8 * reach], [0.9 * reach, 0.7 * reach]])
    atoms, _, neighbors = on_device(cell, positions, types, cutoffs, 0.4)
    system, expected = on_host(cell, positions, types, cutoffs, 0.4)
    owned, offsets = atoms.num_owned, neighbors.row_offsets
    found = rows_by_atom(atoms.ids, atoms.images, offsets, neighbors.indices, owned)
    assert owned == len(types) and offsets[0] == 0 and offsets[owned] == neighbors.num_edges
    assert found == rows_by_atom(system.ids, system.images, expected.row_offsets, expected.indices, owned)
    ghosts, local = slice(owned, atoms.num_local), atoms.num_local
    owner_of = np.argsort(atoms.ids[:owned])[atoms.ids[ghosts]]
    assert np.array_equal(atoms.positions[ghosts], atoms.positions[owner_of])
    assert np.array_equal(atoms.types[ghosts], atoms.types[owner_of])
    copies = {(int(atoms.ids[k]), *atoms.images[k].tolist()) for k in range(local)}
    assert len(copies) == local  # every copy once


@pytest.mark.parametrize("order", ["reverse", "random:3"])
def test_list_does_not_depend_on_the_order_of_threads(order):
    (positions, vectors, pbc, types), reach = CASES["skewed"]
    cutoffs = np.full((2, 2), reach)
    lists = [
        on_device(Cell(vectors, pbc), positions, types, cutoffs, 0.4, **options)[2]
        for options in ({}, {"order": order, "block_order": "reverse"})
    ]
    assert np.array_equal(lists[0].indices, lists[1].indices)


def test_list_does_not_depend_on_how_keys_are_sorted(monkeypatch):
    """Few keys are sorted by a kernel of ours, many by the library of arrays."""
    (positions, vectors, pbc, types), reach = CASES["skewed"]
    found = []
    for few in (sorting.FEW, 0):
        monkeypatch.setattr(sorting, "FEW", few)
        atoms, _, neighbors = on_device(Cell(vectors, pbc), positions, types, np.full((2, 2), reach), 0.4)
        assert ("sort_few" in atoms.executor.called) == (few > 0)
        found.append((atoms.local("ids"), atoms.local("images"), neighbors.indices[: neighbors.num_edges]))
    for first, second in zip(*found, strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("room", [511, 512, 513, 700])
def test_rows_of_any_length_are_in_order(room):
    """Rows that do not fit the room in shared memory are sorted by another way."""
    module = CpuModule(module_source())
    count = room + 1  # atoms so near that each sees all others
    rng = np.random.default_rng(room)
    positions, images = rng.uniform(0.0, 1.0, (count, 3)), np.zeros((count, 3), np.int32)
    order_keys = rng.permutation(count).astype(np.int64) << 30
    keys, cell = np.full(count, (1 << 42) + (1 << 21) + 1, np.int64), np.eye(3) * 10.0
    owned = 3
    offsets = np.arange(owned + 1, dtype=np.int64) * room
    indices = np.full(owned * room, -1, np.int32)
    module.launch(
        "fill_rows", (1,), (128,),
        (indices, offsets, order_keys, positions, images, np.zeros(count, np.int32), cell, np.full((1, 1), 100.0), keys,
         np.sort(keys), np.arange(count, dtype=np.int64), np.int32(1), np.int32(owned), np.int32(count)),
    )  # fmt: skip
    ascending = np.argsort(order_keys)
    for i in range(owned):
        assert np.array_equal(indices[offsets[i] : offsets[i + 1]], ascending[ascending != i])


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["address", "undefined", "thread"])
def test_sanitizers(sanitize):
    """Bins, rows of the list and sums: no access outside of an array, no undefined operation, no race."""
    (positions, vectors, pbc, types), reach = CASES["a slab"]
    atoms, *_ = on_device(Cell(vectors, pbc), positions, types, np.full((2, 2), reach), 0.4)
    owned, local, cutoffs = np.int32(atoms.num_owned), np.int32(atoms.num_local), np.full((2, 2), (reach + 0.4) ** 2)
    found = []
    for options in ({}, {"sanitize": sanitize}):
        module = CpuModule(module_source(), **options)
        keys = np.zeros(local, np.int64)
        where = (atoms.positions, atoms.images)
        bins = np.array([[-2.0] * 3, [0.7] * 3])
        cell = Cell(vectors, pbc)
        inverse = np.array(cell.inverse)
        module.launch("bin_rows", (int(local) // 128 + 1,), (128,), (keys, *where, inverse, bins, local))
        order = np.argsort(keys, kind="stable")
        search = (
            *where,
            atoms.types,
            np.array(cell.vectors),
            cutoffs,
            keys,
            keys[order],
            order,
            np.int32(2),
            owned,
            local,
        )
        counts = np.zeros(owned, np.int64)
        module.launch("count_rows", (int(owned) // 4 + 1,), (128,), (counts, *search))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        indices = np.zeros(offsets[-1], np.int32)
        module.launch("fill_rows", (int(owned) // 4 + 1,), (128,), (indices, offsets, atoms.order_keys, *search))
        sums = np.zeros((8, 2), np.int64)
        kinetic = (atoms.velocities, atoms.types, np.array([1.0, 2.0]), np.float64(1.0), np.int32(2), owned)
        module.launch("kinetic_sums", (2,), (128,), (sums, np.zeros(word.WORDS, np.int64), *kinetic))
        slope, status = np.zeros(14, np.int64), np.zeros(8, np.int32)
        forces = np.arange(3 * local, dtype=np.int64).reshape(-1, 3) << 32
        control = np.zeros(word.WORDS, np.int64)
        module.launch("slope_maxima", (2,), (128,), (slope, control, status, forces, atoms.velocities, owned))
        energies = np.arange(float(owned))
        module.launch("slope_sums", (2,), (128,), (slope, status, energies, forces, atoms.velocities, owned))
        found.append((keys, counts, indices, sums, slope))
    for first, second in zip(*found, strict=True):
        assert np.array_equal(first, second)
    assert offsets[-1] > 0


def test_closest_pair_is_named_by_the_smallest_ids():
    positions = np.array([[0.0, 0, 0], [5.0, 0, 0], [5.0, 0.5, 0], [0.0, 0.5, 0], [2.0, 2.0, 0]])
    cell = Cell(None, False)
    _, _, neighbors = on_device(cell, positions, np.zeros(5, np.int64), np.full((1, 1), 3.0), 0.0)
    squared, first, second = neighbors.closest_pair()
    assert (squared, first, second) == (0.25, 0, 3)


def test_positions_that_are_not_finite_are_nobodys_neighbour():
    (positions, vectors, pbc, types), reach = CASES["skewed"]
    positions = positions.copy()
    positions[4, 1] = np.nan
    atoms, _, neighbors = on_device(Cell(vectors, pbc), positions, types, np.full((2, 2), reach), 0.4)
    found = rows_by_atom(atoms.ids, atoms.images, neighbors.row_offsets, neighbors.indices, atoms.num_owned)
    assert found[4] == [] and not any(other[0] == 4 for row in found.values() for other in row)


def test_a_cell_with_too_many_images_is_refused():
    cell = Cell(np.diag([0.005, 5.0, 5.0]), True)
    with pytest.raises(StructureError, match="replicate"):
        on_device(cell, np.zeros((1, 3)), np.zeros(1, np.int64), np.full((1, 1), 4.0), 0.0)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_forces_return_to_owners_and_a_sum_out_of_range_is_a_fault():
    (positions, vectors, pbc, types), reach = CASES["skewed"]
    atoms, bricks, _ = on_device(Cell(vectors, pbc), positions, types, np.full((2, 2), reach), 0.4)
    rng = np.random.default_rng(0)
    terms = rng.integers(-(2**40), 2**40, (atoms.num_local, 3))
    atoms.forces[: atoms.num_local] = terms
    bricks.add_forces()
    expected = np.zeros((atoms.num_owned, 3), np.int64)
    np.add.at(expected, np.argsort(atoms.ids[: atoms.num_owned])[atoms.ids[: atoms.num_local]], terms)
    assert np.array_equal(atoms.forces[: atoms.num_owned], expected)
    assert not bricks.status.any()
    atoms.forces[: atoms.num_local] = 0
    atoms.forces[atoms.num_owned : atoms.num_local] = 2**62
    bricks.add_forces()
    assert 1 <= bricks.status[1] <= atoms.num_owned


def test_a_step_that_does_not_go_on_moves_no_ghost_and_returns_no_force():
    (positions, vectors, pbc, types), reach = CASES["skewed"]
    atoms, bricks, _ = on_device(Cell(vectors, pbc), positions, types, np.full((2, 2), reach), 0.4)
    atoms.positions[: atoms.num_owned] += 1.0
    atoms.forces[: atoms.num_local] = 1
    before = atoms.positions.copy(), atoms.forces.copy()
    bricks.control[word.FOUND] = 1
    bricks.update_positions()
    bricks.add_forces()
    assert np.array_equal(atoms.positions, before[0], equal_nan=True) and np.array_equal(atoms.forces, before[1])
    bricks.control[word.FOUND] = 0
    bricks.update_positions()
    assert not np.array_equal(atoms.positions[: atoms.num_local], before[0][: atoms.num_local])


@pytest.mark.parametrize("owned", [0, 1, 31, 300])
def test_extremes_are_those_of_numpy(owned):
    module = CpuModule(module_source(), order="random:1")
    rng = np.random.default_rng(owned)
    positions, inverse = rng.normal(0.0, 30.0, (owned + 5, 3)), np.linalg.inv(rng.normal(0.0, 5.0, (3, 3)))
    positions[2:3, 1], positions[9:10, 0] = np.nan, np.inf
    extremes = np.zeros(9, np.int64)
    module.launch("extremes", (owned // 128 + 1,), (128,), (extremes, positions, inverse, np.int32(owned)))
    x = positions[:owned][np.isfinite(positions[:owned]).all(axis=1)]
    expected = NO_EXTREMES
    if len(x):
        places = [(x[:, 0] * inverse[0, c] + x[:, 1] * inverse[1, c]) + x[:, 2] * inverse[2, c] for c in range(3)]
        expected = np.array([*(-p.min() for p in places), *(p.max() for p in places), *np.abs(x).max(axis=0)])
    assert np.array_equal(ordered_numbers(extremes), expected)


@pytest.mark.parametrize("order", ["forward", "random:1"])
@pytest.mark.parametrize("owned", [0, 1, 31, 300])
def test_sums_are_those_of_numpy(owned, order):
    module = CpuModule(module_source(), order=order)
    rng = np.random.default_rng(owned)
    velocities, types = rng.standard_normal((owned + 5, 3)), rng.integers(0, 3, owned + 5).astype(np.int32)
    masses, energies = np.array([1.0, 16.0, 12.0]), rng.standard_normal(owned + 5) * 100.0
    heat = rng.integers(-(2**60), 2**60, owned + 7)
    sums, control = np.zeros((9, 2), np.int64), np.zeros(word.WORDS, np.int64)
    grid, block = (owned // 128 + 1,), (128,)
    kinetic = (control, velocities, types, masses, np.float64(0.5), np.int32(3), np.int32(owned))
    module.launch("kinetic_sums", grid, block, (sums, *kinetic))
    module.launch("energy_sum", grid, block, (sums, energies, np.int32(owned)))
    module.launch("heat_sum", grid, block, (sums, heat, np.int32(len(heat))))
    values = words_to_float(sums)
    v, t = velocities[:owned], types[:owned]
    expected = np.bincount(t, 0.25 * masses[t] * (v**2).sum(axis=1), 3)
    # A unit of 2^-44 a term.
    assert sums[0, 0] == 0 and np.allclose(values[6:], expected, rtol=0, atol=1e-10)
    assert np.allclose(values[2:5], (masses[t, None] * v).sum(axis=0), rtol=0, atol=1e-10)
    assert np.isclose(values[1], energies[:owned].sum(), rtol=0, atol=1e-10)
    assert (int(sums[5, 0]) << 32) + int(sums[5, 1]) == sum(map(int, heat))

    control[word.HALT] = 1
    before = sums.copy()
    module.launch("kinetic_sums", grid, block, (sums, *kinetic))
    assert np.array_equal(sums, before)
    if owned:
        energies[0] = np.inf
        module.launch("energy_sum", grid, block, (sums, energies, np.int32(owned)))
        assert sums[0, 0] == 1
