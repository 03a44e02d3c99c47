"""The simulation cell: three lattice vectors, periodic or not in each direction."""

from __future__ import annotations

import numpy as np

from allegro_sim.errors import StructureError

_FLATTEST = 1.0e-6
"""Smallest volume accepted, relative to the product of the vectors' lengths."""


class Cell:
    """Lattice vectors as rows, Å, and the periodic directions. Not to be changed after creation.

    Parameters
    ----------
    vectors : (3, 3) array, rows are lattice vectors in Å, or None where there is no cell. Left-handed cells are as
    good as
        right-handed ones. A zero vector is allowed in a direction that is not periodic.
    pbc : (3,) bool, or one bool for all three directions

    Attributes
    ----------
    vectors : float64 (3, 3), always of full rank: zero vectors are completed by unit vectors orthogonal to the others
    pbc : bool (3,)
    inverse : float64 (3, 3), fractional = positions @ inverse
    volume : float, Å³, positive, of `vectors`; physically meaningful only where `fully_periodic`
    heights : float64 (3,), Å, distance between the two faces that direction k crosses
    given : float64 (3, 3) as the user gave it, or None

    Raises
    ------
    StructureError : entries that are not finite, a zero vector in a periodic direction, or vectors in one plane
    """

    def __init__(self, vectors: np.ndarray | None, pbc: np.ndarray | tuple[bool, bool, bool] | bool) -> None:
        self.pbc = np.array(np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)))
        given = None if vectors is None else np.array(vectors, dtype=np.float64)
        if given is not None and given.shape != (3, 3):
            raise StructureError(
                f"the cell must be three vectors of three numbers, found an array of shape {given.shape}"
            )
        if given is not None and not np.isfinite(given).all():
            raise StructureError(f"the cell has entries that are not finite numbers: {given.tolist()}")
        if given is not None and not given.any():
            given = None
        self.given = given
        self.vectors = self._complete(np.zeros((3, 3)) if given is None else given)
        volume = abs(float(np.linalg.det(self.vectors)))
        lengths = np.linalg.norm(self.vectors, axis=1)
        if volume <= _FLATTEST * float(np.prod(lengths)):
            raise StructureError(
                f"the cell has no volume: its vectors {self.vectors.tolist()} Å lie in one plane. "
                "Correct the cell, or declare the structure not periodic"
            )
        self.volume = volume
        self.inverse = np.linalg.inv(self.vectors)
        self.heights = 1.0 / np.linalg.norm(self.inverse, axis=0)
        self.fully_periodic = bool(self.pbc.all())
        for array in (self.pbc, self.given, self.vectors, self.inverse, self.heights):
            if array is not None:
                array.setflags(write=False)

    def _complete(self, vectors: np.ndarray) -> np.ndarray:
        """Replace zero vectors by unit vectors orthogonal to the rest, so that a cell of full rank results."""
        missing = ~vectors.any(axis=1)
        if (missing & self.pbc).any():
            direction = "abc"[int(np.flatnonzero(missing & self.pbc)[0])]
            raise StructureError(
                f"the structure is periodic along {direction}, but its cell vector {direction} is zero: "
                "the cell has no volume. Give the cell, or declare the direction not periodic"
            )
        if not missing.any():
            return vectors
        if missing.all():
            return np.eye(3)
        # The null space of the vectors that are there, from the singular value decomposition.
        present = vectors[~missing]
        if np.linalg.matrix_rank(present / np.linalg.norm(present, axis=1)[:, None], tol=_FLATTEST) < len(present):
            raise StructureError(f"the cell has no volume: its vectors {vectors.tolist()} Å are parallel")
        completed = vectors.copy()
        if missing.sum() == 1:
            normal = np.cross(present[0], present[1])
            completed[missing] = normal / np.linalg.norm(normal)
            return completed
        # One vector is there: start from the axis most nearly orthogonal to it.
        direction = present[0] / np.linalg.norm(present[0])
        first = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
        first /= np.linalg.norm(first)
        completed[np.flatnonzero(missing)] = [first, np.cross(direction, first)]
        return completed

    def fractional(self, positions: np.ndarray) -> np.ndarray:
        """Coordinates (N, 3) in units of the lattice vectors, not wrapped. A pure function of each position.

        Written out (no matrix product), so that an atom's numbers do not depend on its place in the array.
        """
        x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
        m = self.inverse
        with np.errstate(invalid="ignore"):  # infinity * 0, for whoever looks for positions that are not finite
            return np.stack([(x * m[0, c] + y * m[1, c]) + z * m[2, c] for c in range(3)], axis=1)

    def wrapping_images(self, positions: np.ndarray) -> np.ndarray:
        """Whole cell vectors (N, 3) int32 that carry each position into the cell; 0 where not periodic.

        Positions that are not finite give 0.
        """
        fractional = self.fractional(positions)
        shift = np.where(
            self.pbc & np.isfinite(fractional), -np.floor(np.where(np.isfinite(fractional), fractional, 0.0)), 0.0
        )
        return np.clip(shift, -(2.0**31) + 1, 2.0**31 - 1).astype(np.int32)

    def wrapped(self, positions: np.ndarray) -> np.ndarray:
        """Positions (N, 3) carried into the cell in the periodic directions."""
        return positions + self.wrapping_images(positions) @ self.vectors

    def __repr__(self) -> str:
        return f"Cell({self.vectors.tolist()}, pbc={self.pbc.tolist()})"
