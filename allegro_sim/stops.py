"""Requests from outside to end a run with a checkpoint: signals, and a limit of wall time.

    stops = Stops(max_hours=24.0)
    with stops.watching_signals():
        ...
        request = stops.request()        # of this rank; the largest of all ranks counts
        if ends_run(request): ... describe_request(request)

A request is one number, so that it can travel in a reduction that is made anyway. Signals are seen by a thread of their
own: Python runs its handlers between two instructions of the main thread, which may be inside a kernel or waiting for
another rank for as long as a step takes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

NOTHING = 0.0
CHECKPOINT = 1.0
"""Write a checkpoint at the next whole step that the host sees, and go on."""
TIME_IS_UP = 2.0
_SIGNAL = 100.0
"""Plus the number of the signal."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SECOND_INTERRUPT = 130
"""Exit code of a run that was interrupted twice: what a shell gives for SIGINT."""


def ends_run(request: float) -> bool:
    """Whether a request is to end the run, with a checkpoint."""
    return request >= TIME_IS_UP


def describe_request(request: float) -> str:
    """Who asked for the end of the run."""
    if request >= _SIGNAL:
        return signal.Signals(int(request - _SIGNAL)).name
    return "--max-hours"


class Stops:
    """What this rank has been asked for.

    Parameters
    ----------
    max_hours : wall time, in hours after `started`, at which to ask for the end; None: never
    started : reading of `time.monotonic`; now by default
    speaks : whether this rank confirms signals on standard error
    """

    def __init__(self, *, max_hours: float | None = None, started: float | None = None, speaks: bool = False) -> None:
        self.max_hours = max_hours
        self._started = monotonic() if started is None else started
        self._speaks = speaks
        self._signal = NOTHING
        self._interrupts = 0

    def request(self) -> float:
        """The request of this rank: NOTHING, TIME_IS_UP, or one for a signal."""
        if self._signal:
            return self._signal
        over = self.max_hours is not None and monotonic() - self._started >= self.max_hours * 3600.0
        return TIME_IS_UP if over else NOTHING

    def receive(self, number: int) -> None:
        """A signal has come. The second SIGINT ends this process, and with it all ranks, at once."""
        if number not in SIGNALS:
            return
        self._signal = _SIGNAL + number
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._tell("interrupted twice: ended without a checkpoint; --restart continues from the last one")
            os._exit(_SECOND_INTERRUPT)
        again = "; a second SIGINT ends it at once" if number == signal.SIGINT else ""
        self._tell(f"{signal.Signals(number).name}: the run ends after the steps under way, with a checkpoint{again}")

    def _tell(self, text: str) -> None:
        if self._speaks:
            # In one call, and not through Python's streams, which the main thread may hold.
            with suppress(OSError):
                os.write(2, f"allegro-sim: {text}\n".encode())

    @contextmanager
    def watching_signals(self) -> Iterator[None]:
        """Receive SIGNALS inside this block; the main thread only."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        watcher = threading.Thread(target=self._watch, args=(reading,), name="allegro-signals", daemon=True)
        watcher.start()
        # Python's own handler, at the level of C, writes the number to the pipe; what it would run later does nothing.
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        before = {number: signal.signal(number, _ignore) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writing)  # the watcher reads the end of the pipe
            watcher.join()
            os.close(reading)

    def _watch(self, reading: int) -> None:
        while received := os.read(reading, 1):
            self.receive(received[0])


def _ignore(*_arguments: object) -> None:
    """A handler that does nothing; SIG_IGN would not reach the pipe."""
