"""Scales, shifts, norms and the pair term of a legacy Allegro model, from its options and tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from allegro_sim.errors import InputError
from allegro_sim.model.description import LennardJones, Zbl
from allegro_sim.tools.importing.legacy_parts import check_attribute
from allegro_sim.tools.importing.legacy_source import LegacySource
from allegro_sim.tools.importing.options import Options, Tensors
from allegro_sim.tools.importing.pair_terms import MEND_OPTION, MENDED_NOTE, read_lennard_jones

_COULOMB = ("metal", "real")  # LAMMPS's units: eV Å and kcal/mol Å


def read_edge_scales(options: Options, tensors: Tensors, num_types: int) -> np.ndarray | None:
    """Factors of the edges' energies by type of centre and neighbour (allegro 0.2 only): (nt, nt)."""
    wanted = options.take("per_edge_species_scale", "flag", False)
    name = "edge_eng_sum.per_edge_scales"
    if name not in tensors:
        return None
    scales = tensors.take(name, (num_types, num_types) if wanted else (0,))
    return scales if wanted else None


def read_edge_sum_norm(options: Options, source: LegacySource, count: float) -> float:
    """1/sqrt(average number of neighbours), or 1 where sums of edge energies are not normalised."""
    normalised = options.take("normalize_edge_energy_sum", "flag", True)
    norm = 1.0 / sqrt(count) if normalised else 1.0
    check_attribute(source.attributes, "edge_eng_sum._factor", norm, source.path)
    return norm


def read_energies(tensors: Tensors, num_types: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Scales and shifts of the types, (nt,) each, and the factor on all energies, those included."""
    per_type = []
    for name, absent in (("scales", 1.0), ("shifts", 0.0)):
        full = f"per_species_rescale.{name}"
        values = np.full(num_types, absent)
        if full in tensors and 0 in tensors.shape(full):
            tensors.take(full, weight=False)
        elif full in tensors:
            values = tensors.take(full, (num_types,), weight=False)
        per_type.append(values)
    scale_by = 1.0
    if "scale_by" in tensors:
        stored = tensors.take("scale_by", weight=False)
        if stored.size > 1:
            raise tensors.error("scale_by", f"has shape {stored.shape}; one number is expected")
        scale_by = float(stored.reshape(-1)[0]) if stored.size else 1.0
    if "shift_by" in tensors:
        shift = tensors.take("shift_by", weight=False)
        if shift.any():
            raise tensors.error(
                "shift_by",
                f"is {shift.ravel()[0]}: a shift of the total energy that does not depend on the number of atoms "
                "(global_rescale_shift) belongs to no atom, and energies here are sums over atoms; it changes no "
                "force: --drop-total-energy-shift imports the model without it",
            )
    return per_type[0], per_type[1], scale_by


def drop_total_shift(source: LegacySource, notes: list[str]) -> LegacySource:
    """The same without the shift of the total energy, which a note states. Raises InputError where there is none."""
    stored = source.tensors.get("shift_by")
    shift = float(stored.numpy(np.float64).sum()) if stored is not None else 0.0
    if shift == 0.0:
        raise InputError(f"--drop-total-energy-shift: {source.path} has no shift of the total energy")
    notes.append(
        f"the shift of the total energy, {shift:.10g} eV whatever the number of atoms, was dropped "
        "(--drop-total-energy-shift): upstream's total energies are higher by that, its forces are the same"
    )
    return replace(source, tensors={name: tensor for name, tensor in source.tensors.items() if name != "shift_by"})


@dataclass(frozen=True)
class PairContext:
    """What of the rest of the model bears on its pair term."""

    builders: list[str]  # names of the model builders, in their order
    scales: np.ndarray  # (nt,), of the types' energies
    scale_by: float  # factor on all energies
    exponent: float | None  # of the polynomial cutoff of the edges; None where they have none
    cutoffs: np.ndarray  # (nt, nt) Å, of ordered pairs of types
    r_max: float  # Å, how far upstream lists edges
    mended: bool  # whether a term is read that no release of upstream evaluates


def read_legacy_pair_term(
    options: Options, tensors: Tensors, source: LegacySource, context: PairContext, notes: list[str]
) -> tuple[Zbl | LennardJones | None, np.ndarray | None, list[str] | None]:
    """The pair term, if any; its scales (nt,) where they differ; and the chemical symbols of the types, if stated."""
    num_types, builders = len(context.scales), context.builders
    symbols = options.take("type_to_chemical_symbol", "mapping", None) or {}
    named = {str(key): str(symbol) for key, symbol in symbols.items()}
    types = [str(number) for number in range(num_types)]
    species = [named[number] for number in types] if set(named) >= set(types) else None
    if "PairPotentialTerm" not in builders:
        options.ignore("pair_style", "units")
        return None, None, species
    style = options.take("pair_style", "text")
    if style == "LJ_fancy" and not context.mended:
        raise options.error(
            "pair_style",
            "is 'LJ_fancy' (nequip.nn.pair_potential.LennardJones), which is not supported: nequip 0.6 gives each atom "
            "as many energies as the structure has edges with it, and forces of their sum, so there are no numbers to "
            f"test against. {MEND_OPTION} imports the model with the term's formula, taken edge by edge",
        )
    if style not in ("ZBL", "LJ", "LJ_fancy"):
        raise options.error("pair_style", f"is {style!r}, which is not supported; ZBL and LJ are")
    factor, scales = context.scale_by, None
    if "PerSpeciesRescale" in builders[builders.index("PairPotentialTerm") :]:  # which then acts on this term too
        if np.ptp(context.scales) > 0:
            scales = context.scales
        else:
            factor *= float(context.scales[0])
    if style == "LJ":
        return _lennard_jones(options, source, context, factor, notes), scales, species
    exponent = _cutoff_exponent(options, context)
    if style == "LJ_fancy":
        notes.append(MENDED_NOTE)
        options.ignore("units")
        term = read_lennard_jones(options, tensors, num_types, exponent, 0.0, notes, constant=False)
        return replace(term, epsilon=factor * term.epsilon), scales, species
    units = options.take("units", "text", None)
    if units not in (*_COULOMB, None):
        raise options.error("units", f"is {units!r}; metal or real is expected")
    if units == "real":
        notes.append("the ZBL term is in LAMMPS units `real`: energies seem to be kcal/mol, but are taken as eV here")
    numbers = tensors.take("pair_potential.atomic_numbers", (num_types,), weight=False)
    half_coulomb = float(tensors.take("pair_potential._qqr2exesquare", (), weight=False))
    return Zbl(numbers, 2.0 * factor * half_coulomb, exponent), scales, species


def _cutoff_exponent(options: Options, context: PairContext) -> float:
    """Of a pair term, which takes the cutoff function of the edges."""
    if context.exponent is None:
        raise options.error(
            "pair_style",
            "is a term with the cutoff function of the edges, and they have none (use_original_normalized_basis): "
            "upstream cannot evaluate it",
        )
    return context.exponent


def _lennard_jones(
    options: Options, source: LegacySource, context: PairContext, factor: float, notes: list[str]
) -> LennardJones:
    """`pair_style: LJ`, which is nequip.nn.pair_potential.SimpleLennardJones: plain numbers, and no tensors.

    Training divides epsilon by the factor on all energies, so that it comes out as given. That number is no tensor, and
    a model that is read back (to be evaluated or deployed) starts from the option again: its term is multiplied by the
    factor. What upstream computes from the file is what is imported here.
    """
    options.ignore("units")
    sigma = float(options.take("lj_sigma", "number"))
    epsilon = float(options.take("lj_epsilon", "number"))
    with_cutoff = options.take("lj_use_cutoff", "flag", False)
    check_attribute(source.attributes, "pair_potential.lj_sigma", sigma, source.path)
    check_attribute(source.attributes, "pair_potential.lj_use_cutoff", with_cutoff, source.path)
    stored = source.attributes.get("pair_potential.lj_epsilon", epsilon)  # what a deployed model computes with
    exponent = _cutoff_exponent(options, context) if with_cutoff else None
    reach = context.r_max if not with_cutoff and (context.cutoffs < context.r_max).any() else None
    if reach is not None:
        notes.append(
            f"the Lennard-Jones term has no cutoff function (lj_use_cutoff: false) and reaches to r_max, {reach:g} Å, "
            "for all pairs of types, also where the network ends before. So it does in upstream's nequip; upstream's "
            "pair styles for LAMMPS leave out pairs beyond their per_edge_type_cutoff, and this term with them"
        )
    if stored == epsilon and factor != 1.0:
        notes.append(
            f"nequip 0.6 does not keep lj_epsilon with the weights: in training it was {epsilon:g}, and every model "
            f"read back from the file, here as with upstream's programs, has it times {factor:g}, the factor on all "
            "energies"
        )
    return LennardJones(sigma, factor * float(stored), exponent, reach)
