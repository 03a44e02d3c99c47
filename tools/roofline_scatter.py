"""Operations and bytes of the centre kernels of models with `scatter_features` (kernels/cuda/scatter.cu)."""

from __future__ import annotations

from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.folding import contraction_list
from allegro_sim.tools.roofline_shapes import KernelWork, Shape, make_work


def scatter_forward(shape: Shape, k: int) -> KernelWork:
    """B_0 from w, or A_{k-1} from env_{k-1} and B_k from it; n_k, and with env_k scal_k."""
    real, block = shape.real, shape.m * shape.up * shape.real
    slots = shape.model.environment_weight_irreps
    edge = make_work(
        {
            "env": (2 if k else 1) * shape.ne * real,
            "w": 0.0 if k else shape.nw * real,
            "harmonics": shape.mp * real,
        },
        {"x": shape.up * real},
        plain=2.0 * shape.u * (2 * shape.m + slots),
    )
    center = make_work(
        {"B": _sum_bytes(shape, k - 1), "first": 8.0, "types": 4.0},
        {"A": block if k else 0.0, "B": _sum_bytes(shape, k)},
        plain=4.0 * shape.u * _entries(shape, k),
    )
    return KernelWork(f"scatter_forward_{k}", edge, center)


def scatter_backward(shape: Shape, k: int) -> KernelWork:
    """dn_k, then dB_k, and of it dB_{k-1} and dA_{k-1}; of each edge denv_k and dY, with layer 0 dw."""
    real, block = shape.real, shape.m * shape.up * shape.real
    last, slots = k == shape.layers - 1, shape.model.environment_weight_irreps
    sums = shape.warps * (shape.m - 1) * real
    first = 0.0 if k else shape.nw * real
    edge = make_work(
        {
            "dx": shape.up * real,
            "env": shape.ne * real,
            "w": first,
            "harmonics": shape.mp * real,
            "harmonic_gradient": 0.0 if last else sums,
        },
        {"denv": shape.ne * real, "dw": first, "harmonic_gradient": sums},
        plain=2.0 * shape.u * ((4 if k else 6) * shape.m + slots),
    )
    center = make_work(
        {
            "A": block if k else 0.0,
            "B": _sum_bytes(shape, k) + _sum_bytes(shape, k - 1),
            "dA": 0.0 if last else block,
            "dB": 0.0 if last else _sum_bytes(shape, k),
            "first": 8.0,
            "types": 4.0,
        },
        {"dA": block if k else 0.0, "dB": _sum_bytes(shape, k - 1)},
        plain=8.0 * shape.u * _entries(shape, k),
    )
    return KernelWork(f"scatter_backward_{k}", edge, center)


def _sum_bytes(shape: Shape, k: int) -> float:
    """Of B_k of a centre; none before the first."""
    return float(total_dim(shape.model.layers[k].irreps_in) * shape.up * shape.real) if k >= 0 else 0.0


def _entries(shape: Shape, k: int) -> int:
    """Entries of the sparse lists of B_k and n_k."""
    product = len(contraction_list(shape.model, k - 1, invariant_only=False).values) if k else 0
    return product + len(contraction_list(shape.model, k, invariant_only=True).values)
