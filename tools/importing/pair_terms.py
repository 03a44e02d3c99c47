"""The pair potential of a model of the current generation, from its options and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from allegro_sim.model.description import (
    LENNARD_JONES_STYLES,
    BesselEmbedding,
    LennardJones,
    SplineEmbedding,
    Zbl,
)
from allegro_sim.tools.importing.model_source import Source
from allegro_sim.tools.importing.options import Options, Tensors

MEND_OPTION = "--mend-lennard-jones"
MENDED_NOTE = (
    "no release of nequip evaluates the Lennard-Jones term of this model: the shapes or arguments of its module do not "
    f"fit. The term was imported with the module's formula, taken edge by edge ({MEND_OPTION}): half of the pair's "
    "energy for each of the two atoms, with the parameters and the cutoff of that pair of types, as a copy of nequip "
    "that is mended computes it"
)
_COULOMB = {"metal": 14.399645, "real": 332.06371}  # eV Å, kcal/mol Å: the values of LAMMPS and upstream
_PLACES = ("nequip.nn.pair_potential.", "nequip.nn.")
_UNUSABLE = {
    "LennardJones": "nequip does not give one energy for each atom with it",
    "SimpleLennardJones": "nequip cannot build an Allegro model with it",
}


class PairTermReader:
    """Reads the pair potential of one model.

    radial, cutoffs: of the model. tolerance: of constants that went through its dtype. mended: import a Lennard-Jones
    term although no release of upstream evaluates it.
    """

    def __init__(
        self,
        source: Source,
        options: Options,
        tensors: Tensors,
        radial: BesselEmbedding | SplineEmbedding,
        cutoffs: np.ndarray,
        tolerance: float,
        notes: list[str],
        mended: bool,
    ) -> None:
        self.source, self.options, self.tensors, self.notes = source, options, tensors, notes
        self.radial, self.cutoffs, self.num_types = radial, cutoffs, len(cutoffs)
        self.tolerance, self.mended = tolerance, mended

    def read(self) -> tuple[Zbl | LennardJones | None, list[str] | None]:
        """The term, if any, and the chemical species that it states for the types. Raises CheckpointImportError for
        what is not supported."""
        section = self.options.section("pair_potential")
        if section is None:
            return None, None
        target = section.take("_target_", "text")
        name = target.rpartition(".")[2]
        if target.removesuffix(name) not in _PLACES or name not in ("ZBL", *_UNUSABLE):
            raise section.error(
                "_target_", f"is {target!r}; the pair potentials that are known are ZBL, {' and '.join(_UNUSABLE)} of "
                "nequip.nn.pair_potential",
            )  # fmt: skip
        if name == "ZBL":
            return self._zbl(section)
        if not self.mended:
            raise section.error(
                "_target_",
                f"is {target!r}, which is not supported: {_UNUSABLE[name]}, in any version from 0.7 to 0.19, so there "
                f"are no numbers to test against. {MEND_OPTION} imports the model with the term's formula, taken edge "
                "by edge",
            )
        self.notes.append(MENDED_NOTE)
        if name == "SimpleLennardJones":
            return self._simple(section), None
        exponent = self._cutoff_exponent(section)
        term = read_lennard_jones(section, self.tensors, self.num_types, exponent, self.tolerance, self.notes)
        section.finish()
        return term, None

    def _zbl(self, section: Options) -> tuple[Zbl, list[str]]:
        units = section.take("units", "text")
        if units not in _COULOMB:
            raise section.error("units", f"is {units!r}; metal or real is expected")
        species = [str(symbol) for symbol in section.take("chemical_species", "list")]
        if len(species) != self.num_types:
            raise section.error("chemical_species", f"has {len(species)} entries for {self.num_types} types")
        exponent = self._cutoff_exponent(section)
        section.finish()
        if units == "real":
            self.notes.append(
                "the ZBL term is in LAMMPS units `real`: energies seem to be kcal/mol, but are taken as eV here"
            )
        coulomb = _COULOMB[units]
        self.tensors.expect("pair_potential._qqr2exesquare", 0.5 * coulomb, 1e-12)
        numbers = self.tensors.take("pair_potential.atomic_numbers", (self.num_types,), weight=False)
        return Zbl(numbers, coulomb, exponent), species

    def _simple(self, section: Options) -> LennardJones:
        sigma, epsilon = (float(section.take(f"lj_{name}", "number")) for name in ("sigma", "epsilon"))
        exponent: float | None = None
        if self._before_own_cutoffs(section.has("lj_use_cutoff")) and not section.take("lj_use_cutoff", "flag", False):
            if np.ptp(self.cutoffs) > 0.0:
                raise section.error(
                    "lj_use_cutoff",
                    "is false, and pairs of types have cutoffs of their own: whether the term reaches beyond them "
                    "depends on how edges are listed",
                )
        else:
            exponent = self._cutoff_exponent(section)
        section.finish()
        return LennardJones(sigma, epsilon, exponent)

    def _before_own_cutoffs(self, otherwise: bool) -> bool:
        """Whether the file is of nequip up to 0.16, where terms take the cutoff function of the model's edges; since
        0.17 they have one of their own. `otherwise` where the file does not say."""
        version = _version(self.source.versions.get("nequip", ""))
        return version < (0, 17) if version > (0, 0) else otherwise

    def _cutoff_exponent(self, section: Options) -> float:
        own = float(section.take("polynomial_cutoff_p", "number", 6.0))
        of_edges = (self.radial.cutoff_exponent if isinstance(self.radial, BesselEmbedding) else None) or 6.0
        if self.source.pair_exponent is not None:
            return self.source.pair_exponent
        if not self.source.versions.get("nequip") and own != of_edges:
            raise section.error("polynomial_cutoff_p", "is not certain: the file does not state the version of nequip")
        return of_edges if self._before_own_cutoffs(True) else own


def read_lennard_jones(
    options: Options,
    tensors: Tensors,
    num_types: int,
    cutoff_exponent: float | None,
    tolerance: float,
    notes: list[str],
    *,
    constant: bool = True,
) -> LennardJones:
    """The term of nequip.nn.pair_potential.LennardJones, of either generation.

    Of each table upstream takes the upper triangle, for both orders of a pair, and 0 for negative numbers. constant:
    whether a parameter that is not trained is still what the options say.
    """
    style = options.take("lj_style", "text", "lj")
    if style not in LENNARD_JONES_STYLES:
        raise options.error("lj_style", f"is {style!r}; {', '.join(LENNARD_JONES_STYLES)} are known")
    power = float(options.take("lj_exponent", "number", 6.0))
    if power <= 0.0:
        raise options.error("lj_exponent", f"is {power:g}; a positive number is expected")
    if not options.take("lj_per_type", "flag", True):
        raise options.error("lj_per_type", "is false, with which upstream builds no such term")
    tables: dict[str, np.ndarray] = {}
    for name in ("sigma", "delta", "epsilon"):
        trained = options.take(f"lj_{name}_trainable", "flag", False)
        given = options.take(f"lj_{name}", default=0.0 if name == "delta" else None)
        if given is None:
            raise options.error(f"lj_{name}", "is null, with which the term has no energy, in upstream neither")
        stored = np.triu(tensors.take(f"pair_potential.{name}", (num_types, num_types), weight=trained))
        if constant and not trained:
            _expect(options, f"lj_{name}", given, stored, tolerance)
        tables[name] = stored + np.triu(stored, 1).T
        if (tables[name] < 0.0).any():
            notes.append(f"lj_{name} is negative for pairs of types: it is 0 there, as in upstream")
            tables[name] = np.maximum(tables[name], 0.0)
    if style == "repulsive" and not (tables["sigma"] > 0.0).all():
        raise options.error("lj_sigma", "is 0 or less for a pair of types: its energy, a power of 1/lj_sigma, is none")
    tables["delta"][tables["epsilon"] == 0.0] = 0.0  # a pair without the term has no pole either
    return LennardJones(tables["sigma"], tables["epsilon"], cutoff_exponent, None, tables["delta"], power, style)


def _expect(options: Options, name: str, given: Any, stored: np.ndarray, tolerance: float) -> None:
    """Raises CheckpointImportError unless the numbers of an option, one or a table, are those stored."""
    try:
        numbers = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.shape not in ((), stored.shape):
        raise options.error(name, f"is {given!r}; a number or a table of {len(stored)} x {len(stored)} is expected")
    expected = np.triu(np.broadcast_to(numbers, stored.shape))
    if not np.allclose(stored, expected, rtol=tolerance, atol=tolerance):
        raise options.error(name, f"is {given!r}, and not what the file holds: {stored.tolist()}")


def _version(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (0, 0)
