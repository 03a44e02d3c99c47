"""A model turned into what the CUDA kernels need: the module's text, packed constants, buffers, and the plan."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from allegro_sim.errors import DeviceError
from allegro_sim.model.description import ACTIVATIONS, AllegroModel, Mlp
from allegro_sim.potential.cuda import center_header, mlp_header, mlp_legacy
from allegro_sim.potential.cuda.chunks import Blocks
from allegro_sim.potential.cuda.direct_track import DirectTrack
from allegro_sim.potential.cuda.mlp_wide import HIDDEN, Piece
from allegro_sim.potential.cuda.packing import pack_centers
from allegro_sim.potential.cuda.plan import (
    Argument,
    Buffer,
    Kernel,
    Launch,
    Operation,
    Plan,
    Product,
)
from allegro_sim.potential.cuda.scatter_track import ScatterTrack
from allegro_sim.potential.cuda.source import assemble
from allegro_sim.potential.cuda.tracks import Track
from allegro_sim.potential.cuda.updates import Updates
from allegro_sim.potential.cuda.vector_track import VectorTrack
from allegro_sim.potential.folding import Chain, fold_model


class Layout:
    """One model in one precision.

    Parameters
    ----------
    model : AllegroModel
    precision : "double", "single" or "mixed"
    matrix_units : see `mlp_header.Dimensions`

    Attributes
    ----------
    real : dtype of features and weights
    fused : whether all widths fit the kernels that hold an MLP in shared memory; otherwise products are cuBLAS's
    kernels : dict of every kernel of the module
    bytes_per_edge, bytes_per_center : of the buffers of a chunk

    Raises
    ------
    DeviceError : the model has an option that the kernels do not cover
    """

    def __init__(self, model: AllegroModel, precision: str, *, matrix_units: bool = True) -> None:
        refuse_unsupported(model)
        self.model, self.precision = model, precision
        self.real = np.dtype(np.float64 if precision == "double" else np.float32)
        self.folded = fold_model(model)
        self.dimensions = mlp_header.Dimensions(
            precision=precision,
            layers=model.num_layers,
            scalars=model.num_scalar_features,
            channels=model.num_tensor_features,
            environment_slots=model.environment_weight_irreps,
            tensor_slots=model.tensor_weight_irreps,
            radial=self.folded.two_body_and_embedding[0].matrix.shape[1],
            types=model.num_types,
            matrix_units=matrix_units,
            separable=self.folded.separable is not None,
            invariants=max(layer.num_invariants for layer in model.layers),
            scalar_widths=mlp_legacy.places(model) if model.is_legacy else self.folded.widths,
        )
        self.track: Track
        self.updates: Updates | None = None
        self._mixing: dict[str, Chain] = {}
        if model.is_legacy:
            self._compose_legacy()
        else:
            self.shapes = mlp_header.mlp_chains(self.dimensions, self.folded, _activations(model))
            rounding = mlp_header.mlp_rounding(self.shapes, mlp_header.fused_widths(self.shapes))
            self.track = (ScatterTrack if model.scatter_features else VectorTrack)(model, rounding)
        self.fused = mlp_header.fused_widths(self.shapes)
        self.specs = {**center_header.edge_specs(), **self.track.specs}
        self.mlps = {kernel.name: kernel for kernel in mlp_header.mlp_kernels(self.dimensions, self.shapes)}
        if self.updates is not None:
            self.specs |= self.updates.specs
            self.mlps |= self.updates.kernels
        self.kernels = self._kernels()
        bytes_at = [self._chunk_bytes(capacity, centers) for capacity, centers in ((128, 64), (256, 64), (128, 128))]
        self.bytes_per_edge = (bytes_at[1] - bytes_at[0]) // 128
        self.bytes_per_center = (bytes_at[2] - bytes_at[0]) // 64

    def _compose_legacy(self) -> None:
        """Environment weights from MLPs of their own, channels that mix, updates between MLPs."""
        model, dimensions = self.model, self.dimensions
        mlps, rounding = mlp_legacy.legacy_chains(dimensions, model, self.folded, _activations(model))
        linears, self._mixing = mlp_legacy.mixing_chains(dimensions, model)
        self.shapes = (*mlps, *linears)
        self.track = DirectTrack(model, dimensions, rounding, tuple(self._mixing))
        apart = mlp_legacy.keeps_latents(model, self.folded)
        self.updates = Updates(model, dimensions, rounding, apart=apart)

    @cached_property
    def source(self) -> str:
        """The whole module as one text."""
        defines = center_header.center_defines(self.model, self.precision, self.dimensions.LDX)
        return assemble(
            "".join(f"#define {name} {value}\n" for name, value in defines.items()),
            "common.cuh",
            mlp_header.mlp_structs(self.dimensions, self.shapes),
            "mlp.cu",
            "wide.cu",
            "index.cu",
            "scan.cu",
            "edges.cu",
            *(self.updates.source if self.updates is not None else ()),
            *self.track.source,
            *(kernel.text() for kernel in self.mlps.values()),
            *(spec.entry_point() for spec in self.specs.values()),
        )

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Every constant array, by the name of its buffer."""
        mlps = mlp_header.pack_mlps(self.dimensions, self.shapes, self.folded, self._mixing)
        others = self.updates.constants() if self.updates is not None else {}
        return {**mlps, **pack_centers(self.model, self.real, mlps["energy_weights"]), **others}

    def buffers(self, capacity: int, max_centers: int, blocks: Blocks | None = None) -> dict[str, Buffer]:
        """Buffers of a chunk, and the constants; blocks: see `plan`."""
        model, dimensions, real = self.model, self.dimensions, self.real
        layers, components = model.num_layers, model.harmonic_components
        padded_components = -(-components // 4) * 4
        warps = max(1, center_header.lanes_of_center(model.num_tensor_features) // 32)
        basis, largest = dimensions.radial, max(self.split(capacity, blocks))
        edge: dict[str, tuple[tuple[int, ...], Any]] = {
            "edge_center": ((capacity,), np.int32),
            "edge_neighbor": ((capacity,), np.int32),
            "vectors": ((3, capacity), np.float64),
            "pairs": ((capacity,), np.int32),
            "basis": ((basis, capacity), real),
            "basis_slopes": ((basis, capacity), real),
            "harmonics": ((capacity, padded_components), real),
            "pair_terms": ((max(center_header.pair_terms_size(model, capacity), 1),), np.float64),
            "radial_slope": ((capacity,), np.float64),
            "harmonic_gradient": ((warps, capacity, padded_components), real),
            "x": ((capacity, dimensions.LDX), real),
            "dx": ((capacity, dimensions.LDX), real),
            "env": ((layers, capacity, dimensions.NE), real),
            "denv": ((capacity, dimensions.NE), real),
            "w": ((capacity, dimensions.NW), real),
            "dw": ((capacity, dimensions.NW), real),
            "edge_energies": ((capacity,), np.float64),
            **{
                name: ((largest if name in HIDDEN else capacity, columns), real)
                for name, columns in mlp_header.mlp_buffers(self.dimensions, self.shapes).items()
            },
        }
        center: dict[str, tuple[tuple[int, ...], Any]] = {"first": ((max_centers + 1,), np.int32)}
        of_edges, of_centers = self.track.buffers(capacity, max_centers)
        edge |= {name: (shape, real) for name, shape in of_edges.items()}
        center |= {name: (shape, real) for name, shape in of_centers.items()}
        if self.updates is not None:
            of_edges, whole = self.updates.buffers(capacity)
            edge |= {name: (shape, real) for name, shape in of_edges.items()}
            edge |= {name: (shape, np.float64) for name, shape in whole.items()}
        found: dict[str, Buffer] = {}
        for kind, group in (("edge", edge), ("center", center)):
            found |= {name: Buffer(name, shape, np.dtype(dtype), kind) for name, (shape, dtype) in group.items()}
        for name, array in self.constants.items():
            found[name] = Buffer(name, array.shape, array.dtype, "constant")
        return found

    def plan(self, capacity: int, max_centers: int, system: dict[str, Buffer], blocks: Blocks | None = None) -> Plan:
        """Operations for chunks of at most `capacity` edges and `max_centers` centres.

        system: the buffers of `plan.system_buffers`; blocks: what the products of wide models go by, or None: the whole
        chunk at once.
        """
        rows, owned = system["faults"].shape[0], system["energies"].shape[0]
        sizes = {"rows": rows, "virial_rows": system["atom_virials"].shape[0], "owned": owned}
        begin = self._launch_with(sizes, "clear_and_count" if owned else "clear_results", rows, owned)
        return Plan(
            capacity=capacity,
            max_centers=max_centers,
            buffers={**system, **self.buffers(capacity, max_centers, blocks)},
            before=(begin,),
            chunk=self.chunk_operations(capacity, max_centers, blocks),
        )

    def count_edges(self, owned: int) -> tuple[Operation, ...]:
        """Edges of every centre now, for a chunk table; nothing where there are no centres."""
        return (self._launch_with({"owned": owned}, "count_edges", 0, owned),) if owned else ()

    def chunk_operations(self, capacity: int, max_centers: int, blocks: Blocks | None = None) -> tuple[Operation, ...]:
        """One chunk, from its edges to forces; blocks: see `plan`."""
        mlps = mlp_header.mlp_stages(self.dimensions, self.shapes, self.split(capacity, blocks))
        index = (Piece(name, 0, capacity) for name in ("scan_chunk", "fill_edges"))
        return (
            *(self._launch(piece, capacity, max_centers) for piece in index),
            *(
                step if isinstance(step, Product) else self._launch(step, capacity, max_centers)
                for stage in self.stages()
                for step in mlps.get(stage, (Piece(stage, 0, capacity),))
            ),
        )

    def split(self, capacity: int, blocks: Blocks | None) -> list[int]:
        """Rows of each block of a chunk: those of one product each in wide models."""
        return [capacity] if self.fused or blocks is None else blocks.split(capacity)

    def stages(self) -> list[str]:
        """Stages of a chunk in order, after the index work: kernels, or MLPs of several steps."""
        return [stage for part in (self._forward(), self._backward()) for stage in part]

    def _forward(self) -> list[str]:
        updates, stages = self.updates, ["edge_geometry"]
        readout = self._readout_stages()[:1]
        if updates is None:
            stages.append("embedding_forward")
            for k in range(self.model.num_layers):
                stages += [*self.track.forward(k), *self._own(f"latent_{k}_forward")]
            return [*stages, *readout]
        stages += [*updates.before, "embedding_forward", *updates.after_mlp(0)]
        for k in range(self.model.num_layers):
            stages += [f"environment_{k}_forward", *updates.after_environment(k), *self.track.forward(k)]
            stages += [f"latent_{k}_forward", *updates.after_mlp(k + 1)]
        return [*stages, *readout, *updates.after_readout]

    def _backward(self) -> list[str]:
        updates, stages = self.updates, self._readout_stages()[1:]
        if updates is None:
            for k in reversed(range(self.model.num_layers)):
                stages += [*self._own(f"latent_{k}_backward"), *self.track.backward(k)]
            return [*stages, "embedding_backward", "energies_and_forces"]
        for k in reversed(range(self.model.num_layers)):
            stages += [*updates.before_mlp_backward(k + 1), f"latent_{k}_backward", *self.track.backward(k)]
            stages += [*updates.before_environment_backward(k), f"environment_{k}_backward"]
        return [*stages, *updates.before_mlp_backward(0), "embedding_backward", *updates.after, "energies_and_forces"]

    def _readout_stages(self) -> list[str]:
        """Forward and backward, or one that is both."""
        return [name for name in mlp_header.stage_names(self.shapes) if "readout" in name]

    def _own(self, stage: str) -> list[str]:
        """The stage of an MLP, if it is one of its own."""
        return [stage] if stage in mlp_header.stage_names(self.shapes) else []

    def _launch(self, piece: Piece, capacity: int, max_centers: int) -> Launch:
        sizes = {"capacity": capacity, "max_centers": max_centers, "first_row": piece.first_row}
        return self._launch_with(sizes, piece.kernel, piece.rows, max_centers)

    def _launch_with(self, sizes: dict[str, int], name: str, rows: int, centers: int) -> Launch:
        """A kernel for so many rows and centres; sizes: numbers among its arguments, known now."""
        kernel = self.kernels[name]
        arguments: tuple[Argument, ...] = tuple(
            np.int32(sizes[argument]) if argument in sizes else argument for argument in kernel.arguments
        )
        return Launch(name, kernel.grid(rows, centers), kernel.block, kernel.shared_bytes, arguments)

    def _kernels(self) -> dict[str, Kernel]:
        found = {name: Kernel(name, spec.arguments, spec.block, 0, spec.grid) for name, spec in self.specs.items()}
        found |= {
            name: Kernel(name, mlp.arguments, mlp.threads, mlp.shared_bytes, mlp.grid)
            for name, mlp in self.mlps.items()
        }
        return found

    def _chunk_bytes(self, capacity: int, max_centers: int) -> int:
        return sum(b.nbytes for b in self.buffers(capacity, max_centers).values() if b.kind in ("edge", "center"))


def refuse_unsupported(model: AllegroModel) -> None:
    """Raise DeviceError for what the kernels do not cover, by name."""
    for name, activation in _activations(model).items():
        if activation not in ACTIVATIONS:
            raise DeviceError(f'the activation "{activation}" of {name} has no CUDA kernel; use device = "cpu"')


def _activations(model: AllegroModel) -> dict[str, str]:
    mlps: dict[str, Mlp] = {"embedding": model.embed_mlp, "readout": model.readout}
    mlps |= {f"latent_{k}": layer.latent for k, layer in enumerate(model.layers)}
    mlps |= {f"environment_{k}": layer.environment_mlp for k, layer in enumerate(model.layers) if layer.environment_mlp}
    return {name: mlp.activation for name, mlp in mlps.items()}
