"""The reference's network stages, from embedding to atomic energies: plain NumPy float64.

Each stage is a forward and a handwritten backward function; `reference.py` puts them in order. Letters: i centre,
j neighbour, z edge (Z of them), u tensor channel (U), s scalar feature (S), m component of the harmonics (M of them,
all degrees one after the other), a component of V_k, c component of V_{k+1}, p path. `grad_y` is dE/dy; a backward
function takes the gradient of its stage's outputs and returns that of its inputs. Nothing is changed in place.

Sources: Musaelian et al., Nat. Commun. 14, 579 (2023), "Methods"; Ziegler, Biersack, Littmark, "The Stopping and Range
of Ions in Solids" (1985), for the repulsion.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from allegro_sim.model.description import Layer, Mlp
from allegro_sim.model.irreps import Irrep, component_slices, harmonic_irreps, total_dim
from allegro_sim.model.wigner import product_coefficients

# --- activations ------------------------------------------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _normal_distribution(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def _silu_slope(x: np.ndarray) -> np.ndarray:
    sigma = _sigmoid(x)
    return sigma * (1.0 + x * (1.0 - sigma))


def _mish_slope(x: np.ndarray) -> np.ndarray:
    gate = np.tanh(_softplus(x))
    return gate + x * (1.0 - gate**2) * _sigmoid(x)


def _gelu_slope(x: np.ndarray) -> np.ndarray:
    return _normal_distribution(x) + x * np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)


Function = Callable[[np.ndarray], np.ndarray]

ACTIVATION_FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "identity": (lambda x: x, np.ones_like),
    "silu": (lambda x: x * _sigmoid(x), _silu_slope),
    "mish": (lambda x: x * np.tanh(_softplus(x)), _mish_slope),
    "gelu": (lambda x: x * _normal_distribution(x), _gelu_slope),
    "ssp": (lambda x: _softplus(x) - math.log(2.0), _sigmoid),
    "tanh": (np.tanh, lambda x: 1.0 - np.tanh(x) ** 2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1.0 - _sigmoid(x))),
    "softplus": (_softplus, _sigmoid),
}
"""Name -> (f, f'), element-wise; the names are `description.ACTIVATIONS`."""


# --- multilayer perceptron --------------------------------------------------------------------------------------------


def mlp_forward(mlp: Mlp, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """y = W_n^T f(... f(W_0^T x)), and what goes into each f, for the backward pass: x (Z, in) -> y (Z, out)."""
    activation, _ = ACTIVATION_FUNCTIONS[mlp.activation]
    before_activation = []
    for weights in mlp.weights[:-1]:
        before_activation.append(x @ weights)
        x = activation(before_activation[-1])
    return x @ mlp.weights[-1], before_activation


def mlp_backward(grad_y: np.ndarray, mlp: Mlp, before_activation: list[np.ndarray]) -> np.ndarray:
    """dE/dx (Z, in) from dE/dy (Z, out)."""
    _, slope = ACTIVATION_FUNCTIONS[mlp.activation]
    grad = grad_y @ mlp.weights[-1].T
    for weights, before in zip(reversed(mlp.weights[:-1]), reversed(before_activation), strict=True):
        grad = (grad * slope(before)) @ weights.T
    return grad


# --- tensor features and the environment of a centre ------------------------------------------------------------------


def weighted_harmonics_forward(
    weights: np.ndarray, harmonics: np.ndarray, repeated: tuple[Irrep, ...] = ()
) -> np.ndarray:
    """V[z,u,m] = w[z,u,l(m)] Y[z,m]: (Z, U, nir) or (Z, U, 1), and (Z, M) -> (Z, U, M).

    One weight per channel and irrep, or (last dimension 1) one per channel for all irreps. repeated: the last of the
    harmonics' irreps, behind one of each degree.
    """
    return weights[:, :, _weight_of_component(weights, harmonics, repeated)] * harmonics[:, None, :]


def weighted_harmonics_backward(
    grad_v: np.ndarray, weights: np.ndarray, harmonics: np.ndarray, repeated: tuple[Irrep, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dw, dE/dY) from dE/dV (Z, U, M)."""
    column = _weight_of_component(weights, harmonics, repeated)
    per_component = grad_v * harmonics[:, None, :]
    first_of_column = np.searchsorted(column, np.arange(weights.shape[2]))
    return np.add.reduceat(per_component, first_of_column, axis=2), (grad_v * weights[:, :, column]).sum(axis=1)


def _weight_of_component(weights: np.ndarray, harmonics: np.ndarray, repeated: tuple[Irrep, ...]) -> np.ndarray:
    """Index into the weights' last dimension for each component m: its irrep l(m), or 0 where one serves all."""
    if weights.shape[2] == 1:
        return np.zeros(harmonics.shape[1], np.int64)
    degrees = np.sqrt(np.arange(harmonics.shape[1] - total_dim(repeated))).astype(np.int64)
    copies = np.repeat(degrees[-1] + 1 + np.arange(len(repeated)), [irrep.dim for irrep in repeated])
    return np.concatenate([degrees, copies]).astype(np.int64)


def environment_forward(per_edge: np.ndarray, centers: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """A_i[u,m] = norm_i * sum over the edges z of centre i of env[z,u,l(m)] Y[z,m].

    per_edge (Z, U, M) are the terms of the sum, norms (N,) = 1/sqrt(N_avg) by type of the centre; result (N, U, M).
    """
    total = np.zeros((len(norms), *per_edge.shape[1:]))
    np.add.at(total, centers, per_edge)
    return norms[:, None, None] * total


def environment_backward(grad_a: np.ndarray, centers: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """dE/d(per_edge) (Z, U, M) from dE/dA (N, U, M)."""
    return (norms[:, None, None] * grad_a)[centers]


# --- tensor product ---------------------------------------------------------------------------------------------------


def tensor_product_forward(
    layer: Layer, v: np.ndarray, environment: np.ndarray, l_max: int, repeated: tuple[Irrep, ...] = ()
) -> np.ndarray:
    """V_{k+1}[z,u,c] = sum_p w[u,p] sqrt(2 l_out + 1) sum_{a,m} W3j_p[a,m,c] V_k[z,u,a] A_{i(z)}[u,m].

    v (Z, U, dim of irreps_in); environment (Z, U, M), the centre's A given to each of its edges -> (Z, U, dim of
    irreps_out). The edge is itself a part of A.
    """
    out = np.zeros((*v.shape[:2], total_dim(layer.irreps_out)))
    for weights, a, m, c, coefficients in couplings(layer, l_max, repeated):
        product = np.einsum("amc,zua,zum->zuc", coefficients, v[:, :, a], environment[:, :, m], optimize=True)
        out[:, :, c] += weights[:, None] * product
    return out


def tensor_product_backward(
    grad_out: np.ndarray,
    layer: Layer,
    v: np.ndarray,
    environment: np.ndarray,
    l_max: int,
    repeated: tuple[Irrep, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dV_k (Z, U, dim in), dE/d(A of each edge's centre) (Z, U, M)) from dE/dV_{k+1}."""
    grad_v, grad_environment = np.zeros_like(v), np.zeros_like(environment)
    for weights, a, m, c, coefficients in couplings(layer, l_max, repeated):
        grad = weights[:, None] * grad_out[:, :, c]
        grad_v[:, :, a] += np.einsum("amc,zuc,zum->zua", coefficients, grad, environment[:, :, m], optimize=True)
        grad_environment[:, :, m] += np.einsum("amc,zuc,zua->zum", coefficients, grad, v[:, :, a], optimize=True)
    return grad_v, grad_environment


def couplings(layer: Layer, l_max: int, repeated: tuple[Irrep, ...] = ()):
    """For each path: weights (U,), slices of V_k, harmonics and V_{k+1}, coefficients (2l1+1, 2l2+1, 2l3+1)."""
    harmonics = harmonic_irreps(l_max) + repeated
    slices_in, slices_harmonics = component_slices(layer.irreps_in), component_slices(harmonics)
    slices_out = component_slices(layer.irreps_out)
    for p, path in enumerate(layer.paths):
        degrees = (
            layer.irreps_in[path.first].degree,
            harmonics[path.second].degree,
            layer.irreps_out[path.out].degree,
        )
        yield (
            layer.path_weights[:, p],
            slices_in[path.first],
            slices_harmonics[path.second],
            slices_out[path.out],
            product_coefficients(*degrees),
        )


# --- energies ---------------------------------------------------------------------------------------------------------


def edge_sum_forward(edge_energies: np.ndarray, centers: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """E_i = factor_i * sum over the edges of i of e_z: (Z,) -> (N,); factors (N,) hold norm and scale of i's type."""
    return factors * np.bincount(centers, weights=edge_energies, minlength=len(factors))


def edge_sum_backward(grad_energies: np.ndarray, centers: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """dE/de_z (Z,) from dE/dE_i (N,)."""
    return (factors * grad_energies)[centers]
