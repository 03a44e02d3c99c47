"""The CUDA kernels of the MLPs: their generated text, and each kernel's launch.

Both are written from the same description (`mlp_shapes`, `mlp_chain`), so that a kernel and its plan cannot disagree.
A module's text is: the macros of the sizes, common.cuh, `mlp_structs`, mlp.cu, wide.cu, `mlp_entry_points`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allegro_sim.potential.cuda.mlp_chain import array_text, chain_layout
from allegro_sim.potential.cuda.mlp_kernel import MlpKernel
from allegro_sim.potential.cuda.mlp_packing import pack_mlps
from allegro_sim.potential.cuda.mlp_parts import buffers_of, columns_text, rows_text, uses_capacity, value_text
from allegro_sim.potential.cuda.mlp_shapes import (
    Dimensions,
    MlpShape,
    Rounding,
    fits_shared_memory,
    fused_widths,
    keeps_activation,
    kept_buffer,
    mlp_buffers,
    mlp_chains,
    mlp_rounding,
    turning,
    turns,
)
from allegro_sim.potential.cuda.mlp_wide import Piece, WideMlp
from allegro_sim.potential.cuda.plan import Product

Way = tuple[MlpShape, bool]
"""An MLP and whether back; the read-out forward is both, where it turns."""


def mlp_kernels(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> tuple[MlpKernel, ...]:
    """All kernels: one an MLP and direction where it fits shared memory (one for all of `turning`), element-wise ones
    where it does not.
    """
    found: list[MlpKernel] = []
    for name, ways in _passes(shapes).items():
        shape, backward = ways[0]
        if fits_shared_memory(shape):
            found.append(_fused_kernel(dimensions, shapes, name, ways))
        else:
            found += WideMlp(dimensions, shapes, shape, [128]).kernels(backward)
    return tuple(found)


def mlp_stages(
    dimensions: Dimensions, shapes: tuple[MlpShape, ...], blocks: Sequence[int]
) -> dict[str, tuple[Piece | Product, ...]]:
    """What the stages of `stage_names` are made of, in their order: kernels and products.

    blocks: rows of each block of a chunk.
    """
    return {
        name: (Piece(name, 0, sum(blocks)),)
        if fits_shared_memory(ways[0][0])
        else WideMlp(dimensions, shapes, ways[0][0], blocks).operations(ways[0][1])
        for name, ways in _passes(shapes).items()
    }


def mlp_structs(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> str:
    """Constants of the MLPs that fit, and where they read and write; NB and NT are macros defined before."""
    return "".join(_struct(dimensions, shapes, shape) for shape in shapes if fits_shared_memory(shape))


def mlp_entry_points(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> str:
    """The kernels themselves, after mlp.cu and wide.cu."""
    return "".join(kernel.text() for kernel in mlp_kernels(dimensions, shapes))


def stage_names(shapes: tuple[MlpShape, ...]) -> tuple[str, ...]:
    """Stages of the MLPs: `embedding_forward`, `latent_0_forward` .. `embedding_backward`; in the place of those of
    `turning` one, named after its MLPs: `readout`, or `latent_1_readout`.
    """
    return tuple(_passes(shapes))


def _passes(shapes: tuple[MlpShape, ...]) -> dict[str, tuple[Way, ...]]:
    """The MLPs' ways of each stage, in order."""
    together = turning(shapes)
    apart = [shape for shape in shapes if shape not in together]
    found: dict[str, tuple[Way, ...]] = {_stage(shape, False): ((shape, False),) for shape in apart}
    if together:
        back = [(shape, True) for shape in reversed(together) if not turns(shape)]
        found["_".join(shape.name for shape in together)] = (*((shape, False) for shape in together), *back)
    return found | {_stage(shape, True): ((shape, True),) for shape in apart}


def _stage(shape: MlpShape, backward: bool) -> str:
    """One way of an MLP, in the names of its structs too."""
    return shape.name if turns(shape) else f"{shape.name}_{'backward' if backward else 'forward'}"


def _fused_kernel(dimensions: Dimensions, shapes: tuple[MlpShape, ...], name: str, ways: tuple[Way, ...]) -> MlpKernel:
    """The kernel of some ways, one after the other for each tile."""
    layouts = [
        chain_layout(dimensions, shapes, shape, way)
        for shape, backward in ways
        for way in ((False, True) if turns(shape) else (backward,))
    ]
    layout, shape = layouts[0], ways[0][0]
    calls = [_call(shape, backward) for shape, backward in ways]
    written = dict.fromkeys(buffer for call in calls for buffer in call.outputs)
    read = dict.fromkeys(buffer for call in calls for buffer in call.inputs)
    # Rows of components, and in float64 features added to what they came from, need more registers than 128 a thread.
    adds = dimensions.precision == "double" and any(part.added for part in shape.outputs)
    crowded = shape.each > 1 or adds
    return MlpKernel(
        name=name,
        threads=layout.threads,
        tile=layout.tile,
        shared_bytes=max(one.shared_bytes for one in layouts),
        blocks_together=256 // layout.threads if crowded else min(one.blocks_together for one in layouts),
        outputs=tuple(written),
        inputs=tuple(buffer for buffer in read if buffer not in written),
        body="  extern __shared__ __align__(16) unsigned char shared[];\n"
        + "  __syncthreads();  // rows of this tile that are read next were written by other threads\n".join(
            call.text for call in calls
        ),
        over=shape.over,
        each=shape.each,
    )


def _slopes(shape: MlpShape) -> list[str]:
    """Buffers of the slopes, a null pointer where none are kept."""
    return [kept_buffer(shape, n) if keeps_activation(shape, n) else "nullptr" for n in range(len(shape.activations))]


@dataclass(frozen=True)
class _Call:
    """One way of an MLP in a kernel: buffers written, buffers read (with `capacity`), and the statement."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    text: str


def _call(shape: MlpShape, backward: bool) -> _Call:
    outputs, inputs, function, arguments = _signature(shape, backward)
    slopes = [name if name == "nullptr" else f"const_cast<REAL*>({name})" for name in _slopes(shape)] or ["nullptr"]
    values = {"slopes": f"Slopes<Mlp_{shape.name}>{{{{{', '.join(slopes)}}}}}"}
    called = ", ".join((*(values.get(name, name) for name in arguments), "reinterpret_cast<REAL*>(shared)"))
    return _Call(outputs, inputs, f"  {function}<Mlp_{shape.name}>({called});\n")


def _signature(shape: MlpShape, backward: bool) -> tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]:
    """Buffers written, buffers read, the function of mlp.cu, and its arguments (without shared memory)."""
    slopes = tuple(name for name in _slopes(shape) if name != "nullptr")
    sources, targets = shape.inputs, shape.outputs
    if backward:
        sources, targets = shape.output_gradients, shape.input_gradients
    rows = value_text(f"Rows_{_stage(shape, backward)}", sources)
    columns = value_text(f"Columns_{_stage(shape, backward)}", targets)
    written, read = buffers_of(targets), buffers_of(sources)
    capacity = ("capacity",) * (uses_capacity(targets) or uses_capacity(sources))
    kept, none = (shape.kept_gradients, "NoRows{}") if backward else (shape.kept, "NoColumns{}")
    passed = value_text(f"Kept_{_stage(shape, backward)}", kept) if kept else none
    written, read = (written, (*read, *buffers_of(kept))) if backward else ((*buffers_of(kept), *written), read)
    called: tuple[str, ...]
    if shape.is_embedding:
        table = ("pairs", "two_body", "weights", "capacity")
        if backward:
            written, read = ("radial_slope",), (*read, "basis_slopes", *table)
            function, called = (
                "embedding_tile_backward",
                ("radial_slope", passed, "slopes", rows, "basis_slopes", *table),
            )
        else:
            read = ("basis", *table)
            function, called = "embedding_tile_forward", (columns, passed, "slopes", *read)
    elif turns(shape):
        columns = value_text(f"Columns_{shape.name}", shape.input_gradients)
        energy = "Energy{energy_weights, seeds, pairs}"
        written, read = (
            ("edge_energies", *buffers_of(shape.input_gradients)),
            (*read, "energy_weights", "seeds", "pairs"),
        )
        function, called = "readout_tile", ("edge_energies", columns, "slopes", rows, energy, "weights")
        read = (*read, "weights")
    else:
        read = (*(name for name in read if name not in written), "weights", *capacity)
        function = f"rows_tile_{'backward' if backward else 'forward'}"
        called = (columns, passed, "slopes", rows, "weights")
        if backward and shape.ends_activated:
            function, called = "activated_tile_backward", (columns, "slopes", rows, "weights")
    return (written, (*slopes, *read), function, called) if backward else ((*written, *slopes), read, function, called)


def _struct(dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape) -> str:
    forward, backward = (chain_layout(dimensions, shapes, shape, way) for way in (False, True))
    numbers: dict[str, int] = {"FIRST": int(shape.is_embedding), "ACTIVATIONS": max(1, len(shape.activations))}
    if shape.is_embedding:
        # One split for both directions: they have the same tile when the table is all there is.
        eights, blocks = forward.split(shape.padded[1])
        numbers |= {"TABLE_N": shape.padded[1], "TABLE_NJ": eights, "TABLE_BLOCKS": blocks}
        numbers["SEPARABLE"] = int(dimensions.separable)
    elif turns(shape):
        eights, blocks = forward.split(shape.padded[0])
        numbers |= {"INPUT": shape.padded[0], "INPUT_NJ": eights, "INPUT_BLOCKS": blocks}
        numbers["TOTALS"] = max(forward.totals_at, backward.totals_at)
    lines = [f"typedef Mlp_{shape.name}_forward Forward;", f"typedef Mlp_{shape.name}_backward Backward;"]
    lines += [f"static constexpr int {key} = {value};" for key, value in numbers.items()]
    lines += [array_text("WIDTH", shape.padded[1:])]
    lines += [array_text("ACTIVATION", [activation.upper() for activation in shape.activations] or ["IDENTITY"])]
    places = [
        text(f"{kind}_{_stage(shape, way)}", parts)
        for kind, text, way, parts in (
            ("Rows", rows_text, False, shape.inputs),
            ("Columns", columns_text, False, shape.outputs),
            ("Rows", rows_text, True, shape.output_gradients),
            ("Columns", columns_text, True, shape.input_gradients),
            ("Kept", columns_text, False, shape.kept),
            ("Kept", rows_text, True, shape.kept_gradients),
        )
        if parts
    ]
    return (
        forward.text(f"Mlp_{shape.name}_forward")
        + backward.text(f"Mlp_{shape.name}_backward")
        + f"struct Mlp_{shape.name} {{\n"
        + "".join(f"  {line}\n" for line in lines)
        + "};\n"
        + "".join(places)
    )


__all__ = [
    "Dimensions", "MlpKernel", "MlpShape", "Rounding", "fused_widths", "mlp_buffers", "mlp_chains", "mlp_entry_points",
    "mlp_kernels", "mlp_rounding", "mlp_stages", "mlp_structs", "pack_mlps", "stage_names",
]  # fmt: skip
