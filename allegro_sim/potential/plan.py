"""A model turned into what the CPU kernels read: programs, packed weights, sparse lists, layout of the workspace."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.allegro import Network, Workspace
from allegro_sim.kernels.cpu.direct_track import DirectTrack
from allegro_sim.kernels.cpu.edges import Edges
from allegro_sim.kernels.cpu.harmonics import harmonic_norms, scratch_rows
from allegro_sim.kernels.cpu.radial import BESSEL, LENNARD_JONES, NO_PAIRS, PAIR_BESSEL, SPLINE, ZBL
from allegro_sim.kernels.cpu.simd import VECTOR_BYTES
from allegro_sim.kernels.cpu.tensor_track import TensorTrack
from allegro_sim.model.description import AllegroModel, BesselEmbedding, SplineEmbedding, Zbl
from allegro_sim.model.irreps import component_slices, total_dim
from allegro_sim.potential.direct import DirectPlan
from allegro_sim.potential.folding import contraction_list, fold_model
from allegro_sim.potential.programs import ProgramBuilder, Programs
from allegro_sim.potential.programs_legacy import LegacyProgramBuilder


def aligned_empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that start at a multiple of 64 bytes: vectors then never straddle cache lines."""
    count = int(np.prod(shape))
    raw = np.zeros(count * np.dtype(dtype).itemsize + VECTOR_BYTES, np.uint8)
    start = -raw.ctypes.data % VECTOR_BYTES
    return raw[start : start + count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def _slot_starts(model: AllegroModel, slots: int) -> np.ndarray:
    """First component of each range of components that share a weight: one a harmonic, or one for all; their end."""
    starts = [piece.start for piece in component_slices(model.harmonics)] if slots > 1 else [0]
    return np.array([*starts, model.harmonic_components], np.int64)


_NO_BESSEL: dict[str, Any] = {"frequencies": np.empty(0), "pair_frequencies": np.empty((0, 0)), "with_constants": 0}


def _radial_constants(radial: BesselEmbedding | SplineEmbedding) -> dict[str, Any]:
    """The fields of `Network` that describe the radial basis; those of the other kind are not read."""
    if isinstance(radial, SplineEmbedding):
        return {**_NO_BESSEL, "radial_kind": SPLINE, "spline_span": float(radial.span), "cutoff_exponent": 6.0}
    constants = {
        **_NO_BESSEL,
        "spline_span": 0.0,
        "cutoff_exponent": float(radial.cutoff_exponent),
        "with_constants": int(radial.with_constants),
    }
    if radial.frequencies.ndim == 1:
        return {**constants, "radial_kind": BESSEL, "frequencies": np.array(radial.frequencies, np.float64)}
    by_pair = np.ascontiguousarray(radial.frequencies.reshape(-1, radial.frequencies.shape[-1]), np.float64)
    return {**constants, "radial_kind": PAIR_BESSEL, "pair_frequencies": by_pair}


class Plan:
    """Constants and layout for one model in one dtype of features (float32 or float64).

    Attributes
    ----------
    folded : Folded
    bytes_per_edge : int, workspace of a thread for each edge of a chunk
    """

    def __init__(self, model: AllegroModel, dtype: Any) -> None:
        self.model, self.dtype = model, np.dtype(dtype)
        self.folded = fold_model(model)
        self._components = model.harmonic_components
        separable = self.folded.separable
        self._num_basis = self.folded.embedding[0].matrix.shape[1] if separable is None else len(separable.basis)
        self._builder: Programs
        self._direct: DirectPlan | None = None
        self._factors: list[tuple[int, float, float]] = []
        if model.is_legacy:
            self._builder = legacy = LegacyProgramBuilder(model, self.folded, dtype)
            self._direct, self._factors = DirectPlan(model, dtype), legacy.factors
            self._block = self._direct.block
        else:
            self._builder = ProgramBuilder(model, self.folded, dtype)
            self._make_lists()
            self._place_centers()
            self._block = self._centers["block"]
        self._make_constants()
        feature_rows = self._builder.buffers.row_elements() + self._components + 2 * self._num_basis
        double_rows = 25 + scratch_rows(model.l_max) + 3 * self._components
        self.bytes_per_edge = feature_rows * self.dtype.itemsize + double_rows * 8

    def _make_lists(self) -> None:
        """Contraction lists of all layers as flat arrays: list 2 k is M_k, list 2 k + 1 its invariant column m_k."""
        model, channels = self.model, self._builder.channels
        list_groups, group_entries = [0], [0]
        group_paths, group_first, second, out, values = [], [], [], [], []
        path_starts = np.cumsum([0, *(len(layer.paths) for layer in model.layers)])
        for k in range(model.num_layers):
            for invariant_only in (False, True):
                contraction = contraction_list(model, k, invariant_only)
                keys = contraction.indices[:, [3, 0]]
                breaks = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=-1) != 0, axis=1))
                for start, end in zip(breaks, [*breaks[1:], len(keys)], strict=True):
                    group_paths.append(path_starts[k] + keys[start, 0])
                    group_first.append(keys[start, 1])
                    group_entries.append(group_entries[-1] + end - start)
                second.append(contraction.indices[:, 1])
                out.append(contraction.indices[:, 2])
                values.append(contraction.values)
                list_groups.append(len(group_paths))
        weights = aligned_empty((int(path_starts[-1]), channels), self.dtype)
        for k, layer in enumerate(model.layers):
            weights[path_starts[k] : path_starts[k + 1], : model.num_tensor_features] = layer.path_weights.T
        self._lists: dict[str, np.ndarray] = {
            "list_groups": np.array(list_groups, np.int64),
            "group_entries": np.array(group_entries, np.int64),
            "group_paths": np.array(group_paths, np.int64),
            "group_first": np.array(group_first, np.int64),
            "entry_second": np.concatenate(second),
            "entry_out": np.concatenate(out),
            "entry_values": np.concatenate(values).astype(self.dtype),
            "path_weights": weights,
        }

    def _place_centers(self) -> None:
        """Layout of the vectors of one centre, one after the other in its block."""
        model, channels = self.model, self._builder.channels
        num_layers = model.num_layers
        at = 0

        def take(components: int) -> int:
            nonlocal at
            start, at = at, at + components * channels
            return start

        dims = [self._components, *(total_dim(layer.irreps_in) for layer in model.layers[1:])]
        # Read in eights from the second component on: zeros follow where the last eight is not full.
        in_eights = max(dims[0], 1 + -(-(self._components - 1) // 8) * 8)
        environments = [take(self._components) for _ in range(num_layers)]
        environment_gradients = [take(in_eights) for _ in range(num_layers)]
        chain_at = np.zeros((num_layers, num_layers + 1), np.int64)
        chain_dims = np.zeros((num_layers, num_layers + 1), np.int64)
        for k in range(num_layers):
            # n_{k+1} is the number 1: the invariant column alone starts the chain.
            chain_dims[k, : k + 2] = [*dims[: k + 1], 1]
            chain_at[k, : k + 2] = [take(in_eights), *(take(dim) for dim in chain_dims[k, 1 : k + 2])]
        self._centers: dict[str, Any] = {
            "environment_at": np.array(environments, np.int64),
            "environment_gradient_at": np.array(environment_gradients, np.int64),
            "chain_at": chain_at,
            "chain_dims": chain_dims,
            "gradient_at": np.array([take(max(dims)), take(max(dims))], np.int64),
        }
        self._centers["block"] = at

    def _make_constants(self) -> None:
        model, builder, dtype = self.model, self._builder, self.dtype
        energy_weights = np.zeros(builder.readout_width)
        energy_weights[builder.readout_places] = self.folded.energy_weights
        energy_factors = np.asarray(model.edge_sum_norms * model.scales, np.float64)
        seeds = aligned_empty((model.num_types, builder.readout_width), dtype)
        seeds[:] = energy_factors[:, None] * energy_weights
        weights = aligned_empty(sum(map(len, builder.weights)), dtype)
        np.concatenate(builder.weights, out=weights)
        programs, starts = builder.table()
        self._constants: dict[str, Any] = {
            "cutoffs": np.array(model.cutoffs, np.float64),
            **_radial_constants(model.radial),
            "harmonic_norms": harmonic_norms(model.l_max),
            "repeated_degrees": np.array([irrep.degree for irrep in model.repeated_harmonics], np.int64),
            "weights": weights,
            "programs": programs,
            "program_starts": starts,
            "environment_norms": np.array(model.environment_norms, dtype),
            "seeds": seeds,
            "energy_weights": energy_weights,
            "energy_factors": energy_factors,
            "shifts": np.array(model.shifts, np.float64),
            **_pair_constants(model),
            "factor_kinds": np.array([kind for kind, *_ in self._factors], np.int64),
            "factor_parameters": np.array([rest for _, *rest in self._factors], np.float64).reshape(-1, 2),
            "edge_scales": np.array(
                np.empty(0) if model.edge_scales is None else model.edge_scales.reshape(-1), np.float64
            ),
        }

    def _columns(self, slots: int) -> np.ndarray:
        """First column of each component's slot of weights, with zeros up to one more than a multiple of eight."""
        columns = np.zeros(1 + -(-(self._components - 1) // 8) * 8, np.int64)
        sizes = np.diff(_slot_starts(self.model, slots))
        columns[: self._components] = np.repeat(np.arange(len(sizes)), sizes) * self._builder.channels
        return columns

    def bind(self, capacity: int) -> tuple[Network, TensorTrack | DirectTrack]:
        """Constants for chunks of at most `capacity` edges (places in the workspace depend on it)."""
        model, buffers = self.model, self._builder.buffers
        table, _ = buffers.place(capacity)

        def place(name: str) -> np.ndarray:
            return table[buffers.number(name), :2].copy()

        if self._direct is not None:
            slots = model.environment_weight_irreps
            direct = self._direct.bind(place, _slot_starts(model, slots), self._columns(slots))
            return Network(buffers=table, **self._constants), direct
        layers = range(model.num_layers)
        track = TensorTrack(
            channels=self._builder.channels,
            environment_slots=_slot_starts(model, model.environment_weight_irreps),
            tensor_slots=_slot_starts(model, model.tensor_weight_irreps),
            environment_columns=self._columns(model.environment_weight_irreps),
            tensor_columns=self._columns(model.tensor_weight_irreps),
            environment_buffers=np.array([place(f"environment {k}") for k in layers]),
            environment_gradient=place("environment gradient"),
            tensor_weights=place("tensor weights"),
            tensor_weight_gradient=place("tensor weights gradient"),
            inner_buffers=np.array([place(f"inner {k}") for k in layers]),
            weighted_gradient=place("weighted gradient"),
            invariants=place("invariants"),
            invariant_gradient=place("invariants gradient"),
            harmonic_gradient=place("harmonics gradient"),
            **self._lists,
            **self._centers,
        )
        return Network(buffers=table, **self._constants), track

    def allocate(self, capacity: int, max_centers: int) -> tuple[Workspace, Edges]:
        """The scratch of one thread for chunks of at most `capacity` edges and `max_centers` centres."""
        # Rows of one quantity over edges: whole cache lines, but not a power of two, which would crowd into few cache
        # sets.
        length = -(-capacity // 16) * 16 + 16
        _, size = self._builder.buffers.place(capacity)
        workspace = Workspace(
            features=aligned_empty(size, self.dtype),
            centers=aligned_empty(max_centers * self._block, self.dtype),
            totals=aligned_empty((max_centers, self._builder.readout_width), np.float64),
            tensors=aligned_empty(0 if self._direct is None else self._direct.scratch, self.dtype),
        )
        doubles = {name: aligned_empty(length, np.float64) for name in (
            "lengths", "inverse_cutoffs", "x", "radial_slopes", "cutoff", "cutoff_slopes", "pair_energies",
            "pair_slopes",
        )}  # fmt: skip
        harmonics = aligned_empty((self._components, length), self.dtype)
        edges = Edges(
            first=np.zeros(max_centers + 1, np.int64),
            **{name: np.zeros(length, np.int64) for name in ("centers", "center_types", "neighbors", "pairs")},
            vectors=aligned_empty((3, length), np.float64),
            units=aligned_empty((3, length), np.float64),
            gradients=aligned_empty((3, length), np.float64),
            numbers=aligned_empty((2, length), np.float64),
            scratch=aligned_empty((scratch_rows(self.model.l_max), length), np.float64),
            harmonic_slopes=aligned_empty((3 * self._components, length), np.float64),
            harmonics=harmonics,
            flat_harmonics=harmonics.reshape(-1),
            basis=aligned_empty((self._num_basis, length), self.dtype),
            basis_slopes=aligned_empty((self._num_basis, length), self.dtype),
            factors=aligned_empty((len(self._factors), length), self.dtype),
            factor_slopes=aligned_empty((len(self._factors), length), np.float64),
            **doubles,
        )
        return workspace, edges


def _pair_constants(model: AllegroModel) -> dict[str, Any]:
    """The pair term, as `kernels.cpu.allegro.Network` has it."""
    term, numbers, length, strength = model.pair_term, np.ones(model.num_types), 0.0, 0.0
    kind = NO_PAIRS
    if isinstance(term, Zbl):
        kind, numbers, strength = ZBL, np.array(term.atomic_numbers, np.float64), float(term.coulomb)
    elif term is not None:
        kind, length, strength = LENNARD_JONES, float(term.sigma), float(term.epsilon)
    exponent = None if term is None else term.cutoff_exponent
    return {
        "pair_kind": kind,
        "pair_numbers": numbers,
        "pair_length": length,
        "pair_strength": strength,
        "pair_exponent": float(exponent or 0.0),
        "pair_scales": np.ones(model.num_types) if model.pair_scales is None else np.array(model.pair_scales),
    }
