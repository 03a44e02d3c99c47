"""Models too wide for shared memory: products by a library (here: plain sums), element-wise kernels between them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from support.cuda_harness import HostDevice, HostExecutor, cuda_potential, evaluate
from support.potential import make_system
from support.random_models import random_model, random_structure

from allegro_sim.model.reference import evaluate_structure
from allegro_sim.potential.cuda.chunks import Blocks
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import Launch, Product
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.potential.cuda.products import WORKSPACES

pytestmark = pytest.mark.simulator


@cache
def wide_model(name: str):
    """Hidden layers of 264 columns; "kept": scalar features are not made, since their readers take the hidden ones;
    "wide readout": all else is narrow."""
    options = {
        "deep": {"hidden_depth": 2, "num_tensor_features": 20, "num_scalar_features": 24, "l_max": 1},
        "one layer": {"num_layers": 1, "num_tensor_features": 9, "num_scalar_features": 17, "l_max": 2, "zbl": True},
        "kept": {"hidden_depth": 2, "num_tensor_features": 9, "num_scalar_features": 280, "l_max": 1},
        "kept at once": {"num_layers": 1, "num_tensor_features": 9, "num_scalar_features": 280, "l_max": 0},
        "wide readout": {"num_layers": 4, "hidden_width": 208, "num_scalar_features": 208, "l_max": 0},
        "no activation": {"activation": "identity", "num_scalar_features": 272, "l_max": 1, "hidden_depth": 0},
    }[name]
    return random_model(4, **{"hidden_width": 264, **options})


NAMES = ("deep", "one layer", "no activation", "wide readout", "kept", "kept at once")


@cache
def structure(name: str):
    return random_structure(8, wide_model(name), num_atoms=6)


@pytest.mark.parametrize("precision", ["double", "single", "mixed"])
@pytest.mark.parametrize("name", NAMES)
def test_forces_are_those_of_the_reference(name, precision):
    model = wide_model(name)
    wanted = evaluate_structure(model, *structure(name))
    potential = cuda_potential(model, precision)
    found = evaluate(model, precision, *structure(name), potential=potential)
    # As for narrow models: float64 sums; float32 features; operands of ten bits.
    bound = {"double": 1e-9, "single": 1e-5, "mixed": 4e-3}[precision]
    rms = np.sqrt(np.mean(wanted.forces**2))
    assert np.sqrt(np.mean((found.forces - wanted.forces) ** 2)) <= bound * rms
    assert np.abs(found.forces - wanted.forces).max() <= 5 * bound * max(1.0, rms)
    assert np.abs(found.energies - wanted.energies).max() <= bound * max(1.0, np.abs(wanted.energies).max())
    assert np.abs(found.virial - wanted.virial).max() <= bound * max(1.0, np.abs(wanted.virial).max())


def test_large_products_are_the_librarys_and_of_tf32_numbers_in_mixed_alone():
    for name in NAMES:
        for precision in ("single", "mixed"):
            layout = Layout(wide_model(name), precision)
            operations = layout.chunk_operations(256, 64)
            products = [operation for operation in operations if isinstance(operation, Product)]
            assert products or name == "no activation"
            for product in products:
                large = min(product.inner, product.columns) >= 16
                assert product.rows == 256
                assert not product.tensor_cores or (precision == "mixed" and large)
            launched = [operation.kernel for operation in operations if isinstance(operation, Launch)]
            before = {"clear_results", "count_edges", "clear_and_count"}  # an evaluation, or once a chunk table
            assert set(launched) | before == set(layout.kernels)


def forces_of(potential: CudaPotential, name: str) -> np.ndarray:
    system, neighbors = make_system(wide_model(name), structure(name), 0.0)
    potential.compute(system, neighbors)
    return system.forces[: system.num_local].copy()


@pytest.mark.parametrize("options", [{"chunk_edges": 128}, {"order": "random:2", "block_order": "reverse"}], ids=str)
def test_bits_do_not_depend_on_chunks_or_on_the_order_of_threads(options):
    expected = forces_of(cuda_potential(wide_model("one layer"), "mixed", chunk_edges=1024), "one layer")
    potential = cuda_potential(wide_model("one layer"), "mixed", **{"chunk_edges": 1024, **options})
    assert np.array_equal(forces_of(potential, "one layer"), expected)


class Uneven(HostExecutor):
    """A library whose small products have other last bits: in all rows, or in some; `least`: with more workspace."""

    uneven, least = "none", 0

    def _multiply(self, product, arrays):
        HostExecutor._multiply(product, arrays)
        rows = {"all": product.rows, "some": 1, "none": 0}[self.uneven]
        if self.workspaces.get((product.inner, product.columns, product.tensor_cores), 0) <= self.least:
            return
        out = arrays[product.out.buffer].reshape(-1)
        for row in range(rows if product.rows < 1000 else 0):
            at = out[product.out.offset + row * product.out.stride :][: product.columns]
            at[:] = np.nextafter(at, np.inf)


@pytest.mark.parametrize(
    ("uneven", "sizes", "said"),
    [
        ("none", (256, 1024), "256 to 1024"),
        ("all", (1024, 1024), "1024 to 1024"),
        ("some", (1024, 1024), "1024 to 1024"),
    ],
)
def test_products_have_numbers_of_rows_that_keep_an_edges_bits(uneven, sizes, said):
    executor = Uneven(device=HostDevice(multiprocessors=16))
    executor.uneven = uneven
    potential = CudaPotential(wide_model("one layer"), precision="single", chunk_edges=512, executor=executor)
    potential.prepare()
    engine = potential.engine
    assert (engine.blocks.sizes[0], engine.blocks.sizes[-1]) == sizes
    assert engine.keeps_bits
    forces_of(potential, "one layer")
    assert f"by cuBLAS; {said} rows at a time, bits independent of an edge's place (probed)" in potential.description


def test_a_shape_gets_the_largest_workspace_that_keeps_bits():
    executor = Uneven(device=HostDevice(multiprocessors=16))
    executor.uneven, executor.least = "some", WORKSPACES[2]
    engine = CudaPotential(wide_model("one layer"), precision="single", executor=executor).engine
    engine.prepare()
    assert engine.keeps_bits and engine.blocks.sizes == (256, 512, 768, 1024)
    assert executor.workspaces and set(executor.workspaces.values()) == {WORKSPACES[2]}


def test_a_library_that_never_keeps_bits_is_told_of():
    class Dependent(Uneven):
        def _multiply(self, product, arrays):
            HostExecutor._multiply(product, arrays)
            row = arrays[product.out.buffer].reshape(-1)[product.out.offset :][: product.columns]
            row[:] = np.nextafter(row, np.inf)

    potential = CudaPotential(wide_model("one layer"), precision="single", executor=Dependent())
    potential.prepare()
    assert not potential.engine.keeps_bits
    forces_of(potential, "one layer")
    assert "bits NOT independent of an edge's place (probed)" in potential.description


def test_an_mlp_goes_through_a_chunk_in_blocks_of_rows():
    layout, blocks = Layout(wide_model("deep"), "mixed"), Blocks((128, 256))
    buffers = layout.buffers(640, 64, blocks)
    assert buffers["hidden_0"].shape[0] == 256 and buffers["x"].shape[0] == 640
    rows: dict[tuple, list] = {}
    for operation in layout.chunk_operations(640, 64, blocks):
        if isinstance(operation, Product) and operation.left.buffer == "x":
            first, column = divmod(operation.left.offset, operation.left.stride)
            key = (column, operation.inner, operation.columns, operation.right)
            rows.setdefault(key, []).append((first, operation.rows))
    assert rows and all(found == [(0, 256), (256, 256), (512, 128)] for found in rows.values())
