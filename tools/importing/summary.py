"""A model in words and numbers a chemist can check."""

from __future__ import annotations

import numpy as np

from allegro_sim.model.description import AllegroModel, BesselEmbedding, LennardJones, Zbl
from allegro_sim.potential.folding import fold_model
from allegro_sim.tools.importing.elements import symbol_of

_FORMULAS = {
    "lj": "4 epsilon ((sigma/(d - delta))^2n - (sigma/(d - delta))^n)",
    "lj_repulsive_only": "4 epsilon ((sigma/(d - delta))^2n - (sigma/(d - delta))^n) + 2 epsilon up to 2^(1/n) + delta",
    "repulsive": "epsilon (sigma (d - delta))^-n",
}
"""Energies of a pair of atoms without the cutoff function, by the style of the Lennard-Jones term."""


def describe_model(model: AllegroModel, num_weights: int) -> list[str]:
    """Lines of text: types, cutoffs, network, weights, energies, cost."""
    elements = [symbol_of(int(number)) for number in model.atomic_numbers]
    names = [
        name if name == symbol else f"{name} ({symbol})"
        for name, symbol in zip(model.type_names, elements, strict=True)
    ]
    lines = [
        f"types             {', '.join(names)}",
        f"masses (Da)       {_by_type(model, model.masses, '.3f')}",
        *_cutoff_lines(model),
        f"network           l_max {model.l_max}, {model.num_layers} layers, {model.num_scalar_features} scalar and "
        f"{model.num_tensor_features} tensor features, {_parity_text(model)}, "
        f"trained in {model.trained_dtype}",
        f"radial embedding  {_radial_text(model)}",
        f"weights           {num_weights:,}",
        f"training units    {_units_text(model)}",
        f"energy shifts     {_by_type(model, model.shifts, '.6f')} eV",
        f"energy scales     {_by_type(model, model.scales, '.6f')} eV",
    ]
    if model.scatter_features:
        lines.append("environment       sum of the tensor features (scatter_features)")
    lines += [*_repeated_lines(model), *_pair_lines(model)]
    written, computed = fold_model(model).multiply_adds
    lines.append(
        f"cost              {written:,} multiply-adds an edge as written, {computed:,} as computed here (forward)"
    )
    return lines


def _by_type(model: AllegroModel, values: np.ndarray, form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in zip(model.type_names, values, strict=True))


def _cutoff_lines(model: AllegroModel) -> list[str]:
    if np.all(model.cutoffs == model.cutoffs[0, 0]):
        return [f"cutoff            {model.cutoffs[0, 0]:g} Å"]
    return [
        "cutoffs (Å)       of the centre's type (row) for neighbours of each type:",
        *(
            f"  {name:>14}  {_by_type(model, row, 'g')}"
            for name, row in zip(model.type_names, model.cutoffs, strict=True)
        ),
    ]


def _pair_lines(model: AllegroModel) -> list[str]:
    term = model.pair_term
    if term is None:
        return []
    end = "sharp cutoff" if term.cutoff_exponent is None else f"cutoff exponent {term.cutoff_exponent:g}"
    if isinstance(term, LennardJones) and term.reach is not None:
        end += f" at {term.reach:g} Å for all pairs"
    if model.pair_scales is not None:
        end += f", by the centre's type times {_by_type(model, model.pair_scales, 'g')}"
    if isinstance(term, Zbl):
        return [f"ZBL repulsion     yes, K = {term.coulomb} eV Å, {end}"]
    if term.is_plain:
        return [f"Lennard-Jones     sigma {term.sigma:g} Å, epsilon {term.epsilon:g} eV, {end}"]
    units = {"sigma": "1/Å" if term.style == "repulsive" else "Å", "epsilon": "eV", "delta": "Å"}
    lines = [f"Lennard-Jones     {_FORMULAS[term.style]} (lj_style {term.style}), n = {term.power:g}, {end}"]
    for name, unit in units.items():
        table = term.table(name, model.num_types)
        if np.ptp(table) == 0.0:
            lines.append(f"  {name:<15} {table[0, 0]:g} {unit}")
        else:
            rows = zip(model.type_names, table, strict=True)
            lines.append(
                f"  {f'{name} ({unit})':<15} " + "; ".join(f"{a}: {_by_type(model, row, 'g')}" for a, row in rows)
            )
    return lines


def _units_text(model: AllegroModel) -> str:
    if not isinstance(model.pair_term, Zbl):
        return "not stated in the checkpoint; energies are taken as eV, lengths as Å"
    if model.pair_term.coulomb > 100.0:  # Coulomb's constant in kcal/mol Å
        return "kcal/mol and Å by the ZBL term; energies are taken as eV all the same"
    return "eV and Å, as the ZBL term's"


def _parity_text(model: AllegroModel) -> str:
    return "SO(3)" if model.so3 else f"parity {'on' if model.parity else 'off'}"


def _repeated_lines(model: AllegroModel) -> list[str]:
    repeated = {"harmonics": model.repeated_harmonics, "tensors": model.repeated_tensors}
    found = [f"{' '.join(map(str, irreps))} ({kind})" for kind, irreps in repeated.items() if irreps]
    return [f"further irreps    {', '.join(found)}"] if found else []


def _radial_text(model: AllegroModel) -> str:
    if isinstance(model.radial, BesselEmbedding):
        exponent = model.radial.cutoff_exponent
        return f"{model.radial.frequencies.shape[-1]} Bessel functions, " + (
            "sharp cutoff" if exponent is None else f"cutoff exponent {exponent:g}"
        )
    return f"{model.radial.weights.shape[3]} splines, span {model.radial.span}"
