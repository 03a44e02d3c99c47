"""Operations and bytes of every CUDA kernel, from a model's shape alone, and the least times they allow on a GPU.

    python tools/roofline.py [--model sc23] [--precision mixed] [--edges-per-center 9] [--json OUT.json]

An evaluation runs through its kernels one after the other, so its floor is the sum of the kernels' floors, and a
kernel's floor is the longest of the times that its bytes, its products, its float32, float64 and special-function work
would take alone at the unit's peak. Arrays count once a kernel each way, as if nothing were left in a cache from the
kernel before and nothing had to be read twice; what a block reads of what it has itself written does not count, nor do
weights, shared by all tiles, but as operations. So the floors are of the layered potential as it is built (README.md of
kernels: each array that goes through memory, and why); an evaluation whose chunk stays in the second-level cache may
run below its share of bytes.

Sizes are those of kernels/README.md: S scalars, U channels, M components, padded to 8 (SP, UP); NE, NW weights of the
environment and of V_0; LDX = UP + (L + 1) SP columns of x. Bytes are of padded rows, as they are moved; operations are
of the model's own widths: what must be done. One multiply-add is two operations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allegro_sim.model.description import AllegroModel
from allegro_sim.tools.benchmark_models import MODELS, benchmark_model
from allegro_sim.tools.roofline_legacy import legacy_works
from allegro_sim.tools.roofline_mlps import mlp_works
from allegro_sim.tools.roofline_scatter import scatter_backward, scatter_forward
from allegro_sim.tools.roofline_shapes import KernelWork, Shape, Work, make_work


@dataclass(frozen=True)
class Gpu:
    """Peak rates as the vendor states them, dense: bytes/s, operations/s, special functions/s.

    float64_products: of float64 products on the matrix units.
    """

    name: str
    memory: float
    tf32: float
    float32: float
    float64: float
    float64_products: float
    special: float


def _special_rate(multiprocessors: int, clock: float) -> float:
    """16 special functions a clock and multiprocessor (CUDA C++ Programming Guide, arithmetic instructions)."""
    return 16.0 * multiprocessors * clock


GPUS = (
    # NVIDIA A100 80GB SXM, H100 SXM and H200 SXM data sheets; clocks: boost, from the architecture white papers.
    Gpu("A100", 2.039e12, 156e12, 19.5e12, 9.7e12, 19.5e12, _special_rate(108, 1.41e9)),
    Gpu("H100", 3.35e12, 494.5e12, 67e12, 34e12, 67e12, _special_rate(132, 1.98e9)),
    Gpu("H200", 4.8e12, 494.5e12, 67e12, 34e12, 67e12, _special_rate(132, 1.98e9)),
)


# --- kernels ----------------------------------------------------------------------------------------------------------

# Operations of the geometry, counted from its formulas; a float64 elementary function is some 30.
_LENGTHS, _RADIAL, _HARMONIC, _GRADIENT, _REPULSION = 60, 30, 8, 60, 250


def kernel_works(model: AllegroModel, precision: str) -> list[KernelWork]:
    """Every kernel of an evaluation, in order; precision "double", "single" or "mixed"."""
    shape = Shape(model, precision)
    kernels = [_clear_and_count(), _index_scan(), _index_fill(), _geometry(shape)]
    if model.is_legacy:
        forward, backward = legacy_works(shape)
        return [*kernels, *forward, *backward, _energies_and_forces(shape)]

    center_forward, center_backward = _center_forward, _center_backward
    if model.scatter_features:
        center_forward, center_backward = scatter_forward, scatter_backward
    kernels += mlp_works(shape, "embedding", forward=True)
    for k in range(shape.layers):
        kernels.append(center_forward(shape, k))
        kernels += mlp_works(shape, f"latent_{k}", forward=True)
    kernels += [
        *mlp_works(shape, "readout", forward=True),
        *mlp_works(shape, "readout", forward=False),  # nothing where one kernel goes both ways
    ]
    for k in reversed(range(shape.layers)):
        kernels += mlp_works(shape, f"latent_{k}", forward=False)
        kernels.append(center_backward(shape, k))
    kernels += [*mlp_works(shape, "embedding", forward=False), _energies_and_forces(shape)]
    return kernels


def works_by_name(works: list[KernelWork]) -> dict[str, KernelWork]:
    """Kernels that an evaluation launches more than once as one, with the work of all launches."""
    found: dict[str, KernelWork] = {}
    for work in works:
        if work.name in found:
            before = found[work.name]
            edge, center = before.edge.plus(work.edge), before.center.plus(work.center)
            work = KernelWork(work.name, edge, center, work.is_product)
        found[work.name] = work
    return found


# Pairs of the skin list are tested twice an evaluation; for each edge within a cutoff of 4.5 Å there are about 1.8 of
# them with a skin of 1 Å. Positions of neighbours are counted once an edge: a cache seldom holds them all.
_SKIN_PAIRS = 1.8
_ROW = {"positions": 24.0, "images": 12.0, "types": 4.0}


def _clear_and_count() -> KernelWork:
    edge = make_work({"indices": 4.0, **_ROW}, double=20.0).scaled(_SKIN_PAIRS)
    center = make_work({"row_offsets": 8.0, **_ROW}, {"counts": 4.0, "forces": 24.0, "faults": 1.0})
    return KernelWork("clear_and_count", edge, center)


def _index_scan() -> KernelWork:
    return KernelWork("scan_chunk", make_work(), make_work({"counts": 4.0}, {"first": 4.0}))


def _index_fill() -> KernelWork:
    pairs = make_work({"indices": 4.0, **_ROW}, double=20.0).scaled(_SKIN_PAIRS)
    edge = pairs.plus(make_work({}, {"edge_center": 4.0, "edge_neighbor": 4.0}))
    return KernelWork("fill_edges", edge, make_work({"row_offsets": 8.0, **_ROW, "first": 4.0}))


def _geometry(shape: Shape) -> KernelWork:
    real = shape.real
    edge = make_work(
        {"edge_center": 4.0, "edge_neighbor": 4.0, "positions": 24.0, "images": 12.0, "types": 4.0},
        {
            "vectors": 24.0,
            "pairs": 4.0,
            "basis": shape.nb * real,
            "basis_slopes": shape.nb * real,
            "harmonics": shape.mp * real,
        },
        double=_LENGTHS + _RADIAL * shape.nb + _HARMONIC * shape.m,
    )
    if shape.model.pair_term is not None:
        edge.written["pair_terms"] = 16.0
        edge.double += _REPULSION
    return KernelWork("edge_geometry", edge, make_work({"positions": 24.0, "images": 12.0, "types": 4.0}))


def _energies_and_forces(shape: Shape) -> KernelWork:
    # Integer additions in memory, read and written: each neighbour's force; each centre's once a warp and once more
    # where the centre ends within the warp.
    added = 24.0 * (1.0 + 1.0 / 32.0)
    edge = make_work(
        {
            "radial_slope": 8.0,
            "harmonic_gradient": 0.0 if shape.m == 1 else shape.warps * -(-shape.m * shape.real // 16) * 16,
            "vectors": 24.0,
            "pairs": 4.0,
            "edge_center": 4.0,
            "edge_neighbor": 4.0,
            "forces": added,
        },
        {"forces": added},
        double=_GRADIENT + 3 * _HARMONIC * shape.m,
    )
    edge.read["edge_energies"] = 8.0
    edge.double += 1.0
    if shape.model.pair_term is not None:
        edge.read["pair_terms"] = 16.0  # and their slopes
        edge.double += 1.0
    center = make_work({"forces": 24.0, "first": 4.0, "types": 4.0}, {"forces": 24.0, "energies": 8.0})
    return KernelWork("energies_and_forces", edge, center)


def _center_forward(shape: Shape, k: int) -> KernelWork:
    """A_k from env_k, N_k from A_0 .. A_k, scal_k from N_k: see allegro_sim/model/reference_identity.py."""
    real, block = shape.real, shape.m * shape.up * shape.real
    slots = shape.model.tensor_weight_irreps
    edge = make_work(
        {"env": shape.ne * real, "w": shape.nw * real, "harmonics": shape.mp * real},
        {"x": shape.up * real},
        plain=2.0 * shape.u * (2 * shape.m + slots),
    )
    center = make_work(
        {"A": k * block, "first": 8.0, "types": 4.0},
        {"A": block, "chain": sum(shape.chain_dims(k)) * shape.up * real},
        plain=4.0 * shape.u * shape.entries(k),
    )
    return KernelWork(f"center_forward_{k}", edge, center)


def _center_backward(shape: Shape, k: int) -> KernelWork:
    """dN_k, then dA_0 .. dA_k; of each edge dw (added up over the layers), denv_k and dY."""
    real, block = shape.real, shape.m * shape.up * shape.real
    last, slots = k == shape.layers - 1, shape.model.tensor_weight_irreps
    env_slots = shape.model.environment_weight_irreps
    sums = shape.warps * (shape.m - 1) * real
    edge = make_work(
        {
            "dx": shape.up * real,
            "env": shape.ne * real,
            "w": shape.nw * real,
            "harmonics": shape.mp * real,
            "dw": 0.0 if last else shape.nw * real,
            "harmonic_gradient": 0.0 if last else sums,
        },
        {"denv": shape.ne * real, "dw": shape.nw * real, "harmonic_gradient": sums},
        plain=2.0 * shape.u * (5 * shape.m + 2 * slots + env_slots),
    )
    center = make_work(
        {
            "A": (k + 1) * block,
            "chain": sum(shape.chain_dims(k)) * shape.up * real,
            "dA": 0.0 if last else (k + 1) * block,
            "first": 8.0,
            "types": 4.0,
        },
        {"dA": k * block},
        plain=8.0 * shape.u * shape.entries(k),
    )
    return KernelWork(f"center_backward_{k}", edge, center)


# --- floors -----------------------------------------------------------------------------------------------------------


def unit_times(work: Work, gpu: Gpu, precision: str) -> dict[str, float]:
    """Seconds that each unit needs for the work at its peak, by the unit's name.

    Products: TF32 in `mixed`; in `single` three TF32 products each or float32, whichever is faster; in `double`
    float64 on the matrix units.
    """
    plain, double, products = work.plain, work.double, work.products
    times = {"bytes": work.bytes / gpu.memory, "special": work.special / gpu.special}
    if precision == "double":
        times["float64 products"] = products / gpu.float64_products
        return times | {"float64": (plain + double) / gpu.float64}
    times["float64"] = double / gpu.float64
    if precision == "mixed":
        return times | {"float32": plain / gpu.float32, "tf32": products / gpu.tf32}
    if 3.0 * gpu.float32 < gpu.tf32:
        return times | {"float32": plain / gpu.float32, "tf32": 3.0 * products / gpu.tf32}
    return times | {"float32": (plain + products) / gpu.float32}


def floor(works: list[KernelWork], gpu: Gpu, precision: str, edges_per_center: float) -> float:
    """Seconds an atom: the sum over kernels of the longest of their units' times."""
    edges = (work.per_edge(edges_per_center) for work in works)
    return edges_per_center * sum(max(unit_times(edge, gpu, precision).values()) for edge in edges)


def report(model: AllegroModel, precision: str, edges_per_center: float) -> dict:
    """Counts of every kernel for an edge (centres' work shared among their edges), totals, and floors by GPU."""
    works = kernel_works(model, precision)
    shape = Shape(model, precision)
    total = Work()
    rows = []
    for work in works:
        edge = work.per_edge(edges_per_center)
        total = total.plus(edge)
        limits = {gpu.name: max(times := unit_times(edge, gpu, precision), key=lambda u: times[u]) for gpu in GPUS}
        rows.append(
            {
                "kernel": work.name,
                "bytes": edge.bytes,
                "products": edge.products,
                "plain": edge.plain,
                "double": edge.double,
                "special": edge.special,
                "limit": limits,
            }
        )
    written, computed = shape.folded.multiply_adds
    return {
        "precision": precision,
        "path": "fused" if shape.fused else "wide",
        "edges_per_center": edges_per_center,
        "flops_as_written": 4 * written,
        "flops_as_computed": 4 * computed,
        "bytes": total.bytes,
        "kernels": rows,
        "floors": {
            gpu.name: {
                "seconds_per_atom": (seconds := floor(works, gpu, precision, edges_per_center)),
                "atom_steps_per_second": 1.0 / seconds,
            }
            for gpu in GPUS
        },
    }


def _lines(result: dict) -> Iterator[str]:
    yield (
        f"{result['path']} path, {result['precision']}, {result['edges_per_center']:.1f} edges a centre; forward and "
        f"backward {result['flops_as_computed'] / 1e6:.2f} MFLOP an edge "
        f"({result['flops_as_written'] / 1e6:.2f} as the model is written), "
        f"{result['bytes'] / 1024:.1f} KiB an edge through memory"
    )
    yield f"{'kernel':30s} {'bytes':>9s} {'products':>10s} {'plain':>9s} {'float64':>8s} {'special':>8s}  limit on H200"
    for row in result["kernels"]:
        yield (
            f"{row['kernel']:30s} {row['bytes']:9.0f} {row['products']:10.0f} {row['plain']:9.0f} {row['double']:8.0f} "
            f"{row['special']:8.0f}  {row['limit']['H200']}"
        )
    for name, values in result["floors"].items():
        yield f"{name}: at most {values['atom_steps_per_second'] / 1e6:.2f} million atom-steps/s"


EDGES_PER_CENTER = {
    "bundled": 38.2, "medium": 38.2, "degree3": 38.2, "sc23": 9.07, "sc23_legacy": 9.07,
    "legacy": 38.2, "many_types": 143.7,
}  # fmt: skip
"""Of inputs/water/water-192.xyz within the models' cutoffs; 143.7: its density within 7 Å."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, help="default: all of them")
    parser.add_argument("--precision", choices=("double", "single", "mixed"), default="mixed")
    parser.add_argument("--edges-per-center", type=float, help="default: that of liquid water")
    parser.add_argument("--json", help="write everything to this file")
    arguments = parser.parse_args(argv)
    results = {}
    for name in [arguments.model] if arguments.model else MODELS:
        edges = arguments.edges_per_center or EDGES_PER_CENTER[name]
        results[name] = report(benchmark_model(name), arguments.precision, edges)
        print(f"\n{name}: ", end="")
        print("\n".join(_lines(results[name])))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
