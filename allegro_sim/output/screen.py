"""What a run prints, on rank 0 only: banner, thermodynamics, progress, timers, and the files it made.

    screen = Screen(enabled=comm.rank == 0)
    screen.banner("allegro-sim 0.1.0", [("device", "cpu"), ("atoms", "192")])
    screen.message("compiling kernels ...");  screen.warning("the newest checkpoint is damaged")
    screen.start(first_step=0, last_step=1000, timestep_fs=0.5)
    screen.thermo(row);  screen.progress(step)          # every step; cheap
    screen.finish();  screen.summary(timers.table(), paths)

On a terminal progress is a bar with the time left, steps/s and ns/day; in a file or pipe it is a plain line now and
then. Every line is flushed, so that the log of a batch job can be read while it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm

from allegro_sim.errors import StorageStop
from allegro_sim.timers import TimerRow

_COLUMNS = {  # column of the thermo row: (heading, width, format); the volume never changes
    "step": ("step", 10, "d"),
    "time_ps": ("time_ps", 11, ".4f"),
    "temperature_K": ("T_K", 9, ".2f"),
    "potential_eV": ("potential_eV", 16, ".4f"),
    "kinetic_eV": ("kinetic_eV", 14, ".4f"),
    "total_eV": ("total_eV", 16, ".4f"),
    "conserved_eV": ("conserved_eV", 16, ".4f"),
    "pressure_bar": ("pressure_bar", 14, ".1f"),
}
_FS_PER_NS = 1.0e6
_SECONDS_PER_DAY = 86400.0
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}, {ns_per_day}]"


def ns_per_day(steps_per_second: float, timestep_fs: float) -> float:
    """Simulated nanoseconds in a day of wall time."""
    return steps_per_second * timestep_fs * _SECONDS_PER_DAY / _FS_PER_NS


def format_duration(seconds: float) -> str:
    """H:MM:SS."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _has_room_for_bar(stream: TextIO) -> bool:
    """Whether the stream is a terminal that knows its width: a bar on one of zero columns would be invisible."""
    return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0


class _Bar(tqdm):
    """tqdm's bar, which also knows the length of a step."""

    timestep_fs = 0.0

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        rate = values["rate"]
        if not rate:
            rate = (values["n"] - values["initial"]) / values["elapsed"] if values["elapsed"] > 0 else 0.0
        values["ns_per_day"] = f"{ns_per_day(rate, self.timestep_fs):.3g} ns/day"
        return values


class Screen:
    """Prints when `enabled`, does nothing otherwise.

    Parameters
    ----------
    stream : where to print; standard output by default
    interactive : bar instead of lines; by default whether the stream is a terminal
    seconds_between_lines : least time between two plain lines of progress
    """

    def __init__(
        self,
        *,
        enabled: bool = True,
        stream: TextIO | None = None,
        interactive: bool | None = None,
        seconds_between_lines: float = 10.0,
    ) -> None:
        self.enabled = enabled
        self._stream = sys.stdout if stream is None else stream
        self._interactive = _has_room_for_bar(self._stream) if interactive is None else interactive
        self._between = seconds_between_lines
        self._bar: _Bar | None = None
        self._first_step = self._last_step = self._step = 0
        self._timestep_fs = 0.0
        self._began = 0.0
        self._reported: tuple[float, int] = (0.0, 0)  # time and step of the last line of progress

    def message(self, text: str = "") -> None:
        """One line (or several), as it is. Raises StorageStop when nobody takes it: a full disk, a closed pipe."""
        if not self.enabled:
            return
        try:
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                self._stream.write(text + "\n")
            self._stream.flush()
        except OSError as error:
            raise StorageStop(f"the log cannot be written: {error.strerror}. Continue with --restart") from None

    def warning(self, text: str) -> None:
        """A line that begins with "Warning"."""
        self.message(f"Warning: {text}")

    def banner(self, title: str, pairs: Iterable[tuple[str, object]]) -> None:
        """Title, then one aligned line a pair of label and value."""
        pairs = list(pairs)
        width = max((len(label) for label, _ in pairs), default=0)
        self.message("\n".join([title, *(f"  {label:<{width}}  {value}" for label, value in pairs), ""]))

    def start(self, first_step: int, last_step: int, timestep_fs: float) -> None:
        """The loop begins after `first_step`: print the heading of the thermodynamics and start the clock."""
        self._first_step = self._step = first_step
        self._last_step = last_step
        self._timestep_fs = timestep_fs
        self._began = monotonic()
        self._reported = (self._began, first_step)
        if not self.enabled:
            return
        self.message("".join(f"{heading:>{width}}" for heading, width, _ in _COLUMNS.values()))
        if self._interactive:
            self._bar = _Bar(
                total=last_step,
                initial=first_step,
                file=self._stream,
                unit=" steps",
                bar_format=_BAR,
                dynamic_ncols=True,
                leave=False,
                mininterval=0.2,
                smoothing=0.1,
            )
            self._bar.timestep_fs = timestep_fs

    def thermo(self, row: Mapping[str, float | int | None]) -> None:
        """One aligned line of thermodynamics; quantities that do not exist are a dash."""
        if self.enabled:
            fields = ((row[name], width, form) for name, (_, width, form) in _COLUMNS.items())
            self.message(
                "".join(f"{'-' if value is None else format(value, form):>{width}}" for value, width, form in fields)
            )

    def progress(self, step: int) -> None:
        """`step` is done. Call after every step."""
        self._step = step
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        elif monotonic() - self._reported[0] >= self._between and step < self._last_step:
            self._plain_line(step)

    def _plain_line(self, step: int) -> None:
        now = monotonic()
        before, step_before = self._reported
        rate = (step - step_before) / (now - before)
        left = format_duration((self._last_step - step) / rate) if rate > 0 else "?"
        self.message(
            f"  {100 * step // max(self._last_step, 1)} %, step {step} of {self._last_step}, {rate:.4g} steps/s, "
            f"{ns_per_day(rate, self._timestep_fs):.3g} ns/day, {left} left"
        )
        self._reported = (now, step)

    def finish(self) -> None:
        """The loop is over, at whatever step: remove the bar and print the average speed."""
        seconds = monotonic() - self._began
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        steps = self._step - self._first_step
        if steps > 0:
            rate = steps / max(seconds, 1.0e-9)
            speed = f"{rate:.4g} steps/s, {ns_per_day(rate, self._timestep_fs):.3g} ns/day"
            self.message(f"\n{steps} steps in {format_duration(seconds)}: {speed}")

    def summary(self, timers: Sequence[TimerRow], files: Sequence[Path]) -> None:
        """Table of timers, names nested by indentation, and the path of every file written."""
        names = ["  " * row.name.count("/") + row.name.rsplit("/", 1)[-1] for row in timers]
        width = max([len(name) for name in names] + [len("section")])
        lines = ["", f"{'section':<{width}}{'calls':>12}{'seconds':>13}{'%':>8}"]
        for name, row in zip(names, timers, strict=True):
            lines.append(f"{name:<{width}}{row.calls:>12d}{row.seconds:>13.3f}{row.percent:>8.1f}")
        if files:
            lines += ["", "written:", *(f"  {path}" for path in files)]
        self.message("\n".join(lines))
