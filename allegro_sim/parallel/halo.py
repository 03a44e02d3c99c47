"""Ghost atoms: copies of atoms of other bricks, and periodic copies, that lie within the halo of this rank's brick.

Ghosts come in stages, one direction after the other (Plimpton, J. Comput. Phys. 117, 1, 1995): along each direction a
brick gives its two neighbours what lies near the common face, ghosts of earlier directions included, and passes on
what it received as many times as the halo spans bricks (hops). Edges and corners need no messages of their own. A
brick that is its own neighbour, as on one rank, exchanges with itself, and each hop then makes one more layer of
periodic images.

A stage always goes through the same rows until the next build: `update_positions` runs the stages forward with
positions, `add_forces` backward with forces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.kernels.cpu.halo import add_rows, gather_rows
from allegro_sim.parallel.decomposition import Decomposition
from allegro_sim.system import System


@dataclass(frozen=True)
class _Stage:
    """One exchange: local rows `rows` go to `dest`; rows [first, last) come from `source`."""

    dest: int | None
    source: int | None
    rows: np.ndarray
    first: int
    last: int


class Halo:
    """The ghosts of one rank, and the exchanges that keep them.

    Parameters
    ----------
    decomposition : Decomposition, whose bounds are those of the last `migrate`
    """

    def __init__(self, decomposition: Decomposition) -> None:
        self._decomposition = decomposition
        self._comm = decomposition.comm
        self._stages: list[_Stage] = []
        self._position_buffer = np.empty((0, 3))
        self._integer_buffer = np.empty(0, np.int64)
        self._overflowed = np.empty(0, np.int64)

    def build(self, system: System) -> None:
        """Make all ghosts anew (collective; after `migrate`).

        Each (id, image) within the halo of the brick becomes one ghost row with the owner's id, type and position bits;
        `images` is the owner's plus the cell vectors from the owner's copy to this one.
        """
        system.num_ghosts = 0
        self._stages = []
        decomposition = self._decomposition
        lower, upper = decomposition.brick()
        for direction in range(3):
            width = decomposition.halo_fraction[direction]
            existing = system.num_local
            for step in (1, -1):
                candidates = range(0, existing)
                for _ in range(decomposition.hops(direction)):
                    place = self._fractional(system, candidates, direction)
                    near = place >= upper[direction] - width if step == 1 else place <= lower[direction] + width
                    rows = candidates.start + np.flatnonzero(near)
                    candidates = self._exchange(system, rows, direction, step)
        longest = max((len(stage.rows) for stage in self._stages), default=0)
        if longest > len(self._position_buffer):
            self._position_buffer = np.empty((longest + longest // 8, 3))

    def _fractional(self, system: System, rows: range, direction: int) -> np.ndarray:
        """Fractional coordinates (len(rows),) along `direction` of the copies that rows stand for."""
        chosen = slice(rows.start, rows.stop)
        fractional = self._decomposition.cell.fractional(system.positions[chosen])[:, direction]
        return fractional + system.images[chosen, direction]

    def _exchange(self, system: System, rows: np.ndarray, direction: int, step: int) -> range:
        """Send `rows` one brick on, append what comes in as ghosts, note the stage; returns the range of new rows."""
        dest, shift = self._decomposition.neighbor(direction, step)
        source, _ = self._decomposition.neighbor(direction, -step)
        if dest is None:
            rows = rows[:0]
        packed = np.empty((len(rows), 8), np.int64)
        packed[:, 0] = system.ids[rows]
        packed[:, 1] = system.types[rows]
        packed[:, 2:5] = system.positions[rows].view(np.int64)
        packed[:, 5:8] = system.images[rows]
        packed[:, 5 + direction] += shift
        received = self._comm.send_recv(packed, dest, source)

        first, last = system.num_local, system.num_local + len(received)
        system.reserve(last)
        system.ids[first:last] = received[:, 0]
        system.types[first:last] = received[:, 1]
        system.positions[first:last] = np.ascontiguousarray(received[:, 2:5]).view(np.float64)
        system.images[first:last] = received[:, 5:8]
        system.num_ghosts += len(received)
        if dest is not None or source is not None:
            self._stages.append(_Stage(dest, source, rows, first, last))
        return range(first, last)

    def count_received(self) -> int:
        """Ghosts that come from other ranks in each exchange of positions; the others are this rank's own images."""
        return sum(stage.last - stage.first for stage in self._stages if stage.source != self._comm.rank)

    def update_positions(self, system: System) -> None:
        """Give all ghosts the positions their owners have now, bit for bit (collective)."""
        for stage in self._stages:
            outgoing = self._position_buffer[: len(stage.rows)]
            gather_rows(outgoing, system.positions, stage.rows)
            self._comm.send_recv(outgoing, stage.dest, stage.source, out=system.positions[stage.first : stage.last])

    def add_forces(self, system: System, with_atom_virials: bool = False) -> None:
        """Add what ghost rows hold in `forces` (and `atom_virials`) to their owners' rows (collective; accumulates).

        Integers: the order of additions does not matter. Ghost rows keep what they collected on the way. A sum that
        would leave the range of 64 bits is not stored: the row keeps its value and joins `system.bad_centres`.
        """
        self._add(system, system.forces)
        if with_atom_virials:
            if system.atom_virials is None:
                raise RuntimeError("add_forces: per-atom virials were not computed")
            self._add(system, system.atom_virials)

    def _add(self, system: System, values: np.ndarray) -> None:
        width = values.shape[1]
        longest = max((len(stage.rows) for stage in self._stages), default=0)
        if longest * width > len(self._integer_buffer):
            self._integer_buffer = np.empty(longest * width + longest, np.int64)
        if longest > len(self._overflowed):
            self._overflowed = np.empty(longest + longest // 8, np.int64)
        for stage in reversed(self._stages):
            incoming = self._integer_buffer[: len(stage.rows) * width].reshape(-1, width)
            self._comm.send_recv(values[stage.first : stage.last], stage.source, stage.dest, out=incoming)
            if count := add_rows(values, stage.rows, incoming, self._overflowed):
                system.bad_centres = np.union1d(system.bad_centres, self._overflowed[:count])
