"""An Allegro model as plain data: hyperparameters and weights, every normalisation folded into the weights.

This is what the importer makes, the HDF5 weight file stores, and every potential computes from. Arrays are float64;
`trained_dtype` says what the checkpoint held. Index letters: t type, u tensor channel, s scalar feature, p path,
l degree. Widths: S scalar features, U tensor channels, D two-body embedding, nt types,
nir = l_max + 1 irreps of the harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from allegro_sim.model.irreps import Irrep, Path

ACTIVATIONS = ("identity", "silu", "mish", "gelu", "ssp", "tanh", "sigmoid", "softplus")
JUMPING_ACTIVATIONS = ("sigmoid", "softplus")
"""f(0) != 0: the energy jumps where an edge crosses its cutoff (upstream's models do the same)."""


@dataclass(frozen=True)
class Mlp:
    """y = W_n^T f(... f(W_0^T x)): no biases, the activation f after every layer but the last.

    weights: (in, out) each, float64, the 1/sqrt(fan) and gain factors folded in.
    """

    weights: tuple[np.ndarray, ...]
    activation: str


@dataclass(frozen=True)
class BesselEmbedding:
    """h = concat(C[t_i], N[t_j]) * (b @ basis_linear), b_n = w_n sinc(w_n x) u_p(x), sinc(y) = sin(pi y)/(pi y)."""

    frequencies: np.ndarray  # (num_bessels,) w_n
    cutoff_exponent: float  # p of the polynomial cutoff
    center_types: np.ndarray  # (nt, D/2)
    neighbor_types: np.ndarray  # (nt, D/2)
    basis_linear: np.ndarray  # (num_bessels, D)


@dataclass(frozen=True)
class SplineEmbedding:
    """h_c = sum_m weights[t_i, t_j, c, m] B_m(x)."""

    weights: np.ndarray  # (nt, nt, D, num_splines)
    span: int


@dataclass(frozen=True)
class Layer:
    """One Allegro layer: tensor product of V_k with the environment of the centre, then the latent MLP."""

    irreps_in: tuple[Irrep, ...]  # of V_k, in order
    irreps_out: tuple[Irrep, ...]  # of V_{k+1}, in order; 0e first
    paths: tuple[Path, ...]  # indices into irreps_in, the harmonics' irreps, irreps_out
    path_weights: np.ndarray  # (U, num_paths); the factor sqrt(2 l_out + 1) is NOT in them, it belongs to the product
    latent: Mlp  # in (k + 1) S + U, out S + (U nir or U), last layer S


@dataclass(frozen=True)
class Zbl:
    """Ziegler-Biersack-Littmark repulsion, with a polynomial cutoff of its own exponent."""

    atomic_numbers: np.ndarray  # (nt,) float64
    coulomb: float  # eV Å (or the model's unit of energy times Å): the factor K of K Z_i Z_j / d
    cutoff_exponent: float


@dataclass(frozen=True)
class AllegroModel:
    """A model of the current generation. Energies eV, lengths Å."""

    type_names: tuple[str, ...]
    atomic_numbers: np.ndarray  # (nt,) int64: element of each type
    masses: np.ndarray  # (nt,) Da
    cutoffs: np.ndarray  # (nt, nt) Å, [type of centre, type of neighbour]
    l_max: int
    parity: bool
    num_scalar_features: int
    num_tensor_features: int
    trained_dtype: str  # "float32" or "float64"
    radial: BesselEmbedding | SplineEmbedding
    embed_mlp: Mlp  # D -> S
    tensor_linear: np.ndarray  # (S, U nir) or (S, U): w of V_0[z,u,lm] = w[z, u nir + l] Y[z,lm]
    first_projection: np.ndarray  # (S, S + U nir) or (S, S + U): s_0 and the first environment weights
    individual_irreps: bool  # environment: True, one weight per channel and irrep (nir of them); False, one per channel
    layers: tuple[Layer, ...]
    readout: Mlp  # S (L + 1) -> 1
    environment_norms: np.ndarray  # (nt,) 1/sqrt(N_avg), by type of the centre
    edge_sum_norms: np.ndarray  # (nt,) 1/sqrt(2 N_avg), by type of the centre
    scales: np.ndarray  # (nt,) ones where absent
    shifts: np.ndarray  # (nt,) eV, zeros where absent
    zbl: Zbl | None = None
    generation: str = "current"
    hyperparameters: dict = field(default_factory=dict)  # upstream's own configuration, kept as it was found

    @property
    def num_types(self) -> int:
        return len(self.type_names)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def tensor_weight_irreps(self) -> int:
        """Weights per channel from `tensor_linear`: l_max + 1, or 1 where all degrees share one."""
        return self.tensor_linear.shape[1] // self.num_tensor_features

    @property
    def environment_weight_irreps(self) -> int:
        """Weights per channel for the environment: l_max + 1, or 1 where all degrees share one."""
        return self.l_max + 1 if self.individual_irreps else 1
