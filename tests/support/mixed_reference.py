"""The network as the GPU computes it in `mixed`: NumPy over the folded chains, product operands rounded to TF32.

Against float64 its numbers are off by what TF32 costs, some 1e-3 of the forces. Rounded, once each, are both operands
of every product with an inner and an outer width of 16 or more: matrices, features, hidden activations, and the
gradients on the way back. Left in float32 are the two-body products, narrower products, the weighted sum of the
read-out, sums over edges and the whole tensor track; geometry and energies are float64.

How sharp it is: a product agrees with a kernel's to float32. A whole network does not, and cannot: where another order
of the float32 sums moves a number across the middle between two TF32 numbers, it is rounded the other way, a step of
2^-11; that moves more numbers of the next product across a middle, and so on. `disturbed` measures it: one unit in the
last place on every product's result changes forces by 1e-4 to 1e-3, the more, the wider and deeper the network.

    evaluate(model, types, centers, neighbors, vectors, MIXED) -> Reference, as allegro_sim.model.reference.evaluate

Without rounding and in float64 (EXACT) this is the reference itself, by another route: folded layers, vectors of the
centres in place of tensors on the edges. TRUNCATED drops the bits that TF32 has no room for, as the matrix units do
with raw float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from support.mixed_tracks import ScatterTrack, VectorTrack

from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model import reference_layers as stages
from allegro_sim.model import reference_pairs as pairs
from allegro_sim.model.description import AllegroModel, BesselEmbedding, SplineEmbedding
from allegro_sim.model.reference import Reference, StructureResult, brute_force_edges
from allegro_sim.potential.folding import Chain, fold_model

LEAST_WIDTH = 16
"""Products with fewer rows or columns than this in their matrix are not made on the matrix units."""

_DROPPED_BITS = 13
"""Bits of a float32 mantissa that TF32 does not have: 23 - 10."""


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 to the nearest number of 10 mantissa bits, ties away from zero (PTX cvt.rna.tf32.f32); any shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    return ((bits + half) & _KEPT).view(np.float32)  # sign and magnitude: a carry grows the magnitude of either sign


def truncate_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 with the last 13 bits of the mantissa dropped: what `mma` reads from raw float32; any shape."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & _KEPT).view(np.float32)


_KEPT = np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class Arithmetic:
    """dtype of features, weights and products; `operand` is applied to both operands of a product, `result` to it."""

    dtype: type[np.floating]
    operand: Callable[[np.ndarray], np.ndarray]
    result: Callable[[np.ndarray], np.ndarray] = _unchanged


EXACT = Arithmetic(np.float64, _unchanged)
SINGLE = Arithmetic(np.float32, _unchanged)
MIXED = Arithmetic(np.float32, round_to_tf32)
TRUNCATED = Arithmetic(np.float32, truncate_to_tf32)


def disturbed(seed: int) -> Arithmetic:
    """MIXED with up to one unit in the last place of noise on every result, as another order of its sums would make."""
    rng = np.random.default_rng(seed)

    def disturb(values: np.ndarray) -> np.ndarray:
        return (values * (1.0 + 2.0**-23 * rng.uniform(-1.0, 1.0, values.shape))).astype(values.dtype)

    return Arithmetic(np.float32, round_to_tf32, disturb)


def evaluate(
    model: AllegroModel,
    types: np.ndarray,
    centers: np.ndarray,
    neighbors: np.ndarray,
    vectors: np.ndarray,
    arithmetic: Arithmetic = MIXED,
) -> Reference:
    """Atomic energies (N,) and their derivatives by the edge vectors (Z, 3), of edges inside their cutoffs.

    types (N,); centers, neighbors (Z,) rows of `types`; vectors r_ij (Z, 3), Å.
    """
    return _Evaluation(model, types, centers, neighbors, vectors, arithmetic).run()


def evaluate_structure(
    model: AllegroModel,
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray,
    types: np.ndarray,
    arithmetic: Arithmetic = MIXED,
) -> StructureResult:
    """Energy, forces and virials; arguments and results as allegro_sim.model.reference.evaluate_structure."""
    types = np.asarray(types, np.int64)
    centers, neighbors, _, vectors = brute_force_edges(positions, cell, pbc, types, model.cutoffs)
    result = evaluate(model, types, centers, neighbors, vectors, arithmetic)
    forces = np.zeros((len(types), 3))
    np.add.at(forces, centers, result.edge_gradients)
    np.add.at(forces, neighbors, -result.edge_gradients)
    atom_virials = np.zeros((len(types), 3, 3))
    np.add.at(atom_virials, neighbors, -vectors[:, :, None] * result.edge_gradients[:, None, :])
    virial = atom_virials.sum(axis=0)
    energies = result.energies
    return StructureResult(float(energies.sum()), energies, forces, 0.5 * (virial + virial.T), atom_virials)


def radial_basis(
    radial: BesselEmbedding | SplineEmbedding, x: np.ndarray, center_types: np.ndarray, neighbor_types: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The radial functions b_n(x) and their slopes db_n/dx, both (Z, num_basis); x (Z,) = d / cutoff, types (Z,)."""
    if isinstance(radial, SplineEmbedding):
        phase, wave_number = geometry._spline_phase(radial, x)
        return 0.25 * (1.0 - np.cos(phase)) ** 2, 0.5 * (1.0 - np.cos(phase)) * np.sin(phase) * wave_number
    frequencies = geometry._frequencies(radial, center_types, neighbor_types)
    phase = frequencies * x[:, None]
    waves = frequencies * np.sinc(phase)
    wave_slopes = frequencies**2 * (np.cos(np.pi * phase) - np.sinc(phase)) / phase
    cutoff = geometry.cutoff_forward(x, radial.cutoff_exponent)[:, None]
    cutoff_slope = geometry.cutoff_backward(np.ones_like(x), x, radial.cutoff_exponent)[:, None]
    values, slopes = waves * cutoff, wave_slopes * cutoff + waves * cutoff_slope
    if radial.with_constants:
        ones = np.ones_like(cutoff)
        return np.hstack([values, cutoff, ones]), np.hstack([slopes, cutoff_slope, 0.0 * ones])
    return values, slopes


class _Dense:
    """A folded chain of matrices without its two-body table: forward keeps what goes into each activation."""

    def __init__(self, chain: Chain, activation: str, arithmetic: Arithmetic) -> None:
        self._matrices = [linear.matrix.astype(arithmetic.dtype) for linear in chain]
        self._activated = [linear.activated for linear in chain]
        self._keeps = [linear.keeps for linear in chain]
        self._activation, self._slope = stages.ACTIVATION_FUNCTIONS[activation]
        self._arithmetic = arithmetic
        self._before: list[np.ndarray] = []

    def _product(self, rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        operand = self._arithmetic.operand if min(matrix.shape) >= LEAST_WIDTH else _unchanged
        return self._arithmetic.result(operand(rows) @ operand(matrix))

    def activate(self, before: np.ndarray) -> np.ndarray:
        return self._activation(before).astype(self._arithmetic.dtype)

    def slope(self, before: np.ndarray) -> np.ndarray:
        return self._slope(before).astype(self._arithmetic.dtype)

    def forward(self, rows: np.ndarray) -> np.ndarray:
        self._before = []
        for matrix, activated, keeps in zip(self._matrices, self._activated, self._keeps, strict=True):
            product = self._product(rows, matrix)
            rows = np.concatenate([rows, product], axis=1) if keeps else product
            self._before.append(rows)
            if activated:
                rows = self.activate(rows)
        return rows

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """dE/d(rows) from dE/d(result); `forward` came before."""
        steps = list(zip(self._matrices, self._activated, self._keeps, self._before, strict=True))
        for matrix, activated, keeps, before in reversed(steps):
            if activated:
                gradient = gradient * self.slope(before)
            kept = gradient[:, : len(matrix)] if keeps else 0
            gradient = self._product(gradient[:, len(matrix) :] if keeps else gradient, matrix.T) + kept
        return gradient


class _Embedding:
    """The folded embedding: the two-body table of each ordered pair of types, and dense layers after it."""

    def __init__(self, chain: Chain, activation: str, arithmetic: Arithmetic) -> None:
        self._table, self._activated = chain[0].matrix.astype(arithmetic.dtype), chain[0].activated
        self._dense = _Dense(chain[1:], activation, arithmetic)

    def forward(self, basis: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        self._before = np.einsum("zn,znc->zc", basis, self._table[pairs])
        return self._dense.forward(self._dense.activate(self._before) if self._activated else self._before)

    def backward(self, gradient: np.ndarray, slopes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """dE/dx (Z,) from dE/d(result) and the slopes of the basis."""
        gradient = self._dense.backward(gradient)
        if self._activated:
            gradient = gradient * self._dense.slope(self._before)
        return (gradient * np.einsum("zn,znc->zc", slopes, self._table[pairs])).sum(axis=1, dtype=np.float64)


class _Evaluation:
    """One evaluation: `run` is the whole, in the order of the stages of allegro_sim.model.reference."""

    def __init__(
        self,
        model: AllegroModel,
        types: np.ndarray,
        centers: np.ndarray,
        neighbors: np.ndarray,
        vectors: np.ndarray,
        arithmetic: Arithmetic,
    ) -> None:
        self._model, self._dtype = model, arithmetic.dtype
        self._types, self._centers, self._neighbors, self._vectors = types, centers, neighbors, vectors
        self._pairs = types[centers] * model.num_types + types[neighbors]
        folded = fold_model(model)
        self._widths = folded.widths
        self._embedding = _Embedding(folded.embedding, model.embed_mlp.activation, arithmetic)
        self._latents = [
            _Dense(chain, layer.latent.activation, arithmetic)
            for chain, layer in zip(folded.latents, model.layers, strict=True)
        ]
        self._readout = _Dense(folded.readout, model.readout.activation, arithmetic)
        self._energy_weights = folded.energy_weights

    def _cast(self, values: np.ndarray) -> np.ndarray:
        """A sum that the kernels make in the features' dtype, made here in float64 and rounded once."""
        return values.astype(self._dtype)

    def _channels(self, columns: np.ndarray, slots: int) -> np.ndarray:
        return columns.reshape(len(columns), self._model.num_tensor_features, slots)

    def run(self) -> Reference:
        model, types, centers = self._model, self._types, self._centers
        cutoffs = model.cutoffs[types[centers], types[self._neighbors]]
        self._lengths, self._units = geometry.lengths_forward(self._vectors)
        self._x = self._lengths / cutoffs
        radial = radial_basis(model.radial, self._x, types[centers], types[self._neighbors])
        basis, self._basis_slopes = map(self._cast, radial)
        self._harmonics = self._cast(
            geometry.spherical_harmonics_forward(self._units, model.l_max, model.repeated_harmonics)
        )
        edge_energies = self._forward(basis)

        factors = (model.edge_sum_norms * model.scales)[types]
        energies = model.shifts[types] + stages.edge_sum_forward(edge_energies, centers, factors)
        grad_harmonics, grad_x = self._backward(factors[centers])
        grad_lengths = np.zeros(len(centers))
        if model.pair_term is not None:
            of_edges = (model.pair_term, self._lengths, self._x, types[centers], types[self._neighbors])
            pair_energies = pairs.pair_forward(*of_edges)
            energies = energies + stages.edge_sum_forward(pair_energies, centers, np.ones(len(types)))
            grad_lengths, grad = pairs.pair_backward(np.ones(len(centers)), *of_edges)
            grad_x = grad_x + grad
        grad_units = geometry.spherical_harmonics_backward(
            grad_harmonics, self._units, model.l_max, model.repeated_harmonics
        )
        grad_lengths = grad_lengths + grad_x / cutoffs
        return Reference(energies, geometry.lengths_backward(grad_lengths, grad_units, self._lengths, self._units))

    def _forward(self, basis: np.ndarray) -> np.ndarray:
        """e_z (Z,), float64."""
        model, widths = self._model, self._widths
        slots = model.environment_weight_irreps
        features = self._embedding.forward(basis, self._pairs)
        ends = np.cumsum([widths[0], model.num_tensor_features * slots])
        first, environment, tensor = np.split(features, ends, axis=1)
        weights = self._channels(tensor, model.tensor_weight_irreps)
        kind = ScatterTrack if model.scatter_features else VectorTrack
        self._track = kind(model, self._types, self._centers, self._harmonics, weights, self._cast)
        all_scalars = [first]
        for k in range(model.num_layers):
            invariants = self._track.forward(k, self._channels(environment, slots))
            latent = self._latents[k].forward(np.concatenate([*all_scalars, invariants], axis=1))
            all_scalars.append(latent[:, : widths[k + 1]])
            environment = latent[:, widths[k + 1] :]
        result = self._readout.forward(np.concatenate(all_scalars, axis=1))
        return result.astype(np.float64) @ self._energy_weights

    def _backward(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dE/dY (Z, M) and dE/dx (Z,), float64, from dE/de_z (Z,)."""
        model, ends, num_edges = self._model, np.cumsum(self._widths), len(self._centers)
        seeds = self._cast(factors[:, None] * self._energy_weights)
        grad_scalars = np.split(self._readout.backward(seeds), ends[:-1], axis=1)
        grad_environment = np.zeros((num_edges, 0), self._dtype)  # the last layer makes none
        for k in range(model.num_layers - 1, -1, -1):
            gradient = np.concatenate([grad_scalars[k + 1], grad_environment], axis=1)
            gradient = self._latents[k].backward(gradient)
            *into_scalars, grad_invariants = np.split(gradient, ends[: k + 1], axis=1)
            for index, grad in enumerate(into_scalars):
                grad_scalars[index] = grad_scalars[index] + grad
            grad_environment = self._track.backward(k, grad_invariants).reshape(num_edges, -1)
        into_tensor_weights = self._track.grad_weights.reshape(num_edges, -1)
        gradient = np.concatenate([grad_scalars[0], grad_environment, into_tensor_weights], axis=1)
        by_x = self._embedding.backward(gradient, self._basis_slopes, self._pairs)
        return self._track.grad_harmonics, by_x
