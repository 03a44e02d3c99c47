"""The matrices of the MLPs as arrays on the device."""

from __future__ import annotations

import numpy as np

from allegro_sim.potential.cuda.mlp_chain import weight_places
from allegro_sim.potential.cuda.mlp_shapes import Dimensions, MlpShape
from allegro_sim.potential.folding import Chain, Folded


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits of fraction, to nearest, ties away from zero (PTX cvt.rna.tf32.f32)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def pack_mlps(dimensions: Dimensions, shapes: tuple[MlpShape, ...], folded: Folded) -> dict[str, np.ndarray]:
    """Constants by the name of their buffer.

    weights: every dense matrix (in, out), then transposed (out, in), in columns of the kernels; of `mixed` rounded to
    TF32 where the product takes TF32. two_body: (nt nt, NB, W0P). energy_weights: float64 (RP,).
    """
    dtype = np.dtype(np.float64 if dimensions.precision == "double" else np.float32)
    places, total = weight_places(shapes)
    weights = np.zeros(max(total, 1), dtype)  # a model may have none
    chains: list[Chain] = [folded.embedding, *folded.latents, folded.readout]
    for shape, chain in zip(shapes, chains, strict=True):
        for n in shape.dense:
            matrix = np.zeros(shape.padded[n : n + 2], dtype)
            matrix[np.ix_(columns_of(dimensions, shape, n), columns_of(dimensions, shape, n + 1))] = chain[n].matrix
            if dimensions.precision == "mixed" and shape.large[n]:
                matrix = round_to_tf32(matrix)
            for transposed in (False, True):
                at = places[shape.name, n, transposed]
                weights[at : at + matrix.size] = (matrix.T if transposed else matrix).ravel()

    embedding, readout = shapes[0], shapes[-1]
    table = folded.embedding[0].matrix
    two_body = np.zeros((*table.shape[:2], embedding.padded[1]), dtype)
    two_body[:, :, columns_of(dimensions, embedding, 1)] = table
    energy_weights = np.zeros(readout.padded[-1])
    energy_weights[columns_of(dimensions, readout, len(readout.padded) - 1)] = folded.energy_weights
    return {"weights": weights, "two_body": two_body, "energy_weights": energy_weights}


def columns_of(dimensions: Dimensions, shape: MlpShape, n: int) -> np.ndarray:
    """Columns where the model's features before product n of an MLP stand (n the number of products: its result)."""
    d = dimensions
    scalars = np.arange(d.scalars)
    if n == len(shape.activations) and shape.name != "readout":
        parts = [scalars]
        if len(parts[0]) < shape.sizes[n]:
            parts.append(d.SP + _channels(d, d.environment_slots))
        if shape.is_embedding:
            parts.append(d.SP + d.NE + _channels(d, d.tensor_slots))
    elif n == 0 and not shape.is_embedding:
        invariants = shape.name != "readout"
        blocks = shape.layer + 1 if invariants else d.layers + 1
        parts = [int(invariants) * d.UP + k * d.SP + scalars for k in range(blocks)]
        if invariants:
            parts.append(np.arange(d.channels))
    else:
        parts = [np.arange(shape.sizes[n])]
    columns = np.concatenate(parts)
    assert len(columns) == shape.sizes[n], f"{shape.name}: {len(columns)} columns for {shape.sizes[n]} features"
    return columns


def _channels(dimensions: Dimensions, slots: int) -> np.ndarray:
    """Columns of the model's weights u slots + l: slot-major."""
    return (np.arange(slots)[None, :] * dimensions.UP + np.arange(dimensions.channels)[:, None]).ravel()
