"""The MLPs of the legacy generation and what lies between them, computed again for `stage_reference`; letters as there.

Functions of a chunk (`stage_reference._Chunk`) and a layer, by the name of the stage without its numbers: name ->
(found, wanted, whether `mixed` rounds it). What an MLP reads from memory is among the results, "operands", where its
product takes TF32 numbers as they are, so that raw float32 is found at the reader, whoever wrote it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.model import reference_geometry as geometry
from allegro_sim.model import reference_legacy_layers as legacy
from allegro_sim.potential.cuda.mlp_shapes import fits_shared_memory

Found = dict[str, tuple]


# --- what is kept where, and rounded ----------------------------------------------------------------------------------


def takes_operands(chunk: Any, name: str, backward: bool) -> bool:
    """Whether the first product of an MLP's way takes TF32 numbers, and does not round what it reads."""
    shape = chunk._shapes[name]
    if chunk._layout.precision != "mixed" or not shape.dense or not shape.large[-1 if backward else shape.dense[0]]:
        return False
    return not fits_shared_memory(shape) or (shape.rounded_gradients if backward else shape.rounded_inputs)


def _operands(chunk: Any, name: str, rows: np.ndarray, backward: bool = False) -> Found:
    return {"operands": chunk._written(rows, rows, True)} if takes_operands(chunk, name, backward) else {}


def by_weights_rounded(chunk: Any, k: int) -> bool:
    """Whether dE/d(env_k), for k = 0 dE/dw too, are operands."""
    return takes_operands(chunk, f"environment_{k}", True)


def _collects(chunk: Any) -> bool:
    return chunk._model.latent_update == "concatenate"


def _passed_on(chunk: Any, k: int) -> bool:
    """Whether s_k is what MLP k gives and s_{k-1}, on all edges or on some."""
    return k > 0 and (chunk._model.latent_update == "residual" or chunk._model.keeps_scalars(k))


def _scalars(chunk: Any, rows: np.ndarray, k: int) -> np.ndarray:
    """s_k, or its gradient: each in its place where they are collected, else one after the other in the same."""
    d, place = chunk._dimensions, k if _collects(chunk) else 0
    first = d.invariants * d.UP + sum(d.places[:place])
    return rows[: chunk._edges, first : first + chunk._model.scalar_widths[k]]


def invariants_of(chunk: Any, rows: np.ndarray, k: int) -> np.ndarray:
    """Those of layer k, (Z, U n): column u n + p."""
    count = chunk._model.layers[k].num_invariants
    return chunk._flat(rows[:, : count * chunk._dimensions.UP])


def _apart(chunk: Any, values: dict, name: str, k: int) -> np.ndarray | None:
    """What MLP k gives, or the gradient by it, where it is kept apart from the scalar features that are made of it."""
    return values[name][: chunk._edges, : chunk._model.scalar_widths[k]] if name in values else None


def _features_rounded(chunk: Any, k: int) -> bool:
    reader = f"environment_{k}" if k < chunk._model.num_layers else "readout"
    return chunk._shapes[reader].rounded_inputs


def _giver(k: int) -> str:
    """The MLP that s_k is made by."""
    return f"latent_{k - 1}" if k else "embedding"


def _gradient_rounded(chunk: Any, k: int) -> bool:
    """Whether dE/ds_k is an operand where it stands; if the MLP's own gradient is kept apart, it is rounded there."""
    return "dlatent" not in chunk._after and takes_operands(chunk, _giver(k), True)


def _sum(chunk: Any, name: str, found: np.ndarray, before: np.ndarray, part: np.ndarray, rounded: bool) -> Found:
    """`before` and what an MLP adds to it; in `mixed` that by itself, too, where enough of its digits are left: a raw
    operand is off by 1e-3 of what is added, and may be hidden in the sum."""
    total = before + part
    sums = {name: chunk._written(found, total, rounded)}
    mixed = chunk._layout.precision == "mixed" and not rounded
    if mixed and np.sum(part**2, dtype=np.float64) > 1e-4 * np.sum(total**2, dtype=np.float64):
        sums[f"{name}, added"] = (found - before, part)
    return sums


# --- MLPs -------------------------------------------------------------------------------------------------------------


def _given(chunk: Any, k: int, rows: np.ndarray) -> Found:
    """What MLP k writes: its result, to be made s_k of later, or s_k itself."""
    if (apart := _apart(chunk, chunk._after, f"latent_{k}", k)) is not None:
        return {f"latent_{k}": (apart, rows)}
    found, rounded = _scalars(chunk, chunk._after["x"], k), _features_rounded(chunk, k)
    if _passed_on(chunk, k):
        return _sum(chunk, f"s_{k}", found, _scalars(chunk, chunk._before["x"], k - 1), rows, rounded)
    return {f"s_{k}": chunk._written(found, rows, rounded)}


def _given_gradient(chunk: Any, k: int) -> tuple[np.ndarray, Found]:
    apart = _apart(chunk, chunk._before, "dlatent", k)
    gradient = _scalars(chunk, chunk._before["dx"], k) if apart is None else apart
    return gradient, _operands(chunk, _giver(k), gradient, backward=True)


def embedding_forward(chunk: Any) -> Found:
    found: Found = {}
    rows = chunk._embedded(found)
    return {**found, **_given(chunk, 0, rows)}


def embedding_backward(chunk: Any) -> Found:
    gradient, found = _given_gradient(chunk, 0)
    return {**found, **chunk._radial_slope(gradient)}


def environment_forward(chunk: Any, k: int) -> Found:
    inputs = _scalars(chunk, chunk._before["x"], k)
    found = _operands(chunk, f"environment_{k}", inputs)
    rows = chunk._forward(f"environment_{k}", inputs, found)
    *first, environment = np.split(rows, 2 if k == 0 else 1, axis=1)
    shape = chunk._edges, chunk._dimensions.channels, -1
    for weights in first:
        found["w"] = (chunk._weights(chunk._after["w"]), weights.reshape(shape))
    found[f"env_{k}"] = (chunk._weights(chunk._after["env"][k]), environment.reshape(shape))
    return found


def environment_backward(chunk: Any, k: int) -> Found:
    before = chunk._before
    gradient = np.concatenate([chunk._flat(before[name]) for name in (("dw", "denv") if k == 0 else ("denv",))], axis=1)
    found = _operands(chunk, f"environment_{k}", gradient, backward=True)
    ds, earlier = (_scalars(chunk, values["dx"], k) for values in (chunk._after, before))
    part = chunk._backward(f"environment_{k}", gradient)
    return {**found, **_sum(chunk, f"ds_{k}", ds, earlier, part, _gradient_rounded(chunk, k))}


def latent_forward(chunk: Any, k: int) -> Found:
    x, taken = chunk._before["x"], chunk._model.latent_inputs[k]
    inputs = np.concatenate([*(_scalars(chunk, x, n) for n in taken), invariants_of(chunk, x, k)], axis=1)
    found = _operands(chunk, f"latent_{k}", inputs)
    rows = chunk._forward(f"latent_{k}", inputs, found)
    return {**found, **_given(chunk, k + 1, rows)}


def latent_backward(chunk: Any, k: int) -> Found:
    model, before, after = chunk._model, chunk._before, chunk._after
    gradient, found = _given_gradient(chunk, k + 1)
    rows, taken = chunk._backward(f"latent_{k}", gradient), model.latent_inputs[k]
    *parts, invariants = np.split(rows, np.cumsum([model.scalar_widths[n] for n in taken]), axis=1)
    found[f"dscal_{k}"] = (invariants_of(chunk, after["dx"], k), invariants)
    # The read-out sets dE/ds_L alone; the others of collected features begin with the last latent MLP.
    begun = k < model.num_layers - 1 if _collects(chunk) else _passed_on(chunk, k + 1)
    for n, part in zip(taken, parts, strict=True):
        ds = _scalars(chunk, after["dx"], n)
        earlier = _scalars(chunk, before["dx"], n) if begun else np.zeros_like(ds)
        found |= _sum(chunk, f"ds_{n}", ds, earlier, part, rounded=False)
    return found


def readout_forward(chunk: Any) -> Found:
    inputs = _scalars(chunk, chunk._before["x"], chunk._model.num_layers)
    found = _operands(chunk, "readout", inputs)
    wanted = chunk._forward("readout", inputs, found).astype(np.float64) @ chunk._layout.folded.energy_weights
    return {**found, "edge_energies": (chunk._after["edge_energies"][: chunk._edges], wanted)}


def readout_backward(chunk: Any) -> Found:
    model, last = chunk._model, chunk._model.num_layers
    factors = (model.edge_sum_norms * model.scales)[chunk._types][chunk._centers]
    if model.edge_scales is not None:
        factors = factors * model.edge_scales.ravel()[_pairs(chunk)]
    rows = chunk._backward("readout", chunk._cast(factors[:, None] * chunk._layout.folded.energy_weights))
    ds = chunk._written(_scalars(chunk, chunk._after["dx"], last), rows, _gradient_rounded(chunk, last))
    return {f"ds_{last}": ds}


def readout(chunk: Any) -> Found:
    found = readout_forward(chunk)
    chunk._before = chunk._after  # slopes of activations before the last
    return {**found, **readout_backward(chunk)}


# --- between them -----------------------------------------------------------------------------------------------------


def _pairs(chunk: Any) -> np.ndarray:
    return chunk._after["pairs"][: chunk._edges]


def _cutoff_kind(chunk: Any) -> str:
    return f"{chunk._model.latent_cutoff.kind.upper()}_GATE"


def _gate(chunk: Any, kind: str, k: int) -> tuple[str, float, float]:
    """That of MLP k, as the plan names it."""
    cutoff = chunk._model.latent_cutoff
    parameter = float(cutoff.parameter) if kind == _cutoff_kind(chunk) else 0.0
    return kind, float(cutoff.radii[k]), parameter


def _factor(chunk: Any, kind: str, k: int, buffer: str = "gates") -> np.ndarray:
    """The gate or its slope as the kernels keep it, (Z, 1) in float64."""
    row = chunk._layout.updates.gates.index(_gate(chunk, kind, k))
    return chunk._before[buffer][row, : chunk._edges, None].astype(np.float64)


def latent_gates(chunk: Any) -> Found:
    cutoff, planned, found = chunk._model.latent_cutoff, chunk._layout.updates.gates, {}
    lengths, _ = geometry.lengths_forward(chunk._before["vectors"][:, : chunk._edges].T)
    left = set(planned)
    for k, radius in enumerate(cutoff.radii):
        slope = legacy.latent_cutoff_backward(np.ones_like(lengths), cutoff, k, lengths)
        wanted = {
            _cutoff_kind(chunk): (legacy.latent_cutoff_forward(cutoff, k, lengths), slope),
            "INSIDE_GATE": (lengths < radius, np.zeros_like(lengths)),
            "OUTSIDE_GATE": (lengths >= radius, np.zeros_like(lengths)),
        }
        for kind, numbers in wanted.items():
            if (gate := _gate(chunk, kind, k)) in planned:
                for name, values in zip(("gates", "gate_slopes"), numbers, strict=True):
                    row = chunk._after[name][planned.index(gate), : chunk._edges]
                    found[f"{name} {kind} {k}"] = (row, chunk._cast(values))
                left.discard(gate)
    assert not left, f"gates of no radius: {left}"
    return found


def update_forward(chunk: Any, k: int) -> Found:
    """s_k of what MLP k gives, times its cutoff."""
    model, wanted = chunk._model, _apart(chunk, chunk._before, f"latent_{k}", k).astype(np.float64)
    if model.latent_cutoff is not None:
        wanted = _factor(chunk, _cutoff_kind(chunk), k) * wanted
    if _passed_on(chunk, k):
        kept = _scalars(chunk, chunk._before["x"], k - 1).astype(np.float64)
        wanted = wanted + (_factor(chunk, "OUTSIDE_GATE", k) * kept if model.keeps_scalars(k) else kept)
    return {f"s_{k}": chunk._written(_scalars(chunk, chunk._after["x"], k), wanted, _features_rounded(chunk, k))}


def slope_backward(chunk: Any, k: int) -> Found:
    """dE/dd through the cutoffs, from the last on."""
    gradient, latent = _scalars(chunk, chunk._before["dx"], k), _apart(chunk, chunk._before, f"latent_{k}", k)
    slope = _factor(chunk, _cutoff_kind(chunk), k, "gate_slopes")[:, 0]
    wanted = slope * np.einsum("zs,zs->z", gradient.astype(np.float64), latent.astype(np.float64))
    if k < chunk._model.num_layers:
        wanted = wanted + chunk._before["latent_slope"][: chunk._edges]
    return {"latent_slope": (chunk._after["latent_slope"][: chunk._edges], wanted)}


def update_backward(chunk: Any, k: int) -> Found:
    model, gradient = chunk._model, _scalars(chunk, chunk._before["dx"], k).astype(np.float64)
    wanted = gradient if model.latent_cutoff is None else _factor(chunk, _cutoff_kind(chunk), k) * gradient
    rounded = takes_operands(chunk, _giver(k), True)
    found = {f"dlatent_{k}": chunk._written(_apart(chunk, chunk._after, "dlatent", k), wanted, rounded)}
    kept = chunk._cast(_factor(chunk, "OUTSIDE_GATE", k) * gradient if model.keeps_scalars(k) else gradient)
    return {**found, f"ds_{k}": (_scalars(chunk, chunk._after["dx"], k), kept)}


def inside_forward(chunk: Any, k: int) -> Found:
    """An edge beyond its radius is no part of the environment."""
    wanted = _factor(chunk, "INSIDE_GATE", k) * chunk._flat(chunk._before["env"][k])
    return {f"env_{k}": (chunk._flat(chunk._after["env"][k]), chunk._cast(wanted))}


def inside_backward(chunk: Any, k: int) -> Found:
    wanted = _factor(chunk, "INSIDE_GATE", k) * chunk._flat(chunk._before["denv"])
    return {"denv": chunk._written(chunk._flat(chunk._after["denv"]), wanted, by_weights_rounded(chunk, k))}


def scale_edge_energies(chunk: Any) -> Found:
    wanted = chunk._model.edge_scales.ravel()[_pairs(chunk)] * chunk._before["edge_energies"][: chunk._edges]
    return {"edge_energies": (chunk._after["edge_energies"][: chunk._edges], wanted)}


def add_latent_slopes(chunk: Any) -> Found:
    """dE/dx with what comes through the cutoffs."""
    radial, latent = (chunk._before[name][: chunk._edges] for name in ("radial_slope", "latent_slope"))
    wanted = radial + latent * chunk._model.cutoffs.ravel()[_pairs(chunk)]
    return {"radial_slope": (chunk._after["radial_slope"][: chunk._edges], wanted)}
