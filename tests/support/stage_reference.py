"""Every stage of the CUDA potential computed again, in NumPy, from what the kernels themselves gave to that stage.

A whole network cannot be held to the rounding reference (support.mixed_reference) sharply: one unit in float32's last
place moves numbers across the middle between two TF32 numbers, and what follows differs by 2^-11. A stage can: its
inputs are the kernels' own buffers, bit for bit, and only what it does itself is compared.

    replay(potential) -> {"latent_0_forward: s_1": relative RMS deviation, ...}

of the last evaluation's positions, the largest of all chunks; on a GPU as well as in the CPU runner. Stages are found
by the names that the plan has for them: MLPs of the current generation and what all models share are here, its centres
in `vector_stages`, or `scatter_stages` where tensor features are summed; the legacy generation is in `legacy_stages`
(MLPs) and `direct_stages` (tensors). Products are float64 sums of rounded operands, and each result is rounded once to
the features' type; no order of sums is copied from the kernels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from support import direct_stages, legacy_stages, scatter_stages, vector_stages
from support.mixed_reference import LEAST_WIDTH, radial_basis, round_to_tf32, truncate_to_tf32

from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model import reference_layers as stages
from allegro_sim.model import reference_pairs as pairs
from allegro_sim.potential.cuda.engine import Engine
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.mlp_header import mlp_stages
from allegro_sim.potential.cuda.mlp_packing import chains_by_name
from allegro_sim.potential.cuda.mlp_shapes import Rounding, mlp_rounding
from allegro_sim.potential.cuda.plan import Operation
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.potential.folding import Chain

# float64, and float32: a few roundings each, hundreds where a product is long. MLPs of `mixed` may round a hidden
# number of an edge to the other side where their own float32 sum is off by its last bit: 2^-11 of one number in 1e4.
BOUNDS = {"double": 1e-13, "single": 5e-6, "mixed": 2e-6}
MIXED_MLP = 1e-4
MIXED_DEEP_EMBEDDING = 3e-4
"""Where an embedding has four products: one number rounded to the other side moves all that come from it by some 1e-4,
which takes a tenth of those across a middle of their own when they are rounded in turn. At the widths of Allegro-OAM-L
the kernels are off by 1.7e-4, and by 1.2e-4 from the same reference with float32 sums in their own order."""
MIXED_FEW_CHANNELS = 2e-4
"""Of dscal, where a model has two channels: one number rounded to the other side moves both of its edge by 1e-3, which
is 1.1e-4 of a hundred edges' RMS. Measured on golden models of the legacy generation: one of 87 edges, all others agree
to 1e-6."""
ON_A_GPU = 4.0
"""Times the bounds of float32: the matrix units of a GPU add up products with fewer bits than float32, and cuBLAS in an
order of its own. Measured on an H200: MLPs of `mixed` 1.9e-4 where a thousand products are added, `single` 1.6e-5."""
FORCES = 1e-9
"""Forces are float64 whatever the features, in units of 2^-40 eV/Å."""

Values = dict[str, np.ndarray]
Call = Callable[[], Any]

_MLP = re.compile(r"(embedding|latent_\d+|environment_\d+|readout)(_forward|_backward|_readout)?$")
"""Names of stages that are MLPs, or several at once."""
_FLOAT64 = re.compile(r"edge_geometry: pair_terms|scale_edge_energies|add_latent_slopes")
"""Results that are made in float64, whatever the features."""


def bound_of(name: str, precision: str, *, deep_embedding: bool = False, few_channels: bool = False) -> float:
    """What a deviation of `replay` may be."""
    stage = name.partition(":")[0]
    if name == "energies_and_forces: forces":
        return FORCES
    if _FLOAT64.match(name):
        return BOUNDS["double"]
    if precision == "mixed" and _MLP.match(stage):
        if few_channels and ": dscal_" in name:
            return MIXED_FEW_CHANNELS
        return MIXED_DEEP_EMBEDDING if deep_embedding and stage.startswith("embedding") else MIXED_MLP
    return BOUNDS[precision]


def over_bounds(
    deviations: dict[str, float], precision: str, *, on_a_gpu: bool = False, **model: bool
) -> dict[str, float]:
    """Those deviations that are too large, or not numbers; model: as `bound_of` takes it."""
    factor = ON_A_GPU if on_a_gpu and precision != "double" else 1.0
    bounds = {name: factor * bound_of(name, precision, **model) for name in deviations}
    return {name: value for name, value in deviations.items() if not value <= bounds[name]}


def replay(potential: CudaPotential, *, must_be_operands: bool = True) -> dict[str, float]:
    """Run the last evaluation again, stage by stage; deviations relative to the RMS of what is right.

    must_be_operands: that operands of TF32 products which are not TF32 numbers are an AssertionError.
    """
    engine = potential.engine
    bound = engine.bound
    bound.want(True, False)
    bound.run_before()
    worst: dict[str, float] = {}
    for chunk in range(engine.table.num_chunks):
        bound.numbers["chunk"].value = chunk
        after = _downloaded(engine)
        reference = _Chunk(engine.layout, engine.plan.max_centers, after, chunk)
        for stage, calls in _stages(engine, bound.chunk):
            before = after
            for call in calls:
                call()
            after = _downloaded(engine)
            if not stage:
                continue  # index work
            for name, (found, wanted, *rounded) in reference.compare(stage, before, after).items():
                key = f"{stage}: {name}"
                if must_be_operands and any(rounded) and not np.array_equal(found, truncate_to_tf32(found)):
                    raise AssertionError(f"{key} are operands of TF32 products, and not TF32 numbers")
                worst[key] = max(worst.get(key, 0.0), _deviation(found, wanted, *rounded))
    return worst


def _deviation(found: np.ndarray, wanted: np.ndarray, rounded: bool = False) -> float:
    """rounded: `found` was rounded to TF32 when written; then what it is off by beyond half a unit of that."""
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    scale = np.sqrt(np.mean(np.square(wanted, dtype=np.float64))) if wanted.size else 0.0
    if scale == 0.0:
        assert not found.any()
        return 0.0
    off = np.abs(found.astype(np.float64) - wanted)
    if rounded:
        off = np.maximum(off - 2.0**-11 * np.exp2(np.frexp(found)[1] - 1.0), 0.0)
    return float(np.sqrt(np.mean(off**2)) / scale)


def _downloaded(engine: Engine) -> Values:
    """All that may change."""
    changing = (name for name, buffer in engine.plan.buffers.items() if buffer.kind != "constant")
    return {name: engine.executor.download(engine.arrays[name]) for name in changing}


def _stages(engine: Engine, bound: list[tuple[Operation, Call]]) -> Iterator[tuple[str, list[Call]]]:
    """The calls of a chunk's operations in order, by stage; those before the first stage under an empty name."""
    layout, calls = engine.layout, iter(call for _, call in bound)
    steps = mlp_stages(layout.dimensions, layout.shapes, layout.split(engine.plan.capacity, engine.blocks))
    yield "", list(islice(calls, 2))
    for stage in layout.stages():
        yield stage, list(islice(calls, len(steps.get(stage, (stage,)))))
    assert next(calls, None) is None


class _Chunk:
    """The stages of one chunk; arrays are cut to the edges and centres that there are, and to the model's columns."""

    def __init__(self, layout: Layout, max_centers: int, arrays: Values, chunk: int) -> None:
        self._layout, self._model, self._dimensions = layout, layout.model, layout.dimensions
        self._real, self._max_centers, self._chunk = layout.real, max_centers, chunk
        self._start, end = arrays["chunk_centers"][chunk : chunk + 2]
        self._num_centers = int(end - self._start)
        self._families = (legacy_stages, direct_stages) if self._model.is_legacy else (scatter_stages, vector_stages)
        self._shapes = {shape.name: shape for shape in layout.shapes}
        self._widths = layout.folded.widths
        self._turned: dict[tuple[str, int], np.ndarray] = {}
        self._chains = chains_by_name(layout.folded) | {"embedding": layout.folded.two_body_and_embedding[1:]}

    @cached_property
    def _rounding(self) -> Rounding:
        """That of the current generation."""
        return mlp_rounding(self._layout.shapes, self._layout.fused)

    def compare(self, stage: str, before: Values, after: Values) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What the stage wrote and what it should have written, by name."""
        self._before, self._after = before, after
        self._edges = int(after["first"][self._num_centers])
        self._centers = after["edge_center"][: self._edges]
        self._types = after["types"][self._start : self._start + self._num_centers]
        words = stage.split("_")
        name = "_".join(word for word in words if not word.isdigit())
        numbers = [int(word) for word in words if word.isdigit()]
        for family in self._families:
            if (own := getattr(family, name, None)) is not None:
                return own(self, *numbers)
        return getattr(self, f"_{name}")(*numbers)

    # --- parts of buffers ---------------------------------------------------------------------------------------------

    def _scalars(self, rows: np.ndarray, k: int) -> np.ndarray:
        d = self._dimensions
        first = d.UP + sum(d.places[:k])
        return rows[: self._edges, first : first + self._widths[k]]

    def _invariants(self, rows: np.ndarray) -> np.ndarray:
        return rows[: self._edges, : self._dimensions.channels]

    def _weights(self, rows: np.ndarray) -> np.ndarray:
        """Slot-major columns (capacity, slots UP) as (Z, U, slots)."""
        d = self._dimensions
        return rows[: self._edges].reshape(self._edges, -1, d.UP)[:, :, : d.channels].transpose(0, 2, 1)

    def _of_centers(self, layer: np.ndarray) -> np.ndarray:
        """(max_centers, M, UP) as (centres, U, M)."""
        return layer[: self._num_centers, :, : self._dimensions.channels].transpose(0, 2, 1)

    def _has_edges(self) -> np.ndarray:
        """(centres, 1, 1): centres without edges are skipped, whatever stands in their rows."""
        return (np.diff(self._after["first"][: self._num_centers + 1]) > 0)[:, None, None]

    def _environment_gradients(self, values: Values) -> np.ndarray:
        d = self._dimensions
        shape = (self._model.num_layers - 1, self._max_centers, -1, d.UP)
        return values["dA"].reshape(shape) if self._model.num_layers > 1 else np.zeros((0, 1, 1, 1))

    def _harmonics(self, values: Values) -> np.ndarray:
        return values["harmonics"][: self._edges, : self._model.harmonic_components]

    def _harmonic_gradient(self, values: Values) -> np.ndarray:
        total = values["harmonic_gradient"].astype(np.float64).sum(axis=0)
        return total[: self._edges, 1 : self._model.harmonic_components]

    def _cast(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self._real)

    def _written(self, found: np.ndarray, wanted: np.ndarray, rounded: bool) -> tuple[np.ndarray, np.ndarray, bool]:
        """rounded: whether `mixed` rounds these when writing them."""
        return found, self._cast(wanted), rounded and self._layout.precision == "mixed"

    # --- MLPs ---------------------------------------------------------------------------------------------------------

    def _product(self, rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        large = min(matrix.shape) >= LEAST_WIDTH
        left, right = self._cast(rows), self._cast(matrix)
        if large and self._layout.precision == "mixed":
            left, right = round_to_tf32(left), round_to_tf32(right)
        return self._cast(left.astype(np.float64) @ right.astype(np.float64))

    def _activation(self, name: str) -> tuple[Any, Any]:
        model = self._model
        mlps = {"embedding": model.embed_mlp, "readout": model.readout}
        mlps |= {f"latent_{k}": layer.latent for k, layer in enumerate(model.layers)}
        mlps |= {f"environment_{k}": layer.environment_mlp for k, layer in enumerate(model.layers)}
        return stages.ACTIVATION_FUNCTIONS[mlps[name].activation]

    def _slope(self, values: Values, name: str, n: int, width: int) -> np.ndarray:
        """As the forward pass kept it, in memory or not, or from what it kept: what the activation was applied to."""
        if (kept := values.get(f"slope_{name}_{n}")) is not None:
            return kept[: self._edges, :width]
        if (name, n) in self._turned:
            return self._turned[name, n]
        before = values[f"before_{name}_{n}"][: self._edges, :width]
        return self._cast(self._activation(name)[1](before.astype(np.float64)))

    def _activate(self, name: str, n: int, rows: np.ndarray, found: dict) -> np.ndarray:
        function, slope = (way(rows.astype(np.float64)) for way in self._activation(name))
        if (kept := self._after.get(f"before_{name}_{n}")) is not None:
            found[f"{name} before {n}"] = (kept[: self._edges, : rows.shape[1]], rows)
        elif f"slope_{name}_{n}" not in self._after:  # a kernel that goes both ways keeps it to itself
            self._turned[name, n] = self._cast(slope)
        else:
            found[f"{name} slope {n}"] = (self._slope(self._after, name, n, rows.shape[1]), self._cast(slope))
        return self._cast(function)

    def _forward(self, name: str, rows: np.ndarray, found: dict) -> np.ndarray:
        first = int(name == "embedding")
        for n, linear in enumerate(self._chains[name], start=first):
            product = self._product(rows, linear.matrix)
            rows = np.concatenate([rows, product], axis=1) if linear.keeps else product
            if linear.activated:
                rows = self._activate(name, n, rows, found)
        return rows

    def _backward(self, name: str, gradient: np.ndarray) -> np.ndarray:
        first = int(name == "embedding")
        chain: Chain = self._chains[name]
        for n in range(len(chain) - 1, -1, -1):
            if chain[n].activated:
                gradient = self._cast(gradient * self._slope(self._before, name, n + first, gradient.shape[1]))
            width = len(chain[n].matrix) if chain[n].keeps else 0
            product = self._product(gradient[:, width:], chain[n].matrix.T)
            gradient = self._cast(gradient[:, :width] + product) if width else product
        return gradient

    def _two_body(self, basis: np.ndarray) -> np.ndarray:
        """Behind the table of all pairs of types; or concat(C[t_i], N[t_j]) * (b @ basis), where it is kept apart."""
        pairs, apart = self._after["pairs"][: self._edges], self._layout.folded.separable
        basis = basis[:, : self._edges].astype(np.float64)
        if apart is None:
            table = self._stored(self._layout.folded.embedding[0].matrix)
            return self._cast(np.einsum("nz,znc->zc", basis, table[pairs]))
        centers, neighbors = np.divmod(pairs, self._model.num_types)
        factors = (self._stored(apart.center_types)[centers], self._stored(apart.neighbor_types)[neighbors])
        return self._cast((basis.T @ self._stored(apart.basis)) * np.concatenate(factors, axis=1))

    def _stored(self, constants: np.ndarray) -> np.ndarray:
        """As the features' type holds them, in float64."""
        return constants.astype(self._real).astype(np.float64)

    def _embedded(self, found: dict) -> np.ndarray:
        """What the embedding gives."""
        rows = self._two_body(self._before["basis"])
        if self._layout.folded.two_body_and_embedding[0].activated:
            rows = self._activate("embedding", 0, rows, found)
        return self._forward("embedding", rows, found)

    def _embedding_forward(self) -> dict:
        found: dict = {}
        rows = self._embedded(found)
        channels = self._dimensions.channels
        ends = np.cumsum([self._widths[0], channels * self._model.environment_weight_irreps])
        first, environment, tensor = np.split(rows, ends, axis=1)
        found["s_0"] = self._written(self._scalars(self._after["x"], 0), first, self._rounding.features[0])
        found["env_0"] = (self._weights(self._after["env"][0]), environment.reshape(self._edges, channels, -1))
        found["w"] = (self._weights(self._after["w"]), tensor.reshape(self._edges, channels, -1))
        return found

    def _embedding_backward(self) -> dict:
        before = self._before
        gradient = [self._scalars(before["dx"], 0), *map(self._flat, map(before.__getitem__, ("denv", "dw")))]
        return self._radial_slope(np.concatenate(gradient, axis=1))

    def _radial_slope(self, gradient: np.ndarray) -> dict:
        """From the gradient by what the embedding gives."""
        before, gradient = self._before, self._backward("embedding", gradient)
        if self._layout.folded.two_body_and_embedding[0].activated:
            gradient = self._cast(gradient * self._slope(before, "embedding", 0, gradient.shape[1]))
        slopes = self._two_body(before["basis_slopes"])
        wanted = np.einsum("zc,zc->z", gradient.astype(np.float64), slopes.astype(np.float64))
        return {"radial_slope": (self._after["radial_slope"][: self._edges], wanted)}

    def _flat(self, rows: np.ndarray) -> np.ndarray:
        return self._weights(rows).reshape(self._edges, -1)

    def _latent_forward(self, k: int) -> dict:
        found: dict = {}
        x = self._before["x"]
        inputs = [*(self._scalars(x, n) for n in range(k + 1)), self._invariants(x)]
        rows = self._forward(f"latent_{k}", np.concatenate(inputs, axis=1), found)
        scalars, environment = np.split(rows, [self._widths[k + 1]], axis=1)
        rounded = self._rounding.features[k + 1]
        found[f"s_{k + 1}"] = self._written(self._scalars(self._after["x"], k + 1), scalars, rounded)
        if k + 1 < self._model.num_layers:
            environment = environment.reshape(self._edges, self._dimensions.channels, -1)
            found[f"env_{k + 1}"] = (self._weights(self._after["env"][k + 1]), environment)
        return found

    def _latent_backward(self, k: int) -> dict:
        dx = self._before["dx"]
        gradient = [self._scalars(dx, k + 1)]
        if k + 1 < self._model.num_layers:
            gradient.append(self._flat(self._before["denv"]))
        rows = self._backward(f"latent_{k}", np.concatenate(gradient, axis=1))
        *parts, invariants = np.split(rows, np.cumsum(self._widths[: k + 1]), axis=1)
        found = {f"dscal_{k}": (self._invariants(self._after["dx"]), invariants)}
        for n, part in enumerate(parts):
            total = self._scalars(dx, n) + part
            rounded = n == k and self._rounding.gradients[k]
            found[f"ds_{n}"] = self._written(self._scalars(self._after["dx"], n), total, rounded)
        return found

    def _readout_forward(self) -> dict:
        found: dict = {}
        x = self._before["x"]
        inputs = [self._scalars(x, n) for n in range(self._model.num_layers + 1)]
        rows = self._forward("readout", np.concatenate(inputs, axis=1), found)
        wanted = rows.astype(np.float64) @ self._layout.folded.energy_weights
        return {**found, "edge_energies": (self._after["edge_energies"][: self._edges], wanted)}

    def _readout(self) -> dict:
        found = self._readout_forward()
        self._before = self._after  # slopes of activations before the last
        return found | self._readout_backward()

    def _latent_readout(self, k: int) -> dict:
        """One kernel: what a part of it reads is what the part before has written."""
        found, given = self._latent_forward(k), self._before
        self._before = {**given, "x": self._after["x"]}
        found |= self._readout_forward()
        self._before = self._after
        ways_back = self._readout_backward()
        # Gradients by earlier features are complete only with the latent's; that by its own is the read-out's.
        own = f"ds_{k + 1}"
        found[own] = ways_back.pop(own)
        self._before = {**self._after, "dx": self._after["dx"].copy()}
        for n in range(k + 1):
            self._scalars(self._before["dx"], n)[:] = ways_back[f"ds_{n}"][1]
        return found | self._latent_backward(k)

    def _readout_backward(self) -> dict:
        model = self._model
        factors = (model.edge_sum_norms * model.scales)[self._types][self._centers]
        rows = self._backward("readout", self._cast(factors[:, None] * self._layout.folded.energy_weights))
        last = model.num_layers
        return {
            f"ds_{n}": self._written(
                self._scalars(self._after["dx"], n), part, n == last and self._rounding.gradients[last]
            )
            for n, part in enumerate(np.split(rows, np.cumsum(self._widths[:-1]), axis=1))
        }

    # --- float64 ------------------------------------------------------------------------------------------------------

    def _edge_geometry(self) -> dict:
        model, after = self._model, self._after
        vectors = after["vectors"][:, : self._edges].T
        lengths, units = geometry.lengths_forward(vectors)
        x = lengths / model.cutoffs.ravel()[after["pairs"][: self._edges]]
        pair = np.divmod(after["pairs"][: self._edges], model.num_types)
        basis, slopes = (self._cast(values) for values in radial_basis(model.radial, x, *pair))
        harmonics = self._cast(geometry.spherical_harmonics_forward(units, model.l_max, model.repeated_harmonics))
        found = {}
        if (term := model.pair_term) is not None:
            scales = np.ones(model.num_types) if model.pair_scales is None else model.pair_scales
            wanted = scales[pair[0]] * pairs.pair_forward(term, lengths, x, *pair)
            by_length, by_x = pairs.pair_backward(scales[pair[0]], term, lengths, x, *pair)
            kept = after["pair_terms"].reshape(2, -1)[:, : self._edges]
            found["pair_terms"] = (kept[0], wanted)
            found["pair_terms, slopes"] = (kept[1], by_length + by_x * x / lengths)
        return found | {
            "basis": (after["basis"][:, : self._edges].T, basis),
            "basis_slopes": (after["basis_slopes"][:, : self._edges].T, slopes),
            "harmonics": (self._harmonics(after), harmonics),
        }

    def _energies_and_forces(self) -> dict:
        return self._energies() | self._forces()

    def _energies(self) -> dict:
        model, after = self._model, self._after
        sums = np.bincount(self._centers, after["edge_energies"][: self._edges], self._num_centers)
        wanted = model.shifts[self._types] + (model.edge_sum_norms * model.scales)[self._types] * sums
        if model.pair_term is not None:
            wanted += np.bincount(self._centers, after["pair_terms"][: self._edges], self._num_centers)
        return {"energies": (after["energies"][self._start : self._start + self._num_centers], wanted)}

    def _forces(self) -> dict:
        model, before, edges = self._model, self._before, self._edges
        vectors = before["vectors"][:, :edges].T
        lengths, units = geometry.lengths_forward(vectors)
        by_harmonics = np.zeros((edges, model.harmonic_components))
        by_harmonics[:, 1:] = self._harmonic_gradient(before)
        by_units = geometry.spherical_harmonics_backward(by_harmonics, units, model.l_max, model.repeated_harmonics)
        radial = before["radial_slope"][:edges] / model.cutoffs.ravel()[before["pairs"][:edges]]
        if model.pair_term is not None:
            radial = radial + before["pair_terms"].reshape(2, -1)[1, :edges]
        gradients = geometry.lengths_backward(radial, by_units, lengths, units)
        wanted = np.zeros((len(before["forces"]), 3))
        np.add.at(wanted, self._start + self._centers, gradients)
        np.add.at(wanted, before["edge_neighbor"][:edges], -gradients)
        return {"forces": ((self._after["forces"] - before["forces"]) / 2.0**40, wanted)}
