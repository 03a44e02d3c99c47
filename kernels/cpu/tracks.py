"""The tensor track of whichever generation: the type of the constants chooses, when a kernel is compiled.

A potential compiles only the track it runs: that of the current generation (`tensor_track.py`, or `scatter_track.py`
for models with `scatter_features`) or of the legacy one (`direct_track.py`).
"""

from __future__ import annotations

from numba.extending import overload

from .direct_track import DirectTrack, direct_backward, direct_forward
from .scatter_track import ScatterTrack, scatter_backward, scatter_forward
from .tensor_track import tensor_backward, tensor_forward

_OPTIONS = {"error_model": "numpy", "nogil": True}


def layer_forward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
    """Environment and tensor product of one layer for a chunk, down to its invariants."""
    raise NotImplementedError("only compiled kernels call this")


def layer_backward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
    """The reverse of `layer_forward`."""
    raise NotImplementedError("only compiled kernels call this")


@overload(layer_forward, jit_options=_OPTIONS)
def _forward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
    def direct(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
        direct_forward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers)

    def by_vectors(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
        tensor_forward(track, layer, features, centers, norms, edges, num_centers)

    def of_sums(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
        scatter_forward(track, layer, last_layer, features, centers, norms, edges, num_centers)

    return {DirectTrack: direct, ScatterTrack: of_sums}.get(track.instance_class, by_vectors)


@overload(layer_backward, jit_options=_OPTIONS)
def _backward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
    def direct(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
        direct_backward(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers)

    def by_vectors(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
        tensor_backward(track, layer, last_layer, features, centers, norms, edges, num_centers)

    def of_sums(track, layer, last_layer, features, centers, scratch, norms, edges, num_centers):  # type: ignore[no-untyped-def]
        scatter_backward(track, layer, last_layer, features, centers, norms, edges, num_centers)

    return {DirectTrack: direct, ScatterTrack: of_sums}.get(track.instance_class, by_vectors)
