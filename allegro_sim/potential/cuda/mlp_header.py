"""The CUDA kernels of the MLPs: their generated text, and each kernel's launch.

Both are written from the same description (`mlp_shapes`, `mlp_chain`), so that a kernel and its plan cannot disagree.
A module's text is: the macros of the sizes, common.cuh, `mlp_structs`, mlp.cu, wide.cu, `mlp_entry_points`.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    turns,
)
from allegro_sim.potential.cuda.mlp_wide import Piece, WideMlp
from allegro_sim.potential.cuda.plan import Product


def mlp_kernels(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> tuple[MlpKernel, ...]:
    """All kernels: one an MLP and direction where it fits shared memory (of the read-out one for both), element-wise
    ones where it does not.
    """
    found: list[MlpKernel] = []
    for shape, backward in _passes(shapes):
        if fits_shared_memory(shape):
            found.append(_fused_kernel(dimensions, shapes, shape, backward))
        else:
            found += WideMlp(dimensions, shapes, shape, [128]).kernels(backward)
    return tuple(found)


def mlp_stages(
    dimensions: Dimensions, shapes: tuple[MlpShape, ...], blocks: Sequence[int]
) -> dict[str, tuple[Piece | Product, ...]]:
    """What `embedding_forward`, `latent_0_forward` .. `embedding_backward` (`stage_names`) are made of: kernels and
    products.

    blocks: rows of each block of a chunk.
    """
    return {
        _stage(shape, backward): (Piece(_stage(shape, backward), 0, sum(blocks)),)
        if fits_shared_memory(shape)
        else WideMlp(dimensions, shapes, shape, blocks).operations(backward)
        for shape, backward in _passes(shapes)
    }


def mlp_structs(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> str:
    """Constants of the MLPs that fit, and where they read and write; NB and NT are macros defined before."""
    return "".join(_struct(dimensions, shapes, shape) for shape in shapes if fits_shared_memory(shape))


def mlp_entry_points(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> str:
    """The kernels themselves, after mlp.cu and wide.cu."""
    return "".join(kernel.text() for kernel in mlp_kernels(dimensions, shapes))


def stage_names(shape: MlpShape) -> tuple[str, ...]:
    """Forward and backward, or the one stage that is both."""
    return (shape.name,) if turns(shape) else tuple(_stage(shape, backward) for backward in (False, True))


def _passes(shapes: tuple[MlpShape, ...]) -> list[tuple[MlpShape, bool]]:
    """MLPs and whether backward; one that turns has its only stage on the way forward."""
    return [(shape, backward) for backward in (False, True) for shape in shapes if not (backward and turns(shape))]


def _stage(shape: MlpShape, backward: bool) -> str:
    return shape.name if turns(shape) else f"{shape.name}_{'backward' if backward else 'forward'}"


def _fused_kernel(dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape, backward: bool) -> MlpKernel:
    layouts = [chain_layout(dimensions, shapes, shape, way) for way in ((False, True) if turns(shape) else (backward,))]
    layout = layouts[0]
    outputs, inputs, function, called = _signature(shape, backward)
    casts = [name if name == "nullptr" else f"const_cast<REAL*>({name})" for name in _slopes(shape)]
    # Rows of components, and in float64 features added to what they came from, need more registers than 128 a thread.
    adds = dimensions.precision == "double" and any(part.added for part in shape.outputs)
    crowded = shape.each > 1 or adds
    return MlpKernel(
        name=_stage(shape, backward),
        threads=layout.threads,
        tile=layout.tile,
        shared_bytes=max(one.shared_bytes for one in layouts),
        blocks_together=256 // layout.threads if crowded else min(one.blocks_together for one in layouts),
        outputs=outputs,
        inputs=inputs,
        body="  extern __shared__ __align__(16) unsigned char shared[];\n"
        f"  const Slopes<Mlp_{shape.name}> slopes = {{{{{', '.join(casts or ['nullptr'])}}}}};\n"
        f"  {function}<Mlp_{shape.name}>({', '.join(called)}, reinterpret_cast<REAL*>(shared));\n",
        over=shape.over,
        each=shape.each,
    )


def _slopes(shape: MlpShape) -> list[str]:
    """Buffers of the slopes, a null pointer where none are kept."""
    return [kept_buffer(shape, n) if keeps_activation(shape, n) else "nullptr" for n in range(len(shape.activations))]


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
