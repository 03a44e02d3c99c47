"""The MLPs of the legacy generation on the kernels' columns, and the mixing of tensor channels as products like theirs.

Columns of x: [invariants | scalar features]. "concatenate": s_0 .. s_L each have their place. Else one place holds the
last of them, a latent MLP's output is added to it or takes its place, and its gradient is passed on in the same place
of dx. Where there is a cutoff on that output, it is kept in latent_k for the cutoff's slope (`updates`); and where an
MLP is a single product, which could not write what it reads.

Mixing: V_{k+1}[c] = sum_p T[(c, p)] D_p is, for the components c of one irrep, a product of rows (edge, c) with the
matrices D_p one below the other; X = V_k B_p and the mixing of A_i the same. So each is an MLP of one product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from allegro_sim.model.description import AllegroModel, Layer
from allegro_sim.model.irreps import component_slices, total_dim
from allegro_sim.potential.cuda.mlp_parts import Part, Span
from allegro_sim.potential.cuda.mlp_shapes import (
    Dimensions,
    MlpShape,
    Rounding,
    fused_widths,
    mlp_shape,
    with_ends,
)
from allegro_sim.potential.folding import Chain, Folded, Linear


def collects(model: AllegroModel) -> bool:
    """Whether all scalar features are kept, each in its place."""
    return model.latent_update == "concatenate"


def keeps_latents(model: AllegroModel, folded: Folded) -> bool:
    """Whether what latent MLPs give is kept apart from the scalar features that are made of it."""
    if collects(model):
        return False
    return model.latent_cutoff is not None or any(len(chain) < 2 for chain in folded.latents)


def place_of(model: AllegroModel, k: int) -> int:
    """Place of s_k among the scalar features in x."""
    return k if collects(model) else 0


def updates_before(model: AllegroModel, k: int) -> bool:
    """Whether s_k is made of s_{k-1} in its place, on all edges or on some, so that gradients are added there too."""
    return k > 0 and (model.latent_update == "residual" or model.keeps_scalars(k))


def places(model: AllegroModel) -> tuple[int, ...]:
    """Widths of the places."""
    return model.scalar_widths if collects(model) else (model.num_scalar_features,)


def legacy_chains(
    dimensions: Dimensions, model: AllegroModel, folded: Folded, activations: Mapping[str, str]
) -> tuple[tuple[MlpShape, ...], Rounding]:
    """embedding, environment_k, latent_k, readout; activations by these names."""
    d, layers, keep, apart = dimensions, model.num_layers, collects(model), keeps_latents(model, folded)
    bare = {"embedding": mlp_shape("embedding", folded.two_body_and_embedding, activations["embedding"])}
    for name, chains in (("environment", folded.environments), ("latent", folded.latents)):
        bare |= {f"{name}_{k}": mlp_shape(f"{name}_{k}", c, activations[f"{name}_{k}"]) for k, c in enumerate(chains)}
    bare["readout"] = mlp_shape("readout", folded.readout, activations["readout"])
    rounding = _rounding(model, bare)
    # Gradients that are passed on in one place are rounded there only for products that cannot round what they read.
    rounds = not apart and (keep or not fused_widths(tuple(bare.values())))

    def scalars(k: int, buffer: str = "x", **flags: bool) -> Part:
        return d.scalar_part(place_of(model, k), buffer, **flags)

    def span_of_scalars(k: int, start: int = 0) -> Span:
        return Span(start, model.scalar_widths[k])

    def given(k: int) -> tuple[Part, ...]:
        """What MLP k gives: s_k, or what s_k is made of."""
        width, adds = d.places[place_of(model, k)], updates_before(model, k)
        whole = Part(f"latent_{k}", 0, width, width)
        return (whole if apart else scalars(k, added=adds, rounded=rounding.features[k]),)

    def given_gradient(k: int) -> tuple[Part, ...]:
        width = d.places[place_of(model, k)]
        return (Part("dlatent", 0, width, width) if apart else scalars(k, "dx"),)

    shapes = [
        with_ends(
            d, bare["embedding"], outputs=given(0), output_gradients=given_gradient(0),
            output_spans=(span_of_scalars(0),), rounded_gradients=apart or rounds,
        )
    ]  # fmt: skip
    for k in range(layers):
        first = k == 0
        weights, gradients = ((Part(name, 0, d.NW, d.NW),) * first for name in ("w", "dw"))
        spans = (d.channel_span(0, d.tensor_slots),) * first
        shapes.append(
            with_ends(
                d,
                bare[f"environment_{k}"],
                inputs=(scalars(k),),
                outputs=(*weights, Part("env", 0, d.NE, d.NE, block=k)),
                input_gradients=(scalars(k, "dx", added=True, rounded=rounds and rounding.gradients[k]),),
                output_gradients=(*gradients, Part("denv", 0, d.NE, d.NE)),
                input_spans=(span_of_scalars(k),),
                output_spans=(*spans, d.channel_span(d.NW * first, d.environment_slots)),
                rounded_inputs=rounding.features[k],
            )
        )
    for k in range(layers):
        taken, count = model.latent_inputs[k], model.layers[k].num_invariants
        # The readout sets the gradient of s_L alone; the last latent MLP that of the features before it.
        begun = k < layers - 1 if keep else updates_before(model, k + 1)
        starts = np.cumsum([count * d.UP, *(d.places[place_of(model, n)] for n in taken)]).tolist()
        shapes.append(
            with_ends(
                d,
                bare[f"latent_{k}"],
                inputs=(d.invariant_part(count), *(scalars(n) for n in taken)),
                outputs=given(k + 1),
                input_gradients=(
                    d.invariant_part(count, "dx"),
                    *(scalars(n, "dx", added=begun) for n in taken),
                ),
                output_gradients=given_gradient(k + 1),
                input_spans=(
                    *(span_of_scalars(n, start) for n, start in zip(taken, starts, strict=False)),
                    d.channel_span(0, count),
                ),
                output_spans=(span_of_scalars(k + 1),),
                rounded_inputs=all(rounding.features[n] for n in taken),
                rounded_gradients=apart or rounds,
            )
        )
    shapes.append(
        with_ends(
            d,
            bare["readout"],
            inputs=(scalars(layers),),
            input_gradients=(scalars(layers, "dx", rounded=rounds and rounding.gradients[layers]),),
            input_spans=(span_of_scalars(layers),),
            rounded_inputs=rounding.features[layers],
        )
    )
    return tuple(shapes), rounding


def _rounding(model: AllegroModel, bare: dict[str, MlpShape]) -> Rounding:
    """See `mlp_shapes.mlp_rounding`. Scalar features that are added up in one place stay whole, except in the wide
    path, whose products cannot round what they read; gradients are rounded where each has a place of its own.
    """
    layers, fused, readout = model.num_layers, fused_widths(tuple(bare.values())), bare["readout"]
    together = all if fused else any
    environments = [bare[f"environment_{k}"] for k in range(layers)]
    latents = [bare[f"latent_{k}"] for k in range(layers)]
    features = []
    for k in range(layers + 1):
        readers = [latents[n].large[0] for n in range(layers) if k in model.latent_inputs[n]]
        readers.append(environments[k].large[0] if k < layers else bool(readout.large) and readout.large[0])
        features.append(together(readers) and (collects(model) or not fused))
    return Rounding(
        features=tuple(features),
        invariants=tuple(latent.large[0] for latent in latents),
        gradients=tuple(shape.large[-1] for shape in (bare["embedding"], *latents)),
        environments=tuple(shape.large[-1] for shape in environments),
        tensor=environments[0].large[-1],
    )


# --- mixing -----------------------------------------------------------------------------------------------------------


def left_starts(layer: Layer) -> list[int]:
    """First row of each irrep's block of X where the layer mixes before the product; rows are (component, path)."""
    counts = [sum(path.first == n for path in layer.paths) for n in range(len(layer.irreps_in))]
    sizes = [count * irrep.dim for count, irrep in zip(counts, layer.irreps_in, strict=True)]
    return [0, *np.cumsum(sizes).tolist()]


def product_starts(layer: Layer) -> list[int]:
    """First row of each irrep's block of T; rows are (component, path), or components where paths add up."""
    counts = [sum(path.out == n for path in layer.paths) if layer.separate_paths else 1 for n in _irreps_out(layer)]
    sizes = [count * irrep.dim for count, irrep in zip(counts, layer.irreps_out, strict=True)]
    return [0, *np.cumsum(sizes).tolist()]


def _irreps_out(layer: Layer) -> range:
    return range(len(layer.irreps_out))


def mixing_chains(dimensions: Dimensions, model: AllegroModel) -> tuple[tuple[MlpShape, ...], dict[str, Chain]]:
    """All mixing products, and their matrices by name: mix_environment_k_l, mix_in_k_a and mix_out_k_c, with the
    layer k, degree l, irreps a of V_k and c of V_{k+1}."""
    shapes, chains = list[MlpShape](), dict[str, Chain]()

    def add(name: str, matrix: np.ndarray, rows: int, columns: int, **ends: object) -> None:
        """matrix ((rows, U), (columns, U)): so many blocks of channels in and out."""
        chains[name] = (Linear(matrix, False),)
        blocks = {"input_spans": rows, "output_spans": columns}
        spans = {key: tuple(Span(n * d.UP, d.channels) for n in range(count)) for key, count in blocks.items()}
        shape = mlp_shape(name, chains[name], "identity")
        shapes.append(with_ends(d, shape, **spans, **ends, rounded_inputs=False, rounded_gradients=False))

    d, channels, components = dimensions, dimensions.channels, (model.l_max + 1) ** 2
    for k, layer in enumerate(model.layers):
        if layer.environment_mix is not None:
            for degree in range(model.l_max + 1):

                def of_center(buffer: str, degree: int = degree) -> tuple[Part, ...]:
                    return (_block(d, buffer, degree**2, components, 1, 2 * degree + 1),)

                add(
                    f"mix_environment_{k}_{degree}", layer.environment_mix[degree], 1, 1,
                    inputs=of_center("environment"), outputs=of_center(f"A_{k}"), over="centers", each=2 * degree + 1,
                    input_gradients=of_center("denvironment"), output_gradients=of_center("dA"),
                )  # fmt: skip
        tensors, left, products = total_dim(layer.irreps_in), left_starts(layer), product_starts(layer)
        if layer.mix_in is not None:
            for n, at in enumerate(component_slices(layer.irreps_in)):
                paths = [p for p, path in enumerate(layer.paths) if path.first == n]
                if not paths:
                    continue
                each, count = at.stop - at.start, len(paths)
                matrix = layer.mix_in[paths].transpose(1, 0, 2).reshape(channels, count * channels)
                add(
                    f"mix_in_{k}_{n}", matrix, 1, count, each=each,
                    inputs=(_block(d, f"tensors_{k}", at.start, tensors, 1, each),),
                    outputs=(_block(d, "left", left[n], left[-1], count, each),),
                    input_gradients=(_block(d, f"dtensors_{k % 2}", at.start, tensors, 1, each),),
                    output_gradients=(_block(d, "dleft", left[n], left[-1], count, each),),
                )  # fmt: skip
        if layer.mix_out is not None and k < model.num_layers - 1:
            after = total_dim(layer.irreps_out)
            for n, at in enumerate(component_slices(layer.irreps_out)):
                paths = [p for p, path in enumerate(layer.paths) if path.out == n]
                each, count = at.stop - at.start, len(paths)
                add(
                    f"mix_out_{k}_{n}", layer.mix_out[paths].reshape(count * channels, channels), count, 1, each=each,
                    inputs=(_block(d, "products", products[n], products[-1], count, each),),
                    outputs=(_block(d, f"tensors_{k + 1}", at.start, after, 1, each),),
                    input_gradients=(_block(d, "products", products[n], products[-1], count, each),),
                    output_gradients=(_block(d, f"dtensors_{(k + 1) % 2}", at.start, after, 1, each),),
                )  # fmt: skip
    return tuple(shapes), chains


def _block(d: Dimensions, buffer: str, first: int, rows: int, count: int, each: int) -> Part:
    """`each` rows of an edge or centre, each of `count` blocks of channels, from block `first` of `rows` on."""
    return Part(buffer, first * d.UP, rows * d.UP, count * d.UP, each=each, step=count * d.UP)
