"""What a user should know of a model before running it."""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import JUMPING_ACTIVATIONS, AllegroModel, BesselEmbedding, LennardJones


def jump_warnings(model: AllegroModel) -> list[str]:
    """Warnings about energies that jump at a cutoff or have a pole; empty for most models.

    That is where an activation is not 0 at 0, where the radial functions or a Lennard-Jones term have no cutoff
    function or such a term ends before its cutoff or begins at a distance, and where layers have cutoffs of their own.
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
    return warnings + (_lennard_jones_warnings(model, term) if isinstance(term, LennardJones) else [])


def _lennard_jones_warnings(model: AllegroModel, term: LennardJones) -> list[str]:
    warnings = []
    sigma, epsilon, delta = (term.table(name, model.num_types) for name in ("sigma", "epsilon", "delta"))
    ends = term.end + delta
    jumps = epsilon * ((sigma**term.power - 1.0) ** 2 + 1.0) * (ends < model.cutoffs)  # of both edges, without u
    if term.style == "lj_repulsive_only" and jumps.any():
        ends = ends[jumps > 0.0]
        warnings.append(
            f"the Lennard-Jones term of style lj_repulsive_only ends {term.end:g} Å beyond delta (at "
            f"{_range(ends)} Å), where the energy of a pair of atoms jumps by {_range(jumps[jumps > 0.0])} eV times "
            "the cutoff function, as the formula of upstream does"
        )
    poles = (delta > 0.0) & (epsilon > 0.0)
    if poles.any():
        whole = float(term.power).is_integer()
        inside = "gives numbers without meaning" if whole else "gives no number, and a run stops"
        warnings.append(
            f"the Lennard-Jones term is infinite where two atoms are delta apart (lj_delta: {_range(delta[poles])} Å); "
            f"closer than that its formula {inside}, as upstream's"
        )
    return warnings


def _range(values: np.ndarray) -> str:
    """The value, or the smallest to the largest."""
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"
