"""The thread that writes a run's files, so that steps go on meanwhile.

    writer = WriterThread()
    writer.wait_for_room(holds_atoms=True)          # as long as two sets of atoms wait to be written
    writer.submit(job, holds_atoms=True)            # a function without arguments
    writer.drain()                                  # until all jobs are done
    writer.end()

Jobs are done one after the other, in the order given. The first error ends the thread: what was given after that job is
dropped, and every later call raises the error.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from allegro_sim.output.snapshot import SNAPSHOTS

MOST_JOBS = 1024
"""Jobs without atoms, which are a row of numbers each, that may wait."""


class WriterThread:
    """Does jobs in a thread of its own, which the first of them starts. For one thread to give them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], None], bool]] = deque()  # the first is being done
        self._error: BaseException | None = None
        self._ending = False
        self._thread: threading.Thread | None = None

    @property
    def failed(self) -> bool:
        """Whether a job has raised an error."""
        return self._error is not None

    def wait_for_room(self, *, holds_atoms: bool) -> None:
        """Return when a job, with atoms or without, may be given. Raises the error of a job."""
        self._wait_until(lambda: self._has_room(holds_atoms))

    def _has_room(self, holds_atoms: bool) -> bool:
        if holds_atoms:
            return sum(atoms for _, atoms in self._jobs) < SNAPSHOTS
        return len(self._jobs) < MOST_JOBS

    def submit(self, job: Callable[[], None], *, holds_atoms: bool) -> None:
        """Give a job, after `wait_for_room`. It is dropped where another has failed since: the next call tells."""
        with self._changed:
            assert self.failed or self._has_room(holds_atoms)
            if self.failed:
                return
            self._jobs.append((job, holds_atoms))
            if self._thread is None:
                # A daemon: a write that never comes back must not keep the program from its end.
                self._thread = threading.Thread(target=self._work, name="allegro-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when all jobs are done. Raises the error of a job."""
        self._wait_until(lambda: not self._jobs)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.failed or condition())
            if self._error is not None:
                raise self._error

    def end(self, seconds: float | None = None) -> bool:
        """Have all jobs done, and end the thread; after so many seconds only the one that has begun.

        Returns whether the thread has ended, by an error or without. Raises nothing; may be called again.
        """
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return True
        with self._changed:
            while len(self._jobs) > 1:
                self._jobs.pop()
        return False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs) or self._ending)
                if not self._jobs:
                    return
                job = self._jobs[0][0]
            try:
                job()
            except BaseException as error:  # any: the thread that gave the job raises it
                with self._changed:
                    self._error = error
                    self._jobs.clear()
                    self._changed.notify_all()
                return
            del job  # and with it its atoms
            with self._changed:
                self._jobs.popleft()
                self._changed.notify_all()
