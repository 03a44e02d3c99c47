"""Irreducible representations of O(3), and the paths of Allegro's tensor products.

The tensor features V_k of layer k = 0..L transform as a list of irreps T_k, each irrep once per channel (or more
often, in models that were told so: further copies then stand behind the others):
T_0 are the irreps of the spherical harmonics, T_L is the invariant 0e alone, and in between T_k holds what can be
reached from T_{k-1} and still matters for T_L (Musaelian et al., Nat. Commun. 14, 579 (2023), "Methods").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, order=True)
class Irrep:
    """Degree l (2l + 1 components) and parity +1 (e) or -1 (o)."""

    degree: int
    parity: int

    @property
    def dim(self) -> int:
        return 2 * self.degree + 1

    def __str__(self) -> str:
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"

    @classmethod
    def parse(cls, text: str) -> Irrep:
        """Inverse of `str`: "2e" -> Irrep(2, 1). Raises ValueError for anything else."""
        if not text[:-1].isdigit() or text[-1] not in "eo":
            raise ValueError(f"{text!r} is not an irrep; expected a degree and a parity, such as 0e or 1o")
        return cls(int(text[:-1]), 1 if text[-1] == "e" else -1)


@dataclass(frozen=True)
class Path:
    """One allowed coupling: indices into the irreps of the first input, of the harmonics, and of the output."""

    first: int
    second: int
    out: int


INVARIANT = Irrep(0, 1)


def harmonic_irreps(l_max: int, so3: bool = False) -> tuple[Irrep, ...]:
    """Irreps of the spherical harmonics of degree 0..l_max: parity (-1)^l, or even all (so3: inversion is ignored)."""
    return tuple(Irrep(degree, 1 if so3 else (-1) ** degree) for degree in range(l_max + 1))


def couples(first: Irrep, second: Irrep, out: Irrep) -> bool:
    """True when `out` is in the product `first` x `second`: parities multiply, degrees obey the triangle inequality."""
    triangle = abs(first.degree - second.degree) <= out.degree <= first.degree + second.degree
    return triangle and first.parity * second.parity == out.parity


def numbered(irreps: tuple[Irrep, ...]) -> tuple[tuple[Irrep, int], ...]:
    """Each irrep with how many of its kind stand before it: one list's copies found in another, in order."""
    return tuple((irrep, irreps[:place].count(irrep)) for place, irrep in enumerate(irreps))


def irreps_chain(
    l_max: int,
    parity: bool,
    num_layers: int,
    *,
    so3: bool = False,
    narrowing: bool = False,
    repeated_harmonics: tuple[Irrep, ...] = (),
    repeated_tensors: tuple[Irrep, ...] = (),
) -> tuple[tuple[Irrep, ...], ...]:
    """Irreps T_0 .. T_L of the tensor features before, between and after the L layers.

    Forward: T_k (0 < k < L) is every allowed irrep that T_{k-1} and the harmonics reach. With `parity` both parities of
    each degree are allowed (in the order 0e, 0o, 1e, 1o, ...), without it only the harmonics' own. Backward: an irrep
    stays in T_k only if some product of it with the harmonics is in T_{k+1}.

    so3: see `harmonic_irreps`. narrowing: as allegro 0.2 did, what T_{k-1} lacks is not allowed in T_k either (k > 1);
    that matters from five layers on. repeated_harmonics, repeated_tensors: further copies of harmonics and of allowed
    irreps, which stand behind the others.
    """
    harmonics = harmonic_irreps(l_max, so3) + repeated_harmonics
    both_parities = tuple(Irrep(degree, sign) for degree in range(l_max + 1) for sign in (1, -1))
    allowed = (both_parities if parity else harmonic_irreps(l_max, so3)) + repeated_tensors
    chain = [harmonics]
    for _ in range(num_layers - 1):
        before = chain[-1]
        chain.append(tuple(out for out in allowed if any(couples(a, b, out) for a in before for b in harmonics)))
        if narrowing:
            allowed = chain[-1]
    chain.append((INVARIANT,))
    for k in range(num_layers - 1, -1, -1):
        after = chain[k + 1]
        chain[k] = tuple(a for a in chain[k] if any(couples(a, b, out) for b in harmonics for out in after))
    return tuple(chain)


def tensor_product_paths(
    irreps_in: tuple[Irrep, ...], harmonics: tuple[Irrep, ...], irreps_out: tuple[Irrep, ...]
) -> tuple[Path, ...]:
    """All allowed couplings, in upstream's order: output slowest, then first input, then harmonics."""
    return tuple(
        Path(a, b, c)
        for c, out in enumerate(irreps_out)
        for a, first in enumerate(irreps_in)
        for b, second in enumerate(harmonics)
        if couples(first, second, out)
    )


def component_slices(irreps: tuple[Irrep, ...]) -> tuple[slice, ...]:
    """Where each irrep's components lie in a feature vector of all of them, one after the other."""
    ends = np.cumsum([irrep.dim for irrep in irreps])
    return tuple(slice(int(end) - irrep.dim, int(end)) for irrep, end in zip(irreps, ends, strict=True))


def total_dim(irreps: tuple[Irrep, ...]) -> int:
    """Number of components of all irreps together."""
    return sum(irrep.dim for irrep in irreps)
