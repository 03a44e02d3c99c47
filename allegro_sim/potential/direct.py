"""The legacy generation's tensor products as tables for `kernels.cpu.direct_track`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.direct_track import TENSOR_PANEL, DirectTrack
from allegro_sim.kernels.cpu.simd import lanes, pad
from allegro_sim.model.description import AllegroModel, Layer
from allegro_sim.model.irreps import component_slices, total_dim
from allegro_sim.model.wigner import product_coefficients


class DirectPlan:
    """Tables of the couplings and mixing matrices, and the layout of a centre's block and of a panel's scratch.

    Attributes
    ----------
    block : int, elements of a centre
    scratch : int, elements of a panel
    """

    def __init__(self, model: AllegroModel, dtype: Any) -> None:
        self.model, self.dtype = model, np.dtype(dtype)
        self.channels = pad(model.num_tensor_features, dtype)
        self._components = (model.l_max + 1) ** 2
        self._matrices: list[np.ndarray] = []
        self._matrices_at = 0
        self._groups: list[tuple[int, int]] = []  # row, path
        self._entries: list[tuple[int, int, float]] = []  # row of X, component of A, value
        self._group_entries = [0]
        self._tables: dict[str, Any] = {}
        self._make_couplings()
        self._make_mixing()
        self._place()

    # --- couplings ----------------------------------------------------------------------------------------------------

    def _left_starts(self, layer: Layer) -> list[int]:
        """First row of X of each path: where the irrep stands in V_k, or of a block of the path's own."""
        slices = component_slices(layer.irreps_in)
        if layer.mix_in is None:
            return [slices[path.first].start for path in layer.paths]
        dims = [layer.irreps_in[path.first].dim for path in layer.paths]
        return [int(start) for start in np.cumsum([0, *dims[:-1]])]

    def _row(self, layer: Layer, p: int, component: int) -> int:
        """Row of T for a component of a path's result: (irrep, component, path), or of V_{k+1} where paths add up."""
        path, slices = layer.paths[p], component_slices(layer.irreps_out)
        if not layer.separate_paths:
            return slices[path.out].start + component
        ends = np.array([other.out for other in layer.paths])
        before = sum(layer.irreps_out[out].dim for out in ends[ends < path.out])
        siblings = np.flatnonzero(ends == path.out)
        return before + component * len(siblings) + int(np.flatnonzero(siblings == p)[0])

    def _make_couplings(self) -> None:
        """Groups of equal row and path, rows one after the other."""
        model, paths_before = self.model, 0
        layer_groups = [0]
        weights = np.zeros((sum(len(layer.paths) for layer in model.layers), self.channels))
        product_rows, left_rows, invariant_rows = [], [], []
        for layer in model.layers:
            starts = self._left_starts(layer)
            groups: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
            for p, path in enumerate(layer.paths):
                first, out = layer.irreps_in[path.first], layer.irreps_out[path.out]
                coefficients = product_coefficients(first.degree, path.second, out.degree)
                for a, b, c in np.argwhere(coefficients):
                    entry = (starts[p] + a, path.second**2 + b, coefficients[a, b, c])
                    groups.setdefault((self._row(layer, p, int(c)), p), []).append(entry)
            for row, p in sorted(groups):
                self._groups.append((row, paths_before + p))
                self._entries += groups[row, p]
                self._group_entries.append(len(self._entries))
            layer_groups.append(len(self._groups))
            weights[paths_before : paths_before + len(layer.paths), : model.num_tensor_features] = layer.path_weights.T
            paths_before += len(layer.paths)
            dims_in = [layer.irreps_in[path.first].dim for path in layer.paths]
            left_rows.append(sum(dims_in) if layer.mix_in is not None else total_dim(layer.irreps_in))
            apart = sum(layer.irreps_out[path.out].dim for path in layer.paths)
            product_rows.append(apart if layer.separate_paths else total_dim(layer.irreps_out))
            invariant_rows.append(layer.num_invariants)
        self._left_rows, self._product_rows = left_rows, product_rows
        self._tables |= {
            "layer_groups": np.array(layer_groups, np.int64),
            "group_entries": np.array(self._group_entries, np.int64),
            "group_rows": np.array([row for row, _ in self._groups], np.int64),
            "group_paths": np.array([path for _, path in self._groups], np.int64),
            "entry_first": np.array([entry[0] for entry in self._entries], np.int64),
            "entry_second": np.array([entry[1] for entry in self._entries], np.int64),
            "entry_values": np.array([entry[2] for entry in self._entries], self.dtype),
            "path_weights": np.ascontiguousarray(weights, self.dtype),
            "tensor_rows": np.array([total_dim(layer.irreps_in) for layer in model.layers], np.int64),
            "left_rows": np.array(left_rows, np.int64),
            "product_rows": np.array(product_rows, np.int64),
            "invariant_rows": np.array(invariant_rows, np.int64),
        }

    # --- mixing -------------------------------------------------------------------------------------------------------

    def _pack(self, matrix: np.ndarray) -> tuple[int, int]:
        """Store blocks (n, U, U) one below the other with padded channels, and their transpose side by side."""
        count, channels = len(matrix), self.model.num_tensor_features
        padded = np.zeros((count, self.channels, self.channels))
        padded[:, :channels, :channels] = matrix
        places = []
        for form in (padded.reshape(-1), padded.transpose(2, 0, 1).reshape(-1)):
            places.append(self._matrices_at)
            self._matrices.append(form)
            self._matrices_at += len(form)
        return places[0], places[1]

    def _make_mixing(self) -> None:
        model, degrees = self.model, self.model.l_max + 1
        tables: dict[str, list[tuple[int, ...]]] = {"before": [], "after": []}
        starts: dict[str, list[int]] = {"before": [0], "after": [0]}
        environment = np.full((model.num_layers, degrees, 2), -1, np.int64)
        for k, layer in enumerate(model.layers):
            if layer.mix_in is not None:
                slices = component_slices(layer.irreps_in)
                for p, (path, start) in enumerate(zip(layer.paths, self._left_starts(layer), strict=True)):
                    irrep = slices[path.first]
                    places = self._pack(layer.mix_in[p][None])
                    tables["before"].append((irrep.start, start, irrep.stop - irrep.start, *places))
            if layer.mix_out is not None:
                ends = np.array([path.out for path in layer.paths])
                for out, irrep in enumerate(component_slices(layer.irreps_out)):
                    siblings = np.flatnonzero(ends == out)
                    places = self._pack(layer.mix_out[siblings])
                    for component in range(irrep.stop - irrep.start):
                        row = self._row(layer, int(siblings[0]), component)
                        tables["after"].append((row, irrep.start + component, len(siblings), *places))
            if layer.environment_mix is not None:
                for degree in range(degrees):
                    environment[k, degree] = self._pack(layer.environment_mix[degree][None])
            for name, rows in tables.items():
                starts[name].append(len(rows))
        for name, rows in tables.items():
            self._tables[name] = np.array(rows, np.int64).reshape(-1, 5)
            self._tables[f"{name}_starts"] = np.array(starts[name], np.int64)
        self._tables["environment_mix"] = environment
        matrices = np.concatenate(self._matrices) if self._matrices else np.zeros(lanes(self.dtype))
        self._tables["matrices"] = np.ascontiguousarray(matrices, self.dtype)

    # --- layout -------------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Vectors of one centre, one after the other in its block; quantities of a panel in its scratch."""
        size = self._components * self.channels
        num_layers = self.model.num_layers
        self.block = (num_layers + 2) * size
        at = lanes(self.dtype)  # the norm stands first
        places = {}
        for name, rows in (
            ("left_at", max(self._left_rows)),
            ("left_gradient_at", max(self._left_rows)),
            ("product_at", max(self._product_rows)),
            ("product_gradient_at", max(self._product_rows)),
            ("seen_at", self._components),
        ):
            places[name] = at
            at += rows * self.channels * TENSOR_PANEL
        self.scratch = at
        self._layout = {
            "environment_at": np.arange(num_layers, dtype=np.int64) * size,
            "gradient_at": num_layers * size,
            "scratch_at": (num_layers + 1) * size,
            "block": self.block,
            "norm_at": 0,
            **places,
        }

    def bind(
        self, place: Callable[[str], np.ndarray], slots: tuple[np.ndarray, ...], columns: tuple[np.ndarray, ...]
    ) -> DirectTrack:
        """The constants; place: a buffer's place and elements a row, by name; slots, columns: of env, and of w."""
        layers = range(self.model.num_layers)
        return DirectTrack(
            channels=self.channels,
            self_edge=int(self.model.self_edge),
            environment_slots=slots[0],
            tensor_slots=slots[1],
            environment_columns=columns[0],
            tensor_columns=columns[1],
            tensors=np.array([place(f"tensors {k}") for k in layers]),
            tensor_gradients=np.array([place("tensors gradient 0"), place("tensors gradient 1")]),
            seen_gradient=place("seen gradient"),
            environment_buffers=np.array([place(f"environment {k}") for k in layers]),
            environment_gradient=place("environment gradient"),
            tensor_weights=place("tensor weights"),
            tensor_weight_gradient=place("tensor weights gradient"),
            invariants=place("invariants"),
            invariant_gradient=place("invariants gradient"),
            harmonic_gradient=place("harmonics gradient"),
            **self._tables,
            **self._layout,
        )
