"""Named, nested wall-clock timers.

    timers = Timers()
    with timers("forces"):
        with timers("tensor track"):    # accounted as "forces/tensor track"
            ...
    for name, calls, seconds, percent in timers.table(): ...

Entering and leaving a section costs about a microsecond and allocates nothing after its first use, so timers stay on in
production runs. They are not thread-safe: each rank times its main thread.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple


class TimerRow(NamedTuple):
    """One line of the table: `name` is the path of names joined by "/", `percent` is of the time since `restart`."""

    name: str
    calls: int
    seconds: float
    percent: float


class _Section:
    """One name at one place in the nesting; a context manager that may be entered any number of times."""

    __slots__ = ("calls", "children", "name", "parent", "seconds", "started", "timers")

    def __init__(self, timers: Timers, parent: _Section | None, name: str) -> None:
        self.timers = timers
        self.parent = parent
        self.name = name
        self.children: dict[str, _Section] = {}
        self.calls = 0
        self.seconds = 0.0
        self.started = 0.0

    def __enter__(self) -> None:
        self.timers._current = self
        self.started = perf_counter()

    def __exit__(self, *_exception: object) -> None:
        self.seconds += perf_counter() - self.started
        self.calls += 1
        assert self.parent is not None
        self.timers._current = self.parent


class Timers:
    """A tree of sections; calling it with a name gives the section of that name inside the one now entered."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything timed so far; percentages count from now. Not to be called inside a section."""
        self._root = _Section(self, None, "")
        self._current = self._root
        self._began = perf_counter()

    def __call__(self, name: str) -> _Section:
        current = self._current
        section = current.children.get(name)
        if section is None:
            section = current.children[name] = _Section(self, current, name)
        return section

    @property
    def elapsed(self) -> float:
        """Seconds since the timers were made or restarted."""
        return perf_counter() - self._began

    def seconds(self, path: str) -> float:
        """Seconds spent so far in the section of this path ("forces" or "forces/tensor track"); 0 if never entered."""
        section = self._root
        for name in path.split("/"):
            if name not in section.children:
                return 0.0
            section = section.children[name]
        return section.seconds

    def table(self) -> list[TimerRow]:
        """Rows in order of first use, each section followed by those inside it; then "other" (untimed) and "total"."""
        total = self.elapsed
        rows: list[TimerRow] = []

        def visit(section: _Section, prefix: str) -> None:
            for child in section.children.values():
                path = prefix + child.name
                rows.append(TimerRow(path, child.calls, child.seconds, 100.0 * child.seconds / total))
                visit(child, path + "/")

        visit(self._root, "")
        timed = sum(child.seconds for child in self._root.children.values())
        rows.append(TimerRow("other", 1, total - timed, 100.0 * (total - timed) / total))
        rows.append(TimerRow("total", 1, total, 100.0))
        return rows
