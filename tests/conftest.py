"""Options, marks and fixtures shared by all tests.

Modules in tests/support/ are imported as `from support import NAME`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
sys.path.insert(0, str(TESTS))


def gpu_is_there() -> bool:
    """Whether an NVIDIA driver finds a GPU; nothing that is slow to import is asked."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return False
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


# Without a GPU, kernels of numba.cuda run in its simulator, which must be chosen before it is first imported. With one,
# tests that need the simulator are left to a run of their own: NUMBA_ENABLE_CUDASIM=1 pytest.
os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "0" if gpu_is_there() else "1")
SIMULATED = os.environ["NUMBA_ENABLE_CUDASIM"] == "1"

# Ranks outnumber the cores here, and one of MPICH that waits spins until the system takes its core away; with this it
# sleeps a moment, and a message takes a tenth of the time. For runs on cores of their own it would be slower.
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")

# The same examples on every run, and no deadline: the first call of a kernel may compile it.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None)
hypothesis.settings.load_profile("reproducible")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (minutes each)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="slow: run with --slow")
    gpu = pytest.mark.skip(reason="needs an NVIDIA GPU, and NUMBA_ENABLE_CUDASIM unset or 0")
    simulator = pytest.mark.skip(reason="a GPU is in use: run with NUMBA_ENABLE_CUDASIM=1")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        if "gpu" in item.keywords and SIMULATED:
            item.add_marker(gpu)
        if "simulator" in item.keywords and not SIMULATED:
            item.add_marker(simulator)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `alone` waits until the other workers have ended theirs, and they begin no other meanwhile."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = "alone" in item.keywords
    # Two files that are there, for their locks. Turns are taken, or a test that must be alone might wait for ever.
    with open(REPOSITORY / "pyproject.toml") as turn, open(__file__) as place:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(place, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:  # not only closed: a process that a test has left behind may have them, too
            fcntl.flock(place, fcntl.LOCK_UN)
            fcntl.flock(turn, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def inputs() -> Path:
    """The folder inputs/ of the checkout."""
    return REPOSITORY / "inputs"


@pytest.fixture(scope="session")
def golden() -> Path:
    """tests/data/golden: models and upstream's results for them."""
    return TESTS / "data" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with upstream's own checkpoints; tests that need it are extra, and skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> str:
    """Device a test runs on: every device there is a potential for."""
    return request.param


@pytest.fixture(params=["double", "single"])
def precision(request: pytest.FixtureRequest) -> str:
    """Precision a test runs in."""
    return request.param


def find_launcher() -> str | None:
    """Path of mpirun: of this interpreter's environment first, then of PATH."""
    environment = str(Path(sys.executable).parent)
    return shutil.which("mpirun", path=environment) or shutil.which("mpirun")


@pytest.fixture(scope="session")
def launcher() -> str:
    """Path of mpirun; for tests that end its ranks themselves. Others take the fixture `mpirun`."""
    found = find_launcher()
    if found is None:
        pytest.skip("needs an MPI launcher (mpirun)")
    return found


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs a command on several MPI ranks: mpirun(ranks, *command, timeout=120, cwd=None, env=None).

    A command that is a Python script starts with `sys.executable`. Returns the completed process with text output; a
    run past `timeout` (seconds) is killed with all its ranks and fails the test. Tests are skipped where there is no
    launcher.
    """
    launcher = find_launcher()
    if launcher is None:
        pytest.skip("needs an MPI launcher (mpirun)")

    def run(
        ranks: int,
        *command: str | Path,
        timeout: float = 120,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        arguments = [launcher, "-n", str(ranks), *map(str, command)]
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=os.environ | (env or {}),
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # the launcher ends its ranks
            try:
                output, errors = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, errors = process.communicate()
            pytest.fail(f"no end after {timeout} s: {' '.join(arguments)}\n{output}\n{errors}")
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    return run
