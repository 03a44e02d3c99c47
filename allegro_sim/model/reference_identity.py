"""The tensor track without per-edge tensors: an identity of Allegro's network, in plain NumPy float64.

The second operand of every tensor product, A_i, belongs to the centre. So a layer is a linear map of the edge's tensor,

    V_{k+1}[z,u,c] = sum_a V_k[z,u,a] M_k,i[u,a,c]
    M_k,i[u,a,c] = sum_p w[u,p] sqrt(2 l_out + 1) sum_m W3j_p[a,m,c] A_i[u,m]

and all V_k are linear in V_0. The network reads only the invariant column c = 0 of each product, hence

    scal_k[z,u] = sum_m V_0[z,u,m] N_k,i[u,m] = sum_l w[z,u,l] sum_{m of l} Y[z,m] N_k,i[u,m]
    N_k = M_0 M_1 ... M_k e_0,     e_0 the unit vector of the invariant component

N_k is made from the right: L(L+1)/2 contractions per centre in all, none per edge, and no matrix M_k is ever formed.
The direct form, one tensor per edge and layer, is `tensor_product_forward` in `reference_layers.py`; both agree to
rounding. Letters as there: i centre, z edge, u channel, m component of the harmonics, a and c components of V_k and
V_{k+1}.

With `scatter_features` a layer is linear in the edge's weighted harmonics, with matrices of the centre's sum B_k:

    V_{k+1}[z,u,c] = sum_m (env_k Y)[z,u,m] D_k,i[u,m,c]
    D_k,i[u,m,c] = sum_p w[u,p] sqrt(2 l_out + 1) sum_a W3j_p[a,m,c] B_k[u,a]

so that its sum over edges, and its invariant column, need no tensor of an edge, either:

    B_{k+1} = tensor product of B_k with A_k = norm sum_z env_k Y
    scal_k[z,u] = sum_m (env_k Y)[z,u,m] n_k,i[u,m],   n_k = D_k e_0
"""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import Layer
from allegro_sim.model.irreps import Irrep, harmonic_irreps, total_dim
from allegro_sim.model.reference_layers import (
    tensor_product_backward,
    tensor_product_forward,
    weighted_harmonics_backward,
    weighted_harmonics_forward,
)


def contraction_forward(
    layer: Layer, vector: np.ndarray, environment: np.ndarray, l_max: int, repeated: tuple[Irrep, ...] = ()
) -> np.ndarray:
    """(M n)[i,u,a] = sum_c M[i,u,a,c] n[i,u,c]: (N, U, dim of irreps_out) -> (N, U, dim of irreps_in).

    The couplings form a trilinear function of (V_k, A, V_{k+1}), and this is its derivative by V_k.
    """
    unused = np.zeros((*vector.shape[:2], total_dim(layer.irreps_in)))
    return tensor_product_backward(vector, layer, unused, environment, l_max, repeated)[0]


def contraction_backward(
    grad_out: np.ndarray,
    layer: Layer,
    vector: np.ndarray,
    environment: np.ndarray,
    l_max: int,
    repeated: tuple[Irrep, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dn (N, U, dim of irreps_out), dE/dA (N, U, M)) from dE/d(M n): the trilinear function's other derivatives."""
    grad_vector = tensor_product_forward(layer, grad_out, environment, l_max, repeated)
    _, grad_environment = tensor_product_backward(vector, layer, grad_out, environment, l_max, repeated)
    return grad_vector, grad_environment


def center_vector_forward(
    layers: tuple[Layer, ...], environments: list[np.ndarray], l_max: int, repeated: tuple[Irrep, ...] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """N_k (N, U, M) of the last of the given layers 0..k, from A_0 .. A_k (each (N, U, M)).

    Also returns, for the backward pass, the vectors M_j ... M_k e_0 for j = k + 1 (e_0 itself), k, ..., 1.
    """
    centers, channels = environments[0].shape[:2]
    vector = np.zeros((centers, channels, total_dim(layers[-1].irreps_out)))
    vector[:, :, 0] = 1.0
    partial = []
    for layer, environment in zip(reversed(layers), reversed(environments), strict=True):
        partial.append(vector)
        vector = contraction_forward(layer, vector, environment, l_max, repeated)
    return vector, partial


def center_vector_backward(
    grad_vector: np.ndarray,
    layers: tuple[Layer, ...],
    environments: list[np.ndarray],
    partial: list[np.ndarray],
    l_max: int,
    repeated: tuple[Irrep, ...] = (),
) -> list[np.ndarray]:
    """dE/dA_0 .. dE/dA_k, each (N, U, M), from dE/dN_k (N, U, M)."""
    grad_environments = []
    for layer, environment, vector in zip(layers, environments, reversed(partial), strict=True):
        grad_vector, grad_environment = contraction_backward(grad_vector, layer, vector, environment, l_max, repeated)
        grad_environments.append(grad_environment)
    return grad_environments


def scatter_vector_forward(
    layer: Layer, summed: np.ndarray, l_max: int, repeated: tuple[Irrep, ...] = ()
) -> np.ndarray:
    """n_k (N, U, M) from B_k (N, U, dim of irreps_in): the derivative of the invariant column by the harmonics."""
    components = total_dim(harmonic_irreps(l_max) + repeated)
    unused = np.zeros((*summed.shape[:2], components))
    return tensor_product_backward(_invariant(layer, summed), layer, summed, unused, l_max, repeated)[1]


def scatter_vector_backward(
    grad_vector: np.ndarray, layer: Layer, l_max: int, repeated: tuple[Irrep, ...] = ()
) -> np.ndarray:
    """dE/dB_k (N, U, dim of irreps_in) from dE/dn_k (N, U, M)."""
    unused = np.zeros((*grad_vector.shape[:2], total_dim(layer.irreps_in)))
    return tensor_product_backward(_invariant(layer, unused), layer, unused, grad_vector, l_max, repeated)[0]


def _invariant(layer: Layer, like: np.ndarray) -> np.ndarray:
    """e_0 of the layer's output for each centre and channel: (N, U, dim of irreps_out)."""
    unit = np.zeros((*like.shape[:2], total_dim(layer.irreps_out)))
    unit[:, :, 0] = 1.0
    return unit


def invariants_forward(
    tensor_weights: np.ndarray,
    harmonics: np.ndarray,
    center_vector: np.ndarray,
    centers: np.ndarray,
    repeated: tuple[Irrep, ...] = (),
) -> np.ndarray:
    """scal_k[z,u] = sum_m V_0[z,u,m] N_k[i(z),u,m]: (Z, U).

    tensor_weights (Z, U, nir | 1) and harmonics (Z, M) make V_0; center_vector (N, U, M); centers (Z,). With
    `scatter_features`: env_k in the place of w, n_k in that of N_k.
    """
    tensors = weighted_harmonics_forward(tensor_weights, harmonics, repeated)
    return (tensors * center_vector[centers]).sum(axis=2)


def invariants_backward(
    grad_invariants: np.ndarray,
    tensor_weights: np.ndarray,
    harmonics: np.ndarray,
    center_vector: np.ndarray,
    centers: np.ndarray,
    repeated: tuple[Irrep, ...] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dE/dw (Z, U, nir | 1), dE/dY (Z, M), dE/dN_k (N, U, M)) from dE/dscal_k (Z, U).

    dE/dN_k[i,u,m] = sum over the edges z of i of dscal_k[z,u] V_0[z,u,m]: per centre again.
    """
    tensors = weighted_harmonics_forward(tensor_weights, harmonics, repeated)
    grad_center_vector = np.zeros_like(center_vector)
    np.add.at(grad_center_vector, centers, grad_invariants[:, :, None] * tensors)
    grad_tensors = grad_invariants[:, :, None] * center_vector[centers]
    grad_weights, grad_harmonics = weighted_harmonics_backward(grad_tensors, tensor_weights, harmonics, repeated)
    return grad_weights, grad_harmonics, grad_center_vector
