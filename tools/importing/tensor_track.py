"""The tensor track's irreps as a checkpoint orders them, and the same model in the description's order.

`allegro.model.FullAllegroModel` takes any set of irreps, in any order. The description knows three lists per l_max: the
harmonics of degrees 0 to l_max and either their irreps or those of both parities, or all of even parity (SO(3)); see
`irreps.irreps_chain`. Any other choice is the next larger list with weights of zero where the model has no path, which
computes the same. An irrep that is listed more than once is so many features of its kind a channel: its further copies
stand at the end of the description's list.

With `scatter_features` (nequip-allegro 0.4 to 0.6) the operands of the products change places, and upstream lists paths
and 3j symbols with the harmonics first. The description keeps tensors first; a path's sign, (-1)^(l1 + l2 + l3), goes
into its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.description import Layer, Mlp
from allegro_sim.model.irreps import (
    INVARIANT,
    Irrep,
    Path,
    component_slices,
    couples,
    harmonic_irreps,
    irreps_chain,
    numbered,
    tensor_product_paths,
    total_dim,
)
from allegro_sim.model.wigner import product_coefficients
from allegro_sim.tools.importing.options import Options, Tensors


@dataclass(frozen=True)
class TensorTrack:
    """Irreps of a model: harmonics and T_0 .. T_L in the checkpoint's order; the rest as the description has it."""

    harmonics: tuple[Irrep, ...]
    chain: tuple[tuple[Irrep, ...], ...]
    l_max: int
    parity: bool
    so3: bool
    scatter_features: bool

    @property
    def repeated_harmonics(self) -> tuple[Irrep, ...]:
        """Harmonics beyond the first of their kind."""
        return tuple(irrep for irrep, number in numbered(self.harmonics) if number > 0)

    @property
    def repeated_tensors(self) -> tuple[Irrep, ...]:
        """The same of T_1 .. T_{L-1}: pruning keeps all of a kind or none, so that all layers have as many of it."""
        between = sorted({entry for irreps in self.chain[1:-1] for entry in numbered(irreps) if entry[1] > 0})
        return tuple(irrep for irrep, _ in between)

    def spread_columns(self, weights: np.ndarray, first: int, shared: bool) -> np.ndarray:
        """Weights of channels and irreps, in the columns from `first` on, in the description's order of irreps.

        Columns (U, number of harmonics), or (U,) where all irreps share one, become (U, nir); degrees the model does
        not have get zeros.
        """
        slots = numbered(harmonic_irreps(self.l_max, self.so3) + self.repeated_harmonics)
        tail = weights[:, first:]
        columns = tail[:, :, None] if shared else tail.reshape(len(tail), -1, len(self.harmonics))
        spread = np.zeros((*columns.shape[:2], len(slots)))
        for place, entry in enumerate(numbered(self.harmonics)):
            spread[:, :, slots.index(entry)] = columns[:, :, 0 if shared else place]
        return np.hstack([weights[:, :first], spread.reshape(len(tail), -1)])


def read_tensor_track(options: Options, num_layers: int) -> TensorTrack:
    """The irreps from `l_max` and `parity` (AllegroModel) or from those given (FullAllegroModel), and which operand is
    summed.

    Raises CheckpointImportError for irreps that cannot be read or that no model of upstream's has.
    """
    if options.has("irreps_edge_sh"):
        found = options.peek("irreps_edge_sh", "any", None)
        if isinstance(found, int):
            harmonics = harmonic_irreps(options.take("irreps_edge_sh", "integer"))
        else:
            harmonics = _irreps(options, "irreps_edge_sh", options.take("irreps_edge_sh"))
        allowed = _irreps(options, "tensor_track_allowed_irreps", options.take("tensor_track_allowed_irreps", "text"))
    else:
        l_max = options.take("l_max", "integer")
        setting = options.take("parity_setting", "text", None)  # nequip-allegro 0.4
        if setting is not None and setting not in ("o3_full", "o3_restricted", "so3"):
            raise options.error("parity_setting", f"is {setting!r}; supported: o3_full, o3_restricted, so3")
        harmonics = harmonic_irreps(l_max, setting == "so3")
        allowed = tuple(Irrep(l, sign) for l in range(l_max + 1) for sign in (1, -1))  # noqa: E741
        if setting in ("o3_restricted", "so3") or not options.take("parity", "flag", True):
            allowed = harmonics
    if harmonics[0] != INVARIANT:
        raise options.error("irreps_edge_sh", f"starts with {harmonics[0]}; 0e is expected first")
    so3 = any(irrep.degree % 2 == 1 and irrep.parity == 1 for irrep in harmonics)
    if any(irrep != Irrep(irrep.degree, 1 if so3 else (-1) ** irrep.degree) for irrep in harmonics):
        raise options.error("irreps_edge_sh", "has parities that spherical harmonics do not have together")
    chain = _chain(harmonics, allowed, num_layers)
    used = [irrep for irreps in chain for irrep in irreps]
    l_max = max(irrep.degree for irrep in used)
    parity = not so3 and any(irrep.parity != (-1) ** irrep.degree for irrep in used)
    if chain[0] != harmonics or any(not irreps or irreps[0] != INVARIANT for irreps in chain):
        raise options.error(
            "tensor_track_allowed_irreps", "gives layers without 0e in the first place, which upstream cannot evaluate"
        )
    scatter_features = options.take("scatter_features", "flag", False)  # gone since nequip-allegro 0.7
    return TensorTrack(harmonics, chain, l_max, parity, so3, scatter_features)


def _irreps(options: Options, name: str, text: Any) -> tuple[Irrep, ...]:
    counted = next((part.strip() for part in str(text).split("+") if "x" in part and part.strip()[:2] != "1x"), None)
    if counted is not None:
        raise options.error(name, f"has {counted!r}; upstream takes each irrep once in a term, as in 1x0e+1x0e")
    try:
        found = tuple(Irrep.parse(part.strip().removeprefix("1x")) for part in str(text).split("+"))
    except ValueError as error:
        raise options.error(name, f"cannot be read: {error}") from error
    return found


def _chain(harmonics: tuple[Irrep, ...], allowed: tuple[Irrep, ...], num_layers: int) -> tuple[tuple[Irrep, ...], ...]:
    """T_0 .. T_L as upstream finds them: forward what can be reached, backward what still matters."""
    chain = [harmonics]
    for k in range(num_layers):
        wanted = allowed if k < num_layers - 1 else (INVARIANT,)
        chain.append(tuple(out for out in wanted if any(couples(a, b, out) for a in chain[-1] for b in harmonics)))
    for k in range(num_layers - 1, -1, -1):
        after = chain[k + 1]
        chain[k] = tuple(a for a in chain[k] if any(couples(a, b, out) for b in harmonics for out in after))
    return tuple(chain)


def read_layer(
    tensors: Tensors,
    prefix: str,
    track: TensorTrack,
    k: int,
    num_channels: int,
    coupled: bool,
    latent: Mlp,
    tolerance: float,
) -> Layer:
    """The tensor product of layer k, the tensors `prefix` (upstream's Contracter), with its latent MLP.

    `coupled`: whether each channel has its own path weights (tp_path_channel_coupling). The stored Wigner 3j symbols
    are compared with the project's own.
    """
    left, right, out = track.chain[k], track.harmonics, track.chain[k + 1]
    if track.scatter_features:
        left, right = right, left
    paths = tensor_product_paths(left, right, out)
    coefficients = np.zeros((len(paths), total_dim(left), total_dim(right), total_dim(out)))
    slices = component_slices(left), component_slices(right), component_slices(out)
    degrees = [(left[path.first].degree, right[path.second].degree, out[path.out].degree) for path in paths]
    for p, path in enumerate(paths):
        coefficients[p, slices[0][path.first], slices[1][path.second], slices[2][path.out]] = product_coefficients(
            *degrees[p]
        )
    stored_shape = tensors.shape(f"{prefix}.w3j")
    if len(stored_shape) == (3 if len(paths) > 1 else 2):  # every path couples equal components only
        diagonal = np.einsum("piik->pik", coefficients) if total_dim(left) == total_dim(right) else coefficients
        if np.count_nonzero(diagonal) != np.count_nonzero(coefficients):
            raise CheckpointImportError(
                f"{prefix}.w3j has shape {stored_shape}, but its paths couple unequal components"
            )
        coefficients = diagonal
    tensors.expect(f"{prefix}.w3j", coefficients, tolerance)
    shape = ((num_channels,) if coupled else ()) + ((len(paths),) if len(paths) > 1 else ())
    weights = tensors.take(f"{prefix}.weights", shape).reshape(num_channels if coupled else 1, len(paths))
    if track.scatter_features:
        weights = weights * np.array([(-1.0) ** sum(of_path) for of_path in degrees])
        paths = tuple(Path(path.second, path.first, path.out) for path in paths)
    return _in_order(track, k, paths, np.broadcast_to(weights, (num_channels, len(paths))), latent)


def _in_order(track: TensorTrack, k: int, paths: tuple[Path, ...], weights: np.ndarray, latent: Mlp) -> Layer:
    """The layer with the description's irreps and paths; paths the checkpoint does not have weigh zero.

    paths: those of the columns of `weights`, by places in the checkpoint's irreps.
    """
    chain = irreps_chain(
        track.l_max,
        track.parity,
        len(track.chain) - 1,
        so3=track.so3,
        repeated_harmonics=track.repeated_harmonics,
        repeated_tensors=track.repeated_tensors,
    )
    harmonics = harmonic_irreps(track.l_max, track.so3) + track.repeated_harmonics
    first, out = chain[k], chain[k + 1]

    def named(irreps: tuple[tuple[Irrep, ...], ...], found: tuple[Path, ...]) -> list[Any]:
        """Of each path, which copies of which irreps it couples."""
        lists = [numbered(of_operand) for of_operand in irreps]
        return [(lists[0][path.first], lists[1][path.second], lists[2][path.out]) for path in found]

    own_irreps = track.chain[k], track.harmonics, track.chain[k + 1]
    own = {path: p for p, path in enumerate(named(own_irreps, paths))}
    wanted = tensor_product_paths(first, harmonics, out)
    ordered = np.zeros((len(weights), len(wanted)))
    for p, path in enumerate(named((first, harmonics, out), wanted)):
        place = own.pop(path, None)
        if place is not None:
            ordered[:, p] = weights[:, place]
    assert not own, "the description's irreps contain those of every model"
    return Layer(first, out, wanted, ordered, latent)
