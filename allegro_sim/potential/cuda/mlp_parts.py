"""Where the MLPs' features stand: columns of buffers, and the CUDA text that reads and writes them.

A vector of features is a list of parts one after the other, each some columns of a buffer. The fused kernels get a
struct that finds a column of the vector; the wide path makes one product of cuBLAS a part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Part:
    """`width` columns of a buffer, a multiple of 8.

    Row z begins at offset + z stride; where an edge (or centre) has several rows, `each` of them, `step` numbers apart,
    row z begins at offset + z // each stride + z % each step. block: arrays (capacity, stride) that stand before this
    one in the buffer. added: what is written is added to what stands there; rounded: it is the operand of a TF32
    product, and rounded when written.
    """

    buffer: str
    offset: int
    stride: int
    width: int
    block: int = 0
    added: bool = False
    rounded: bool = False
    each: int = 1
    step: int = 0

    def address(self, column: str) -> str:
        """C++ for the place of a column of this part in row z."""
        if self.each == 1:
            return f"row_of({self.buffer}, z, {self.stride}) + ({self.offset} + {column})"
        row = f"row_of({self.buffer}, z / {self.each}, {self.stride}) + z % {self.each} * {self.step}"
        return f"{row} + ({self.offset} + {column})"

    def pointer(self) -> str:
        """C++ for where its block begins, from the kernel's argument."""
        return self.buffer + (f" + (long long){self.block} * capacity * {self.stride}" if self.block else "")


@dataclass(frozen=True)
class Span:
    """Where `size` features that follow each other in the model's order stand among the kernels' columns.

    From column `start` on; with `slots`, feature u slots + l stands at l `apart` + u (slot-major).
    """

    start: int
    size: int
    slots: int = 0
    apart: int = 0


def width_of(parts: tuple[Part, ...]) -> int:
    return sum(part.width for part in parts)


def buffers_of(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """Their buffers, each once."""
    return tuple(dict.fromkeys(part.buffer for part in parts))


def uses_capacity(parts: tuple[Part, ...]) -> bool:
    return any(part.block for part in parts)


def joined(parts: tuple[Part, ...], *, by_rounding: bool = False) -> tuple[Part, ...]:
    """Parts that follow each other in memory and are added to alike as one; `by_rounding`: and are rounded alike."""
    found: list[Part] = []
    for part in parts:
        part = part if by_rounding else replace(part, rounded=False)
        last = found[-1] if found else None
        if last and replace(last, width=part.width, offset=last.offset + last.width) == part:
            found[-1] = replace(last, width=last.width + part.width)
        else:
            found.append(part)
    return tuple(found)


def rows_text(name: str, parts: tuple[Part, ...]) -> str:
    """The struct `name`: at(z, k) is the address of column k of row z."""
    parts = joined(parts)
    lines = [f"  const REAL* {buffer};" for buffer in _members(parts)]
    lines += ["  DEVICE const REAL* at(int z, int k) const {"]
    start = 0
    for n, part in enumerate(parts):
        guard = "" if n == len(parts) - 1 else f"if (k < {start + part.width}) "
        lines.append(f"    {guard}return {part.address(_less('k', start))};")
        start += part.width
    return f"struct {name} {{\n" + "\n".join(lines) + "\n  }\n};\n"


def columns_text(name: str, parts: tuple[Part, ...]) -> str:
    """The struct `name`, of two columns of row z: store(z, column, pair) writes a result, rounded if its reader wants
    it; there(z, column, exists) is what it is added to, -0 where it is not. ADDS: whether there is anything to add to.

    Parts that lie side by side differ without branches, so that loads of many columns are under way together.
    """
    places = _places(joined(parts, by_rounding=True))
    lines = [f"  REAL* {buffer};" for buffer in _members(parts)]
    lines += [f"  static constexpr bool ADDS = {'true' if any(place.added for place in places) else 'false'};"]
    lines += ["  DEVICE void store(int z, int column, REAL2 pair) const {"]
    for place in places:
        rounded = _condition(place.rounded, place)
        both = f"{rounded} ? rounded_if<true>(pair) : pair"
        value = {"true": "rounded_if<true>(pair)", "false": "pair"}.get(rounded, both)
        guard = "" if place is places[-1] else f"if (column < {place.end}) "
        lines.append(f"    {guard}return store_pair({place.address}, {value});")
    lines += ["  }"]
    if any(place.added for place in places):
        lines += ["  DEVICE REAL2 there(int z, int column, bool exists) const {"]
        lines += ["    REAL2 pair = pair_of(-REAL(0), -REAL(0));"]
        for place in places:
            condition = _condition(place.added, place) if len(places) == 1 else _spans(place.added)
            lines.append(f"    if (exists && ({condition})) pair = load_pair({place.address});")
        lines += ["    return pair;", "  }"]
    return f"struct {name} {{\n" + "\n".join(lines) + "\n};\n"


@dataclass
class _Place:
    """Columns start .. end of a vector that one expression finds, and which of them are added to and rounded."""

    address: str
    start: int
    end: int
    added: list[tuple[int, int]] = field(default_factory=list)
    rounded: list[tuple[int, int]] = field(default_factory=list)


def _places(parts: tuple[Part, ...]) -> list[_Place]:
    found: list[_Place] = []
    start = 0
    for part in parts:
        address, end = replace(part, offset=part.offset - start).address("column"), start + part.width
        if not found or found[-1].address != address:
            found.append(_Place(address, start, end))
        found[-1].end = end
        for wanted, spans in ((part.added, found[-1].added), (part.rounded, found[-1].rounded)):
            if wanted and spans and spans[-1][1] == start:
                spans[-1] = spans[-1][0], end
            elif wanted:
                spans.append((start, end))
        start = end
    return found


def _condition(spans: list[tuple[int, int]], place: _Place) -> str:
    """C++: whether a column of this place lies in one of these spans."""
    return "true" if spans == [(place.start, place.end)] else _spans(spans, place.start, place.end)


def _spans(spans: list[tuple[int, int]], first: int = 0, last: int = -1) -> str:
    """C++: whether `column`, which lies from `first` to `last`, lies in one of these spans."""
    inside = []
    for start, end in spans:
        limits = [f"column >= {start}"] * (start != first) + [f"column < {end}"] * (end != last)
        inside.append(f"({' && '.join(limits)})")
    return " || ".join(inside) or "false"


def value_text(name: str, parts: tuple[Part, ...]) -> str:
    """A value of one of these structs, from the kernel's arguments."""
    pointers = {part.buffer: part.pointer() for part in parts}
    return f"{name}{{{', '.join(pointers.values())}}}"


def _members(parts: tuple[Part, ...]) -> list[str]:
    blocks = {(part.buffer, part.block) for part in parts}
    names = [buffer for buffer, _ in blocks]
    assert len(set(names)) == len(names), "parts of one vector stand in different blocks of a buffer"
    return list(buffers_of(parts))


def _less(name: str, start: int) -> str:
    return f"{name} - {start}" if start else name
