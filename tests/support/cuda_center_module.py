"""The index, edge and centre kernels of a model on the CPU, launched by name on a dictionary of arrays."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
from support.cuda_runner import CpuModule
from support.random_models import random_model

from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cuda.center_header import (
    CENTER_ENERGIES,
    EDGE_FORCES,
    center_defines,
    kernel_specs,
)
from allegro_sim.potential.cuda.contractions import contraction_code
from allegro_sim.potential.cuda.source import assemble

CENTERS = ("center_forward", "center_backward")
NUMBERS = (
    "chunk", "capacity", "max_centers", "want_virial", "want_atom_virials", "rows", "owned", "virial_rows",
)  # fmt: skip


def specs_of(model: AllegroModel):
    """All kernels by name, and those that are otherwise parts of one as kernels of their own."""
    return {**kernel_specs(model), **{spec.name: spec for spec in (CENTER_ENERGIES, EDGE_FORCES)}}


def real_of(precision: str) -> type[np.floating]:
    return np.float64 if precision == "double" else np.float32


def source_of(model: AllegroModel, precision: str, part: str, **defines: int) -> str:
    """The text of the kernels of a part, "centers" or "edges" (and the index); `defines` override constants."""
    constants = center_defines(model, precision) | {name: str(value) for name, value in defines.items()}
    specs = specs_of(model)
    names = [name for name in specs if name.startswith(CENTERS) == (part == "centers")]
    return assemble(
        "".join(f"#define {name} {value}\n" for name, value in constants.items()),
        *(
            ("channel.cuh", contraction_code(model), "centers.cu")
            if part == "centers"
            else ("index.cu", "scan.cu", "edges.cu")
        ),
        *(specs[name].entry_point() for name in names),
    )


@functools.cache
def model_of(l_max: int, channels: int, layers: int, parity: bool = True, shared: str = "", **options) -> AllegroModel:
    """A random model; shared: "env", "w" or "env w", which weights all degrees of a channel share."""
    model = random_model(
        1, l_max=l_max, num_layers=layers, num_tensor_features=channels, parity=parity, num_types=3,
        individual_irreps="env" not in shared, **options,
    )  # fmt: skip
    if shared.endswith("w"):
        model = replace(model, tensor_linear=model.tensor_linear[:, :channels])
    return model


class CenterModule:
    """Kernels of one model in one precision; `settings` are those of CpuModule, `defines` override constants."""

    part = "centers"

    def __init__(self, model: AllegroModel, precision: str, defines: dict[str, int] | None = None, **settings) -> None:
        self.model, self.real = model, real_of(precision)
        defined = center_defines(model, precision).items()
        self.sizes = {name: float(value) for name, value in defined if "(" not in name}
        self.specs = specs_of(model)
        source = source_of(model, precision, self.part, **(defines or {}))
        # There is more to compile than to compute.
        self.module = CpuModule(source, optimize="-O0", **settings)
        said = [line for line in self.module.warnings.splitlines() if "warning:" in line]
        # A model that has no use for a stage leaves its arguments unused.
        assert all("[-Wunused-parameter]" in line for line in said), "\n".join(said)

    def size(self, name: str) -> int:
        return int(self.sizes[name])

    def launch(self, name: str, arrays: dict[str, np.ndarray], **numbers: int) -> None:
        """Run a kernel; numbers: those of its arguments that are no arrays."""
        spec = self.specs[name]
        arguments = [
            np.int32(numbers[argument]) if argument in NUMBERS else arrays[argument] for argument in spec.arguments
        ]
        if "rows" in numbers or "owned" in numbers:  # of the whole evaluation
            grid = spec.grid(numbers.get("rows", 0), numbers.get("owned", 0))
        else:
            grid = spec.grid(numbers["capacity"], numbers.get("max_centers", len(arrays["first"]) - 1))
        self.module.launch(name, (grid,), (spec.block,), arguments)


class EdgeModule(CenterModule):
    """The index and edge kernels."""

    part = "edges"
