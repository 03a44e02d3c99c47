"""The CUDA module that no model is part of: neighbour list and sums (kernels/cuda/lists.cu, sums.cu)."""

from __future__ import annotations

from allegro_sim.kernels.numba_cuda import control
from allegro_sim.potential.cuda.source import assemble

_BLOCK = 128

_TYPES = {
    "keys": "long long*", "sorted_keys": "long long*", "order": "long long*", "order_keys": "long long*",
    "counts": "long long*", "row_offsets": "long long*", "indices": "int*", "positions": "double*", "images": "int*",
    "types": "int*", "ids": "long long*", "cell": "double*", "inverse": "double*", "bins": "double*",
    "limits_squared": "double*", "squared": "double*", "closest": "int*", "control": "long long*",
    "sums": "long long*", "velocities": "double*", "masses": "double*", "heat": "long long*", "energies": "double*",
    "extremes": "long long*", "slope": "long long*", "status": "int*", "forces": "long long*",
    "energy_unit": "double", "num_types": "int", "owned": "int", "rows": "int",
}  # fmt: skip
"""C type of every argument; arrays that a kernel does not write become pointers to const."""

_SEARCH = ("positions", "images", "types", "cell", "limits_squared", "keys", "sorted_keys", "order", "num_types")

_KERNELS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "bin_rows": ("bin_of_row", ("keys",), ("positions", "images", "inverse", "bins", "rows")),
    "sort_few": ("sort_key", ("order", "sorted_keys"), ("keys", "rows")),
    "count_rows": ("count_row", ("counts",), (*_SEARCH, "owned", "rows")),
    "fill_rows": ("fill_row", ("indices",), ("row_offsets", "order_keys", *_SEARCH, "owned", "rows")),
    "closest_rows": (
        "closest_of_row",
        ("squared", "closest"),
        ("row_offsets", "indices", "ids", "positions", "images", "cell", "owned"),
    ),
    "look_at_distances": (
        "look_at_distances_of_row",
        ("control",),
        ("row_offsets", "indices", "types", "positions", "images", "cell", "limits_squared", "num_types", "owned"),
    ),
    "kinetic_sums": (
        "kinetic_sums_of_atom",
        ("sums",),
        ("control", "velocities", "types", "masses", "energy_unit", "num_types", "owned"),
    ),
    "heat_sum": ("heat_sum_of_row", ("sums",), ("heat", "rows")),
    "energy_sum": ("energy_sum_of_atom", ("sums",), ("energies", "owned")),
    "slope_maxima": (
        "slope_maxima_of_atom",
        ("slope",),
        ("control", "status", "forces", "velocities", "owned"),
    ),
    "slope_sums": ("slope_sums_of_atom", ("slope",), ("status", "energies", "forces", "velocities", "owned")),
    "extremes": ("extremes_of_atom", ("extremes",), ("positions", "inverse", "owned")),
}
"""Kernel -> (device function, what it writes, what it reads)."""

KERNELS = dict.fromkeys(_KERNELS, 0)
"""Kernel -> bytes of dynamic shared memory."""


def module_source() -> str:
    """The whole module as one text."""
    defines = {"PRECISION_DOUBLE": 1, "PRECISION_SINGLE": 0, "PRECISION_MIXED": 0}
    defines |= {f"CONTROL_{name}": getattr(control, name) for name in ("FOUND", "HALT", "DISTANCE")}
    return assemble(
        "".join(f"#define {name} {value}\n" for name, value in defines.items()),
        "lists.cu",
        "sums.cu",
        *(_entry_point(name, *parts) for name, parts in _KERNELS.items()),
    )


def _entry_point(name: str, body: str, outputs: tuple[str, ...], inputs: tuple[str, ...]) -> str:
    parameters = []
    for argument in (*outputs, *inputs):
        kind = _TYPES[argument]
        if kind.endswith("*"):
            kind = f"{kind} __restrict__" if argument in outputs else f"const {kind} __restrict__"
        parameters.append(f"{kind} {argument}")
    return (
        f'extern "C" __global__ void __launch_bounds__({_BLOCK}) {name}({", ".join(parameters)}) {{\n'
        f"  {body}({', '.join((*outputs, *inputs))});\n}}\n"
    )
