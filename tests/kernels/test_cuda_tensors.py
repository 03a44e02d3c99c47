"""The legacy generation's kernels on the CPU, against the stages of the reference: tensors of edges, gates, updates."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from support.cuda_runner import CpuModule
from support.legacy import resized_model

from allegro_sim.model import reference_layers as stages
from allegro_sim.model import reference_legacy_layers as legacy
from allegro_sim.model.description import LatentCutoff
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.source import assemble

PRECISIONS = ("double", "single")
TOLERANCE = {"double": 1e-12, "single": 1e-5}
"""Relative to the largest number of an array: sums of a few hundred terms."""

EDGES_OF_CENTERS = (0, 1, 5, 0, 0, 33, 2)

# Mixing after the product; before it, with edges that do not see themselves; of the environment; none, l_max 3.
MODELS = {"uuulin_self_edge": 5, "uvvp_collected_so3": 3, "environment_linear": 17, "p_l3_collected": 2}


@dataclass
class Track:
    """Numbers of a tensor track in the model's order: what goes in and, by kernels or NumPy, what comes out."""

    types: np.ndarray  # of centres
    centers: np.ndarray  # of edges
    w: np.ndarray  # (Z, U, slots)
    env: list[np.ndarray]  # (Z, U, slots) of each layer
    Y: np.ndarray  # (Z, M)
    given: list[np.ndarray]  # gradients by the invariants, (Z, U n)
    invariants: list[np.ndarray] = field(default_factory=list)
    denv: list[np.ndarray] = field(default_factory=list)
    dw: np.ndarray = field(default_factory=lambda: np.zeros(0))
    dY: np.ndarray = field(default_factory=lambda: np.zeros(0))


def make_track(model, edges_of_centers) -> Track:
    rng = np.random.default_rng(5)
    centers = np.repeat(np.arange(len(edges_of_centers)), edges_of_centers)
    edges, channels, slots = len(centers), model.num_tensor_features, model.environment_weight_irreps

    def numbers(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    return Track(
        types=rng.integers(0, model.num_types, len(edges_of_centers)),
        centers=centers,
        w=numbers(edges, channels, slots),
        env=[numbers(edges, channels, slots) for _ in model.layers],
        Y=np.concatenate([np.ones((edges, 1)), numbers(edges, (model.l_max + 1) ** 2 - 1)], axis=1),
        given=[numbers(edges, channels * layer.num_invariants) for layer in model.layers],
    )


def in_numpy(model, track: Track) -> None:
    """Fills in the results by the stages of the reference."""
    norms = model.environment_norms[track.types]
    tensors, seen, products = [stages.weighted_harmonics_forward(track.w, track.Y)], [], []
    for k, layer in enumerate(model.layers):
        terms = stages.weighted_harmonics_forward(track.env[k], track.Y)
        environment = stages.environment_forward(terms, track.centers, norms)
        if layer.environment_mix is not None:
            environment = legacy.environment_mix_forward(layer.environment_mix, environment)
        own = 0.0 if model.self_edge else norms[track.centers, None, None] * terms
        seen.append(environment[track.centers] - own)
        products.append(legacy.path_products_forward(layer, tensors[k], seen[k], model.l_max))
        if layer.separate_paths:
            track.invariants.append(legacy.separate_invariants_forward(layer, products[k]))
        else:
            track.invariants.append(legacy.combine_forward(layer, products[k], model.l_max)[:, :, 0])
        if k < model.num_layers - 1:
            tensors.append(legacy.combine_forward(layer, products[k], model.l_max))

    track.dY = np.zeros_like(track.Y)
    grad_tensors = None
    for k in reversed(range(model.num_layers)):
        layer = model.layers[k]
        grads = [np.zeros_like(product) for product in products[k]]
        if grad_tensors is not None:
            grads = legacy.combine_backward(grad_tensors, layer, model.l_max)
        if layer.separate_paths:
            own = legacy.separate_invariants_backward(track.given[k], layer)
        else:
            shape = legacy.combine_forward(layer, products[k], model.l_max).shape
            whole = np.zeros(shape)
            whole[:, :, 0] = track.given[k]
            own = legacy.combine_backward(whole, layer, model.l_max)
        for p, grad in enumerate(own):
            grads[p] = grads[p] + grad
        grad_tensors, grad_seen = legacy.path_products_backward(grads, layer, tensors[k], seen[k], model.l_max)
        grad_environment = stages.environment_forward(grad_seen, track.centers, np.ones(len(norms)))
        if layer.environment_mix is not None:
            grad_environment = legacy.environment_mix_backward(grad_environment, layer.environment_mix)
        grad_terms = stages.environment_backward(grad_environment, track.centers, norms)
        if not model.self_edge:
            grad_terms = grad_terms - norms[track.centers, None, None] * grad_seen
        grad_env, grad = stages.weighted_harmonics_backward(grad_terms, track.env[k], track.Y)
        track.denv.insert(0, grad_env)
        track.dY += grad
    track.dw, grad = stages.weighted_harmonics_backward(grad_tensors, track.w, track.Y)
    track.dY += grad


@cache
def compiled(name: str, precision: str, order: str = "forward"):
    model = resized_model(name, channels=MODELS[name])
    layout = Layout(model, precision)
    return layout, CpuModule(layout.source, optimize="-O0", order=order)


def on_kernels(layout: Layout, module: CpuModule, track: Track, edges_of_centers, shift: int = 0) -> None:
    """Fills in the results by the kernels of the track, one after the other; shift: empty rows of other edges first."""
    model, d = layout.model, layout.dimensions
    edges, channels, slots = len(track.centers), model.num_tensor_features, model.environment_weight_irreps
    counts = np.array([shift, *edges_of_centers])
    capacity, centers = max(128, -(-int(counts.sum()) // 128) * 128), len(counts)
    rows = slice(shift, shift + edges)
    arrays = {
        name: np.full(buffer.shape, np.nan if buffer.dtype.kind == "f" else 0, buffer.dtype)
        for name, buffer in layout.buffers(capacity, centers).items()
    } | {name: values.copy() for name, values in layout.constants.items()}
    arrays["first"] = np.cumsum([0, *counts]).astype(np.int32)
    arrays["chunk_centers"] = np.array([4, 4, 4 + centers], np.int32)
    arrays["types"] = np.array([0] * 5 + track.types.tolist(), np.int32)
    arrays["edge_center"][: counts.sum()] = np.repeat(np.arange(centers), counts)
    for name in ("harmonics", "w", "env"):  # of the other edges
        arrays[name][...] = 0.25

    def slot_major(values: np.ndarray) -> np.ndarray:
        padded = np.zeros((edges, slots, d.UP))
        padded[:, :, :channels] = values.transpose(0, 2, 1)
        return padded.reshape(edges, slots * d.UP)

    def of_model(array: np.ndarray, number: int) -> np.ndarray:
        blocks = array[rows][:, : number * d.UP].reshape(edges, number, d.UP)
        assert not blocks[:, :, channels:].any(), "padding is not zero"
        return blocks[:, :, :channels].transpose(0, 2, 1).astype(np.float64)

    arrays["harmonics"][rows] = 0.0
    arrays["harmonics"][rows, : track.Y.shape[1]] = track.Y
    arrays["w"][rows] = slot_major(track.w)
    for k, env in enumerate(track.env):
        arrays["env"][k, rows] = slot_major(env)
    numbers = {"chunk": 1, "capacity": capacity, "max_centers": centers}

    def run(stage: str) -> None:
        kernel = layout.kernels[stage]
        arguments = [np.int32(numbers[name]) if name in numbers else arrays[name] for name in kernel.arguments]
        module.launch(stage, (kernel.grid(capacity, centers),), (kernel.block,), arguments, kernel.shared_bytes)

    for k, layer in enumerate(model.layers):
        for stage in layout.track.forward(k):
            run(stage)
        found = of_model(arrays["x"], layer.num_invariants)
        track.invariants.append(found.reshape(edges, channels * layer.num_invariants))
    arrays["dx"][...] = 0.0
    for k in reversed(range(model.num_layers)):
        count = model.layers[k].num_invariants
        block = np.zeros((edges, count, d.UP))
        block[:, :, :channels] = track.given[k].reshape(edges, channels, count).transpose(0, 2, 1)
        arrays["dx"][rows, : count * d.UP] = block.reshape(edges, count * d.UP)
        for stage in layout.track.backward(k):
            run(stage)
        track.denv.insert(0, of_model(arrays["denv"], slots))
    track.dw = of_model(arrays["dw"], slots)
    track.dY = arrays["harmonic_gradient"].sum(axis=0)[rows, : track.Y.shape[1]].astype(np.float64)


def results(track: Track) -> dict[str, np.ndarray]:
    lists = {"invariants": track.invariants, "denv": track.denv}
    named = {f"{name}_{k}": array for name, arrays in lists.items() for k, array in enumerate(arrays)}
    return {**named, "dw": track.dw, "dY": track.dY[:, 1:]}


def by_kernels(name: str, precision: str, edges_of_centers=EDGES_OF_CENTERS, shift: int = 0, order: str = "forward"):
    layout, module = compiled(name, precision, order)
    track = make_track(layout.model, edges_of_centers)
    on_kernels(layout, module, track, edges_of_centers, shift)
    return results(track)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=() if n % 2 == p else pytest.mark.slow)
        for n, name in enumerate(MODELS)
        for p, precision in enumerate(PRECISIONS)
    ],
)
def test_tensors_agree_with_the_reference(name, precision):
    """Centres without an edge, with one, and with some; forward, then backward from random gradients."""
    found = by_kernels(name, precision)
    track = make_track(compiled(name, precision)[0].model, EDGES_OF_CENTERS)
    in_numpy(compiled(name, precision)[0].model, track)
    for part, wanted in results(track).items():
        assert found[part].shape == wanted.shape, part
        assert np.abs(found[part] - wanted).max() <= TOLERANCE[precision] * np.abs(wanted).max(), part


@pytest.mark.parametrize("edges_of_centers", [(0,), (1,), (0, 300), (127, 1, 128)], ids=str)
def test_any_number_of_edges(edges_of_centers):
    found = by_kernels("uvvp_collected_so3", "single", edges_of_centers)
    model = compiled("uvvp_collected_so3", "single")[0].model
    track = make_track(model, edges_of_centers)
    in_numpy(model, track)
    for part, wanted in results(track).items():
        # An edge alone sees itself taken off itself: nothing, to the rounding of numbers near 1.
        assert np.abs(found[part] - wanted).max(initial=0) <= 1e-4 * max(np.abs(wanted).max(initial=0), 1e-3), part


@pytest.mark.parametrize("options", [{"shift": 77}, {"order": "reverse"}, {"order": "random:4"}], ids=str)
@pytest.mark.parametrize("name", ["uvvp_collected_so3", "uuulin_self_edge"])
def test_bits_do_not_depend_on_place_or_order_of_threads(name, options):
    precision = "single" if name == "uvvp_collected_so3" else "double"
    expected, found = by_kernels(name, precision), by_kernels(name, precision, **options)
    for part, wanted in expected.items():
        assert np.array_equal(found[part], wanted), part


# --- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gates_and_their_slopes_are_those_of_the_reference(precision):
    macros = {f"PRECISION_{name.upper()}": int(name == precision) for name in ("double", "single", "mixed")}
    macros |= {
        "NT": 1,
        "NB": 1,
        "LDX": 8,
        "BESSELS": 1,
        "RADIAL_BESSEL": 1,
        "WITH_CONSTANTS": 0,
        "PAIR_TERM": 0,
        "PAIR_ZBL": 1,
        "PAIR_LENNARD_JONES": 2,
    }
    macros |= {"CUTOFF_EXPONENT": 6.0, "WHOLE_FREQUENCIES": 0}
    gates = [("POLYNOMIAL_GATE", 3.5, 6.0), ("POLYNOMIAL_GATE", 4.0, 2.5), ("COSINE_GATE", 3.7, 0.8)]
    gates += [("INSIDE_GATE", 3.5, 0.0), ("OUTSIDE_GATE", 3.5, 0.0)]
    lines = "".join(
        f"  gate_of_length<{kind}>(gates + {n} * capacity + z, slopes + {n} * capacity + z, d[z], {radius}, {p});\n"
        for n, (kind, radius, p) in enumerate(gates)
    )
    source = assemble(
        "".join(f"#define {name} {value}\n" for name, value in macros.items()),
        "gates.cu",
        'extern "C" __global__ void kernel(REAL* gates, REAL* slopes, const double* d, int capacity) {\n'
        f"  const int z = blockIdx.x * blockDim.x + threadIdx.x;\n  if (z >= capacity) return;\n{lines}}}\n",
    )
    real = np.float64 if precision == "double" else np.float32
    lengths = np.concatenate([np.linspace(0.3, 4.2, 200), [3.5, np.nextafter(3.5, 0), 3.7, 4.0]])
    values, slopes = (np.full((len(gates), len(lengths)), np.nan, real) for _ in range(2))
    CpuModule(source).launch("kernel", (2,), (128,), (values, slopes, lengths, np.int32(len(lengths))))
    for n, (kind, radius, parameter) in enumerate(gates):
        if kind in ("INSIDE_GATE", "OUTSIDE_GATE"):
            assert np.array_equal(values[n], (lengths < radius) == (kind == "INSIDE_GATE"))
            assert not slopes[n].any()
            continue
        name = "polynomial" if kind == "POLYNOMIAL_GATE" else "cosine"
        cutoff = LatentCutoff(name, parameter, np.array([radius]))
        wanted = legacy.latent_cutoff_forward(cutoff, 0, lengths)
        # A few roundings of numbers up to the polynomial's coefficients.
        tolerance = 64 * np.finfo(real).eps
        assert np.abs(values[n] - wanted).max() <= tolerance
        wanted = legacy.latent_cutoff_backward(np.ones_like(lengths), cutoff, 0, lengths)
        assert np.abs(slopes[n] - wanted).max() <= tolerance
