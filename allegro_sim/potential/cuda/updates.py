"""What the legacy generation does between its MLPs (kernels/cuda/gates.cu): element-wise kernels, their text and order.

A gate is a factor of an edge's length: the cutoff u_k on what a latent MLP gives; 1 inside and 0 outside the radius
within which an edge is part of the environment of layer k; or the reverse, on the s_{k-1} that it keeps beyond. Where
what MLP k gives is kept apart, s_k is made of it here; the slope of the gate goes to latent_slope, and with the
embedding's to the forces.
"""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cuda.center_header import KernelSpec
from allegro_sim.potential.cuda.mlp_kernel import MlpKernel
from allegro_sim.potential.cuda.mlp_legacy import place_of, updates_before
from allegro_sim.potential.cuda.mlp_shapes import Dimensions, Rounding
from allegro_sim.potential.cuda.tracks import Shapes, flag

_ROWS = 32
_CHUNK = ("first", "chunk_centers", "chunk")
Gate = tuple[str, float, float]
"""Kind (POLYNOMIAL_GATE, COSINE_GATE, INSIDE_GATE, OUTSIDE_GATE), radius in Å, parameter."""


class Updates:
    """Element-wise kernels of a legacy model.

    apart: what latent MLPs give is kept apart from the scalar features (`mlp_legacy.keeps_latents`).

    Attributes
    ----------
    specs : kernels with a thread a row
    kernels : kernels over pieces of rows
    gates : rows of the buffers of gates, in order
    """

    def __init__(self, model: AllegroModel, dimensions: Dimensions, rounding: Rounding, *, apart: bool) -> None:
        self.model, self._d, self._rounding, self._apart = model, dimensions, rounding, apart
        self.gates = list[Gate]()
        kernels: list[MlpKernel] = []
        for k in range(model.num_layers + 1):
            kernels += self._updates(k)
            kernels += self._inside(k)
        self.kernels = {kernel.name: kernel for kernel in kernels}
        self.specs = {spec.name: spec for spec in self._specs()}

    @property
    def source(self) -> tuple[str, ...]:
        """Parts of the module's text."""
        return ("gates.cu", self._gates_text()) if self.gates else ("gates.cu",)

    def buffers(self, capacity: int) -> tuple[Shapes, Shapes]:
        """Shapes of the arrays over edges, in REAL numbers and in float64."""
        real, whole = Shapes(), Shapes()
        if self.gates:
            real |= dict.fromkeys(("gates", "gate_slopes"), (len(self.gates), capacity))
            whole["latent_slope"] = (capacity,)
        if self._apart:
            width = self._d.places[0]
            latents = {f"latent_{k}": (capacity, width) for k in range(self.model.num_layers + 1)}
            real |= {**latents, "dlatent": (capacity, width)}
        return real, whole

    def constants(self) -> dict[str, np.ndarray]:
        scales = self.model.edge_scales
        return {} if scales is None else {"edge_scales": np.asarray(scales, np.float64).ravel()}

    # --- order --------------------------------------------------------------------------------------------------------

    def _present(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.kernels or name in self.specs)

    @property
    def before(self) -> tuple[str, ...]:
        """Stages after the geometry."""
        return self._present("latent_gates")

    def after_mlp(self, k: int) -> tuple[str, ...]:
        """Stages that make s_k of what MLP k gives."""
        return self._present(f"update_{k}_forward")

    def before_mlp_backward(self, k: int) -> tuple[str, ...]:
        return self._present(f"slope_{k}_backward", f"update_{k}_backward")

    def after_environment(self, k: int) -> tuple[str, ...]:
        """Stages between the MLP of the environment's weights and the environment."""
        return self._present(f"inside_{k}_forward")

    def before_environment_backward(self, k: int) -> tuple[str, ...]:
        return self._present(f"inside_{k}_backward")

    @property
    def after_readout(self) -> tuple[str, ...]:
        return self._present("scale_edge_energies")

    @property
    def after(self) -> tuple[str, ...]:
        """Stages before the forces."""
        return self._present("add_latent_slopes")

    # --- kernels ------------------------------------------------------------------------------------------------------

    def _gate(self, kind: str, radius: float, parameter: float = 0.0) -> int:
        """Row of a gate; equal ones are computed once."""
        gate = (kind, float(radius), float(parameter))
        if gate not in self.gates:
            self.gates.append(gate)
        return self.gates.index(gate)

    def _updates(self, k: int) -> list[MlpKernel]:
        model, cutoff = self.model, self.model.latent_cutoff
        if not self._apart:
            return []
        row = keep = -1
        if cutoff is not None:
            kind = "POLYNOMIAL_GATE" if cutoff.kind == "polynomial" else "COSINE_GATE"
            row = self._gate(kind, cutoff.radii[k], cutoff.parameter)
            keep = self._gate("OUTSIDE_GATE", cutoff.radii[k]) if model.keeps_scalars(k) else -1
        part, latent = self._d.scalar_part(place_of(model, k)), f"latent_{k}"
        shape = f"{_ROWS}, {part.width}, {part.offset}, {row}"
        mixed, adds = self._d.precision == "mixed", updates_before(model, k)
        reads, scales, scaled = (("dx",), (), "nullptr") if keep < 0 else ((), ("dx",), "dx")
        rounds = mixed and self._rounding.features[k], mixed and self._rounding.gradients[k]
        gates, capacity = ("gates",) * (row >= 0), ("capacity",) * (row >= 0)
        argument, number = ("gates", "capacity") if row >= 0 else ("nullptr", "0")
        found = [
            self._kernel(
                f"update_{k}_forward", ("x",), (latent, *gates, *capacity),
                f"update_scalars<{shape}, {keep}, {flag(adds)}, {flag(rounds[0])}>(x, {latent}, {argument}, {number})",
            ),
            self._kernel(
                f"update_{k}_backward", ("dlatent", *scales), (*reads, *gates, *capacity),
                f"update_gradients<{shape}, {keep}, {flag(rounds[1])}>(dlatent, dx, {scaled}, {argument}, {number})",
            ),
        ]  # fmt: skip
        if row >= 0:
            inputs = ("dx", latent, "gate_slopes", "capacity")
            added = flag(k < model.num_layers)  # the last one comes first
            call = f"add_gate_slopes<{shape}, {added}>(latent_slope, {', '.join(inputs)})"
            found.append(self._kernel(f"slope_{k}_backward", ("latent_slope",), inputs, call))
        return found

    def _inside(self, k: int) -> list[MlpKernel]:
        """An edge beyond its radius is no part of the environment of layer k: its weights are zero."""
        model, cutoff = self.model, self.model.latent_cutoff
        if cutoff is None or k == model.num_layers or cutoff.radii[k] >= model.reaches.max():
            return []
        row, width = self._gate("INSIDE_GATE", cutoff.radii[k]), self._d.NE
        places = {"forward": ("env", f"env + (long long){k} * capacity * {width}"), "backward": ("denv", "denv")}
        return [
            self._kernel(
                f"inside_{k}_{way}", (buffer,), ("gates", "capacity"),
                f"scale_rows<{_ROWS}, {width}, {row}>({place}, gates, capacity)",
            )
            for way, (buffer, place) in places.items()
        ]  # fmt: skip

    @staticmethod
    def _kernel(name: str, outputs: tuple[str, ...], inputs: tuple[str, ...], call: str) -> MlpKernel:
        return MlpKernel(
            name=name, threads=256, tile=_ROWS, shared_bytes=0, blocks_together=4, outputs=outputs, inputs=inputs,
            body=f"  {call};\n",
        )  # fmt: skip

    def _specs(self) -> list[KernelSpec]:
        found = []
        outputs: tuple[str, ...]
        inputs: tuple[str, ...]
        if self.gates:
            found.append(
                KernelSpec("latent_gates", "gates_of_edge", ("gates", "gate_slopes"), ("vectors", "capacity"), "row")
            )
        if any(kind in ("POLYNOMIAL_GATE", "COSINE_GATE") for kind, _, _ in self.gates):
            outputs, inputs = ("radial_slope",), ("latent_slope", "pairs", "cutoffs", *_CHUNK)
            found.append(KernelSpec("add_latent_slopes", "add_latent_slope_of_edge", outputs, inputs, "row"))
        if self.model.edge_scales is not None:
            inputs = ("pairs", "edge_scales", *_CHUNK)
            found.append(KernelSpec("scale_edge_energies", "scale_energy_of_edge", ("edge_energies",), inputs, "row"))
        return found

    def _gates_text(self) -> str:
        """The function that makes all gates of an edge, zeros of length in padding rows."""
        lines = [
            "DEVICE void gates_of_edge(REAL* __restrict__ gates, REAL* __restrict__ gate_slopes,",
            "                          const double* __restrict__ vectors, int capacity) {",
            "  const int z = blockIdx.x * blockDim.x + threadIdx.x;",
            "  if (z >= capacity) return;",
            "  const double d = length_of_edge(vectors, z, capacity);",
        ]
        for row, (kind, radius, parameter) in enumerate(self.gates):
            at = f"{row}LL * capacity + z"
            lines.append(f"  gate_of_length<{kind}>(gates + {at}, gate_slopes + {at}, d, {radius!r}, {parameter!r});")
        return "\n".join([*lines, "}", ""])
