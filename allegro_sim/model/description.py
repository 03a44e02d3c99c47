"""An Allegro model as plain data: hyperparameters and weights, every normalisation folded into the weights.

This is what the importer makes, the HDF5 weight file stores, and every potential computes from. Arrays are float64;
`trained_dtype` says what the checkpoint held. Index letters: t type, u and v tensor channels, s scalar feature, p path,
l degree. Widths: S scalar features, U tensor channels, D two-body embedding, nt types, P paths of a layer,
nir irreps of the harmonics, l_max + 1 and `repeated_harmonics`.

One class describes both generations: the stages are the same, and a model says of each how it is made. Fields from
`self_edge` on are stages that the current generation (nequip-allegro since 0.4) does not have, at the value that means
so; a model of the legacy generation (allegro 0.2 and 0.3) sets them, and `Layer.environment_mlp` stands where the
current one has `tensor_linear` and `first_projection`. In order, for an edge z = (i, j):

    s_0 = u_0 MLP_embed(radial);   w, env_0 = MLP_env_0(s_0)                                   V_0 = w Y
    A_i = norm sum_z env_k Y, mixed by environment_mix;  without self_edge each z sees A_i less its own term
    T_p[v] = w_p[v] (W3J_p (mix_in_p V_k)[v] A[v])     V_{k+1} = sum_p mix_out_p T_p (or sum_p T_p)
    invariants: V_{k+1}[u,0], or (separate_paths) T_p[u] of every p into 0e, column u n + p
    s_{k+1} from u_{k+1} MLP_k(s.., invariants) by latent_update;  env_{k+1} = MLP_env_{k+1}(s_{k+1})
    e_z = edge_scales[t_i, t_j] MLP_readout(s_L)

With `scatter_features` the two operands of the product change places: what is summed are the tensor features, and an
edge brings its weighted harmonics, V_{k+1}[z] = sum_p w_p W3J_p B_i (env_k Y)[z] with B_i = norm sum_z V_k. So V_{k+1}
of an edge depends on its own V_k by B alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from allegro_sim.model.irreps import Irrep, Path, harmonic_irreps, total_dim

ACTIVATIONS = ("identity", "silu", "mish", "gelu", "ssp", "tanh", "sigmoid", "softplus")
LATENT_UPDATES = ("concatenate", "residual", "replace")
"""How s_{k+1} follows from n = u_{k+1} MLP_k(...). concatenate: s_{k+1} = n, and later MLPs take s_0 .. s_{k+1} all;
residual: s_{k+1} = latent_factors[k,0] s_k + latent_factors[k,1] n; replace: s_{k+1} = n, but an edge from radii[k+1]
of the latent cutoff on keeps s_k. These two take the last s."""

JUMPING_ACTIVATIONS = ("sigmoid", "softplus")
"""f(0) != 0: the energy jumps where an edge crosses its cutoff (upstream's models do the same)."""


LENNARD_JONES_STYLES = ("lj", "lj_repulsive_only", "repulsive")


@dataclass(frozen=True)
class Mlp:
    """y = W_n^T f(... f(W_0^T x)): no biases, the activation f after every layer but the last.

    weights: (in, out) each, float64, the 1/sqrt(fan) and gain factors folded in.
    """

    weights: tuple[np.ndarray, ...]
    activation: str


@dataclass(frozen=True)
class BesselEmbedding:
    """h = concat(C[t_i], N[t_j]) * (b @ basis_linear), b_n = w_n sinc(w_n x) u_p(x), sinc(y) = sin(pi y)/(pi y).

    with_constants: two more functions end the basis, u_p(x) and 1. So the input of the two-body MLP of allegro 0.2 has
    this form too, concat(onehot(t_i), (b - mean) * factor, onehot(t_j)): with C = [identity | ones] and N = identity,
    1 gives the one-hot columns and u_p the means.
    """

    frequencies: np.ndarray  # (num_bessels,) w_n; or (nt, nt, num_bessels), of each ordered pair of types
    cutoff_exponent: float | None  # p of the polynomial cutoff; None: u = 1 up to the cutoff, where the energy jumps
    center_types: np.ndarray  # (nt, D/2), or any two widths that add up to D
    neighbor_types: np.ndarray  # (nt, D/2)
    basis_linear: np.ndarray  # (num_bessels, D), or (num_bessels + 2, D) with_constants
    with_constants: bool = False


@dataclass(frozen=True)
class SplineEmbedding:
    """h_c = sum_m weights[t_i, t_j, c, m] B_m(x)."""

    weights: np.ndarray  # (nt, nt, D, num_splines)
    span: int


@dataclass(frozen=True)
class LatentCutoff:
    """u_k of the length of an edge, a factor on the output of MLP k. An edge with d >= radii[k] is no part of A_k."""

    kind: str  # "polynomial": u_p(d / radii[k]); "cosine": (1 + cos(pi (d - c) / (radii[k] - c))) / 2 from c on
    parameter: float  # p, or c / radii[k]
    radii: np.ndarray  # (L + 1,) Å, of s_0 .. s_L; none is larger than the one before


@dataclass(frozen=True)
class Layer:
    """One Allegro layer: tensor product of V_k with the environment of the centre, then the latent MLP."""

    irreps_in: tuple[Irrep, ...]  # of V_k, in order
    irreps_out: tuple[Irrep, ...]  # of V_{k+1}, in order; 0e first
    paths: tuple[Path, ...]  # indices into irreps_in, the harmonics' irreps, irreps_out
    path_weights: np.ndarray  # (U, num_paths); the factor sqrt(2 l_out + 1) is NOT in them, it belongs to the product
    latent: Mlp  # in (k + 1) S + U, out S + (U nir or U), last layer S
    environment_mlp: Mlp | None = None  # s_k -> env_k (U nir or U), preceded by w for k = 0
    environment_mix: np.ndarray | None = None  # (nir, U, U): A'[v,lm] = sum_u environment_mix[l,u,v] A[u,lm]
    mix_in: np.ndarray | None = None  # (P, U, U): (mix_in_p V)[v] = sum_u mix_in[p,u,v] V[u]
    mix_out: np.ndarray | None = None  # (P, U, U): V_{k+1}[v] = sum_p sum_u mix_out[p,u,v] T_p[u]
    separate_paths: bool = False  # invariants are those of every path; the last layer then forms no V_L

    @property
    def num_invariants(self) -> int:
        """Invariants of a channel: one, or as many as there are paths into 0e (the first of irreps_out)."""
        return sum(path.out == 0 for path in self.paths) if self.separate_paths else 1


@dataclass(frozen=True)
class Zbl:
    """Ziegler-Biersack-Littmark repulsion, with a polynomial cutoff of its own exponent."""

    atomic_numbers: np.ndarray  # (nt,) float64
    coulomb: float  # eV Å (or the model's unit of energy times Å): the factor K of K Z_i Z_j / d
    cutoff_exponent: float


@dataclass(frozen=True)
class LennardJones:
    """Lennard-Jones 12-6 and its relatives: e of each edge, half of the pair's, with y = d - delta and n = power.

        lj                 2 epsilon (q^2 - q) u,  q = (sigma / y)^n
        lj_repulsive_only  (2 epsilon (q^2 - q) + epsilon) u where d < 2^(1/n) Å + delta, else 0: the energy jumps there
        repulsive          epsilon / 2 (sigma y)^-n u

    Closer than delta y is negative: its power is what it is for a whole n, and NaN for others.
    """

    sigma: float | np.ndarray  # Å (1/Å of "repulsive"): of all pairs alike, or (nt, nt)
    epsilon: float | np.ndarray  # eV, so too
    cutoff_exponent: float | None  # of the polynomial cutoff; None: cut off sharply, so that the energy jumps
    reach: float | None = None  # Å, of a sharp term that ends there for all pairs; None: at the cutoff of the pair
    delta: float | np.ndarray = 0.0  # Å, as sigma
    power: float = 6.0
    style: str = "lj"  # one of LENNARD_JONES_STYLES

    @property
    def is_plain(self) -> bool:
        """Whether it is 12-6, and the same for all pairs."""
        alike = not any(np.ndim(numbers) for numbers in (self.sigma, self.epsilon, self.delta))
        return alike and (self.delta, self.power, self.style) == (0.0, 6.0, "lj")

    @property
    def end(self) -> float:
        """2^(1/n): how far beyond delta `lj_repulsive_only` reaches, Å."""
        return float(2.0 ** (1.0 / self.power))

    def table(self, name: str, num_types: int) -> np.ndarray:
        """`sigma`, `epsilon` or `delta` of each ordered pair of types: (nt, nt)."""
        numbers = np.asarray(getattr(self, name), np.float64)
        return numbers if numbers.ndim else np.full((num_types, num_types), numbers)


@dataclass(frozen=True)
class AllegroModel:
    """A model of either generation (see the text above). Energies eV, lengths Å."""

    type_names: tuple[str, ...]
    atomic_numbers: np.ndarray  # (nt,) int64: element of each type
    masses: np.ndarray  # (nt,) Da
    cutoffs: np.ndarray  # (nt, nt) Å, [type of centre, type of neighbour]: where the network ends
    l_max: int
    parity: bool
    num_scalar_features: int  # of s_L, and of all others unless `latent_update` is "concatenate" in a legacy model
    num_tensor_features: int
    trained_dtype: str  # "float32" or "float64"
    radial: BesselEmbedding | SplineEmbedding
    embed_mlp: Mlp  # D -> S
    tensor_linear: np.ndarray  # (S, U nir) or (S, U), legacy (S, 0): w of V_0[z,u,lm] = w[z, u nir + l] Y[z,lm]
    first_projection: np.ndarray  # (S, S + U nir) or (S, S + U), legacy (S, 0): s_0 and the first environment weights
    individual_irreps: bool  # environment: True, one weight per channel and irrep (nir of them); False, one per channel
    layers: tuple[Layer, ...]
    readout: Mlp  # S (L + 1) -> 1; legacy: S -> 1, of s_L alone
    environment_norms: np.ndarray  # (nt,) 1/sqrt(N_avg), by type of the centre
    edge_sum_norms: np.ndarray  # (nt,) 1/sqrt(2 N_avg), by type of the centre
    scales: np.ndarray  # (nt,) ones where absent
    shifts: np.ndarray  # (nt,) eV, zeros where absent
    pair_term: Zbl | LennardJones | None = None
    generation: str = "current"  # or "legacy"
    hyperparameters: dict = field(default_factory=dict)  # upstream's own configuration, kept as it was found
    so3: bool = False  # all harmonics count as even under inversion
    repeated_harmonics: tuple[Irrep, ...] = ()  # further copies of harmonics, behind those of degree 0 .. l_max
    repeated_tensors: tuple[Irrep, ...] = ()  # further copies of irreps of V_1 .. V_{L-1}; see `irreps_chain`
    scatter_features: bool = False  # B, the sum of tensor features, in the place of A; see above
    self_edge: bool = True  # the environment that an edge sees contains the edge itself
    latent_update: str = "concatenate"  # one of LATENT_UPDATES
    latent_factors: np.ndarray | None = None  # (L, 2), of "residual"
    latent_cutoff: LatentCutoff | None = None
    edge_scales: np.ndarray | None = None  # (nt, nt), by type of centre and neighbour
    pair_scales: np.ndarray | None = None  # (nt,) factor on the pair term of each edge, by type of the centre

    @property
    def num_types(self) -> int:
        return len(self.type_names)

    @property
    def reaches(self) -> np.ndarray:
        """How far the edges of each ordered pair of types reach: (nt, nt) Å.

        That is its cutoff, or farther where the pair term does; there the radial basis is 0, and all of the network.
        """
        reach = self.pair_term.reach if isinstance(self.pair_term, LennardJones) else None
        return self.cutoffs if reach is None else np.maximum(self.cutoffs, reach)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def is_legacy(self) -> bool:
        """Whether the model is of the legacy generation: its environment weights come from MLPs of their own."""
        return self.generation == "legacy"

    @property
    def scalar_widths(self) -> tuple[int, ...]:
        """Widths of s_0 .. s_L."""
        if not self.is_legacy:
            return (self.num_scalar_features,) * (self.num_layers + 1)
        return tuple(mlp.weights[-1].shape[1] for mlp in (self.embed_mlp, *(layer.latent for layer in self.layers)))

    @property
    def latent_inputs(self) -> tuple[tuple[int, ...], ...]:
        """Which of s_0 .. s_k go into each latent MLP k, and last of all into the readout."""
        if self.latent_update != "concatenate":
            return tuple((k,) for k in range(self.num_layers + 1))
        into_latents = [tuple(range(k + 1)) for k in range(self.num_layers)]
        return (*into_latents, (self.num_layers,) if self.is_legacy else tuple(range(self.num_layers + 1)))

    def keeps_scalars(self, k: int) -> bool:
        """Whether there may be edges beyond the radius of latent MLP k, which then have s_k = s_{k-1}."""
        return (
            self.latent_update == "replace"
            and self.latent_cutoff is not None
            and k > 0
            and bool(self.latent_cutoff.radii[k] < self.reaches.max())
        )

    @property
    def harmonics(self) -> tuple[Irrep, ...]:
        """Irreps of the harmonics Y, of V_0 and of the environments: degrees 0 .. l_max, then the repeated ones."""
        return harmonic_irreps(self.l_max, self.so3) + self.repeated_harmonics

    @property
    def harmonic_components(self) -> int:
        """M: numbers of all `harmonics`; (l_max + 1)^2 where none is repeated."""
        return total_dim(self.harmonics)

    @property
    def tensor_weight_irreps(self) -> int:
        """Weights per channel of V_0: nir, or 1 where all irreps share one."""
        if self.is_legacy:
            return self.environment_weight_irreps
        return self.tensor_linear.shape[1] // self.num_tensor_features

    @property
    def environment_weight_irreps(self) -> int:
        """Weights per channel for the environment: nir, or 1 where all irreps share one."""
        return len(self.harmonics) if self.individual_irreps else 1
