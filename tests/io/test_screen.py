"""What a run prints, and the timers that it prints."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from allegro_sim.output.screen import Screen, format_duration, ns_per_day
from allegro_sim.timers import TimerRow, Timers

ROW = {
    "step": 100,
    "time_ps": 0.05,
    "temperature_K": 301.234,
    "potential_eV": -14983.529022,
    "kinetic_eV": 7.5,
    "total_eV": -14976.029022,
    "conserved_eV": -14976.1,
    "pressure_bar": 34072.04,
    "volume_A3": 956.4,
}


class Log(io.StringIO):
    """A stream that counts how often it is flushed."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def play(screen: Screen, steps: int = 5) -> None:
    screen.banner("allegro-sim 1.0", [("device", "cpu"), ("edges per atom", "42.0")])
    screen.warning("the disk is nearly full")
    screen.start(0, steps, timestep_fs=0.5)
    for step in range(1, steps + 1):
        screen.progress(step)
    screen.thermo(ROW)
    screen.finish()
    screen.summary([TimerRow("forces", 5, 1.5, 75.0), TimerRow("forces/halo", 5, 0.5, 25.0)], [Path("out/thermo.csv")])


def test_a_log_file_gets_plain_flushed_lines() -> None:
    log = Log()
    play(Screen(stream=log, seconds_between_lines=0.0))
    text = log.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "allegro-sim 1.0"
    assert "  device          cpu" in lines
    assert "  edges per atom  42.0" in lines
    assert "Warning: the disk is nearly full" in lines
    assert any("40 %, step 2 of 5" in line and "steps/s" in line and "ns/day" in line for line in lines)
    assert any(line.startswith("5 steps in 0:00:0") for line in lines)
    assert any(line.startswith("  halo ") and line.endswith("25.0") for line in lines)
    assert "  out/thermo.csv" in lines
    assert log.flushes >= 8


def test_progress_lines_keep_their_distance() -> None:
    log = Log()
    play(Screen(stream=log), steps=1000)
    assert "step 999 of 1000" not in log.getvalue()


def test_thermo_lines_stand_under_their_headings() -> None:
    log = Log()
    screen = Screen(stream=log)
    screen.start(0, 100, 0.5)
    screen.thermo(ROW)
    screen.thermo(ROW | {"pressure_bar": None, "volume_A3": None})
    heading, first, second = log.getvalue().splitlines()
    assert heading.split() == [
        "step",
        "time_ps",
        "T_K",
        "potential_eV",
        "kinetic_eV",
        "total_eV",
        "conserved_eV",
        "pressure_bar",
    ]
    assert len(heading) == len(first) == len(second)
    assert first.split()[0] == "100"
    assert first.split()[3] == "-14983.5290"
    assert second.split()[-2:] == ["-14976.1000", "-"]


def test_a_terminal_gets_a_bar_with_speed() -> None:
    log = Log()
    screen = Screen(stream=log, interactive=True)
    screen.start(0, 3, timestep_fs=0.5)
    for step in range(1, 4):
        time.sleep(0.25)  # the bar refreshes every 0.2 s
        screen.progress(step)
    screen.thermo(ROW)
    screen.finish()
    text = log.getvalue()
    assert "2/3" in text
    assert "ns/day" in text
    assert re.search(r"3 steps in 0:00:0[1-9]: \d", text)  # a busy machine may take more than the 0.75 s


def test_other_ranks_print_nothing() -> None:
    log = Log()
    play(Screen(enabled=False, stream=log))
    assert log.getvalue() == ""


def test_speed_in_nanoseconds_a_day() -> None:
    assert ns_per_day(100.0, 0.5) == pytest.approx(100 * 0.5e-6 * 86400)
    assert format_duration(3725.4) == "1:02:05"


def test_timers_nest_and_add_up() -> None:
    timers = Timers()
    for _ in range(3):
        with timers("forces"), timers("halo"):
            time.sleep(0.002)
        with timers("output"):
            pass
    rows = {row.name: row for row in timers.table()}
    assert list(rows) == ["forces", "forces/halo", "output", "other", "total"]
    assert rows["forces"].calls == rows["forces/halo"].calls == 3
    assert rows["total"].seconds >= rows["forces"].seconds >= rows["forces/halo"].seconds >= 0.006
    top = sum(rows[name].percent for name in ("forces", "output", "other"))
    assert top == pytest.approx(100.0)
    assert timers.seconds("forces/halo") == rows["forces/halo"].seconds
    assert timers.seconds("nothing") == 0.0


def test_timers_survive_exceptions_and_restart() -> None:
    timers = Timers()
    with pytest.raises(KeyError), timers("forces"):
        raise KeyError
    with timers("output"):
        pass
    assert [row.name for row in timers.table()] == ["forces", "output", "other", "total"]
    timers.restart()
    assert [row.name for row in timers.table()] == ["other", "total"]
