"""How a chain of products runs on tiles of edges: tile, warps, slabs and shared memory (kernels/cuda/chain.cuh).

Traffic an edge, in numbers, of an MLP with K inputs, N results, H activated features and W elements of its matrices:
forward reads K and writes N + H (slopes), backward reads N + H and writes K (a latent reads its K - UP gradients too).
The last latent and the read-out, there and back in one kernel, read K of the latent and write its S features, slopes
and the gradients of both: what they read again of these is still in the second-level cache, a tile's few hundred KB;
the matrices go from the second-level cache to shared memory once a tile, W / tile numbers an edge. With 128 scalars, 64
channels, two layers and two hidden layers of 128 everywhere: 304 k multiply-adds and 9.5 KB of matrices (float32).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from allegro_sim.potential.cuda.mlp_shapes import Dimensions, MlpShape, turning, turns

SHARED_BYTES = 99 * 1024
"""Shared memory of a block, at most: what compute capability 12.0 has."""

# Widest hidden features -> edges of a tile, warps along the tile and across the columns. A warp's sums are then at most
# 32 rows by 64 columns, 64 numbers a lane; in float64 16 rows. Narrow MLPs wait for memory more than they multiply: on
# an H200 they reached 47 to 68 % of their roof with 128 edges a tile. With 64 a lane has half the sums, so that twice
# as many warps share a multiprocessor, and their matrices, read once a tile, are small.
TILES: dict[int | str, tuple[tuple[int, tuple[int, int, int]], ...]] = {
    4: ((32, (64, 4, 1)), (64, (64, 4, 1)), (128, (128, 4, 2)), (256, (64, 2, 4))),
    "SPLIT_TF32": ((32, (64, 4, 1)), (64, (64, 4, 1)), (256, (64, 2, 4))),  # twice the operands beside the sums
    8: ((32, (64, 4, 1)), (64, (64, 4, 1)), (128, (64, 4, 2)), (256, (32, 2, 4))),
}
# Numbers k of a slab, and slabs under way or in use: the first choice that fits.
SLABS: dict[int, tuple[tuple[int, int], ...]] = {
    4: ((16, 3), (16, 2), (8, 3), (8, 2)),
    8: ((8, 3), (8, 2)),
}
_MOST_EIGHTS = 8  # eights of columns a warp


@dataclass(frozen=True)
class ChainLayout:
    """Constants of one direction of an MLP's dense products; the names of kernels/cuda/chain.cuh in small letters.

    inner, outer: rows K and columns N of each product's matrix; weights: its place; method: how it is multiplied.
    from_memory: the first product's rows come from memory in slabs, otherwise `filled` columns of the tile are there.
    turned: columns of the tile in the other direction, if one kernel goes both ways. beside: other chains of the same
    kernel, which share its tile.
    """

    inner: tuple[int, ...]
    outer: tuple[int, ...]
    weights: tuple[int, ...]
    method: tuple[str, ...]
    from_memory: bool
    filled: int
    real_bytes: int
    turned: int = 0
    beside: tuple[ChainLayout, ...] = ()

    @property
    def products(self) -> int:
        return len(self.inner)

    @property
    def held(self) -> int:
        """Columns of the tile."""
        return max([self.filled, self.turned, *self.outer[:-1]])

    def _choice(self) -> tuple[int, int, int]:
        chains = (self, *self.beside)
        width = max(chain.held or min(max(chain.outer, default=8), 128) for chain in chains)
        split = any("SPLIT_TF32" in chain.method for chain in chains)
        for widest, choice in TILES["SPLIT_TF32" if split else self.real_bytes]:
            if width <= widest:
                return choice
        raise ValueError(f"{width} hidden features do not fit the fused kernels")

    @property
    def tile(self) -> int:
        return self._choice()[0]

    @property
    def warps(self) -> tuple[int, int]:
        return self._choice()[1:]

    @property
    def threads(self) -> int:
        return 32 * self.warps[0] * self.warps[1]

    @property
    def blocks_together(self) -> int:
        """Blocks that share a multiprocessor's registers: the more sums a lane has, the fewer, so that none spills."""
        few = self.held <= 128 and not {"MULTIPLY_ADD", "SUMS_OF_EIGHT"} & set(self.method)
        if "SPLIT_TF32" in self.method and not (self.from_memory or self.turned or self.beside):
            few = False  # what fills the tile needs more beside twice the operands
        rows = self.tile // (16 * self.warps[0])
        sums = max((4 * rows * self.split(n)[0] for n in self.outer), default=0)  # of a lane
        threads = 512 if few else 256
        if few and self.real_bytes == 4:
            threads = 1024 if 0 < sums <= 16 else (640 if "SPLIT_TF32" in self.method else 768) if sums <= 32 else 512
        return threads // self.threads

    def split(self, columns: int) -> tuple[int, int]:
        """Eights of columns a warp, and blocks of columns, of a product."""
        tiles = -(-columns // 8)
        blocks = -(-tiles // (_MOST_EIGHTS * self.warps[1]))
        return -(-tiles // (blocks * self.warps[1])), blocks

    @property
    def slab(self) -> int:
        return self._slabs()[0]

    @property
    def stages(self) -> int:
        return self._slabs()[1]

    @property
    def shared_bytes(self) -> int:
        return self._bytes(*self._slabs())

    @property
    def totals_at(self) -> int:
        """Numbers before the sums over columns, if they have a place of their own."""
        return (self.shared_bytes - self._totals_bytes) // self.real_bytes if self.turned else 0

    @property
    def _totals_bytes(self) -> int:
        return self._sums_bytes if self.turned else 0

    @property
    def _sums_bytes(self) -> int:
        return self.warps[1] * self.tile * 8

    def _slabs(self) -> tuple[int, int]:
        for choice in SLABS[self.real_bytes]:
            if self._bytes(*choice) <= SHARED_BYTES:
                return choice
        raise ValueError(f"a chain {self.inner} -> {self.outer} does not fit {SHARED_BYTES} bytes of shared memory")

    def _bytes(self, slab: int, stages: int) -> int:
        numbers = self.tile_numbers(slab, stages) + stages * self.stage_numbers(slab)
        return numbers * self.real_bytes + self._totals_bytes

    def tile_numbers(self, slab: int, stages: int) -> int:
        """Numbers of the tile, or of the slabs of rows or the sums over columns that take its place."""
        rows = stages * self.tile * row_stride(slab, self.real_bytes) if self.from_memory else 0
        return max(rows, self._sums_bytes // self.real_bytes, self.tile * row_stride(self.held, self.real_bytes))

    def stage_numbers(self, slab: int) -> int:
        columns = [self.split(n)[0] * self.warps[1] * 8 for n in self.outer]
        return slab * max((slab_stride(n) for n in columns), default=0)

    def text(self, name: str) -> str:
        """The struct `name`."""
        slab, stages = self._slabs()
        numbers = {
            "PRODUCTS": self.products, "TILE": self.tile, "WARPS_M": self.warps[0], "WARPS_N": self.warps[1],
            "SLAB": slab, "STAGES": stages, "SLAB_STRIDE": row_stride(slab, self.real_bytes),
            "TILE_STRIDE": row_stride(self.held, self.real_bytes), "TILE_NUMBERS": self.tile_numbers(slab, stages),
            "STAGE_NUMBERS": self.stage_numbers(slab),
        }  # fmt: skip
        splits = [self.split(n) for n in self.outer]
        arrays = {
            "K": self.inner, "N": self.outer, "NJ": [s[0] for s in splits], "BLOCKS": [s[1] for s in splits],
            "WEIGHTS": self.weights, "METHOD": self.method,
        }  # fmt: skip
        lines = [f"static constexpr int {key} = {value};" for key, value in numbers.items()]
        lines += [f"static constexpr bool FROM_MEMORY = {'true' if self.from_memory else 'false'};"]
        lines += [array_text(key, values) for key, values in arrays.items()]
        return f"struct {name} {{\n" + "".join(f"  {line}\n" for line in lines) + "};\n"


def array_text(name: str, values: object) -> str:
    """A constexpr array, of one 0 if there are no values."""
    texts = [str(value) for value in values] or ["0"]  # type: ignore[attr-defined]
    return f"static constexpr int {name}[{len(texts)}] = {{{', '.join(texts)}}};"


def row_stride(columns: int, real_bytes: int) -> int:
    """Numbers from a row of the tile to the next, `columns` being a multiple of 8.

    float32: 8 or 24 modulo 32. Half a warp reads or writes pairs at rows g = 0..3, columns 2 t: words 8 g + 2 t.
    float64: 4 or 12 modulo 16. Half a warp reads single numbers, words 8 g + 2 t again.
    """
    if real_bytes == 8:
        return columns + 4
    return columns + 8 if columns % 16 == 0 else columns


def slab_stride(columns: int) -> int:
    """Numbers from a row of a slab of weights to the next: 4 or 12 modulo 16. Lanes read rows 2 t, columns g."""
    return columns + 4


@lru_cache(maxsize=64)
def weight_places(shapes: tuple[MlpShape, ...]) -> tuple[dict[tuple[str, int, bool], int], int]:
    """Where the matrix of (MLP, product, transposed?) begins among the weights, and the numbers of all."""
    places, at = {}, 0
    for shape in shapes:
        for n in shape.dense:
            for transposed in (False, True):
                places[shape.name, n, transposed] = at
                at += shape.padded[n] * shape.padded[n + 1]
    return places, at


def chain_layout(dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape, backward: bool) -> ChainLayout:
    """Layout of an MLP's dense products, forward or backward."""
    layout = _alone(dimensions, shapes, shape, backward)
    if shape not in (together := turning(shapes)):
        return layout
    others = (_alone(dimensions, shapes, one, way) for one in together for way in (False, True))
    return replace(layout, beside=tuple(others))


def _alone(dimensions: Dimensions, shapes: tuple[MlpShape, ...], shape: MlpShape, backward: bool) -> ChainLayout:
    order = list(reversed(shape.dense)) if backward else list(shape.dense)
    places = weight_places(shapes)[0]
    ends = (1, 0) if backward else (0, 1)
    filled_by_others = (shape.name == "readout" or shape.ends_activated) if backward else shape.is_embedding
    inner = tuple(shape.padded[n + ends[0]] for n in order)
    return ChainLayout(
        inner=inner,
        outer=tuple(shape.padded[n + ends[1]] for n in order),
        weights=tuple(places[shape.name, n, backward] for n in order),
        method=tuple(_method(dimensions, shape, n, backward) for n in order),
        from_memory=bool(order) and not filled_by_others,
        filled=inner[0] if order and filled_by_others else 0,
        real_bytes=dimensions.real_bytes,
        turned=max(shape.padded[1:], default=0) if turns(shape) else 0,
    )


def _method(dimensions: Dimensions, shape: MlpShape, n: int, backward: bool) -> str:
    if not shape.large[n]:
        # A network of few features feels the last bit of each, and these sums cost it little.
        return "SUMS_OF_EIGHT" if dimensions.precision == "single" else "MULTIPLY_ADD"
    if dimensions.precision != "mixed":
        if not dimensions.matrix_units:
            return "MULTIPLY_ADD"
        return "MATRIX_F64" if dimensions.precision == "double" else "SPLIT_TF32"
    if n == (len(shape.large) - 1 if backward else 0):  # it reads what others wrote
        return "MATRIX_TF32" if (shape.rounded_gradients if backward else shape.rounded_inputs) else "ROUNDING_TF32"
    return "MATRIX_TF32"
