"""A model turned into what the CPU kernels read: programs, packed weights, sparse lists, layout of the workspace."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.allegro import Network, Workspace
from allegro_sim.kernels.cpu.direct_track import DirectTrack
from allegro_sim.kernels.cpu.edges import Edges
from allegro_sim.kernels.cpu.harmonics import harmonic_norms, scratch_rows
from allegro_sim.kernels.cpu.radial import BESSEL, LENNARD_JONES, NO_PAIRS, PAIR_BESSEL, SPLINE, ZBL
from allegro_sim.kernels.cpu.scatter_track import ScatterTrack
from allegro_sim.kernels.cpu.tensor_track import TensorTrack
from allegro_sim.model.description import (
    LENNARD_JONES_STYLES,
    AllegroModel,
    BesselEmbedding,
    SplineEmbedding,
    Zbl,
)
from allegro_sim.model.irreps import component_slices
from allegro_sim.potential.aligned import aligned_empty
from allegro_sim.potential.direct import DirectPlan
from allegro_sim.potential.folding import fold_model
from allegro_sim.potential.pair_tables import lennard_jones_tables
from allegro_sim.potential.programs import ProgramBuilder, Programs
from allegro_sim.potential.programs_legacy import LegacyProgramBuilder
from allegro_sim.potential.scatter import ScatterPlan
from allegro_sim.potential.vectors import VectorPlan


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
        "cutoff_exponent": float(radial.cutoff_exponent or 0.0),
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
        self._track: VectorPlan | ScatterPlan | DirectPlan
        self._factors: list[tuple[int, float, float]] = []
        if model.is_legacy:
            self._builder = legacy = LegacyProgramBuilder(model, self.folded, dtype)
            self._track, self._factors = DirectPlan(model, dtype), legacy.factors
        else:
            self._builder = ProgramBuilder(model, self.folded, dtype)
            self._track = ScatterPlan(model, dtype) if model.scatter_features else VectorPlan(model, dtype)
        self._make_constants()
        feature_rows = self._builder.buffers.row_elements() + self._components + 2 * self._num_basis
        double_rows = 25 + scratch_rows(model.l_max) + 3 * self._components
        self.bytes_per_edge = feature_rows * self.dtype.itemsize + double_rows * 8

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
            "reaches": np.array(model.reaches, np.float64),
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

    def bind(self, capacity: int) -> tuple[Network, TensorTrack | ScatterTrack | DirectTrack]:
        """Constants for chunks of at most `capacity` edges (places in the workspace depend on it)."""
        model, buffers = self.model, self._builder.buffers
        table, _ = buffers.place(capacity)

        def place(name: str) -> np.ndarray:
            return table[buffers.number(name), :2].copy()

        counts = model.environment_weight_irreps, model.tensor_weight_irreps
        slots = tuple(_slot_starts(model, count) for count in counts)
        track = self._track.bind(place, slots, tuple(self._columns(count) for count in counts))
        return Network(buffers=table, **self._constants), track

    def allocate(self, capacity: int, max_centers: int) -> tuple[Workspace, Edges]:
        """The scratch of one thread for chunks of at most `capacity` edges and `max_centers` centres."""
        # Rows of one quantity over edges: whole cache lines, but not a power of two, which would crowd into few cache
        # sets.
        length = -(-capacity // 16) * 16 + 16
        _, size = self._builder.buffers.place(capacity)
        workspace = Workspace(
            features=aligned_empty(size, self.dtype),
            centers=aligned_empty(max_centers * self._track.block, self.dtype),
            totals=aligned_empty((max_centers, self._builder.readout_width), np.float64),
            tensors=aligned_empty(self._track.scratch if isinstance(self._track, DirectPlan) else 0, self.dtype),
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
    term, numbers, strength = model.pair_term, np.ones(model.num_types), 0.0
    kind, tables, style, power, end = NO_PAIRS, np.zeros((3, model.num_types**2)), 0, 0.0, 0.0
    if isinstance(term, Zbl):
        kind, numbers, strength = ZBL, np.array(term.atomic_numbers, np.float64), float(term.coulomb)
    elif term is not None:
        kind, style, power, end = LENNARD_JONES, LENNARD_JONES_STYLES.index(term.style), float(term.power), term.end
        tables = lennard_jones_tables(term, model.num_types)
    exponent = None if term is None else term.cutoff_exponent
    return {
        "pair_kind": kind,
        "pair_numbers": numbers,
        "pair_strength": strength,
        "pair_tables": tables,
        "pair_style": style,
        "pair_power": power,
        "pair_end": end,
        "pair_exponent": float(exponent or 0.0),
        "pair_scales": np.ones(model.num_types) if model.pair_scales is None else np.array(model.pair_scales),
    }
