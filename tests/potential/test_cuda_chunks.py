"""The chunk table of the CUDA potential: whole centres, room for more edges, little padding; the count of memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.legacy import MODELS as LEGACY_MODELS
from support.legacy import legacy_model
from support.random_models import random_model

from allegro_sim.potential.cuda.chunks import ROW_MULTIPLE, Blocks, centers_for, edges_for, make_table, rows_for
from allegro_sim.potential.cuda.direct_track import CENTER_ROWS
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import Buffer, Launch, Matrix, Product, names_of, system_buffers


@given(
    st.lists(st.integers(0, 300), max_size=200),
    st.integers(1, 12),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.sampled_from([(1,), (3,), (1, 2, 3), (2, 3, 7)]),
)
def test_every_centre_is_in_one_chunk_that_holds_its_edges(counts, rows, margin, sizes):
    counts = np.array(counts, np.int32)
    blocks = Blocks(tuple(size * ROW_MULTIPLE for size in sizes))
    max_rows = blocks.whole(rows * ROW_MULTIPLE)
    table = make_table(counts, max_rows, margin=margin, blocks=blocks)
    sizes = np.diff(table.centers)
    assert table.centers[0] == 0
    assert table.centers[-1] == len(counts)
    assert (sizes > 0).all()
    assert sizes.max(initial=1) == table.max_centers <= centers_for(max_rows)
    edges = np.add.reduceat(counts, table.centers[:-1]) if len(counts) else np.zeros(0, int)
    assert edges.sum() == table.edges
    assert table.capacity % ROW_MULTIPLE == 0
    assert sum(blocks.split(table.capacity)) == table.capacity
    assert rows_for(int(edges.max(initial=0)), margin) <= table.capacity
    if counts.max(initial=0) <= edges_for(max_rows, margin):
        assert table.capacity <= max_rows


@pytest.mark.parametrize(("atoms", "edges_per_atom", "rows"), [(192, 38, 32768), (1536, 38, 4096), (24000, 9, 10240)])
def test_padding_of_water_is_under_a_tenth(atoms, edges_per_atom, rows):
    counts = np.random.default_rng(0).poisson(edges_per_atom, atoms)
    assert make_table(counts, rows).padding_share < 0.1


@pytest.mark.parametrize(
    ("rows", "split"), [(1, [2]), (5, [6]), (64, [64]), (65, [33, 32]), (130, [44, 43, 43]), (3, [4])], ids=str
)
def test_blocks_are_few_and_of_about_equal_size(rows, split):
    sizes = (2, 4, 6, *range(7, 65))
    assert Blocks(sizes).split(rows) == split
    assert Blocks((128,)).whole(129) == 256


def test_sums_of_edges_do_not_overflow():
    """Three thousand million edges, more than 32 bits hold."""
    counts = np.full(3_000_000, 1000, np.int32)
    table = make_table(counts, 2**20)
    assert table.edges == 3_000_000_000
    assert table.centers[-1] == 3_000_000


def test_sizes_of_buffers_are_exact_beyond_32_bits():
    assert Buffer("x", (2**20, 5000), np.dtype(np.float64), "edge").nbytes == 2**20 * 5000 * 8
    assert system_buffers(2**31, 2**31, 2**35, 1, True)["indices"].nbytes == 2**37


def water_like(scalars: int = 680, layers: int = 2):
    return random_model(
        0,
        num_types=2,
        l_max=2,
        num_layers=layers,
        num_scalar_features=scalars,
        num_tensor_features=64,
        hidden_width=1024,
        hidden_depth=2,
    )


def test_memory_of_an_atom_is_within_600_bytes():
    """At the SC'23 cutoffs: 9 edges an atom within them, 15 with a skin of 1 Å; one ghost an atom.

    Beyond that only the buffers of a chunk, whose size does not depend on the number of atoms.
    """
    atoms = 1_000_000
    system = system_buffers(rows=2 * atoms, owned=atoms, listed=15 * atoms, chunks=1000, atom_virials=False)
    # What the MD loop keeps besides: velocities and global ids.
    kept = sum(buffer.nbytes for buffer in system.values()) + 2 * atoms * 8 + atoms * 24
    assert kept / atoms <= 600


@pytest.mark.parametrize("precision", ["double", "single", "mixed"])
@pytest.mark.parametrize("legacy", ["", *LEGACY_MODELS])
def test_plan_names_only_buffers_it_has_and_kernels_there_are(precision, legacy):
    model = legacy_model(legacy) if legacy else random_model(1, num_layers=2)
    layout = Layout(model, precision)
    plan = layout.plan(256, 64, system_buffers(100, 60, 3000, 3, False))
    launched = []
    for operation in plan.operations:
        for name in names_of(operation):
            assert name in plan.buffers or name in ("chunk", "want_virial", "want_atom_virials"), (operation, name)
        if isinstance(operation, Launch):
            launched.append(operation.kernel)
            assert operation.shared_bytes <= 99 * 1024
            assert operation.block <= 1024
    # Each once; but channels that mix before the product do so again on the way back, and layers share a sum.
    again = {name for name in launched if name.startswith("mix_in_") or name == "environment_gradient_sum"}
    apart = {"clear_results", "count_edges"}  # without centres; for a chunk table
    assert set(launched) | apart == set(layout.kernels) and not apart & set(launched)
    assert all(launched.count(name) == 1 for name in launched if name not in again)


def tiled(buffer, centers):
    return buffer.kind == "center" and buffer.shape[0] == centers + CENTER_ROWS


@pytest.mark.parametrize("legacy", ["", "environment_linear", "uvvp_collected_so3"])
def test_bytes_of_a_chunk_are_those_of_its_buffers(legacy):
    layout = Layout(legacy_model(legacy) if legacy else random_model(1), "single")
    for capacity, centers in ((1280, 320), (128, 8), (65536, 4096)):
        plan = layout.plan(capacity, centers, system_buffers(1, 1, 1, 1, False))
        estimate = capacity * layout.bytes_per_edge + centers * layout.bytes_per_center
        # `first` has one element more than there are centres; arrays that a model does not use have one; and some are a
        # tile's rows longer.
        fixed = sum(
            CENTER_ROWS * b.nbytes // (centers + CENTER_ROWS) for b in plan.buffers.values() if tiled(b, centers)
        )
        assert abs(plan.nbytes("edge", "center") - fixed - estimate) <= 256


def test_matrices_and_products_are_plain_data():
    matrix = Matrix("x", 8, 40)
    product = Product(matrix, matrix, matrix, 128, 16, 16, False, True)
    assert names_of(product) == ("x", "x", "x")


def test_a_table_is_kept_while_its_chunks_have_room():
    counts = np.full(1000, 40)
    table = make_table(counts, 4096)
    assert table.holds(counts) and table.holds(counts - 1)
    crowded = counts.copy()
    crowded[:50] = 80  # all in the first chunk
    assert not table.holds(crowded)
    assert not table.holds(counts // 2)  # room for nothing
    assert not table.holds(counts[:-1])  # other atoms
