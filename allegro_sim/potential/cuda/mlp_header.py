"""The CUDA kernels of the MLPs: their generated text, and each kernel's launch.

Both are written from the same description (`mlp_shapes`, `mlp_chain`), so that a kernel and its plan cannot disagree.
A module's text is: the macros of the sizes, common.cuh, `mlp_structs`, mlp.cu, wide.cu, `mlp_entry_points`.
"""

from __future__ import annotations

from allegro_sim.potential.cuda.mlp_chain import array_text, chain_layout
from allegro_sim.potential.cuda.mlp_kernel import MlpKernel
from allegro_sim.potential.cuda.mlp_packing import pack_mlps
from allegro_sim.potential.cuda.mlp_shapes import (
    Dimensions,
    MlpShape,
    Rounding,
    fits_shared_memory,
    fused_widths,
    mlp_buffers,
    mlp_chains,
    mlp_rounding,
)
from allegro_sim.potential.cuda.mlp_wide import WideMlp
from allegro_sim.potential.cuda.plan import Product


def mlp_kernels(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> tuple[MlpKernel, ...]:
    """All kernels: one an MLP and direction where it fits shared memory, element-wise ones where it does not."""
    found: list[MlpKernel] = []
    for shape, backward in _both_ways(shapes):
        if fits_shared_memory(shape):
            found.append(_fused_kernel(dimensions, shapes, shape, backward))
        else:
            found += WideMlp(dimensions, shapes, shape, 128).kernels(backward)
    return tuple(found)


def mlp_stages(
    dimensions: Dimensions, shapes: tuple[MlpShape, ...], capacity: int
) -> dict[str, tuple[str | Product, ...]]:
    """What `embedding_forward`, `latent_0_forward` .. `embedding_backward` are made of: kernels by name, products."""
    return {
        _stage(shape, backward): (_stage(shape, backward),)
        if fits_shared_memory(shape)
        else WideMlp(dimensions, shapes, shape, capacity).operations(backward)
        for shape, backward in _both_ways(shapes)
    }


def mlp_structs(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> str:
    """Constants of the MLPs that fit; UP, SP, NE, NW, NB, NT, LDX and LAYERS are macros defined before."""
    return "".join(_struct(dimensions, shapes, shape) for shape in shapes if fits_shared_memory(shape))


def mlp_entry_points(dimensions: Dimensions, shapes: tuple[MlpShape, ...]) -> str:
    """The kernels themselves, after mlp.cu and wide.cu."""
    return "".join(kernel.text() for kernel in mlp_kernels(dimensions, shapes))


def _both_ways(shapes: tuple[MlpShape, ...]) -> list[tuple[MlpShape, bool]]:
    return [(shape, backward) for backward in (False, True) for shape in shapes]


def _stage(shape: MlpShape, backward: bool) -> str:
    return f"{shape.name}_{'backward' if backward else 'forward'}"


def _fused_kernel(dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape, backward: bool) -> MlpKernel:
    layout = chain_layout(dimensions, shapes, shape, backward)
    outputs, inputs, called = _signature(dimensions, shape, backward)
    casts = [name if name == "nullptr" else f"const_cast<REAL*>({name})" for name in _slopes(shape)]
    function = f"{shape.name.partition('_')[0]}_tile_{'backward' if backward else 'forward'}"
    return MlpKernel(
        name=_stage(shape, backward),
        threads=layout.threads,
        tile=layout.tile,
        shared_bytes=layout.shared_bytes,
        blocks_together=layout.blocks_together,
        outputs=outputs,
        inputs=inputs,
        body="  extern __shared__ __align__(16) unsigned char shared[];\n"
        f"  const Slopes<Mlp_{shape.name}> slopes = {{{{{', '.join(casts or ['nullptr'])}}}}};\n"
        f"  {function}<Mlp_{shape.name}>({', '.join(called)}, reinterpret_cast<REAL*>(shared));\n",
    )


def _slopes(shape: MlpShape) -> list[str]:
    """Buffers of the slopes, a null pointer after the identity."""
    return [
        "nullptr" if activation == "identity" else f"slope_{shape.name}_{n}"
        for n, activation in enumerate(shape.activations)
    ]


def _signature(
    dimensions: Dimensions, shape: MlpShape, backward: bool
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Buffers written, buffers read, and the arguments of the function of mlp.cu (without shared memory)."""
    slopes = tuple(name for name in _slopes(shape) if name != "nullptr")
    written: tuple[str, ...]
    read: tuple[str, ...]
    if shape.is_embedding:
        written, read = ("x", "env", "w"), ("basis", "pairs", "two_body", "weights", "capacity")
        if backward:
            written = ("radial_slope",)
            read = ("dx", "denv", "dw", "basis_slopes", "pairs", "two_body", "weights", "capacity")
        called = (*written, "slopes", *read)
    elif shape.name == "readout":
        written, read = ("edge_energies",), ("x", "weights", "energy_weights")
        if backward:
            written, read = ("dx",), ("seeds", "pairs", "weights")
        called = (*written, "slopes", *read)
    else:
        has_environment = shape.layer + 1 < dimensions.layers
        environment = "denv" if backward else "env"
        buffers = (environment,) * has_environment
        null = (environment if has_environment else "nullptr",)
        if backward:
            written, read = ("dx",), (*buffers, "weights")
            called = ("dx", "slopes", *null, "weights")
        else:
            numbers = ("capacity",) * has_environment  # where env_k begins
            written, read = ("x", *buffers), ("weights", *numbers)
            called = ("x", *null, "slopes", "weights", *(numbers or ("0",)))
    return (written, (*slopes, *read), called) if backward else ((*written, *slopes), read, called)


def _struct(dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape) -> str:
    forward, backward = (chain_layout(dimensions, shapes, shape, way) for way in (False, True))
    rounding = mlp_rounding(shapes, fused_widths(shapes))
    numbers: dict[str, int] = {"FIRST": int(shape.is_embedding), "ACTIVATIONS": max(1, len(shape.activations))}
    flags: dict[str, bool] = {}
    if shape.is_embedding:
        # One split for both directions: they have the same tile when the table is all there is.
        eights, blocks = forward.split(shape.padded[1])
        numbers |= {"TABLE_N": shape.padded[1], "TABLE_NJ": eights, "TABLE_BLOCKS": blocks}
        flags["ROUND_RESULT"] = rounding.features[0]
    elif shape.name == "readout":
        eights, blocks = forward.split(shape.padded[0])
        numbers |= {"INPUT": shape.padded[0], "INPUT_NJ": eights, "INPUT_BLOCKS": blocks}
        flags["ROUND_GRADIENT"] = rounding.gradients[-1]
    else:
        numbers["LAYER"] = shape.layer
        flags |= {
            "ROUND_RESULT": rounding.features[shape.layer + 1],
            "ROUND_GRADIENT": rounding.gradients[shape.layer],
        }
    lines = [f"typedef Mlp_{shape.name}_forward Forward;", f"typedef Mlp_{shape.name}_backward Backward;"]
    lines += [f"static constexpr int {key} = {value};" for key, value in numbers.items()]
    lines += [f"static constexpr bool {key} = {'true' if value else 'false'};" for key, value in flags.items()]
    lines += [array_text("WIDTH", shape.padded[1:])]
    lines += [array_text("ACTIVATION", [activation.upper() for activation in shape.activations] or ["IDENTITY"])]
    return (
        forward.text(f"Mlp_{shape.name}_forward")
        + backward.text(f"Mlp_{shape.name}_backward")
        + f"struct Mlp_{shape.name} {{\n"
        + "".join(f"  {line}\n" for line in lines)
        + "};\n"
    )


__all__ = [
    "Dimensions", "MlpKernel", "MlpShape", "Rounding", "fused_widths", "mlp_buffers", "mlp_chains", "mlp_entry_points",
    "mlp_kernels", "mlp_rounding", "mlp_stages", "mlp_structs", "pack_mlps",
]  # fmt: skip
