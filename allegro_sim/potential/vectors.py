"""The current generation's tensor products as tables for `kernels.cpu.tensor_track`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.simd import pad
from allegro_sim.kernels.cpu.tensor_track import TensorTrack
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.contractions import contraction_lists


class VectorPlan:
    """Lists of the products, and the layout of a centre's block.

    Attributes
    ----------
    block : int, elements of a centre
    """

    def __init__(self, model: AllegroModel, dtype: Any) -> None:
        self.model = model
        self.channels = pad(model.num_tensor_features, dtype)
        self._components = model.harmonic_components
        self._lists = contraction_lists(model, dtype)
        self._place_centers()
        self.block = self._centers["block"]

    def _place_centers(self) -> None:
        """Layout of the vectors of one centre, one after the other in its block."""
        model, channels = self.model, self.channels
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

    def bind(
        self, place: Callable[[str], np.ndarray], slots: tuple[np.ndarray, ...], columns: tuple[np.ndarray, ...]
    ) -> TensorTrack:
        """The constants; place: a buffer's place and elements a row, by name; slots, columns: of env, and of w."""
        features = places_of_features(place, slots, columns, self.model.num_layers)
        return TensorTrack(channels=self.channels, **features, **self._lists, **self._centers)


def places_of_features(
    place: Callable[[str], np.ndarray],
    slots: tuple[np.ndarray, ...],
    columns: tuple[np.ndarray, ...],
    num_layers: int,
) -> dict[str, Any]:
    """Where a track by vectors finds the edges' features; arguments as of `VectorPlan.bind`."""
    return {
        "environment_slots": slots[0],
        "tensor_slots": slots[1],
        "environment_columns": columns[0],
        "tensor_columns": columns[1],
        "environment_buffers": np.array([place(f"environment {k}") for k in range(num_layers)]),
        "environment_gradient": place("environment gradient"),
        "tensor_weights": place("tensor weights"),
        "tensor_weight_gradient": place("tensor weights gradient"),
        "inner_buffers": np.array([place(f"inner {k}") for k in range(num_layers)]),
        "weighted_gradient": place("weighted gradient"),
        "invariants": place("invariants"),
        "invariant_gradient": place("invariants gradient"),
        "harmonic_gradient": place("harmonics gradient"),
    }
