"""Edge and scan kernels of the CUDA potential, run on the CPU, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.cuda_center_module import EdgeModule, model_of

from allegro_sim.kernels.cpu.fixed_point import FORCE_SCALE, forces_to_float, words_to_float
from allegro_sim.kernels.numba_cuda.control import FOUND, WORDS
from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model.description import BesselEmbedding, LennardJones, SplineEmbedding
from allegro_sim.model.reference_pairs import pair_backward, pair_forward
from allegro_sim.potential.cuda.center_header import pair_table, pair_terms_size

ROWS, OWNED = 60, 25


class Chunks:
    """Atoms, ghosts, and all edges within reach of the owned ones, cut into chunks; arrays for the kernels."""

    def __init__(self, module: EdgeModule, cuts: tuple[int, ...] = (0, 4, OWNED), seed: int = 0) -> None:
        self.module, model = module, module.model
        rng = np.random.default_rng(seed)
        self.positions = rng.uniform(-4.0, 4.0, (ROWS, 3))
        self.images = rng.integers(-1, 2, (ROWS, 3)).astype(np.int32)
        self.cell = np.array([[2.1, 0.3, 0.0], [0.1, 1.7, -0.2], [0.4, 0.0, 1.9]])
        self.types = rng.integers(0, model.num_types, ROWS).astype(np.int32)
        i, j = (table.ravel() for table in np.indices((OWNED, ROWS)))
        n = (self.images[j] - self.images[i]).astype(np.float64)
        # The order of operations of kernels/cpu/edges.py; NumPy fuses none of them.
        shifts = (n[:, :1] * self.cell[0] + n[:, 1:2] * self.cell[1]) + n[:, 2:] * self.cell[2]
        r = (self.positions[j] - self.positions[i]) + shifts
        d = np.sqrt((r[:, 0] * r[:, 0] + r[:, 1] * r[:, 1]) + r[:, 2] * r[:, 2])
        # The third centre has no edges.
        kept = (d < model.reaches[self.types[i], self.types[j]]) & (d > 0.4) & (i != 2)
        self.i, self.j, self.r, self.d = i[kept], j[kept], r[kept], d[kept]
        self.counts = np.bincount(self.i, minlength=OWNED).astype(np.int32)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.cuts = np.array(cuts, np.int32)
        most = max(self.starts[b] - self.starts[a] for a, b in pairwise(cuts))
        self.capacity = -(-(most + 1) // 128) * 128
        self.constants = {
            "positions": self.positions, "images": self.images, "types": self.types, "cell": self.cell,
            "cutoffs": np.ascontiguousarray(model.cutoffs), "pair_table": pair_table(model), "counts": self.counts,
            "frequencies": np.asarray(getattr(model.radial, "frequencies", np.zeros(1)), np.float64),
            "energy_factors": model.edge_sum_norms * model.scales, "shifts": model.shifts.astype(np.float64),
            "chunk_centers": self.cuts,
        }  # fmt: skip
        self.results = {
            "energies": np.full(OWNED, np.nan), "forces": np.zeros((ROWS, 3), np.int64),
            "virial_words": np.zeros((9, 2), np.int64), "atom_virials": np.zeros((ROWS, 9), np.int64),
            "faults": np.zeros(ROWS, np.uint8), "status": np.zeros(8, np.int32),
            "control": np.zeros(WORDS, np.int64),
        }  # fmt: skip

    def rows(self, chunk: int) -> slice:
        return slice(*self.starts[self.cuts[chunk : chunk + 2]])

    def arrays(self, chunk: int) -> dict[str, np.ndarray]:
        """All arrays of one chunk; what the kernels are to write is NaN, or nonsense where it is an integer."""
        size, real, capacity = self.module.size, self.module.real, self.capacity
        rows = self.rows(chunk)
        count = rows.stop - rows.start

        def edge_numbers(values: np.ndarray) -> np.ndarray:
            table = np.full(capacity, -12345, np.int32)
            table[:count] = values[rows]
            return table

        return {
            **self.constants, **self.results,
            "first": np.full(self.cuts[chunk + 1] - self.cuts[chunk] + 1, -1, np.int32),
            "edge_center": edge_numbers(self.i - self.cuts[chunk]), "edge_neighbor": edge_numbers(self.j),
            "vectors": np.full((3, capacity), np.nan), "pairs": np.full(capacity, -1, np.int32),
            "basis": np.full((size("NB"), capacity), np.nan, real),
            "basis_slopes": np.full((size("NB"), capacity), np.nan, real),
            "harmonics": np.full((capacity, size("MP")), np.nan, real),
            "pair_terms": np.full(max(1, pair_terms_size(self.module.model, capacity)), np.nan),
        }  # fmt: skip

    def geometry(self, chunk: int) -> dict[str, np.ndarray]:
        arrays = self.arrays(chunk)
        for name in ("scan_chunk", "edge_geometry"):
            self.module.launch(name, arrays, chunk=chunk, capacity=self.capacity)
        return arrays

    def forces(self, slopes: np.ndarray, gradients: np.ndarray, **wanted: int) -> None:
        """Add forces of all chunks; slopes (Z,) dE/dx, gradients (Z, M) dE/dY, divided among the warps."""
        warps, components = self.module.size("WARPS"), self.module.size("M")
        for chunk in range(len(self.cuts) - 1):
            arrays, rows = self.geometry(chunk), self.rows(chunk)
            count = rows.stop - rows.start
            radial = np.full(self.capacity, np.nan)
            radial[:count] = slopes[rows]
            shares = np.full((warps, self.capacity, self.module.size("MP")), np.nan, self.module.real)
            shares[:, :count, 1:components] = gradients[rows, 1:] / warps
            arrays |= {"radial_slope": radial, "harmonic_gradient": shares}
            flags = {"want_virial": 1, "want_atom_virials": 1} | wanted
            self.module.launch("edge_forces", arrays, chunk=chunk, capacity=self.capacity, **flags)


def random_gradients(chunks: Chunks, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    size = (len(chunks.i), chunks.module.size("M"))
    values = rng.standard_normal(size).astype(chunks.module.real)
    return scale * rng.standard_normal(size[0]), scale * values


def edge_gradients(chunks: Chunks, slopes: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """dE/dr (Z, 3) of the reference, the repulsion included."""
    model = chunks.module.model
    types = chunks.types[chunks.i], chunks.types[chunks.j]
    lengths, units = geometry.lengths_forward(chunks.r)
    cutoffs = model.cutoffs[types]
    gradients = np.concatenate([np.zeros((len(gradients), 1)), gradients[:, 1:]], axis=1)
    by_units = geometry.spherical_harmonics_backward(gradients, units, model.l_max)
    by_lengths = slopes / cutoffs
    if model.pair_term is not None:
        by_d, by_x = pair_backward(np.ones(len(lengths)), model.pair_term, lengths, lengths / cutoffs, *types)
        by_lengths = by_lengths + by_d + by_x / cutoffs
    return geometry.lengths_backward(by_lengths, by_units, lengths, units)


def expected_basis(model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Basis and slopes (NB, Z) of the reference: its embedding with the identity for weights."""
    types = np.zeros(len(x), np.int64)
    radial = model.radial
    if isinstance(radial, BesselEmbedding):
        number = len(radial.frequencies)
        radial = BesselEmbedding(
            radial.frequencies, radial.cutoff_exponent, np.ones((1, number)), np.ones((1, 0)), np.eye(number)
        )
    else:
        number = radial.weights.shape[-1]
        radial = SplineEmbedding(np.eye(number)[None, None], radial.span)
    slopes = [geometry.radial_backward(np.tile(row, (len(x), 1)), radial, x, types, types) for row in np.eye(number)]
    return geometry.radial_forward(radial, x, types, types).T, np.array(slopes)


def with_frequencies(model, frequencies: list[float], exponent: float):
    linear = np.ones((len(frequencies), model.radial.basis_linear.shape[1]))
    radial = replace(model.radial, frequencies=np.array(frequencies), cutoff_exponent=exponent, basis_linear=linear)
    return replace(model, radial=radial)


def with_lennard_jones(exponent: float | None, reach: float | None = None, **form):
    term = LennardJones(1.3, 0.05, exponent, reach, **form)
    return replace(model_of(1, 4, 1, per_pair_cutoffs=True), pair_term=term)


DELTA = np.array([[0.3, 0.1, 0.0], [0.2, 0.0, 0.4], [0.1, 0.2, 0.3]])  # not symmetric: which type is whose is seen

MODELS = {
    "bessel": lambda: model_of(2, 8, 1),
    "trained frequencies": lambda: with_frequencies(model_of(1, 8, 1), [0.97, 2.04, 3.3], 6.5),
    "one bessel": lambda: with_frequencies(model_of(0, 4, 1), [1.0], 2.0),
    "spline": lambda: model_of(3, 40, 1, spline=True),
    "repulsion": lambda: model_of(1, 4, 1, zbl=True, per_pair_cutoffs=True),
    "Lennard-Jones": lambda: with_lennard_jones(5.0),
    "Lennard-Jones, sharp": lambda: with_lennard_jones(None, 4.5),  # beyond the cutoffs
    "degree 5": lambda: model_of(5, 4, 1),
    "repulsive part": lambda: with_lennard_jones(5.0, delta=DELTA, power=4.5, style="lj_repulsive_only"),
    "repulsive": lambda: with_lennard_jones(5.0, delta=DELTA, power=3.0, style="repulsive"),
}


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "double") for name in MODELS), ("bessel", "single"), ("spline", "single")]
)
def test_geometry(name, precision):
    model = MODELS[name]()
    chunks = Chunks(EdgeModule(model, precision))
    # A few roundings; values of degree 5 and slopes of the basis reach some tens.
    bound = 1e-12 if precision == "double" else 4e-6
    for chunk in range(2):
        arrays, rows = chunks.geometry(chunk), chunks.rows(chunk)
        count, r = rows.stop - rows.start, chunks.r[rows]
        first = chunks.starts[chunks.cuts[chunk] : chunks.cuts[chunk + 1] + 1] - rows.start
        assert np.array_equal(arrays["first"], first)
        assert np.array_equal(arrays["vectors"][:, :count], r.T)  # the same bits
        types = chunks.types[chunks.i[rows]], chunks.types[chunks.j[rows]]
        assert np.array_equal(arrays["pairs"][:count], types[0] * model.num_types + types[1])
        lengths, units = geometry.lengths_forward(r)
        x = lengths / model.cutoffs[types]
        basis, slopes = expected_basis(model, x)
        harmonics = geometry.spherical_harmonics_forward(units, model.l_max)
        expected = {"basis": basis, "basis_slopes": slopes, "harmonics": harmonics.T}
        beyond = np.flatnonzero(x >= 1.0)
        assert (len(beyond) > 0) == (name == "Lennard-Jones, sharp")
        assert not arrays["basis"][:, beyond].any() and not arrays["basis_slopes"][:, beyond].any()
        for key, values in expected.items():
            table = arrays[key].T if key == "harmonics" else arrays[key]
            assert np.abs(table[: len(values), :count] - values).max() <= bound * max(1.0, np.abs(values).max())
        padding = (slice(None), slice(count, None))
        for table in (arrays["vectors"], arrays["basis"], arrays["basis_slopes"], arrays["harmonics"].T):
            assert not table[padding].any()
        assert not arrays["harmonics"][:, harmonics.shape[1] :].any()
        for key in ("pairs", "edge_center", "edge_neighbor"):
            assert not arrays[key][count:].any()
        if model.pair_term is not None:
            terms = arrays["pair_terms"].reshape(2, -1)
            by_d, by_x = pair_backward(np.ones(count), model.pair_term, lengths, x, *types)
            slope = by_d + by_x / model.cutoffs[types]
            assert np.allclose(
                terms[0, :count], pair_forward(model.pair_term, lengths, x, *types), rtol=1e-12, atol=1e-13
            )
            assert np.allclose(terms[1, :count], slope, rtol=1e-11, atol=1e-12)
            assert not terms[:, count:].any()


@pytest.mark.parametrize("name", ["bessel", "one bessel", "spline", "repulsion", "Lennard-Jones", "degree 5"])
def test_forces_and_virials(name):
    chunks = Chunks(EdgeModule(MODELS[name](), "double"))
    slopes, by_harmonics = random_gradients(chunks)
    chunks.forces(slopes, by_harmonics)
    gradients = edge_gradients(chunks, slopes, by_harmonics)
    forces, virials = np.zeros((ROWS, 3)), np.zeros((ROWS, 3, 3))
    np.add.at(forces, chunks.i, gradients)
    np.add.at(forces, chunks.j, -gradients)
    np.add.at(virials, chunks.j, -chunks.r[:, :, None] * gradients[:, None, :])
    results = chunks.results
    # Half a unit of 2^-40 an edge, and roundings of float64.
    bound = 1e-10 * max(1.0, np.abs(gradients).max())
    assert np.abs(forces_to_float(results["forces"]) - forces).max() < bound
    assert not results["forces"].sum(axis=0).any()  # exactly
    assert np.abs(results["atom_virials"].reshape(ROWS, 3, 3) / FORCE_SCALE - virials).max() < 4 * bound
    assert np.abs(words_to_float(results["virial_words"]) - virials.sum(axis=0).ravel()).max() < 4 * bound
    assert not results["faults"].any()
    assert not results["status"].any()


def test_virials_only_where_wanted():
    chunks = Chunks(EdgeModule(MODELS["bessel"](), "double"))
    chunks.forces(*random_gradients(chunks), want_virial=0, want_atom_virials=0)
    assert chunks.results["forces"].any()
    assert not chunks.results["virial_words"].any()
    assert not chunks.results["atom_virials"].any()


@pytest.mark.parametrize("precision", ["double", "single"])
def test_forces_do_not_depend_on_chunks_or_order(precision):
    """Bits: one chunk or three, threads and blocks in any order."""
    found = []
    for cuts, settings in (
        ((0, OWNED), {}),
        ((0, 3, 11, OWNED), {"order": "reverse"}),
        ((0, 24, OWNED), {"order": "random:5", "block_order": "reverse"}),
    ):
        chunks = Chunks(EdgeModule(MODELS["repulsion"](), precision, **settings), cuts)
        chunks.forces(*random_gradients(chunks))
        found.append(chunks.results)
    for results in found[1:]:
        for name in ("forces", "virial_words", "atom_virials"):
            assert np.array_equal(results[name], found[0][name]), name


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_gradient_out_of_range_marks_its_centre(value):
    chunks = Chunks(EdgeModule(MODELS["bessel"](), "double"))
    slopes, by_harmonics = random_gradients(chunks)
    bad = chunks.starts[7]  # the first edge of centre 7
    slopes[bad] = value
    chunks.forces(slopes, by_harmonics)
    assert np.flatnonzero(chunks.results["faults"]).tolist() == [7]
    assert chunks.results["status"].tolist() == [0, 8, 0, 0, 0, 0, 0, 0]


def test_large_gradients_are_summed_and_sums_out_of_range_reported():
    """Terms between 2^17 and 2^22 are valid; more than two of the largest on an atom leave the range of 64 bits."""
    module = EdgeModule(MODELS["one bessel"](), "double")
    chunks = Chunks(module)
    slopes, by_harmonics = np.zeros(len(chunks.i)), np.zeros((len(chunks.i), 1))
    of_7 = np.arange(*chunks.starts[7:9])
    cutoffs = module.model.cutoffs[chunks.types[7], chunks.types[chunks.j[of_7]]]
    slopes[of_7[:2]] = 2.0e5 * cutoffs[:2]
    chunks.forces(slopes, by_harmonics, want_virial=0, want_atom_virials=0)
    expected = edge_gradients(chunks, slopes, by_harmonics)[of_7[:2]].sum(axis=0)
    # Roundings of float64.
    assert np.allclose(forces_to_float(chunks.results["forces"][7]), expected, rtol=0, atol=1e-9)
    assert not chunks.results["faults"].any()

    chunks = Chunks(module)
    toward = chunks.r[of_7] @ np.array([1.0, 0.0, 0.0]) / chunks.d[of_7]
    slopes[of_7] = np.where(toward > 0, 4.0e6, -4.0e6) * cutoffs  # all push along +x: the sum is far beyond 2^23
    assert np.abs(toward).sum() * 4.0e6 > 2.0**23
    chunks.forces(slopes, by_harmonics, want_virial=0, want_atom_virials=0)
    assert np.flatnonzero(chunks.results["faults"]).tolist() == [7]


@pytest.mark.parametrize("name", ["bessel", "repulsion", "Lennard-Jones, sharp"])
def test_energies(name):
    model = MODELS[name]()
    chunks = Chunks(EdgeModule(model, "double"))
    edge_energies = np.random.default_rng(2).standard_normal(len(chunks.i))
    edge_energies[chunks.starts[9]] = np.nan
    pairs = np.zeros(len(chunks.i))
    types = chunks.types[chunks.i], chunks.types[chunks.j]
    if model.pair_term is not None:
        pairs = pair_forward(model.pair_term, chunks.d, chunks.d / model.cutoffs[types], *types)
    for chunk in range(2):
        arrays, rows = chunks.geometry(chunk), chunks.rows(chunk)
        arrays["edge_energies"] = np.full(chunks.capacity, np.nan)
        arrays["edge_energies"][: rows.stop - rows.start] = edge_energies[rows]
        numbers = {"chunk": chunk, "capacity": chunks.capacity, "max_centers": OWNED}
        chunks.module.launch("center_energies", arrays, **numbers)
    factors = (model.edge_sum_norms * model.scales)[chunks.types[:OWNED]]
    total = np.bincount(chunks.i, edge_energies, OWNED)
    expected = model.shifts[chunks.types[:OWNED]] + factors * total + np.bincount(chunks.i, pairs, OWNED)
    # A few roundings.
    assert np.allclose(chunks.results["energies"], expected, rtol=1e-13, atol=1e-13, equal_nan=True)
    assert np.flatnonzero(chunks.results["faults"]).tolist() == [9]
    assert chunks.results["status"].tolist() == [0, 10, 0, 0, 0, 0, 0, 0]

    # A step that does not go on keeps what the last one has found.
    kept = {name: chunks.results[name].copy() for name in ("energies", "faults", "status")}
    chunks.results["control"][FOUND] = 1
    chunks.module.launch("center_energies", arrays, **numbers)
    for name, values in kept.items():
        assert np.array_equal(chunks.results[name], values, equal_nan=name == "energies")


@pytest.mark.parametrize("number", [0, 1, 31, 4096, 4097, 20_001])
def test_scan(number):
    module = EdgeModule(MODELS["one bessel"](), "double")
    rng = np.random.default_rng(number)
    counts = rng.integers(0, 60, number + 10).astype(np.int32)
    first, status = np.full(number + 1, -1, np.int32), np.zeros(8, np.int32)
    arrays = {
        "first": first, "status": status, "control": np.zeros(WORDS, np.int64), "counts": counts,
        "chunk_centers": np.array([0, 3, 3 + number], np.int32),
    }  # fmt: skip
    expected = np.concatenate([[0], np.cumsum(counts[3 : 3 + number])])
    module.launch("scan_chunk", arrays, chunk=1, capacity=int(expected[-1]))
    assert np.array_equal(first, expected)
    assert not status.any()

    smaller = int(expected[-1]) // 2
    module.launch("scan_chunk", arrays, chunk=1, capacity=smaller)
    assert np.array_equal(first, np.minimum(expected, smaller))
    assert status[0] == (expected[-1] if number and expected[-1] > smaller else 0)
    status[0] = needed = 2_000_000
    module.launch("scan_chunk", arrays, chunk=1, capacity=smaller)
    assert status[0] == needed  # the largest of all chunks stays

    arrays["control"][FOUND] = 1  # a step that does not go on: no chunk has edges
    module.launch("scan_chunk", arrays, chunk=1, capacity=smaller)
    assert not first.any() and status[0] == needed


def test_scan_of_counts_beyond_32_bits():
    module = EdgeModule(MODELS["one bessel"](), "double")
    first, status = np.full(6, -1, np.int32), np.zeros(8, np.int32)
    counts = np.full(5, 2**30, np.int32)
    arrays = {"first": first, "status": status, "counts": counts, "chunk_centers": np.array([0, 5], np.int32)}
    arrays["control"] = np.zeros(WORDS, np.int64)
    module.launch("scan_chunk", arrays, chunk=0, capacity=1 << 20)
    assert first.tolist() == [0, *[1 << 20] * 5]
    assert status[0] == 2**31 - 1


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["address", "undefined", "thread"])
def test_sanitizers(sanitize):
    found = []
    for settings in ({}, {"sanitize": sanitize}):
        chunks = Chunks(EdgeModule(MODELS["repulsion"](), "single", **settings))
        chunks.forces(*random_gradients(chunks))
        found.append(chunks.results)
    for name in ("forces", "virial_words", "atom_virials", "faults", "status"):
        assert np.array_equal(found[0][name], found[1][name]), name
