"""Models with `scatter_features` as tables for `kernels.cpu.scatter_track`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.scatter_track import ScatterTrack
from allegro_sim.kernels.cpu.simd import pad
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.contractions import contraction_lists
from allegro_sim.potential.vectors import places_of_features


class ScatterPlan:
    """Lists of the products, and the layout of a centre's block.

    Attributes
    ----------
    block : int, elements of a centre
    """

    def __init__(self, model: AllegroModel, dtype: Any) -> None:
        self.model = model
        self.channels = channels = pad(model.num_tensor_features, dtype)
        self._lists = contraction_lists(model, dtype)
        at = 0

        def take(components: int) -> int:
            nonlocal at
            start, at = at, at + components * channels
            return start

        dims = [total_dim(layer.irreps_in) for layer in model.layers]
        components = model.harmonic_components
        # Read in eights from the second component on: zeros follow where the last eight is not full.
        in_eights = max(components, 1 + -(-(components - 1) // 8) * 8)
        layers = range(model.num_layers)
        self._places: dict[str, Any] = {
            "sum_at": np.array([take(dim) for dim in dims], np.int64),
            "sum_dims": np.array(dims, np.int64),
            "environment_at": np.array([take(components) for _ in layers[1:]], np.int64),
            "vector_at": np.array([take(in_eights) for _ in layers], np.int64),
            "one_at": take(1),
            "sum_gradient_at": np.array([take(max(dims)), take(max(dims))], np.int64),
            "environment_gradient_at": take(in_eights),
            "vector_gradient_at": take(components),
            "unused_at": take(1),
        }
        self.block = self._places["block"] = at

    def bind(
        self, place: Callable[[str], np.ndarray], slots: tuple[np.ndarray, ...], columns: tuple[np.ndarray, ...]
    ) -> ScatterTrack:
        """The constants; place: a buffer's place and elements a row, by name; slots, columns: of env, and of w."""
        features = places_of_features(place, slots, columns, self.model.num_layers)
        return ScatterTrack(channels=self.channels, **features, **self._lists, **self._places)
