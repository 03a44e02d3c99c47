"""Centre kernels of the CUDA potential, run on the CPU, against the tensor track's identity in float64."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from support.cuda_center_module import CenterModule, model_of

from allegro_sim.model.reference_identity import (
    center_vector_backward,
    center_vector_forward,
    invariants_backward,
    invariants_forward,
)
from allegro_sim.model.reference_layers import (
    environment_backward,
    environment_forward,
    tensor_product_forward,
    weighted_harmonics_backward,
    weighted_harmonics_forward,
)
from allegro_sim.potential.cuda.center_header import chain_size, environment_gradient_size

MANY = (0, 1, 300, 0, 7, 33, 2, 0)  # edges of the centres of the chunk
FEW = (3, 0, 1, 9, 5, 0)
MAP_NORESERVE = 0x4000  # Linux; Python names it since 3.13
BEFORE = 5  # centres of the chunks before

# (l_max, U), layers, parity, shared weights
SHAPES = [
    ((0, 4), 2, True, ""),
    ((1, 8), 1, True, "env w"),
    ((2, 16), 2, True, ""),
    ((2, 64), 2, True, ""),
    ((3, 8), 3, True, "env"),
    ((3, 64), 2, False, "w"),
    ((2, 20), 2, True, ""),
    ((4, 8), 1, True, "w"),  # more components than groups of a centre exchange at once
    ((1, 136), 2, True, ""),  # one group of threads a centre, with empty lanes
]
ALL_SHAPES = [
    ((l_max, channels), layers, parity, shared)
    for l_max, channels in ((0, 4), (1, 8), (2, 16), (2, 64), (3, 8), (3, 64))
    for layers in (1, 2, 3)
    for parity in ((True, False) if l_max == 3 else (True,))
    for shared in ("", "env", "w", "env w")
]


class Case:
    """Random features of a chunk: arrays for the kernels, and the same numbers as the reference wants them."""

    def __init__(self, module: CenterModule, counts: tuple[int, ...], seed: int = 0) -> None:
        self.module, self.model, real = module, module.model, module.real
        rng = np.random.default_rng(seed)
        model, size = self.model, module.size
        self.num_centers, self.count = len(counts), sum(counts)
        self.capacity, self.max_centers = -(-(self.count + 1) // 128) * 128, len(counts) + 3
        layers, channels, padded = model.num_layers, model.num_tensor_features, size("UP")

        def features(*shape: int) -> np.ndarray:
            """Random rows (.., capacity, slots, U padded with zeros); padding rows are NaN: nothing may read them."""
            values = np.zeros((*shape, padded), real)
            values[..., :channels] = rng.standard_normal((*shape, channels))
            values[..., self.count :, :, :] = np.nan
            return values

        self.env = features(layers, self.capacity, size("ENV_SLOTS"))
        self.w = features(self.capacity, size("W_SLOTS"))
        self.given = features(layers, self.capacity, 1)  # dE/dscal
        harmonics = np.zeros((self.capacity, size("MP")), real)
        harmonics[:, : size("M")] = rng.standard_normal((self.capacity, size("M")))
        harmonics[self.count :] = np.nan
        types = rng.integers(0, model.num_types, BEFORE + self.num_centers).astype(np.int32)
        starts = np.zeros(len(model.layers) + 1, np.int64)
        starts[1:] = np.cumsum([len(layer.paths) for layer in model.layers])
        path_weights = np.zeros((int(starts[-1]), padded), real)
        for k, layer in enumerate(model.layers):
            path_weights[starts[k] : starts[k + 1], :channels] = layer.path_weights.T

        def unset(*shape: int) -> np.ndarray:
            return np.full(shape, np.nan, real)

        self.arrays = {
            "x": unset(self.capacity, size("LDX")), "dx": unset(self.capacity, size("LDX")),
            "env": self.env, "w": self.w, "harmonics": harmonics, "types": types, "path_weights": path_weights,
            "environment_norms": model.environment_norms.astype(real),
            "denv": unset(self.capacity, size("NE")), "dw": unset(self.capacity, size("NW")),
            "harmonic_gradient": unset(size("WARPS"), self.capacity, size("MP")),
            "A": unset(layers, self.max_centers, size("M"), padded),
            "dA": unset(max(1, environment_gradient_size(model, self.max_centers))),
            "chain": unset(max(1, chain_size(model, self.max_centers))),
            "first": np.concatenate([[0], np.cumsum(counts), [-1] * 3]).astype(np.int32),
            "chunk_centers": np.array([0, BEFORE, BEFORE + self.num_centers], np.int32),
        }  # fmt: skip
        # What the reference takes: float64, (Z, U, slots).
        self.centers = np.repeat(np.arange(self.num_centers), counts)
        self.norms = self.arrays["environment_norms"].astype(np.float64)[types[BEFORE:]]
        self.Y = harmonics[: self.count, : size("M")].astype(np.float64)

    def reference_weights(self, rows: np.ndarray) -> np.ndarray:
        return rows[: self.count, :, : self.model.num_tensor_features].transpose(0, 2, 1).astype(np.float64)

    def run(self) -> dict[str, np.ndarray]:
        """All kernels in order; what they write, cut to the real rows and columns."""
        layers, padded, arrays = self.model.num_layers, self.module.size("UP"), self.arrays
        numbers = {"chunk": 1, "capacity": self.capacity, "max_centers": self.max_centers}
        results = {}
        for k in range(layers):
            self.module.launch(f"center_forward_{k}", arrays, **numbers)
            results[f"scal {k}"] = self.cut(arrays["x"][:, :padded], 1)
            assert np.isnan(arrays["x"][:, padded:]).all()
            assert np.isnan(arrays["x"][self.count :]).all()
        for k in reversed(range(layers)):
            arrays["dx"][:, :padded] = self.given[k, :, 0]
            self.module.launch(f"center_backward_{k}", arrays, **numbers)
            results[f"denv {k}"] = self.cut(arrays["denv"], self.module.size("ENV_SLOTS"))
        results["dw"] = self.cut(arrays["dw"], self.module.size("W_SLOTS"))
        components = self.module.size("M")
        results["dY"] = arrays["harmonic_gradient"][:, : self.count, 1:components].sum(axis=0, dtype=np.float64)
        for name in ("denv", "dw"):
            assert np.isnan(arrays[name][self.count :]).all()
        assert np.isnan(arrays["harmonic_gradient"][:, self.count :]).all()
        return results

    def cut(self, rows: np.ndarray, slots: int) -> np.ndarray:
        """(Z, U, slots) of rows (capacity, slots UP), whose padding columns must be zero."""
        table = rows[: self.count].reshape(self.count, slots, self.module.size("UP"))
        assert not table[:, :, self.model.num_tensor_features :].any()
        return table[:, :, : self.model.num_tensor_features].transpose(0, 2, 1).copy()

    def reference(self) -> dict[str, np.ndarray]:
        """The same in float64. dE is the sum over layers of given . scal, all env_k and w independent."""
        model, centers, Y = self.model, self.centers, self.Y
        w = self.reference_weights(self.w)
        env = [self.reference_weights(rows) for rows in self.env]
        A = [environment_forward(weighted_harmonics_forward(e, Y), centers, self.norms) for e in env]
        results, vectors = {}, []
        for k in range(model.num_layers):
            vectors.append(center_vector_forward(model.layers[: k + 1], A[: k + 1], model.l_max))
            results[f"scal {k}"] = invariants_forward(w, Y, vectors[k][0], centers)[:, :, None]
        dA = [np.zeros_like(a) for a in A]
        results |= {"dw": np.zeros_like(w), "dY": np.zeros_like(Y)}
        for k in reversed(range(model.num_layers)):
            vector, partial = vectors[k]
            given = self.reference_weights(self.given[k])[:, :, 0]
            dw, dY, dN = invariants_backward(given, w, Y, vector, centers)
            parts = center_vector_backward(dN, model.layers[: k + 1], A[: k + 1], partial, model.l_max)
            for j, part in enumerate(parts):
                dA[j] += part
            denv, through_env = weighted_harmonics_backward(environment_backward(dA[k], centers, self.norms), env[k], Y)
            results[f"denv {k}"] = denv
            results["dw"] += dw
            results["dY"] += dY + through_env
        results["dY"] = results["dY"][:, 1:]
        return results


def compare(results: dict[str, np.ndarray], expected: dict[str, np.ndarray], bound: float) -> None:
    assert results.keys() == expected.keys()
    for name, values in expected.items():
        assert results[name].shape == values.shape, name
        scale = np.abs(values).max(initial=0.0)
        assert np.abs(results[name] - values).max(initial=0.0) <= bound * scale, name


def check(shape: tuple, precision: str, counts: tuple[int, ...], bound: float) -> None:
    (l_max, channels), layers, parity, shared = shape
    case = Case(CenterModule(model_of(l_max, channels, layers, parity, shared), precision), counts)
    compare(case.run(), case.reference(), bound)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_double(shape):
    # Sums of a few thousand roundings, relative to the largest value.
    check(shape, "double", MANY, 1e-12)


@pytest.mark.parametrize("shape", [SHAPES[n] for n in (3, 5)], ids=str)
def test_single(shape):
    # The same in float32.
    check(shape, "single", MANY, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
def test_all_shapes(shape, precision):
    check(shape, precision, MANY, 1e-12 if precision == "double" else 2e-5)


def test_invariants_are_those_of_the_tensors_of_edges():
    """Against the direct form, one tensor an edge and layer: no identity between the kernel and the definition."""
    case = Case(CenterModule(model_of(3, 8, 3, True, "env"), "double"), FEW)
    results, model = case.run(), case.model
    env = [case.reference_weights(rows) for rows in case.env]
    A = [environment_forward(weighted_harmonics_forward(e, case.Y), case.centers, case.norms) for e in env]
    tensor = weighted_harmonics_forward(case.reference_weights(case.w), case.Y)
    for k, layer in enumerate(model.layers):
        tensor = tensor_product_forward(layer, tensor, A[k][case.centers], model.l_max)
        scale = np.abs(tensor).max()
        # Sums of some thousand roundings.
        assert np.abs(results[f"scal {k}"] - tensor[:, :, :1]).max() < 1e-12 * scale


def test_gradients_are_differences_of_the_forward_kernels():
    module = CenterModule(model_of(2, 16, 2), "double")
    case = Case(module, FEW)
    results = case.run()
    rng = np.random.default_rng(5)
    names = ("env", "w", "harmonics")
    steps = {name: rng.standard_normal(case.arrays[name].shape) for name in names}
    steps["env"][..., case.model.num_tensor_features :] = steps["w"][..., case.model.num_tensor_features :] = 0.0
    steps["harmonics"][:, 0] = steps["harmonics"][:, module.size("M") :] = 0.0  # Y_0 is constant
    along = sum(
        float((results[f"denv {k}"] * case.reference_weights(steps["env"][k])).sum()) for k in range(2)
    )  # fmt: skip
    along += float((results["dw"] * case.reference_weights(steps["w"])).sum())
    along += float((results["dY"] * steps["harmonics"][: case.count, 1 : module.size("M")]).sum())

    step, energies = 1e-5, []
    for sign in (1.0, -1.0):
        moved = Case(module, FEW)
        for name in names:
            moved.arrays[name] += sign * step * steps[name]
        scal = moved.run()
        energies.append(
            sum((scal[f"scal {k}"] * moved.reference_weights(moved.given[k])).sum() for k in range(2))
        )  # fmt: skip
    # Truncation step^2 and cancellation eps / step, both about 1e-10.
    assert abs((energies[0] - energies[1]) / (2 * step) - along) < 1e-7 * abs(along)


def bits(results: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in results.items()}


@pytest.mark.parametrize(("channels", "precision"), [(20, "double"), (40, "single")])
def test_order_of_threads_and_blocks_changes_no_bit(channels, precision):
    model = model_of(2, channels, 2)
    found = []
    for order, block_order in (("forward", "forward"), ("reverse", "reverse"), ("random:7", "forward")):
        module = CenterModule(model, precision, order=order, block_order=block_order)
        found.append(bits(Case(module, FEW * 4).run()))
    assert found[1] == found[0]
    assert found[2] == found[0]


@pytest.mark.parametrize("channels", [16, 40])
def test_bits_of_a_centre_do_not_depend_on_its_place(channels):
    """The same centre, alone and between others: another row, another part of a warp, other neighbours in it."""
    module = CenterModule(model_of(2, channels, 2), "single")
    alone = Case(module, (9,))
    crowd = Case(module, (2, 0, 31, 9, 40, 1), seed=1)
    rows = slice(33, 42)
    for name in ("env", "w", "given"):
        axis = 0 if name == "w" else 1
        np.moveaxis(getattr(crowd, name), axis, 0)[rows] = np.moveaxis(getattr(alone, name), axis, 0)[:9]
    crowd.arrays["harmonics"][rows] = alone.arrays["harmonics"][:9]
    crowd.arrays["types"][BEFORE + 3] = alone.arrays["types"][BEFORE]
    crowd_results = {name: values[rows] for name, values in crowd.run().items()}
    assert bits(crowd_results) == bits(alone.run())


def to_tf32(values: np.ndarray) -> np.ndarray:
    """Float32 numbers rounded to 10 bits of mantissa, to nearest, ties away from zero."""
    return ((np.ascontiguousarray(values).view(np.uint32) + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32)


def test_mixed_is_single_with_operands_rounded():
    model = model_of(2, 16, 2)
    single = Case(CenterModule(model, "single"), FEW).run()
    mixed = Case(CenterModule(model, "mixed"), FEW).run()
    for name, values in single.items():
        expected = values if name == "dY" else to_tf32(values)  # scal, denv and the complete dw are operands
        assert np.array_equal(mixed[name], expected), name
    assert not np.array_equal(mixed["dw"], single["dw"])


def test_given_gradients_are_kept_or_cleared():
    model = model_of(1, 8, 2)
    for clear in (0, 1):
        case = Case(CenterModule(model, "double", {"ZERO_DSCAL": clear}), FEW)
        results = case.run()
        compare(results, case.reference(), 1e-12)
        columns = case.arrays["dx"][: case.count, :8]
        assert np.array_equal(columns, np.zeros_like(columns) if clear else case.given[0, : case.count, 0])


def test_chunks_without_centres_or_edges():
    module = CenterModule(model_of(2, 20, 2), "double")
    for counts in ((), (0, 0, 0)):
        case = Case(module, counts)
        assert all(values.size == 0 for values in case.run().values())


def test_rows_beyond_32_bits():
    """Offsets of the last rows of 2^28, and of the second layer behind them, exceed 32 bits: the bits of row 0."""
    module = CenterModule(model_of(1, 8, 2), "double")
    near, rows, count = Case(module, (9,)), 2**28, 9
    expected = near.run()
    numbers = {"chunk": 1, "capacity": rows, "max_centers": near.max_centers}
    far: dict[str, np.ndarray] = dict(near.arrays)
    far["first"] = np.array([rows - count, rows], np.int32)
    for name in ("x", "dx", "env", "denv", "w", "dw", "harmonics", "harmonic_gradient"):
        layers, columns = (2 if name == "env" else 1), near.arrays[name].size // near.capacity
        columns //= layers
        # Memory that is not there until it is touched.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        memory = mmap.mmap(-1, layers * rows * columns * 8, flags=flags)
        far[name] = np.frombuffer(memory, np.float64).reshape(layers, rows, columns)
        far[name][:, -count:] = near.arrays[name].reshape(layers, near.capacity, columns)[:, :count]
    for k in range(2):
        module.launch(f"center_forward_{k}", far, **numbers)
        assert np.array_equal(far["x"][0, -count:, :8], expected[f"scal {k}"][:, :, 0])
    for k in (1, 0):
        far["dx"][0, -count:, :8] = near.given[k, :count, 0]
        module.launch(f"center_backward_{k}", far, **numbers)
        denv = far["denv"][0, -count:].reshape(count, 2, 8)
        assert np.array_equal(denv.transpose(0, 2, 1), expected[f"denv {k}"])
    assert np.array_equal(far["dw"][0, -count:].reshape(count, 2, 8).transpose(0, 2, 1), expected["dw"])
    assert np.array_equal(far["harmonic_gradient"][0, -count:, 1:4], expected["dY"])


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["address", "undefined", "thread"])
@pytest.mark.parametrize("shape", [((2, 20), 2, True, ""), ((1, 8), 2, True, "env w")], ids=str)
def test_sanitizers(shape, sanitize):
    (l_max, channels), layers, parity, shared = shape
    case = Case(CenterModule(model_of(l_max, channels, layers, parity, shared), "single", sanitize=sanitize), FEW)
    compare(case.run(), case.reference(), 2e-5)
