"""The roofline's counts against the kernels themselves, executed on the CPU with every load and store counted."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.cuda_runner import CpuModule, Traffic
from support.legacy import resized_model
from support.potential import make_system

from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cuda.chunks import round_up
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.plan import Product
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.tools import roofline
from allegro_sim.tools.benchmark_legacy import legacy_water_model
from allegro_sim.tools.benchmark_models import benchmark_model, water_model
from allegro_sim.tools.roofline_mlps import product_work

NOT_OF_AN_EVALUATION = {"clear_results", "count_edges"}
"""Kernels without a chunk, and for a new chunk table."""

ONCE_A_KERNEL = {"cell", "control", "status", "faults", "virial_words", "atom_virials", "chunk_centers"}
"""Arrays of which a kernel touches a few words, whatever the number of edges; constants and weights count alike."""

SHARED_BY_EDGES = {
    "positions", "images", "types", "first", "counts", "row_offsets", "A_0", "A_1", "A_2", "dA", "denvironment",
}  # fmt: skip
"""Arrays over atoms: counted once an edge and once a centre, though a block may need an atom's row only once."""


@dataclass(frozen=True)
class Counted:
    """An evaluation whose global loads and stores were counted, and what roofline.py says of it."""

    model: AllegroModel
    precision: str
    layout: Layout
    edges: int
    rows: int
    pairs: int
    atoms_and_ghosts: int
    traffic: dict[str, Traffic]

    def predicted(self, kernel: str) -> tuple[dict[str, float], dict[str, float]]:
        """Bytes (read, written) of all edges and centres by array."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(roofline, "_SKIN_PAIRS", self.pairs / self.edges)
            works = roofline.works_by_name(roofline.kernel_works(self.model, self.precision))
        total = works[kernel].edge.scaled(self.edges).plus(works[kernel].center.scaled(24))
        return total.read, total.written


CASES = {
    "mixed": dict(l_max=2, scalars=32, channels=16, embedding=(32,), latent=(32,), readout=(32,)),
    # Products by cuBLAS, made in NumPy here and not counted; the narrow read-out stays fused.
    "wide": dict(l_max=1, scalars=20, channels=8, embedding=(264, 260), latent=(264,), readout=(32,)),
    # Two warps a centre, and widths that are padded.
    "double": dict(l_max=1, scalars=12, channels=36, embedding=(16, 12), latent=(20,), readout=(), num_layers=3),
    # Sums of tensor features, two warps a centre.
    "scatter features": dict(l_max=1, scalars=12, channels=36, embedding=(16,), latent=(20,), readout=(), num_layers=3),
    # The legacy generation: mixing after the product and before it, of the environment, with gates, and wide.
    "mixing after": "three_layer_cutoffs",
    "mixing before": "uvvp_collected_so3",
    "environment": "environment_linear",
    "kept features": "replaced_layer_cutoffs",
    "wide legacy": dict(channels=8, two_body=(16, 24, 264), latent=(264, 264), edge_energy=16, l_max=1),
}


def model_of(case: str) -> AllegroModel:
    options = CASES[case]
    if isinstance(options, str):
        return resized_model(options, channels=18 if case == "mixing after" else 5, scalars=20, hidden=24)
    if "two_body" in options:
        return legacy_water_model(cutoffs=np.full((2, 2), 4.0), **options)
    return replace(water_model(**options), scatter_features=case == "scatter features")


SLOW = ("scatter features", "kept features")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def counted(request, repository: Path) -> Counted:
    precision = "double" if request.param == "double" else "mixed"
    model = model_of(request.param)
    atoms = ase.io.read(repository / "tests" / "data" / "water24.xyz")
    types = np.array([model.type_names.index(symbol) for symbol in atoms.get_chemical_symbols()])
    system, neighbors = make_system(model, (atoms.positions, np.array(atoms.cell), atoms.pbc, types), 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.cuda_harness.CpuModule", functools.partial(CpuModule, count_bytes=True))
        potential = CudaPotential(model, precision=precision, chunk_edges=2048, executor=HostExecutor())
        potential.compute(system, neighbors)
    engine = potential.engine
    assert engine.table.num_chunks == 1
    traffic = engine.executor.module.counters()
    for name in NOT_OF_AN_EVALUATION:
        traffic.pop(name, None)
    edges = neighbors.count_within_cutoffs(system)
    sizes = edges, engine.table.capacity, neighbors.num_edges, system.num_local
    return Counted(model, precision, engine.layout, *sizes, traffic)


def test_bytes_of_every_kernel_and_array_are_those_predicted(counted):
    constants = set(counted.layout.constants) | ONCE_A_KERNEL
    wrong = []
    for kernel, traffic in counted.traffic.items():
        read, written = counted.predicted(kernel)
        arguments = counted.layout.kernels[kernel].arguments
        for name, counts in zip(arguments, traffic.per_argument, strict=True):
            if name in constants:
                continue
            for found, expected, what in (
                (counts["loaded_once"] + counts["added"], read.get(name, 0.0), "read"),
                (counts["stored_once"] + counts["added"], written.get(name, 0.0), "written"),
            ):
                if kernel.startswith("mix_environment"):  # tiles of at most 128 rows, of a few centres
                    good = (
                        expected
                        <= found
                        <= expected + 128 * counted.layout.dimensions.UP * counted.layout.real.itemsize
                    )
                elif name in SHARED_BY_EDGES:
                    # A word more than centres, where rows begin and end; and a word a block of at least 32 rows.
                    good = found <= 1.05 * expected + 64 + 4 * counted.rows / 32
                elif (kernel, what) == ("edge_geometry", "written") and name.startswith("edge_"):
                    good = found == 4 * (counted.rows - counted.edges)  # padding rows alone; fill_edges the others
                elif name == "edge_center" and kernel.startswith("first_"):
                    # Read with the place of a thread; a compiler may see that nothing comes of it.
                    good = found <= expected * counted.rows / counted.edges
                elif (kernel, name) == ("clear_and_count", "forces"):
                    good = found == (24 * counted.atoms_and_ghosts if what == "written" else 0)
                elif name == "forces":
                    good = abs(found / expected - 1.0) < 0.05  # centres end anywhere in a warp
                else:
                    # Kernels work on whole tiles: at most the padding rows of the chunk come on top.
                    good = expected <= found <= expected * counted.rows / counted.edges
                if not good:
                    wrong.append(f"{kernel}: {name} {what} {found}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_operations_of_the_matrix_units_are_those_predicted(counted):
    """Exactly, but for whole tiles of edges, where all widths are multiples of 16; others are filled up to one of 8, or
    of 16 where a warp takes two blocks of columns at once."""
    works = roofline.works_by_name(roofline.kernel_works(counted.model, counted.precision))
    ratios = {}
    for kernel, traffic in counted.traffic.items():
        expected = works[kernel].edge.products * counted.edges + works[kernel].center.products * 24
        assert bool(traffic.matrix_operations) == bool(expected), kernel
        if expected:
            ratios[kernel] = traffic.matrix_operations / expected
    tiles = [round_up(counted.edges, size) / counted.edges for size in (64, 128)]
    if not counted.model.is_legacy and counted.model.num_scalar_features == 32:
        assert all(min(abs(ratio - tile) for tile in tiles) < 1e-12 for ratio in ratios.values()), ratios
    assert all(tiles[0] <= ratio < 2.0 for ratio in ratios.values()), ratios
    assert ratios


def test_every_kernel_of_the_plan_is_counted(counted):
    works = roofline.kernel_works(counted.model, counted.precision)
    names = {work.name for work in works if not work.is_product}
    assert names == set(counted.layout.kernels) - NOT_OF_AN_EVALUATION


def test_products_of_the_plan_are_those_predicted(counted):
    """By array and kind of unit: the plan's own list of products, executed or not."""
    real = counted.layout.real.itemsize
    of_plan, predicted = roofline.Work(), roofline.Work()
    for operation in counted.layout.chunk_operations(128, 64):
        if isinstance(operation, Product):
            of_plan = of_plan.plus(product_work(operation, real))
    for work in roofline.kernel_works(counted.model, counted.precision):
        if work.is_product:
            predicted = predicted.plus(work.edge)
    for found, expected in ((of_plan.read, predicted.read), (of_plan.written, predicted.written)):
        assert {name: size for name, size in found.items() if size} == dict(expected)
    # The plan's matrices are padded, operations are counted by the model's own widths.
    assert predicted.products <= of_plan.products <= 1.5 * predicted.products


def test_no_array_is_predicted_that_the_kernel_does_not_take(counted):
    for kernel in set(counted.layout.kernels) - NOT_OF_AN_EVALUATION:
        specification = counted.layout.kernels[kernel]
        read, written = counted.predicted(kernel)
        unknown = {name for part in (read, written) for name, size in part.items() if size} - set(
            specification.arguments
        )
        assert not unknown, (kernel, unknown)


# --- totals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundled", "medium", "degree3", "sc23"])
def test_products_add_up_to_the_multiply_adds_of_the_folded_model(name):
    """Independent of the stages: two operations a multiply-add, forward and backward, as the folding counts them."""
    model = benchmark_model(name)
    shape = roofline.Shape(model, "mixed")
    chains = (shape.folded.embedding[1:], *shape.folded.latents, shape.folded.readout)
    expected = 4 * sum(linear.cost for chain in chains for linear in chain)
    works = roofline.kernel_works(model, "mixed")
    assert sum(work.edge.products for work in works) == expected
    report = roofline.report(model, "mixed", 38.0)
    assert report["flops_as_computed"] >= expected
    assert report["path"] == ("wide" if name == "sc23" else "fused")


@pytest.mark.parametrize(("name", "multiply_adds"), [("medium", 271e3), ("sc23", 7.86e6)])
def test_counts_are_those_the_models_are_known_by(name, multiply_adds):
    """Multiply-adds an edge of the linear layers as the model is written, without the tensor track."""
    assert roofline.Shape(benchmark_model(name), "mixed").folded.multiply_adds[0] == pytest.approx(
        multiply_adds, rel=0.04
    )


def test_a_floor_is_the_sum_of_the_kernels_longest_units():
    model = benchmark_model("medium")
    works = roofline.kernel_works(model, "mixed")
    slow = roofline.Gpu("slow memory", 1.0, *[1e30] * 5)
    total = sum(work.per_edge(38.0).bytes for work in works)
    assert roofline.floor(works, slow, "mixed", 38.0) == pytest.approx(38.0 * total)
    fast = roofline.Gpu("fast memory", 1e30, 1.0, *[1e30] * 4)
    products = sum(work.edge.products for work in works)
    assert roofline.floor(works, fast, "mixed", 38.0) == pytest.approx(38.0 * products)
    floors = roofline.report(model, "mixed", 38.0)["floors"]
    rates = [floors[gpu]["atom_steps_per_second"] for gpu in ("A100", "H100", "H200")]
    assert rates == sorted(rates)
