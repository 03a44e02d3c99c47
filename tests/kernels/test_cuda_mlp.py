"""The CUDA kernels of the MLPs, run on the CPU, against the same chains in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from support.cuda_runner import CpuModule
from support.mixed_reference import LEAST_WIDTH, round_to_tf32

from allegro_sim.model.reference_layers import ACTIVATION_FUNCTIONS
from allegro_sim.potential.cuda import mlp_header
from allegro_sim.potential.cuda.mlp_chain import SHARED_BYTES
from allegro_sim.potential.cuda.plan import Matrix, Product
from allegro_sim.potential.cuda.source import assemble
from allegro_sim.potential.folding import Chain, Folded, Linear, SeparableTable

PRECISIONS = ("double", "single", "mixed")
# Relative to the largest number of an array. double, single: chains of at most some hundred roundings. mixed: an
# operand that rounds the other way changes a product of K numbers by 2^-11 / sqrt(K); such are rare (`assert_close`).
TOLERANCE = {"double": 1e-13, "single": 2e-6, "mixed": 2e-3}


@dataclass(frozen=True)
class Sizes:
    """A made-up model. depth: hidden layers of every MLP; the hidden widths of the read-out may differ."""

    scalars: int
    channels: int
    width: int
    depth: int
    layers: int = 2
    slots: int = 2
    radial: int = 5
    types: int = 2
    activations: tuple[str, ...] = ("silu",)  # of embedding, latents, read-out, over and over
    readout_depth: int | None = None
    readout_width: int | None = None
    separable: bool = False  # two-body features of many types; the embedding has a dense product more


class Mlps:
    """Chains of a made-up model, the module of their kernels, and both ways to run them."""

    def __init__(self, sizes: Sizes, precision: str, matrix_units: bool = True) -> None:
        rng = np.random.default_rng(1)
        self.sizes, self.precision = sizes, precision
        self.real = np.dtype(np.float64 if precision == "double" else np.float32)
        n_scalars, weights = sizes.scalars, sizes.channels * sizes.slots
        readout, inputs = _readout(rng, sizes), (sizes.layers + 1) * n_scalars
        table = _separable(rng, sizes) if sizes.separable else None
        self.folded = Folded(
            embedding=_chain(rng, sizes, table.basis.shape[1], n_scalars + 2 * weights)
            if table
            else _chain(rng, sizes, sizes.radial, n_scalars + 2 * weights, table=True),
            latents=tuple(
                _chain(rng, sizes, sizes.channels + (k + 1) * n_scalars, n_scalars + weights * (k < sizes.layers - 1))
                for k in range(sizes.layers)
            ),
            readout=readout,
            energy_weights=rng.normal(size=readout[-1].matrix.shape[1] if readout else inputs),
            multiply_adds=(0, 0),
            separable=table,
        )
        self.embedding = self.folded.embedding if table is None else (_table_of_pairs(table), *self.folded.embedding)
        self.names = ["embedding", *(f"latent_{k}" for k in range(sizes.layers)), "readout"]
        cycle = sizes.activations * len(self.names)
        self.activations = dict(zip(self.names, cycle, strict=False))
        self.dimensions = mlp_header.Dimensions(
            precision, sizes.layers, n_scalars, sizes.channels, sizes.slots, sizes.slots, sizes.radial, sizes.types,
            matrix_units, separable=sizes.separable,
        )  # fmt: skip
        self.shapes = mlp_header.mlp_chains(self.dimensions, self.folded, self.activations)
        self.rounding = mlp_header.mlp_rounding(self.shapes, mlp_header.fused_widths(self.shapes))
        self.kernels = {kernel.name: kernel for kernel in mlp_header.mlp_kernels(self.dimensions, self.shapes)}
        self.constants = mlp_header.pack_mlps(self.dimensions, self.shapes, self.folded)

    @property
    def source(self) -> str:
        d = self.dimensions
        macros = {f"PRECISION_{name.upper()}": int(name == self.precision) for name in PRECISIONS}
        macros |= {"UP": d.UP, "SP": d.SP, "NE": d.NE, "NW": d.NW, "LDX": d.LDX}
        macros |= {"LAYERS": d.layers, "NB": d.radial, "NT": d.types}
        return assemble(
            "".join(f"#define {name} {value}\n" for name, value in macros.items()),
            "common.cuh",
            mlp_header.mlp_structs(d, self.shapes),
            "mlp.cu",
            "wide.cu",
            mlp_header.mlp_entry_points(d, self.shapes),
        )

    def operand(self, values: np.ndarray, large: bool) -> np.ndarray:
        """Numbers as a product with a matrix reads them; large: of 16 or more rows and columns."""
        if self.precision != "mixed" or not large:
            return values
        return round_to_tf32(values.astype(np.float32)).astype(np.float64)


def _chain(rng: np.random.Generator, sizes: Sizes, first: int, last: int, table: bool = False) -> Chain:
    widths = [first, *[sizes.width] * sizes.depth, last]
    shapes: list[tuple[int, ...]] = list(pairwise(widths))
    if table:
        shapes[0] = (sizes.types**2, *shapes[0])
    return tuple(
        Linear(rng.normal(size=shape) / np.sqrt(shape[-2]), n < len(shapes) - 1) for n, shape in enumerate(shapes)
    )


def _separable(rng: np.random.Generator, sizes: Sizes) -> SeparableTable:
    return SeparableTable(
        *(rng.normal(size=size) for size in ((sizes.radial, 21), (sizes.types, 9), (sizes.types, 12)))
    )


def _table_of_pairs(table: SeparableTable) -> Linear:
    """The same features by a matrix for every ordered pair of types."""
    factors = [np.concatenate([center, neighbor]) for center in table.center_types for neighbor in table.neighbor_types]
    return Linear(table.basis * np.array(factors)[:, None, :], False)


def _readout(rng: np.random.Generator, sizes: Sizes) -> Chain:
    depth = sizes.depth if sizes.readout_depth is None else sizes.readout_depth
    widths = [(sizes.layers + 1) * sizes.scalars, *[sizes.readout_width or sizes.width] * depth]
    return tuple(Linear(rng.normal(size=shape) / np.sqrt(shape[0]), True) for shape in pairwise(widths))


@cache
def mlps(sizes: Sizes, precision: str, matrix_units: bool = True) -> Mlps:
    return Mlps(sizes, precision, matrix_units)


@cache
def module(sizes: Sizes, precision: str, matrix_units: bool = True, order: str = "forward") -> CpuModule:
    return CpuModule(mlps(sizes, precision, matrix_units).source, order=order, optimize="-O1", warnings_are_errors=True)


@dataclass
class Edges:
    """What the rest of the potential gives for each edge, in the model's own order of components; float64 numbers that
    are REAL numbers. environment_gradients[k] is dE/d(env_k)."""

    basis: np.ndarray
    basis_slopes: np.ndarray
    pairs: np.ndarray
    invariants: list[np.ndarray]
    environment_gradients: list[np.ndarray]
    tensor_gradients: np.ndarray
    seeds: np.ndarray  # of each type

    @property
    def count(self) -> int:
        return len(self.pairs)


def make_edges(mlps: Mlps, count: int, seed: int = 2) -> Edges:
    rng, sizes = np.random.default_rng(seed), mlps.sizes

    def numbers(columns: int, rounded: bool = False, rows: int = count) -> np.ndarray:
        values = rng.normal(size=(rows, columns)).astype(mlps.real).astype(np.float64)
        return mlps.operand(values, rounded)

    weights = sizes.channels * sizes.slots
    return Edges(
        basis=numbers(sizes.radial),
        basis_slopes=numbers(sizes.radial),
        pairs=rng.integers(0, sizes.types**2, count).astype(np.int32),
        invariants=[numbers(sizes.channels, rounded) for rounded in mlps.rounding.invariants],
        environment_gradients=[numbers(weights, rounded) for rounded in mlps.rounding.environments],
        tensor_gradients=numbers(weights, mlps.rounding.tensor),
        seeds=numbers(len(mlps.folded.energy_weights), rows=sizes.types),
    )


@dataclass
class Results:
    """What the kernels make of the edges, in the model's own order of components."""

    scalars: list[np.ndarray]
    environments: list[np.ndarray]
    tensor: np.ndarray
    energies: np.ndarray
    scalar_gradients: list[np.ndarray] = field(default_factory=list)
    invariant_gradients: list[np.ndarray] = field(default_factory=list)
    radial_slopes: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def arrays(self) -> dict[str, np.ndarray]:
        lists = {
            "s": self.scalars, "env": self.environments, "ds": self.scalar_gradients, "dscal": self.invariant_gradients
        }  # fmt: skip
        named = {f"{name}_{n}": array for name, arrays in lists.items() for n, array in enumerate(arrays)}
        return {**named, "w": self.tensor, "energies": self.energies, "radial_slopes": self.radial_slopes}


class _Reference:
    """The chains in float64, with the operands rounded that a GPU rounds."""

    def __init__(self, mlps: Mlps, edges: Edges) -> None:
        self.mlps, self.edges = mlps, edges
        self.slopes: dict[tuple[str, int], np.ndarray] = {}

    def forward(self, name: str, chain: Chain, rows: np.ndarray) -> np.ndarray:
        value, slope = ACTIVATION_FUNCTIONS[self.mlps.activations[name]]
        for n, linear in enumerate(chain):
            if linear.matrix.ndim == 3:
                rows = np.einsum("zn,znc->zc", rows, linear.matrix[self.edges.pairs])
            else:
                rows = self.product(rows, linear.matrix)
            if linear.activated:
                self.slopes[name, n] = slope(rows)
                rows = value(rows)
        return rows

    def backward(self, name: str, chain: Chain, rows: np.ndarray) -> np.ndarray:
        for n in reversed(range(len(chain))):
            if chain[n].activated:
                rows = rows * self.slopes[name, n]
            if chain[n].matrix.ndim == 3:
                basis = np.einsum("zn,znc->zc", self.edges.basis_slopes, chain[n].matrix[self.edges.pairs])
                return (rows * basis).sum(axis=1)
            rows = self.product(rows, chain[n].matrix.T)
        return rows

    def product(self, rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        large = min(matrix.shape) >= LEAST_WIDTH
        return self.mlps.operand(rows, large) @ self.mlps.operand(matrix, large)


def in_numpy(mlps: Mlps, edges: Edges) -> Results:
    sizes, folded = mlps.sizes, mlps.folded
    n_scalars, weights = sizes.scalars, sizes.channels * sizes.slots
    chains = _Reference(mlps, edges)
    result = chains.forward("embedding", mlps.embedding, edges.basis)
    first, environment, tensor = np.split(result, [n_scalars, n_scalars + weights], axis=1)
    scalars, environments = [first], [environment]
    for k, chain in enumerate(folded.latents):
        result = chains.forward(f"latent_{k}", chain, np.concatenate([*scalars, edges.invariants[k]], axis=1))
        scalars.append(result[:, :n_scalars])
        environments.append(result[:, n_scalars:])
    last = chains.forward("readout", folded.readout, np.concatenate(scalars, axis=1))
    results = Results(scalars, environments[: sizes.layers], tensor, last @ folded.energy_weights)

    gradient = chains.backward("readout", folded.readout, edges.seeds[edges.pairs // sizes.types])
    gradients = np.split(gradient, sizes.layers + 1, axis=1)
    for k in reversed(range(sizes.layers)):
        incoming = [gradients[k + 1], *([edges.environment_gradients[k + 1]] if k + 1 < sizes.layers else [])]
        result = chains.backward(f"latent_{k}", folded.latents[k], np.concatenate(incoming, axis=1))
        *parts, invariants = np.split(result, np.arange(1, k + 2) * n_scalars, axis=1)
        gradients[: k + 1] = [before + part for before, part in zip(gradients, parts, strict=False)]
        results.invariant_gradients.insert(0, invariants)
    incoming = [gradients[0], edges.environment_gradients[0], edges.tensor_gradients]
    results.scalar_gradients = gradients
    results.radial_slopes = chains.backward("embedding", mlps.embedding, np.concatenate(incoming, axis=1))
    return results


def multiply(buffers: dict[str, np.ndarray], product: Product, count: int) -> None:
    """What cuBLAS does on a GPU; in rows past `count` operands may be anything."""

    def matrix(place: Matrix, rows: int, columns: int) -> np.ndarray:
        array = buffers[place.buffer].reshape(-1)[place.offset :]
        strides = (place.stride * array.itemsize, array.itemsize)
        return np.lib.stride_tricks.as_strided(array, (rows, columns), strides)

    left = matrix(product.left, product.rows, product.inner)
    right = matrix(product.right, product.inner, product.columns)
    if product.tensor_cores:
        assert np.array_equal(left[:count], round_to_tf32(left[:count])), "an operand was not rounded"
        assert np.array_equal(right, round_to_tf32(right)), "a matrix was not rounded"
    out = matrix(product.out, product.rows, product.columns)
    result = left.astype(np.float64) @ right.astype(np.float64)
    out[:] = result + (out if product.accumulate else 0.0)


def on_kernels(mlps: Mlps, module: CpuModule, edges: Edges, shift: int = 0) -> Results:
    """The same by the kernels. shift: rows of other edges before these."""
    sizes, d, real = mlps.sizes, mlps.dimensions, mlps.real
    count = edges.count + shift
    capacity = max(128, -(-count // 128) * 128)
    filler = np.random.default_rng(3)
    rows = slice(shift, count)
    buffers: dict[str, np.ndarray] = {
        "x": mlps.operand(filler.normal(size=(capacity, d.LDX)), True).astype(real),
        "dx": np.full((capacity, d.LDX), 7.0, real),  # stale: all is overwritten before it is added to
        "env": np.zeros((d.layers, capacity, d.NE), real),
        "w": np.zeros((capacity, d.NW), real),
        "basis": filler.normal(size=(d.radial, capacity)).astype(real),
        "basis_slopes": filler.normal(size=(d.radial, capacity)).astype(real),
        "pairs": np.zeros(capacity, np.int32),
        "seeds": np.zeros((d.types, len(mlps.constants["energy_weights"])), real),
        "edge_energies": np.zeros(capacity),
        "radial_slope": np.zeros(capacity),
        "first": np.array([0, count // 2, count], np.int32),
        "chunk_centers": np.array([4, 4, 6], np.int32),  # the chunk of number 1 has two centres, from 4 on
        **{
            name: np.zeros((capacity, columns), real)
            for name, columns in mlp_header.mlp_buffers(d, mlps.shapes).items()
        },
        **mlps.constants,
    }
    buffers["basis"][:, rows] = edges.basis.T
    buffers["basis_slopes"][:, rows] = edges.basis_slopes.T
    buffers["pairs"][rows] = edges.pairs
    last_columns = np.arange(edges.seeds.shape[1])
    if not mlps.folded.readout:
        last_columns = (np.arange(sizes.layers + 1)[:, None] * d.SP + np.arange(sizes.scalars)).ravel()
    buffers["seeds"][:, last_columns] = edges.seeds
    numbers = {"chunk": np.int32(1), "capacity": np.int32(capacity), "first_row": np.int32(0)}

    stages = mlp_header.mlp_stages(d, mlps.shapes, [capacity])

    def launch(stage: str) -> None:
        for step in stages.get(stage, ()):  # the last latent MLP may be part of the read-out's
            if isinstance(step, Product):
                multiply(buffers, step, count)
                continue
            kernel = mlps.kernels[step.kernel]
            arguments = [numbers[name] if name in numbers else buffers[name] for name in kernel.arguments]
            module.launch(step.kernel, (capacity // kernel.tile,), (kernel.threads,), arguments, kernel.shared_bytes)

    def of_model(rows_of: np.ndarray) -> np.ndarray:
        """Slot-major padded columns -> the model's u slots + l."""
        array = rows_of[rows].reshape(edges.count, sizes.slots, d.UP)[:, :, : sizes.channels]
        return array.transpose(0, 2, 1).reshape(edges.count, sizes.channels * sizes.slots).astype(np.float64)

    def of_kernels(values: np.ndarray) -> np.ndarray:
        padded = np.zeros((capacity, sizes.slots, d.UP), real)
        padded[rows, :, : sizes.channels] = values.reshape(edges.count, sizes.channels, sizes.slots).transpose(0, 2, 1)
        return padded.reshape(capacity, d.NE)

    def scalars(name: str, k: int) -> np.ndarray:
        at = d.UP + k * d.SP
        assert not buffers[name][rows, at + sizes.scalars : at + d.SP].any(), "padding is not zero"
        return buffers[name][rows, at : at + sizes.scalars].astype(np.float64)

    launch("embedding_forward")
    for k in range(sizes.layers):
        buffers["x"][rows, : d.UP] = 0.0
        buffers["x"][rows, : sizes.channels] = edges.invariants[k]
        launch(f"latent_{k}_forward")
    for stage in stages:
        if "readout" in stage:
            launch(stage)
    results = Results(
        [scalars("x", k) for k in range(sizes.layers + 1)],
        [of_model(array) for array in buffers["env"]],
        of_model(buffers["w"]),
        buffers["edge_energies"][rows],
    )
    for k in reversed(range(sizes.layers)):
        if k + 1 < sizes.layers:
            buffers["denv"] = of_kernels(edges.environment_gradients[k + 1])
        launch(f"latent_{k}_backward")
        assert not buffers["dx"][rows, sizes.channels : d.UP].any(), "padding is not zero"
        results.invariant_gradients.insert(0, buffers["dx"][rows, : sizes.channels].astype(np.float64))
    buffers["denv"] = of_kernels(edges.environment_gradients[0])
    buffers["dw"] = of_kernels(edges.tensor_gradients)
    launch("embedding_backward")
    results.scalar_gradients = [scalars("dx", k) for k in range(sizes.layers + 1)]
    results.radial_slopes = buffers["radial_slope"][rows]
    return results


def expected(mlps: Mlps, edges: Edges) -> Results:
    """What memory holds: columns that are operands next are rounded."""
    results, rounding = in_numpy(mlps, edges), mlps.rounding
    results.scalars = [mlps.operand(s, r) for s, r in zip(results.scalars, rounding.features, strict=True)]
    results.scalar_gradients = [
        mlps.operand(s, r) for s, r in zip(results.scalar_gradients, rounding.gradients, strict=True)
    ]
    return results


def assert_close(mlps: Mlps, got: Results, wanted: Results) -> None:
    for name, want in wanted.arrays().items():
        have = got.arrays()[name]
        assert have.shape == want.shape, name
        if not want.size:
            continue
        scale = np.abs(want).max()
        error = np.abs(have - want) / scale
        assert error.max() < TOLERANCE[mlps.precision], f"{name}: {error.max():.2e}"
        if mlps.precision == "mixed":
            # Hidden numbers a float32 rounding away from the middle between two TF32 numbers are few; edges without any
            # agree to what sums lose that are cut off every eight terms: half a last bit of float32 each, always to the
            # same side, 32 times in a sum of 256. Operands not rounded alike would differ by some 1e-4 everywhere.
            most = np.quantile(error, 0.2)
            assert most < 1e-5, f"{name}: {most:.2e}"
            assert np.sqrt(np.mean(error**2)) < 2e-4, f"{name}: {np.sqrt(np.mean(error**2)):.2e}"


def check(sizes: Sizes, precision: str, count: int, matrix_units: bool = True, order: str = "forward") -> None:
    chains = mlps(sizes, precision, matrix_units)
    edges = make_edges(chains, count)
    got = on_kernels(chains, module(sizes, precision, matrix_units, order), edges)
    assert_close(chains, got, expected(chains, edges))


SHAPES = {
    "8-4-8": Sizes(8, 4, 8, 1, activations=("silu", "gelu")),
    "16-8-16": Sizes(16, 8, 16, 1),
    "32-16-32": Sizes(32, 16, 32, 2),
    "64-64-64": Sizes(64, 64, 64, 1, slots=1),
    "128-64-128": Sizes(128, 64, 128, 2, slots=3),
    "width 256": Sizes(32, 8, 256, 2),
    "odd": Sizes(13, 5, 21, 2, radial=1, activations=("silu", "tanh")),
    "deep": Sizes(16, 8, 40, 3, layers=3),
    "linear": Sizes(20, 6, 8, 0),
    "one layer": Sizes(16, 8, 24, 1, layers=1, types=1),
    "linear read-out": Sizes(16, 8, 24, 1, readout_depth=0),
    "narrow read-out": Sizes(24, 8, 24, 1, readout_width=8),
    "wide": Sizes(20, 8, 260, 2, slots=1, readout_width=24),
    "many types": Sizes(16, 8, 24, 1, types=3, separable=True),
    "many types, wide": Sizes(16, 8, 264, 1, layers=1, types=3, separable=True),
}
USUAL = [("odd", precision) for precision in PRECISIONS]
USUAL += [("linear", "double"), ("linear read-out", "mixed"), ("narrow read-out", "mixed"), ("32-16-32", "mixed")]
USUAL += [("wide", precision) for precision in PRECISIONS]
USUAL += [("many types", "double"), ("many types", "mixed"), ("many types, wide", "single")]


@pytest.mark.parametrize(("shape", "precision"), USUAL)
def test_kernels_agree_with_numpy(shape: str, precision: str) -> None:
    check(SHAPES[shape], precision, 70)


@pytest.mark.parametrize("precision", ["double", "single"])
def test_kernels_agree_with_numpy_without_matrix_units(precision: str) -> None:
    check(SHAPES["odd"], precision, 70, matrix_units=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "matrix_units"),
    [("double", True), ("double", False), ("single", True), ("single", False), ("mixed", True)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_agrees_with_numpy(shape: str, precision: str, matrix_units: bool) -> None:
    check(SHAPES[shape], precision, 150, matrix_units)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_any_number_of_edges(count: int) -> None:
    check(SHAPES["32-16-32"], "mixed", count)


@pytest.mark.parametrize("order", ["reverse", "random:5"])
def test_bits_do_not_depend_on_the_order_of_threads(order: str) -> None:
    sizes = SHAPES["32-16-32"]
    chains = mlps(sizes, "mixed")
    edges = make_edges(chains, 40)
    assert_same_bits(
        on_kernels(chains, module(sizes, "mixed"), edges),
        on_kernels(chains, module(sizes, "mixed", order=order), edges),
    )


@pytest.mark.parametrize(("shape", "precision"), [("odd", "double"), ("odd", "single"), ("32-16-32", "mixed")])
def test_bits_of_an_edge_do_not_depend_on_its_row(shape: str, precision: str) -> None:
    chains, kernels = mlps(SHAPES[shape], precision), module(SHAPES[shape], precision)
    edges = make_edges(chains, 30)
    assert_same_bits(on_kernels(chains, kernels, edges), on_kernels(chains, kernels, edges, shift=117))


def assert_same_bits(first: Results, second: Results) -> None:
    for name, array in first.arrays().items():
        assert np.array_equal(array, second.arrays()[name]), name


def test_operands_are_rounded_by_who_writes_them() -> None:
    chains = mlps(SHAPES["32-16-32"], "mixed")
    edges = make_edges(chains, 70)
    results = on_kernels(chains, module(SHAPES["32-16-32"], "mixed"), edges)
    assert all(chains.rounding.features) and all(chains.rounding.gradients)
    for rounded in (*results.scalars, *results.scalar_gradients):
        assert np.array_equal(rounded, round_to_tf32(rounded))
    unrounded = in_numpy(mlps(SHAPES["32-16-32"], "single"), edges)
    difference = results.energies - unrounded.energies
    assert np.sqrt(np.mean(difference**2)) > 1e-4 * np.abs(unrounded.energies).max()  # the tolerance would see it


def test_features_with_a_narrow_reader_stay_whole() -> None:
    """A read-out of fewer than 16 columns, or without any, takes float32; the latents then round what they read."""
    for name in ("narrow read-out", "linear read-out"):
        chains = mlps(SHAPES[name], "mixed")
        assert not any(chains.rounding.features)
        assert "ROUNDING_TF32" in chains.source


@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_fit_shared_memory(precision: str) -> None:
    for width in range(8, 264, 8):
        for depth in (0, 1, 2):
            for kernel in Mlps(Sizes(width, 8, width, depth), precision).kernels.values():
                assert kernel.shared_bytes <= SHARED_BYTES
                assert 128 % kernel.tile == 0


@pytest.mark.parametrize("precision", ["double", "single"])
def test_activations(precision: str) -> None:
    names = [name for name in ACTIVATION_FUNCTIONS if name != "identity"]
    macros = "".join(f"#define PRECISION_{name.upper()} {int(name == precision)}\n" for name in PRECISIONS)
    kernels = "".join(
        f'extern "C" __global__ void kernel_{name}(REAL* values, REAL* slopes, const REAL* x) {{\n'
        f"  activate<{name.upper()}>(x[threadIdx.x], values[threadIdx.x], slopes[threadIdx.x]);\n}}\n"
        for name in names
    )
    compiled = CpuModule(assemble(macros, "activations.cuh", kernels), warnings_are_errors=True)
    real = np.float64 if precision == "double" else np.float32
    large = np.geomspace(1e-20, 300.0, 100)
    x = np.concatenate([np.linspace(-12.0, 12.0, 301), large, -large, [0.0]]).astype(real)
    for name in names:
        value, slope = (function(x.astype(np.float64)) for function in ACTIVATION_FUNCTIONS[name])
        values, slopes = np.empty_like(x), np.empty_like(x)
        compiled.launch(f"kernel_{name}", (1,), (len(x),), (values, slopes, x))
        # A few roundings; gelu's of 1 + erf, times x, where it is nearly zero.
        np.testing.assert_allclose(values, value, rtol=8 * np.finfo(real).eps, atol=16 * np.finfo(real).eps)
        np.testing.assert_allclose(slopes, slope, rtol=8 * np.finfo(real).eps, atol=8 * np.finfo(real).eps)
