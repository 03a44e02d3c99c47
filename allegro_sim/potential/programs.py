"""The dense part of a model as programs for `kernels.cpu.network`: which matrix goes from which buffer to which.

A feature vector in a buffer is padded to whole vectors (`simd.pad`), channels of tensor weights also within: model
column u nir + l stands at l U' + u, with U' the padded number of channels. Padding is zero in every matrix, so it
contributes exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allegro_sim.kernels.cpu import network as steps
from allegro_sim.kernels.cpu.activations import CODES
from allegro_sim.kernels.cpu.simd import lanes, pad
from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.folding import Chain, Folded


@dataclass(frozen=True)
class Block:
    """Part of a feature vector: the model's components stand at `places`, counted from `column`, of a buffer's rows."""

    buffer: str
    column: int
    places: np.ndarray
    width: int  # padded

    @property
    def inner(self) -> int:
        """Columns up to the last one in use: the inner length of products from here."""
        return int(self.places[-1]) + 1


@dataclass
class Buffers:
    """Buffers of a chunk by name: elements a row, and whether a row is kept for every edge or for those of a panel."""

    rows: dict[str, int] = field(default_factory=dict)
    kept: dict[str, bool] = field(default_factory=dict)

    def add(self, name: str, row: int, kept: bool = True) -> str:
        self.rows.setdefault(name, row)
        self.kept.setdefault(name, kept)
        return name

    def number(self, name: str) -> int:
        return list(self.rows).index(name)

    def row_elements(self) -> int:
        """Elements of all buffers kept for an edge."""
        return sum(row for name, row in self.rows.items() if self.kept[name])

    def place(self, capacity: int) -> tuple[np.ndarray, int]:
        """Table for the kernels (buffers, 3) and the length of `features`, for `capacity` edges a chunk."""
        table, at = np.zeros((len(self.rows), 3), np.int64), 0
        for n, (name, row) in enumerate(self.rows.items()):
            table[n] = at, row, self.kept[name]
            at += row * (capacity if self.kept[name] else steps.PANEL)
        return table, at


class Programs:
    """Packs matrices into steps; afterwards `forward` and `backward` hold the steps of each stage.

    Stages as in `kernels.cpu.allegro.evaluate_chunk`: forward[0] the embedding, forward[k + 1] the latent MLP k, the
    readout at the end of the last; backward[k] the reverse of forward[k].
    """

    def __init__(self, model: AllegroModel, folded: Folded, dtype: Any) -> None:
        self.model, self.folded, self.dtype = model, folded, np.dtype(dtype)
        self.buffers = Buffers()
        self.weights: list[np.ndarray] = []
        self._weights_at = 0
        self.channels = pad(model.num_tensor_features, dtype)
        self.readout_width = 0
        self.readout_places = np.zeros(0, np.int64)
        self.forward: list[list[list[int]]] = []
        self.backward: list[list[list[int]]] = []
        # Written eight components at a time from column 0, 8, ... on, each time a whole vector.
        eights = max(-(-(model.harmonic_components - 1) // 8) * 8, 8)
        self.components = pad(eights - 8 + lanes(dtype), dtype)

    # --- blocks of feature vectors ------------------------------------------------------------------------------------

    def _channel_block(self, name: str, slots: int) -> Block:
        """Weights of every channel, for each of the slots: model column u slots + l."""
        channels = self.model.num_tensor_features
        places = (np.arange(slots)[None, :] * self.channels + np.arange(channels)[:, None]).ravel()
        return Block(name, 0, places, slots * self.channels)

    def _hidden_block(self, size: int, which: int) -> Block:
        width = pad(size, self.dtype)
        name = self.buffers.add(f"hidden {which} {width}", width, kept=False)
        return Block(name, 0, np.arange(size), width)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _pack(self, matrix: np.ndarray) -> int:
        """Store a padded matrix; returns its place, a multiple of whole vectors."""
        flat = np.ascontiguousarray(matrix, self.dtype).ravel()
        at = self._weights_at
        self.weights.append(flat)
        self._weights_at += len(flat)
        assert at % lanes(self.dtype) == 0
        return at

    def _step(self, operation: int, out: Block | str, source: Block | str, **others: int) -> list[int]:
        row = [0] * steps.STEP_COLUMNS
        row[steps.OPERATION] = operation
        for block, number, column in ((out, steps.OUT, steps.OUT_COLUMN), (source, steps.IN, steps.IN_COLUMN)):
            row[number] = self.buffers.number(block.buffer if isinstance(block, Block) else block)
            row[column] = block.column if isinstance(block, Block) else 0
        for name, value in others.items():
            row[getattr(steps, name.upper())] = value
        return row

    def _product(self, matrix: np.ndarray, out: Block, source: Block, accumulate: bool) -> list[int]:
        """out (+)= source @ matrix, the matrix (in, out) in the model's own order of components."""
        padded = np.zeros((source.inner, out.width))
        padded[source.places[:, None], out.places] = matrix
        at = self._pack(padded)
        return self._step(
            steps.PRODUCT, out, source, weights=at, width=out.width, inner=source.inner, flag=int(accumulate)
        )

    def _pair(self, operation: int, matrix: np.ndarray, block: Block, accumulate: bool = False) -> list[int]:
        padded = np.zeros((*matrix.shape[:2], block.width))
        padded[:, :, block.places] = matrix
        return self._step(operation, block, block, weights=self._pack(padded), width=block.width, flag=int(accumulate))

    @staticmethod
    def _parts(blocks: list[Block]) -> list[tuple[Block, slice]]:
        """Blocks that together make one feature vector, with the range of the vector each holds."""
        ends = np.cumsum([len(block.places) for block in blocks])
        return [(block, slice(int(end) - len(block.places), int(end))) for block, end in zip(blocks, ends, strict=True)]

    def _separable(self, accumulate: bool) -> tuple[Block, list[int], list[int]]:
        """The block of the two-body features of a `SeparableTable`, and the steps for it, forward and backward."""
        table = self.folded.separable
        assert table is not None
        block = self._hidden_block(table.basis.shape[1], 1)
        centers, neighbors = (np.ones((self.model.num_types, table.basis.shape[1])) for _ in range(2))
        width = table.center_types.shape[1]
        centers[:, :width], neighbors[:, width:] = table.center_types, table.neighbor_types
        padded = np.zeros((len(table.basis) + 2 * self.model.num_types, block.width))
        padded[:, block.places] = np.concatenate([table.basis, centers, neighbors])
        others = {"weights": self._pack(padded), "width": block.width, "inner": self.model.num_types}
        slope = self._step(steps.SEPARABLE_SLOPE, block, block, flag=int(accumulate), **others)
        return block, self._step(steps.SEPARABLE, block, block, **others), slope

    def _chain(
        self,
        chain: Chain,
        name: str,
        activation_name: str,
        inputs: list[Block],
        outputs: list[Block],
        input_gradients: list[tuple[Block, bool]],
        output_gradients: list[Block],
        accumulate_slopes: bool = False,
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Steps of a chain of matrices, forward and backward; `name` is of its buffers.

        input_gradients: where dE/d(input) goes, and whether it is added to what stands there. A chain without inputs
        starts at the radial basis; accumulate_slopes: dE/dx has been begun before. With no outputs given the result
        stays in the hidden block of the last matrix.
        """
        forward: list[list[int]] = []
        backward: list[list[int]] = []
        activation = CODES[activation_name]
        sources, gradients = inputs, input_gradients
        if not inputs and self.folded.separable is not None:
            block, make, take = self._separable(accumulate_slopes)
            forward.append(make)
            backward.append(take)
            sources, gradients = [block], [(block, False)]
        keeps = bool(chain) and chain[-1].keeps
        for n, linear in enumerate(chain):
            last = n == len(chain) - 1 and bool(outputs)
            if last and keeps and not linear.cost:
                break
            size = linear.matrix.shape[-1]
            kept = keeps and n == len(chain) - 2  # they stand where others read them, too, whose gradients are there
            targets = outputs[keeps:] if last else outputs[:1] if kept else [self._hidden_block(size, n % 2)]
            target_gradients = targets
            if last or kept:
                target_gradients = output_gradients[keeps:] if last else output_gradients[:1]
            back: list[list[int]] = []
            if linear.matrix.ndim == 3:
                for target, gradient, (_, part) in zip(targets, target_gradients, self._parts(targets), strict=True):
                    forward.append(self._pair(steps.PAIR, linear.matrix[:, :, part], target))
                    adds = accumulate_slopes or bool(back)
                    back.append(self._pair(steps.PAIR_SLOPE, linear.matrix[:, :, part], gradient, accumulate=adds))
            else:
                for target, columns in self._parts(targets):
                    for m, (source, rows) in enumerate(self._parts(sources)):
                        forward.append(self._product(linear.matrix[rows, columns], target, source, m > 0))
                for (source_gradient, add), (_, rows) in zip(gradients, self._parts(sources), strict=True):
                    for m, (gradient, columns) in enumerate(self._parts(target_gradients)):
                        matrix = linear.matrix[rows, columns].T
                        back.append(self._product(matrix, source_gradient, gradient, add or m > 0))
            if linear.activated:
                slopes = self.buffers.add(f"slopes {name} {n}", targets[0].width)
                forward.append(self._step(steps.ACTIVATE, targets[0], slopes, width=targets[0].width, flag=activation))
                back.insert(0, self._step(steps.MULTIPLY, target_gradients[0], slopes, width=targets[0].width))
            backward = back + backward
            sources, gradients = targets, [(gradient, kept) for gradient in target_gradients]
        return forward, backward

    # --- what the kernels take ----------------------------------------------------------------------------------------

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """All steps, int64 (n, STEP_COLUMNS), and where each program starts: forward in order, backward in reverse."""
        programs = [*self.forward, *reversed(self.backward)]
        starts = np.cumsum([0, *map(len, programs)]).astype(np.int64)
        return np.array([step for program in programs for step in program], np.int64), starts


class ProgramBuilder(Programs):
    """The programs of the current generation."""

    def __init__(self, model: AllegroModel, folded: Folded, dtype: Any) -> None:
        super().__init__(model, folded, dtype)
        num_layers = model.num_layers
        self._ends = np.cumsum([0, *(pad(width, dtype) for width in folded.widths)])
        environment = model.environment_weight_irreps * self.channels
        tensor = model.tensor_weight_irreps * self.channels
        inner = environment if model.scatter_features else tensor  # of the weights that meet the centre's vector
        for name, row in (
            ("scalars", int(self._ends[-1])),
            ("scalars gradient", int(self._ends[-1])),
            *((f"environment {k}", environment) for k in range(num_layers)),
            ("environment gradient", environment),
            ("tensor weights", tensor),
            ("tensor weights gradient", tensor),
            ("weighted gradient", inner),
            *((f"inner {k}", inner) for k in range(num_layers)),
            ("invariants", self.channels),
            ("invariants gradient", self.channels),
            ("harmonics gradient", self.components),
        ):
            self.buffers.add(name, row)

        self._embedding(folded.embedding)
        for k, chain in enumerate(folded.latents):
            self._latent(k, chain)
        self._readout(folded.readout)

    def _scalar_block(self, first: int, count: int, gradient: bool = False) -> Block:
        """s_first .. s_{first + count - 1}, or the features that are kept instead."""
        start, ends, widths = int(self._ends[first]), self._ends, self.folded.widths
        places = np.concatenate([ends[k] - start + np.arange(widths[k]) for k in range(first, first + count)])
        name = "scalars gradient" if gradient else "scalars"
        return Block(name, start, places, int(ends[first + count]) - start)

    # --- stages -------------------------------------------------------------------------------------------------------

    def _embedding(self, chain: Chain) -> None:
        model = self.model
        slots, tensor_slots = model.environment_weight_irreps, model.tensor_weight_irreps
        outputs = [
            self._scalar_block(0, 1),
            self._channel_block("environment 0", slots),
            self._channel_block("tensor weights", tensor_slots),
        ]
        output_gradients = [
            self._scalar_block(0, 1, gradient=True),
            self._channel_block("environment gradient", slots),
            self._channel_block("tensor weights gradient", tensor_slots),
        ]
        forward, backward = self._chain(
            chain, "embedding", model.embed_mlp.activation, [], outputs, [], output_gradients
        )
        self.forward.append(forward)
        self.backward.append(backward)

    def _latent(self, k: int, chain: Chain) -> None:
        slots = self.model.environment_weight_irreps
        inputs = [self._scalar_block(0, k + 1), self._channel_block("invariants", 1)]
        input_gradients = [
            (self._scalar_block(0, k + 1, gradient=True), True),
            (self._channel_block("invariants gradient", 1), False),
        ]
        outputs, output_gradients = [self._scalar_block(k + 1, 1)], [self._scalar_block(k + 1, 1, gradient=True)]
        if k < self.model.num_layers - 1:
            outputs.append(self._channel_block(f"environment {k + 1}", slots))
            output_gradients.append(self._channel_block("environment gradient", slots))
        forward, backward = self._chain(
            chain,
            f"latent {k}",
            self.model.layers[k].latent.activation,
            inputs,
            outputs,
            input_gradients,
            output_gradients,
        )
        self.forward.append(forward)
        self.backward.append(backward)

    def _readout(self, chain: Chain) -> None:
        count = self.model.num_layers + 1
        inputs, gradient = self._scalar_block(0, count), self._scalar_block(0, count, gradient=True)
        forward, backward = self._chain(
            chain, "readout", self.model.readout.activation, [inputs], [], [(gradient, False)], []
        )
        result = self._hidden_block(chain[-1].matrix.shape[-1], (len(chain) - 1) % 2) if chain else inputs
        seeded = result if chain else gradient
        self.readout_places, self.readout_width = result.places, result.width
        forward.append(self._step(steps.TOTAL, result, result, width=result.width))
        backward.insert(0, self._step(steps.SEED, seeded, seeded, width=result.width))
        self.forward[-1] += forward
        self.backward[-1] = backward + self.backward[-1]
