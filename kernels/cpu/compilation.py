"""The `kernel` decorator: Numba's njit with a cache that can never serve stale code.

Numba keys its disk cache on the file of one function, so a change in a function it calls, in another file, goes unseen.
Here the cache directory itself is named by a hash of every kernel source. Files lie in

    $ALLEGRO_SIM_CACHE, else $XDG_CACHE_HOME/allegro-sim, else ~/.cache/allegro-sim   /cpu-HASH/

and, where that cannot be written, in a directory of the temporary folder, shared by the processes of this user.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


def source_hash() -> str:
    """Hash of all kernel sources of this back end and of Numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _preferred_root() -> Path:
    if explicit := os.environ.get("ALLEGRO_SIM_CACHE"):
        return Path(explicit)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "allegro-sim"
    try:
        return Path.home() / ".cache" / "allegro-sim"
    except RuntimeError:  # no home directory is known
        return Path(os.devnull)


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


@cache
def cache_directory() -> Path:
    """Directory of the compiled kernels of exactly these sources; made if missing.

    Warns
    -----
    RuntimeWarning
        If the preferred place cannot be written and a temporary one is used.
    """
    name = f"cpu-{source_hash()}"
    preferred = _preferred_root() / name
    if _writable(preferred):
        return preferred
    fallback = Path(tempfile.gettempdir()) / f"allegro-sim-{_user()}" / name
    fallback.mkdir(mode=0o700, parents=True, exist_ok=True)
    warnings.warn(
        f"the kernel cache {preferred} cannot be written; compiled kernels go to {fallback} "
        "(set ALLEGRO_SIM_CACHE to a directory that can be written)",
        RuntimeWarning,
        stacklevel=2,
    )
    return fallback


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def kernel(function: Callable | None = None, **options: Any) -> Any:
    """Compile `function` with Numba: nopython, without the GIL, cached on disk; `options` go to `numba.njit`."""

    def decorate(python_function: Callable) -> Any:
        settings = {"nogil": True, "cache": True, "error_model": "numpy"} | options
        # Numba reads this setting when a function is decorated; put back, so that a user's own Numba code is not moved.
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(cache_directory())
        try:
            return numba.njit(**settings)(python_function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate if function is None else decorate(function)


def is_warm(name: str) -> bool:
    """Whether the kernels of the group `name` were compiled on this machine before (`mark_warm` was called for it)."""
    return (cache_directory() / f"{name}.warm").exists()


def mark_warm(name: str) -> None:
    """Note on disk that the kernels of the group `name` are compiled."""
    (cache_directory() / f"{name}.warm").touch()
