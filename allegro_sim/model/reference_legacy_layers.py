"""Stages of the reference that only the legacy generation has: cutoff of the latents, products that mix channels.

As in `reference_layers.py`, each stage is a forward and a handwritten backward function, and nothing is changed in
place. Letters: i centre, z edge (Z), u and v tensor channels (U), m component of the harmonics (M), a component of V_k,
c component of V_{k+1}, p path, k layer. Source: Musaelian et al., Nat. Commun. 14, 579 (2023), "Methods".
"""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import LatentCutoff, Layer
from allegro_sim.model.irreps import total_dim
from allegro_sim.model.reference_geometry import polynomial_cutoff_backward, polynomial_cutoff_forward
from allegro_sim.model.reference_layers import couplings

# --- cutoff of the latents --------------------------------------------------------------------------------------------


def latent_cutoff_forward(cutoff: LatentCutoff, k: int, lengths: np.ndarray) -> np.ndarray:
    """u_k(d): (Z,), 1 at d = 0 and 0 from radii[k] on.

    polynomial: u_p(t), t = d / radii[k]; cosine: 1 up to t = c, then (1 + cos(pi (t - c) / (1 - c))) / 2, c: parameter.
    """
    t = lengths / cutoff.radii[k]
    if cutoff.kind == "polynomial":
        return polynomial_cutoff_forward(t, cutoff.parameter)
    return 0.5 * (1.0 + np.cos(_cosine_phase(cutoff, t)))


def latent_cutoff_backward(grad_u: np.ndarray, cutoff: LatentCutoff, k: int, lengths: np.ndarray) -> np.ndarray:
    """dE/dd (Z,) from dE/du_k (Z,)."""
    radius = cutoff.radii[k]
    t = lengths / radius
    if cutoff.kind == "polynomial":
        return polynomial_cutoff_backward(grad_u, t, cutoff.parameter) / radius
    return -0.5 * grad_u * np.sin(_cosine_phase(cutoff, t)) * np.pi / (1.0 - cutoff.parameter) / radius


def _cosine_phase(cutoff: LatentCutoff, t: np.ndarray) -> np.ndarray:
    """0 up to the start of the decay, pi from the radius on; there the sine, hence the slope, vanishes."""
    return np.pi * np.clip((t - cutoff.parameter) / (1.0 - cutoff.parameter), 0.0, 1.0)


# --- environment ------------------------------------------------------------------------------------------------------


def environment_mix_forward(mix: np.ndarray, environment: np.ndarray) -> np.ndarray:
    """A'[i,v,m] = sum_u mix[l(m),u,v] A[i,u,m]: (nir, U, U), (N, U, M) -> (N, U, M)."""
    return np.einsum("muv,ium->ivm", mix[_degrees(environment)], environment)


def environment_mix_backward(grad: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """dE/dA from dE/dA'."""
    return np.einsum("muv,ivm->ium", mix[_degrees(grad)], grad)


def _degrees(per_component: np.ndarray) -> np.ndarray:
    return np.sqrt(np.arange(per_component.shape[2])).astype(np.int64)


# --- tensor product ---------------------------------------------------------------------------------------------------


def path_products_forward(layer: Layer, v: np.ndarray, environment: np.ndarray, l_max: int) -> list[np.ndarray]:
    """T_p[z,u,c] = w[u,p] sqrt(2 l_out + 1) sum_{a,m} W3j_p[a,m,c] (mix_in_p V_k)[z,u,a] A[z,u,m] of every path.

    v (Z, U, dim of irreps_in); environment (Z, U, M), what each edge sees -> one (Z, U, 2 l_out + 1) a path.
    """
    products = []
    for p, (weights, a, m, _, coefficients) in enumerate(couplings(layer, l_max)):
        left = _mixed(layer.mix_in, p, v[:, :, a])
        product = np.einsum("amc,zua,zum->zuc", coefficients, left, environment[:, :, m], optimize=True)
        products.append(weights[:, None] * product)
    return products


def path_products_backward(
    grad_products: list[np.ndarray], layer: Layer, v: np.ndarray, environment: np.ndarray, l_max: int
) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dV_k (Z, U, dim in), dE/d(what each edge sees) (Z, U, M)) from dE/dT_p."""
    grad_v, grad_environment = np.zeros_like(v), np.zeros_like(environment)
    for p, (weights, a, m, _, coefficients) in enumerate(couplings(layer, l_max)):
        grad = weights[:, None] * grad_products[p]
        left = _mixed(layer.mix_in, p, v[:, :, a])
        grad_left = np.einsum("amc,zuc,zum->zua", coefficients, grad, environment[:, :, m], optimize=True)
        grad_v[:, :, a] += _mixed_backward(layer.mix_in, p, grad_left)
        grad_environment[:, :, m] += np.einsum("amc,zuc,zua->zum", coefficients, grad, left, optimize=True)
    return grad_v, grad_environment


def combine_forward(layer: Layer, products: list[np.ndarray], l_max: int) -> np.ndarray:
    """V_{k+1}[z,v,c] = sum_p sum_u mix_out[p,u,v] T_p[z,u,c], or the plain sum: (Z, U, dim of irreps_out)."""
    out = np.zeros((*products[0].shape[:2], total_dim(layer.irreps_out)))
    for p, (_, _, _, c, _) in enumerate(couplings(layer, l_max)):
        out[:, :, c] += _mixed(layer.mix_out, p, products[p])
    return out


def combine_backward(grad_out: np.ndarray, layer: Layer, l_max: int) -> list[np.ndarray]:
    """dE/dT_p of every path from dE/dV_{k+1}."""
    return [
        _mixed_backward(layer.mix_out, p, grad_out[:, :, c])
        for p, (_, _, _, c, _) in enumerate(couplings(layer, l_max))
    ]


def separate_invariants_forward(layer: Layer, products: list[np.ndarray]) -> np.ndarray:
    """T_p[z,u,0] of the n paths into 0e, which are the first ones: (Z, U n), column u n + p."""
    scalars = np.concatenate(products[: layer.num_invariants], axis=2)
    return scalars.reshape(len(scalars), -1)


def separate_invariants_backward(grad_invariants: np.ndarray, layer: Layer) -> list[np.ndarray]:
    """dE/dT_p of the paths into 0e, (Z, U, 1) each."""
    count = layer.num_invariants
    grad = grad_invariants.reshape(len(grad_invariants), grad_invariants.shape[1] // count, count)
    return [grad[:, :, p : p + 1] for p in range(count)]


def _mixed(mix: np.ndarray | None, p: int, tensor: np.ndarray) -> np.ndarray:
    """(mix_p T)[z,v,c] = sum_u mix[p,u,v] T[z,u,c]; T itself where there is nothing to mix."""
    return tensor if mix is None else np.einsum("zuc,uv->zvc", tensor, mix[p])


def _mixed_backward(mix: np.ndarray | None, p: int, grad: np.ndarray) -> np.ndarray:
    return grad if mix is None else np.einsum("zvc,uv->zuc", grad, mix[p])
