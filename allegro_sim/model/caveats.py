"""What a user should know of a model before running it."""

from __future__ import annotations

from allegro_sim.model.description import JUMPING_ACTIVATIONS, AllegroModel


def activation_warnings(model: AllegroModel) -> list[str]:
    """Warnings about activations that are not 0 at 0; empty for most models."""
    mlps = [model.embed_mlp, model.readout, *(layer.latent for layer in model.layers)]
    mlps += [layer.environment_mlp for layer in model.layers if layer.environment_mlp is not None]
    used = {mlp.activation for mlp in mlps if len(mlp.weights) > 1}
    return [
        f"the activation {name} is not 0 at 0: the energy jumps where an atom crosses a cutoff, as upstream's does"
        for name in sorted(used & set(JUMPING_ACTIVATIONS))
    ]
