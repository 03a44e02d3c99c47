"""The programs of the legacy generation: see `programs.py` for how they are made.

Scalar features. "concatenate": s_0 .. s_L each have their place. Else one place holds the last of them: a latent MLP's
output, times the factor of the edge, is added to it ("residual", see `Folded`) or takes its place ("replace"), and its
gradient is passed on in the same place. Where edges beyond a cutoff keep the features of before ("replace"), these are
multiplied by 0 or 1 first, and the output is added to them. What an MLP gave before its factor is kept for the
factor's slope.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.kernels.cpu import network as steps
from allegro_sim.kernels.cpu.radial import COSINE, INSIDE, OUTSIDE, POLYNOMIAL, SCALED, UNITY
from allegro_sim.kernels.cpu.simd import pad
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.irreps import total_dim
from allegro_sim.potential.folding import Folded
from allegro_sim.potential.programs import Block, Programs


class LegacyProgramBuilder(Programs):
    """Programs, and `factors`: kind and parameters (radius, parameter) of each row of the edges' factors."""

    def __init__(self, model: AllegroModel, folded: Folded, dtype: Any) -> None:
        super().__init__(model, folded, dtype)
        self.factors: list[tuple[int, float, float]] = []
        self._collect = model.latent_update == "concatenate"
        self._gates = [] if self._collect else [self._gate_row(k) for k in range(model.num_layers + 1)]
        self._place_buffers()
        for k in range(model.num_layers + 1):
            self._stage(k)

    def _place_buffers(self) -> None:
        model, channels = self.model, self.channels
        num_layers, components = model.num_layers, (model.l_max + 1) ** 2
        slots = model.environment_weight_irreps
        widths = [pad(width, self.dtype) for width in model.scalar_widths]
        self._widths = widths
        self._starts = np.cumsum([0, *widths[:-1]]) if self._collect else np.zeros(num_layers + 1, np.int64)
        scalars = sum(widths) if self._collect else widths[0]
        largest = max(total_dim(layer.irreps_in) for layer in model.layers)
        invariants = max(layer.num_invariants for layer in model.layers) * channels
        for name, row in (
            ("scalars", scalars),
            ("scalars gradient", scalars),
            *((f"latent {k}", widths[k]) for k in range(num_layers + 1) if not self._collect),
            *((f"environment {k}", slots * channels) for k in range(num_layers)),
            ("environment gradient", slots * channels),
            ("tensor weights", slots * channels),
            ("tensor weights gradient", slots * channels),
            *((f"tensors {k}", total_dim(layer.irreps_in) * channels) for k, layer in enumerate(model.layers)),
            ("tensors gradient 0", largest * channels),
            ("tensors gradient 1", largest * channels),
            ("seen gradient", 0 if model.self_edge else components * channels),
            ("invariants", invariants),
            ("invariants gradient", invariants),
            ("harmonics gradient", self.components),
        ):
            self.buffers.add(name, row)
        if not self._collect:
            self.buffers.add("latent gradient", widths[0], kept=False)

    def _factor_row(self, kind: int, radius: float = 1.0, parameter: float = 0.0) -> int:
        """Row of a factor; equal ones are made once."""
        factor = (kind, radius, parameter)
        if factor not in self.factors:
            self.factors.append(factor)
        return self.factors.index(factor)

    def _gate_row(self, k: int) -> int:
        """The factor on what latent MLP k gives (k = 0: the two-body one)."""
        cutoff = self.model.latent_cutoff
        if cutoff is None:
            return self._factor_row(UNITY)
        kind = POLYNOMIAL if cutoff.kind == "polynomial" else COSINE
        return self._factor_row(kind, float(cutoff.radii[k]), float(cutoff.parameter))

    def _scalar_block(self, k: int, gradient: bool = False) -> Block:
        """s_k."""
        name = "scalars gradient" if gradient else "scalars"
        return Block(name, int(self._starts[k]), np.arange(self.model.scalar_widths[k]), self._widths[k])

    def _stage(self, k: int) -> None:
        """Stage k: s_k from its MLP, then env_k from s_k, or behind the last layer the readout; and the reverse."""
        model = self.model
        outputs, gradients = [self._scalar_block(k)], [self._scalar_block(k, gradient=True)]
        if not self._collect:
            outputs = [Block(f"latent {k}", 0, outputs[0].places, outputs[0].width)]
            gradients = [Block("latent gradient", 0, outputs[0].places, outputs[0].width)]
        if k == 0:
            forward, backward = self._chain(
                self.folded.embedding, "embedding", model.embed_mlp.activation, [], outputs, [], gradients,
                accumulate_slopes=model.latent_cutoff is not None,
            )  # fmt: skip
        else:
            forward, backward = self._latent(k - 1, outputs, gradients)
        if not self._collect:
            self._gate(k, forward, backward)
        last_forward, last_backward = self._readout() if k == model.num_layers else self._environment(k)
        self.forward.append(forward + last_forward)
        self.backward.append(last_backward + backward)

    def _latent(self, k: int, outputs: list[Block], gradients: list[Block]) -> tuple[list, list]:
        model = self.model
        count = model.layers[k].num_invariants
        taken = model.latent_inputs[k]
        # The readout sets the gradient of s_L alone; the last latent MLP that of the features before it.
        first = k == model.num_layers - 1 if self._collect else self._overwrites(k + 1)
        inputs = [*(self._scalar_block(n) for n in taken), self._channel_block("invariants", count)]
        input_gradients = [
            *((self._scalar_block(n, gradient=True), not first) for n in taken),
            (self._channel_block("invariants gradient", count), False),
        ]
        activation = model.layers[k].latent.activation
        return self._chain(
            self.folded.latents[k], f"latent {k}", activation, inputs, outputs, input_gradients, gradients
        )

    def _overwrites(self, k: int) -> bool:
        """Whether s_k takes the place of s_{k-1} on all edges."""
        return self.model.latent_update == "replace" and not self.model.keeps_scalars(k)

    def _gate(self, k: int, forward: list, backward: list) -> None:
        """Adds the steps between latent MLP k's output and s_k."""
        scalars, gradient = self._scalar_block(k), self._scalar_block(k, gradient=True)
        given = Block(f"latent {k}", 0, scalars.places, scalars.width)
        taken = Block("latent gradient", 0, scalars.places, scalars.width)
        adds = int(k > 0 and not self._overwrites(k))
        others = {"width": scalars.width, "inner": self._gates[k]}
        forward.append(self._step(steps.GATE, scalars, given, flag=adds, **others))
        backward.insert(0, self._step(steps.GATE, taken, gradient, **others))
        cutoff = self.model.latent_cutoff
        if cutoff is not None and self.model.keeps_scalars(k):
            row = self._factor_row(OUTSIDE, float(cutoff.radii[k]))
            forward.insert(-1, self._scale(scalars, row))
            backward.insert(1, self._scale(gradient, row))
        if self.model.latent_cutoff is not None:
            begun = int(k < self.model.num_layers)
            backward.insert(0, self._step(steps.GATE_SLOPE, given, gradient, flag=begun, **others))

    def _environment(self, k: int) -> tuple[list, list]:
        model, slots = self.model, self.model.environment_weight_irreps
        outputs = [self._channel_block(f"environment {k}", slots)]
        gradients = [self._channel_block("environment gradient", slots)]
        if k == 0:
            outputs.insert(0, self._channel_block("tensor weights", slots))
            gradients.insert(0, self._channel_block("tensor weights gradient", slots))
        mlp = model.layers[k].environment_mlp
        assert mlp is not None
        forward, backward = self._chain(
            self.folded.environments[k], f"environment {k}", mlp.activation, [self._scalar_block(k)], outputs,
            [(self._scalar_block(k, gradient=True), True)], gradients,
        )  # fmt: skip
        cutoff = model.latent_cutoff
        if cutoff is not None and cutoff.radii[k] < model.reaches.max():
            row = self._factor_row(INSIDE, float(cutoff.radii[k]))
            forward.append(self._scale(outputs[-1], row))
            backward.insert(0, self._scale(gradients[-1], row))
        return forward, backward

    def _scale(self, block: Block, row: int) -> list[int]:
        return self._step(steps.SCALE, block, block, width=block.width, inner=row)

    def _readout(self) -> tuple[list, list]:
        model, chain = self.model, self.folded.readout
        inputs = self._scalar_block(model.num_layers)
        gradient = self._scalar_block(model.num_layers, gradient=True)
        forward, backward = self._chain(
            chain, "readout", model.readout.activation, [inputs], [], [(gradient, False)], []
        )
        result = self._hidden_block(chain[-1].matrix.shape[-1], (len(chain) - 1) % 2) if chain else inputs
        seeded = result if chain else gradient
        self.readout_places, self.readout_width = result.places, result.width
        forward.append(self._step(steps.TOTAL, result, result, width=result.width))
        backward.insert(0, self._step(steps.SEED, seeded, seeded, width=result.width))
        if model.edge_scales is not None:
            row = self._factor_row(SCALED)
            forward.insert(len(forward) - 1, self._scale(result, row))
            backward.insert(1, self._scale(seeded, row))
        return forward, backward
