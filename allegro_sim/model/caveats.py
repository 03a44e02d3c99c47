"""What a user should know of a model before running it."""

from __future__ import annotations

from allegro_sim.model.description import JUMPING_ACTIVATIONS, AllegroModel, BesselEmbedding, LennardJones


def jump_warnings(model: AllegroModel) -> list[str]:
    """Warnings about energies that jump at a cutoff; empty for most models.

    That is where an activation is not 0 at 0, where the radial functions or a Lennard-Jones term have no cutoff
    function, and where layers have cutoffs of their own.
    """
    mlps = [model.embed_mlp, model.readout, *(layer.latent for layer in model.layers)]
    mlps += [layer.environment_mlp for layer in model.layers if layer.environment_mlp is not None]
    used = {mlp.activation for mlp in mlps if len(mlp.weights) > 1}
    warnings = [
        f"the activation {name} is not 0 at 0: the energy jumps where an atom crosses a cutoff, as upstream's does"
        for name in sorted(used & set(JUMPING_ACTIVATIONS))
    ]
    term = model.pair_term
    if isinstance(model.radial, BesselEmbedding) and model.radial.cutoff_exponent is None:
        warnings.append(
            "the radial functions have no cutoff function (use_original_normalized_basis): the energy jumps where an "
            "atom crosses the cutoff, as upstream's does"
        )
    if model.latent_cutoff is not None and (model.latent_cutoff.radii < model.reaches.max()).any():
        warnings.append(
            "layers have cutoffs below r_max (per_layer_cutoffs): the energy jumps where an atom crosses one, as "
            "upstream's does"
        )
    if isinstance(term, LennardJones) and term.cutoff_exponent is None:
        warnings.append(
            "the Lennard-Jones term has no cutoff function (lj_use_cutoff: false): the energy jumps where an atom "
            "crosses a cutoff, as upstream's does"
        )
    return warnings
