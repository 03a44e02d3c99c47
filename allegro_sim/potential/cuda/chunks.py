"""The chunk table: runs of whole centres, made from the edges there are when the neighbour list is built.

Until the next build the number of edges of a run changes, so each has room for more than it holds: the capacity, which
is the same for all chunks of a table, since grids and products run over it. Where the room is too small a status word
says so, and the table is made anew from the present counts before any position moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROW_MULTIPLE = 128
"""Rows of a chunk come in multiples of this: tiles of every size fill them."""

DEVIATIONS = 4.0
"""Room of a chunk beyond its edges, in standard deviations of a Poisson count (a liquid's spread is smaller)."""


@dataclass(frozen=True)
class ChunkTable:
    """centers: int32 (chunks + 1,), run n is the centres centers[n] .. centers[n + 1]; capacity: rows of every chunk;
    max_centers: most centres of a chunk; edges: of all chunks when the table was made.
    """

    centers: np.ndarray
    capacity: int
    max_centers: int
    edges: int

    @property
    def num_chunks(self) -> int:
        return len(self.centers) - 1

    @property
    def padding_share(self) -> float:
        """Part of all rows that held no edge when the table was made."""
        return 1.0 - self.edges / (self.num_chunks * self.capacity) if self.num_chunks else 0.0

    def holds(self, counts: np.ndarray) -> bool:
        """Whether these edges of the same centres fit, with half of the usual room to spare, and are not far fewer."""
        if len(counts) != self.centers[-1]:
            return False
        total = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        edges = np.diff(total[self.centers])
        return self._has_room(edges) and int(total[-1]) >= 0.8 * self.edges

    def may_hold(self, growth: float) -> bool:
        """As `holds` of a table of one chunk, if all edges became `growth` times as many; of more chunks never."""
        return self.num_chunks == 1 and growth >= 0.8 and self._has_room(np.array([growth * self.edges]))

    def _has_room(self, edges: np.ndarray) -> bool:
        return bool((edges + 0.5 * DEVIATIONS * np.sqrt(edges) <= self.capacity).all())


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple that is at least `count`."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Blocks:
    """What the rows of a chunk are made of: `sizes`, ascending, are numbers of rows that a product may have."""

    sizes: tuple[int, ...] = (ROW_MULTIPLE,)

    def split(self, rows: int) -> list[int]:
        """Few blocks, of about equal size, that hold so many rows."""
        found: list[int] = []
        while rows > 0:
            share = -(-rows // -(-rows // self.sizes[-1]))
            found.append(next(size for size in self.sizes if size >= share))
            rows -= found[-1]
        return found

    def whole(self, rows: int) -> int:
        """The rows of a chunk with at least so many: what `split` fills without a rest."""
        if len(self.sizes) == 1:
            return round_up(rows, self.sizes[0])
        while (held := sum(self.split(rows))) > rows:
            rows = held
        return rows


def rows_for(edges: int, margin: float = 1.0, blocks: Blocks = Blocks()) -> int:
    """Capacity for a chunk that holds `edges` now: with the room of `DEVIATIONS`, times `margin`."""
    return blocks.whole(edges + int(np.ceil(margin * DEVIATIONS * np.sqrt(max(edges, 1)))))


def edges_for(capacity: int, margin: float = 1.0) -> int:
    """The most edges a chunk of this capacity may hold when a table is made: inverse of `rows_for`."""
    room = margin * DEVIATIONS
    return int((np.sqrt(0.25 * room * room + capacity) - 0.5 * room) ** 2)


def make_table(counts: np.ndarray, max_capacity: int, *, margin: float = 1.0, blocks: Blocks = Blocks()) -> ChunkTable:
    """Cut the centres into chunks of about equal numbers of edges.

    Parameters
    ----------
    counts : int (owned,), edges within the cutoff of every centre
    max_capacity : rows of the largest chunk there should be, made of `blocks`; it is larger only where a
        single centre has more edges than that
    margin : factor on the room for more edges
    blocks : what the rows of a chunk are made of
    """
    counts = np.asarray(counts, np.int64)
    total = np.concatenate([[0], np.cumsum(counts)])
    most_centers, largest = centers_for(max_capacity), int(counts.max(initial=0))
    limit = max(edges_for(max_capacity, margin), largest, 1)
    centers = _cut(total, limit, most_centers)
    if len(centers) > 1:
        # Greedy runs leave the last one short: as many runs of equal size. A run ends before the centre that would
        # take it past the aim, so each has more than its share, and there are no more of them.
        share = -(-int(total[-1]) // (len(centers) - 1))
        centers = _cut(total, min(limit, share + largest), most_centers)
    return ChunkTable(
        centers=centers,
        capacity=rows_for(int(np.diff(total[centers]).max(initial=0)), margin, blocks),
        max_centers=int(np.diff(centers).max(initial=1)),
        edges=int(total[-1]),
    )


def _cut(total: np.ndarray, limit: int, most_centers: int) -> np.ndarray:
    """Runs of at most `limit` edges and `most_centers` centres; total: edges before each centre."""
    ends = [0]
    while ends[-1] < len(total) - 1:
        start = ends[-1]
        end = int(np.searchsorted(total, total[start] + limit, side="right")) - 1
        ends.append(min(end, start + most_centers))
    return np.array(ends, np.int32)


def centers_for(capacity: int) -> int:
    """Most centres of a chunk: more than one for every four rows only where atoms have next to no neighbours."""
    return max(64, capacity // 4)
