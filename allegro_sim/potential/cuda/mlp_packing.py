"""The matrices of the MLPs as arrays on the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from allegro_sim.potential.cuda.mlp_chain import weight_places
from allegro_sim.potential.cuda.mlp_parts import Span
from allegro_sim.potential.cuda.mlp_shapes import Dimensions, MlpShape
from allegro_sim.potential.folding import Chain, Folded, SeparableTable


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits of fraction, to nearest, ties away from zero (PTX cvt.rna.tf32.f32)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def pack_mlps(
    dimensions: Dimensions, shapes: tuple[MlpShape, ...], folded: Folded, mixing: Mapping[str, Chain] | None = None
) -> dict[str, np.ndarray]:
    """Constants by the name of their buffer.

    weights: every dense matrix (in, out), then transposed (out, in), in columns of the kernels; of `mixed` rounded to
    TF32 where the product takes TF32. two_body: (nt nt, NB, W0P), or where the table is separable W (NB, W0P), C and N
    (nt, W0P) each. energy_weights: float64 (RP,). mixing: chains that are not of `folded`, by name.
    """
    dtype = np.dtype(np.float64 if dimensions.precision == "double" else np.float32)
    places, total = weight_places(shapes)
    weights = np.zeros(max(total, 1), dtype)  # a model may have none
    chains = {**chains_by_name(folded), **(mixing or {})}
    for shape in shapes:
        for n in shape.dense:
            matrix = np.zeros(shape.padded[n : n + 2], dtype)
            matrix[np.ix_(columns_of(shape, n), columns_of(shape, n + 1))] = chains[shape.name][n].matrix
            if dimensions.precision == "mixed" and shape.large[n]:
                matrix = round_to_tf32(matrix)
            for transposed in (False, True):
                at = places[shape.name, n, transposed]
                weights[at : at + matrix.size] = (matrix.T if transposed else matrix).ravel()

    named = {shape.name: shape for shape in shapes}
    readout = named["readout"]
    energy_weights = np.zeros(readout.padded[-1])
    energy_weights[columns_of(readout, len(readout.padded) - 1)] = folded.energy_weights
    two_body = _two_body(named["embedding"], folded).astype(dtype)
    return {"weights": weights, "two_body": two_body, "energy_weights": energy_weights}


def chains_by_name(folded: Folded) -> dict[str, Chain]:
    """The MLPs of a model."""
    chains = {"embedding": folded.two_body_and_embedding, "readout": folded.readout}
    chains |= {f"latent_{k}": chain for k, chain in enumerate(folded.latents)}
    return chains | {f"environment_{k}": chain for k, chain in enumerate(folded.environments)}


def _two_body(embedding: MlpShape, folded: Folded) -> np.ndarray:
    width, columns = embedding.padded[1], columns_of(embedding, 1)

    def padded(array: np.ndarray) -> np.ndarray:
        wide = np.zeros((*array.shape[:-1], width))
        wide[..., columns] = array
        return wide

    if folded.separable is None:
        return padded(folded.embedding[0].matrix)
    table = folded.separable
    return padded(np.concatenate([table.basis, *_type_factors(table)]))


def _type_factors(table: SeparableTable) -> tuple[np.ndarray, np.ndarray]:
    """Of centre and neighbour, (nt, D) each: C, then ones; ones, then N."""
    return (
        np.concatenate([table.center_types, np.ones_like(table.neighbor_types)], axis=1),
        np.concatenate([np.ones_like(table.center_types), table.neighbor_types], axis=1),
    )


def columns_of(shape: MlpShape, n: int) -> np.ndarray:
    """Columns where the model's features before product n of an MLP stand (n the number of products: its result)."""
    spans = shape.output_spans if n == len(shape.activations) else ()
    if n == 0 and shape.input_spans:
        spans = shape.input_spans
    columns = np.concatenate([_columns(span) for span in spans]) if spans else np.arange(shape.sizes[n])
    assert len(columns) == shape.sizes[n], f"{shape.name}: {len(columns)} columns for {shape.sizes[n]} features"
    return columns


def _columns(span: Span) -> np.ndarray:
    features = np.arange(span.size)
    if span.slots:
        return span.start + features % span.slots * span.apart + features // span.slots
    return span.start + features
