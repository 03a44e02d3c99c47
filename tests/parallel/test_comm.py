"""Communicators: one rank without MPI, launchers that do not match, errors common to all ranks."""

from __future__ import annotations

import subprocess
import sys

import mpi4py  # noqa: F401 (loaded before the fixtures replace it, so that they put it back)
import numpy as np
import pytest

from allegro_sim.errors import InputError, LauncherError
from allegro_sim.parallel.comm import SerialComm, collective_errors, world

LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_NTASKS")


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture(params=[RuntimeError("cannot load MPI library\nlibmpi.so"), ImportError("No module named 'mpi4py'")])
def no_library(request: pytest.FixtureRequest, no_launcher: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """`from mpi4py import MPI` fails as it does without an MPI library, and as without mpi4py."""

    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "mpi4py.MPI" or (name == "mpi4py" and isinstance(request.param, ImportError)):
                raise request.param

    for name in ("mpi4py.MPI", "mpi4py"):
        no_launcher.delitem(sys.modules, name, raising=False)
    no_launcher.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    return no_launcher


def test_without_an_mpi_library_the_world_is_one_serial_rank(no_library: pytest.MonkeyPatch) -> None:
    comm = world()
    assert type(comm) is SerialComm
    assert (comm.rank, comm.size, comm.node_rank, comm.node_size) == (0, 1, 0, 1)


@pytest.mark.parametrize("variables", [{"PMI_SIZE": "4"}, {"OMPI_COMM_WORLD_SIZE": "4"}])
def test_a_launcher_without_an_mpi_library_is_refused(
    no_library: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        no_library.setenv(name, value)
    with pytest.raises(LauncherError, match=r"started 4 processes .*no MPI library can be loaded.*pip install mpich"):
        world()


class OneRankMpi:
    """What mpi4py shows when each process of a foreign launcher starts alone."""

    COMM_TYPE_SHARED = 0

    class COMM_WORLD:
        Get_rank = staticmethod(lambda: 0)
        Get_size = staticmethod(lambda: 1)
        Free = staticmethod(lambda: None)
        Split_type = classmethod(lambda cls, kind: cls)

    @staticmethod
    def Get_library_version() -> str:
        return "MPICH Version: 5.0\nmore"


@pytest.fixture
def one_rank_mpi(no_launcher: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    package = type(sys)("mpi4py")
    package.MPI = OneRankMpi  # type: ignore[attr-defined]
    no_launcher.setitem(sys.modules, "mpi4py", package)
    no_launcher.setitem(sys.modules, "mpi4py.MPI", OneRankMpi)  # type: ignore[arg-type]
    return no_launcher


@pytest.mark.parametrize(
    "variables", [{"PMI_SIZE": "4"}, {"OMPI_COMM_WORLD_SIZE": "4"}, {"PMIX_RANK": "2", "SLURM_NTASKS": "4"}]
)
def test_a_launcher_of_another_mpi_is_named_and_refused(
    one_rank_mpi: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        one_rank_mpi.setenv(name, value)
    with pytest.raises(
        LauncherError, match=r"started 4 processes .*sees one.*MPICH Version: 5\.0\. Start with"
    ) as error:
        world()
    assert error.value.exit_code == 2


@pytest.mark.parametrize("variables", [{}, {"PMI_SIZE": "1"}, {"SLURM_NTASKS": "4"}, {"PMI_SIZE": "unset"}])
def test_one_rank_and_batch_scripts_are_no_mismatch(
    one_rank_mpi: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        one_rank_mpi.setenv(name, value)
    assert world().size == 1


def test_importing_the_parallel_modules_does_not_load_mpi() -> None:
    modules = ["cell", "system", "neighbors", "parallel.comm", "parallel.domain", "parallel.collect"]
    lines = [f"import allegro_sim.{module}" for module in modules]
    code = "\n".join([*lines, "import sys", "assert not any(name.startswith('mpi4py') for name in sys.modules)"])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_serial_exchanges_are_copies() -> None:
    comm = SerialComm()
    rows = np.arange(6.0).reshape(2, 3)
    for result in (
        comm.gather_rows(rows),
        comm.allreduce_sum(rows),
        comm.allreduce_max(rows),
        comm.alltoallv(rows, np.array([2])),
        comm.send_recv(rows, 0, 0),
        comm.send_recv(rows, 0, 0, out=np.empty((2, 3))),
    ):
        assert result is not None and not np.shares_memory(result, rows)
        np.testing.assert_array_equal(result, rows)
    assert comm.send_recv(rows, None, None).shape == (0, 3)


def test_collective_errors_keep_the_error_and_let_others_pass() -> None:
    comm = SerialComm()
    original = InputError("run.steps: must be positive")
    with pytest.raises(InputError) as caught, collective_errors(comm):
        raise original
    assert caught.value is original
    with pytest.raises(ZeroDivisionError), collective_errors(comm):
        raise ZeroDivisionError


def test_abort_ends_with_the_code_given() -> None:
    with pytest.raises(SystemExit) as caught:
        SerialComm().abort(3)
    assert caught.value.code == 3
