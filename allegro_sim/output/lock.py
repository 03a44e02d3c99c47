"""The lock of an output directory: one run at a time writes there.

    lock = RunLock.acquire(directory)     # OutputError when another run holds it
    lock.release()

The lock is a file, `run.lock`, that says which process made it. It needs no locks of the file system, which parallel
file systems often do not have. A run that is killed leaves its lock behind; whether its process is still there can be
told on the machine where it ran, and there the next run takes the lock over. On another machine nobody can tell, and
the message says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from time import sleep

from allegro_sim.errors import OutputError

LOCK = "run.lock"
_PATIENCE_SECONDS = 0.01


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; what is not known of it is an empty text.

    machine, boot, processes : which installation, since which start, and which set of process ids (containers have
        their own)
    birth : when the process began, in the machine's own count: tells it from a later one with the same id
    """

    host: str
    machine: str
    boot: str
    processes: str
    pid: int
    birth: str
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            machine=_read_text("/etc/machine-id"),
            boot=_read_text("/proc/sys/kernel/random/boot_id"),
            processes=_process_ids(),
            pid=pid,
            birth=_birth(pid),
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
        )

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None where that cannot be told from here."""
        here = Holder.this_process()
        if (self.host, self.machine) != (here.host, here.machine):
            return None
        if self.boot != here.boot:
            return True if self.machine else None
        if self.processes != here.processes:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # there, and somebody else's
            pass
        return bool(self.birth) and self.birth != _birth(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """The lock of a directory, held by this process until `release`.

    Attributes
    ----------
    replaced : Holder or None; an ended run whose lock was left behind and has been taken over
    """

    def __init__(self, path: Path, content: bytes, replaced: Holder | None) -> None:
        self.path = path
        self.replaced = replaced
        self._content = content

    @classmethod
    def acquire(cls, directory: str | Path) -> RunLock:
        """Take the lock of a directory that exists. Raises OutputError when a run holds it, or may hold it."""
        path = Path(directory) / LOCK
        content = json.dumps(asdict(Holder.this_process())).encode()
        replaced = None
        try:
            while not _create(path, content):
                found = _read(path)
                if found is not None:
                    stale, replaced = found
                    _refuse_unless_gone(path, replaced)
                    if _replace(path, stale, content):
                        break
        except OSError as error:
            raise OutputError(f"{path}: cannot be made: {error.strerror}") from None
        return cls(path, content, replaced)

    def release(self) -> None:
        """Remove the lock if it still is this one. What cannot be removed stays: the next run takes it over."""
        with contextlib.suppress(OSError):
            if self.path.read_bytes() == self._content:
                self.path.unlink()


def check_lock(directory: str | Path) -> None:
    """Raise OutputError when a run holds the lock of a directory, or may hold it. Changes nothing on the disk."""
    path = Path(directory) / LOCK
    found = _read(path)
    if found is not None:
        _refuse_unless_gone(path, found[1])


def _read(path: Path) -> tuple[bytes, Holder] | None:
    """Content of a lock; None where there is none. Raises OutputError when it says nothing."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        values = json.loads(content)
        texts = {name: str(values[name]) for name in ("host", "machine", "boot", "processes", "birth", "since")}
        return content, Holder(pid=int(values["pid"]), **texts)
    except (ValueError, TypeError, KeyError):
        raise OutputError(
            f"{path}: is not a lock of this program, or was cut short; if no run writes to {path.parent}, remove {path}"
        ) from None


def _refuse_unless_gone(path: Path, holder: Holder) -> None:
    gone = holder.is_gone()
    if gone is None:
        raise OutputError(
            f"{path}: a run has locked this directory ({holder}), and whether it still goes on cannot be told from "
            f"here, {socket.gethostname()}; if it has ended, remove {path}"
        )
    if not gone:
        raise OutputError(
            f"{path}: a run is writing to this directory ({holder}); wait for its end, stop it, or give another "
            "output.directory"
        )


def _create(path: Path, content: bytes) -> bool:
    """Make the file; False when it is there already."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(content)
        os.link(unfinished, path)  # with its content at once, or not at all
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return _create_without_links(path, content)
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def _create_without_links(path: Path, content: bytes) -> bool:
    """The same on file systems that know no hard links: for a moment the file is there and empty."""
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _replace(path: Path, stale: bytes, content: bytes) -> bool:
    """Put another content into a lock that was left behind; False when somebody else has done so, or is about to.

    Whoever makes the file `.run.lock.new` may do it, provided that the lock is still the one that was found: between a
    look and a removal another run could have put its own there.
    """
    right = path.with_name(f".{path.name}.new")
    if not _create(right, content):
        holder = _read(right)
        if holder is not None and holder[1].is_gone():
            right.unlink(missing_ok=True)  # killed at this very place
        sleep(_PATIENCE_SECONDS)
        return False
    if path.exists() and path.read_bytes() == stale:
        right.replace(path)
        return True
    right.unlink(missing_ok=True)
    return False


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # systems other than Linux
        return ""


def _process_ids() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _birth(pid: int) -> str:
    """Clock ticks from the start of the machine to that of a process (proc(5), field 22 of stat); "" for a zombie."""
    following_name = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return following_name[19] if following_name and following_name[0] not in "ZX" else ""
