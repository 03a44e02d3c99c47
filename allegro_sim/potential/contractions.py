"""The tensor products of a centre as sparse lists, for `kernels.cpu.tensor_track.contract`."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.kernels.cpu.simd import pad
from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.aligned import aligned_empty
from allegro_sim.potential.folding import contraction_list

# Columns of `Contraction.indices`, a of the tensors, b of the harmonics, c of the result: what a list gives, and what
# its two operands are. First of the whole product, then of the part that ends in the invariant.
_BY_TENSORS = ((0, 1, 2), (0, 1, 2))  # M_k n, of A_k and a vector of V_{k+1}
_FORWARD = ((2, 1, 0), (1, 0, 2))  # B_{k+1}, of A_k and B_k; n_k, of B_k and the number 1


def contraction_lists(model: AllegroModel, dtype: Any) -> dict[str, np.ndarray]:
    """Lists of all layers as flat arrays, fields of the tracks: list 2 k of the whole product of layer k, list 2 k + 1
    of its invariant column. Groups of one (path, component of what the list gives) each."""
    channels = pad(model.num_tensor_features, dtype)
    list_groups, group_entries = [0], [0]
    group_paths, group_first, second, out, values = [], [], [], [], []
    path_starts = np.cumsum([0, *(len(layer.paths) for layer in model.layers)])
    roles = _FORWARD if model.scatter_features else _BY_TENSORS
    for k in range(model.num_layers):
        for invariant_only, (given, left, right) in zip((False, True), roles, strict=True):
            contraction = contraction_list(model, k, invariant_only)
            order = np.lexsort((contraction.indices[:, given], contraction.indices[:, 3]))
            indices = contraction.indices[order]
            keys = indices[:, [3, given]]
            breaks = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=-1) != 0, axis=1))
            for start, end in zip(breaks, [*breaks[1:], len(keys)], strict=True):
                group_paths.append(path_starts[k] + keys[start, 0])
                group_first.append(keys[start, 1])
                group_entries.append(group_entries[-1] + end - start)
            second.append(indices[:, left])
            out.append(indices[:, right])
            values.append(contraction.values[order])
            list_groups.append(len(group_paths))
    weights = aligned_empty((int(path_starts[-1]), channels), dtype)
    for k, layer in enumerate(model.layers):
        weights[path_starts[k] : path_starts[k + 1], : model.num_tensor_features] = layer.path_weights.T
    return {
        "list_groups": np.array(list_groups, np.int64),
        "group_entries": np.array(group_entries, np.int64),
        "group_paths": np.array(group_paths, np.int64),
        "group_first": np.array(group_first, np.int64),
        "entry_second": np.concatenate(second),
        "entry_out": np.concatenate(out),
        "entry_values": np.concatenate(values).astype(dtype),
        "path_weights": weights,
    }
