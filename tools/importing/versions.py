"""Options and tensors of nequip-allegro 0.4 (nequip 0.7) by the names that later versions use.

There the embedding `scalar_embed` contains its MLP, which the spline embedding lacks, and some defaults differ.
"""

from __future__ import annotations

from typing import Any

from allegro_sim.tools.importing.options import Options, Tensors

_DEFAULTS: dict[str, Any] = {
    "scalar_embed_mlp": True,
    "num_tensor_features": 16,
    "scalar_embed_mlp_hidden_layers_depth": 1,
    "scalar_embed_mlp_hidden_layers_width": 64,
    "scalar_embed_mlp_nonlinearity": "silu",
    "allegro_mlp_hidden_layers_depth": 1,
    "allegro_mlp_hidden_layers_width": 64,
    "allegro_mlp_nonlinearity": "silu",
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_hidden_layers_width": 32,
    "readout_mlp_nonlinearity": "silu",
}
_OLD_DEFAULTS: dict[str, Any] = {
    **_DEFAULTS,
    "num_tensor_features": 64,
    "scalar_embed_mlp_hidden_layers_depth": 2,
    "allegro_mlp_hidden_layers_depth": 2,
    "readout_mlp_hidden_layers_depth": 2,
    "readout_mlp_nonlinearity": None,
}
_TENSOR_NAMES = (
    ("scalar_embed.twobody_mlp.", "scalar_embed_mlp."),
    ("scalar_embed.", "radial_chemical_embed."),
)


def modernise(options: Options, tensors: Tensors) -> tuple[Options, dict[str, Any]]:
    """Options under their present names, and the defaults of the version that wrote them; tensors are renamed in place.

    `scalar_embed_mlp` among the defaults says whether the model has that MLP.
    """
    if not options.has("scalar_embed"):
        return options, _DEFAULTS
    values = options.values()
    embed = values.pop("scalar_embed")
    defaults = _OLD_DEFAULTS
    if isinstance(embed, dict) and str(embed.get("_target_", "")).endswith("TwoBodySplineScalarEmbed"):
        defaults = {**defaults, "scalar_embed_mlp": False}
        embed = {"num_splines": 8, "spline_span": 4, **embed}
    elif isinstance(embed, dict):
        embed = dict(embed)
        values["radial_chemical_embed_dim"] = embed.pop("two_body_embedding_dim", 32)
        for name in ("hidden_layers_depth", "hidden_layers_width", "nonlinearity"):
            if f"two_body_mlp_{name}" in embed:
                values[f"scalar_embed_mlp_{name}"] = embed.pop(f"two_body_mlp_{name}")
    values["radial_chemical_embed"] = embed
    tensors.rename(_TENSOR_NAMES)
    return options.with_values(values), defaults
