"""Every mistake in the input ends the program on all ranks with exit code 2 and one message that names it.

No traceback, nothing overwritten, and nothing new on the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bad_inputs import Case, make_cases, run_case, sample, snapshot

from allegro_sim import cli
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.potential import pick_device

EVERY = 4
"""On three ranks, of the cases of each area, one in so many is tried by default; those marked slow try them all."""


def check(name: str, code: int, message: str, seconds: float, words: list[str]) -> None:
    assert code == 2, (name, code, message)
    assert seconds < 10.0, (name, seconds)
    assert message.startswith("allegro-sim: ") and message.count("\n") == 1, (name, message)
    assert "Traceback" not in message
    assert not [word for word in words if word not in message], (name, message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


def test_one_rank_names_the_mistake_and_writes_nothing(folder: Path, inputs: Path, monkeypatch) -> None:
    monkeypatch.setattr(cli, "world", SerialComm)
    cases = make_cases(folder, inputs)
    assert len(cases) >= 60
    before = snapshot(folder)
    for name, case in cases.items():
        check(name, *run_case(case), case.words)
        assert snapshot(folder) == before, name
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(pick_device("auto")[0] == "cuda", reason="a GPU is here")
def test_a_gpu_that_is_not_there_hides_no_mistake_in_a_traceback(folder: Path, inputs: Path, monkeypatch) -> None:
    """Each case with `device = "cuda"` too: its own message, that there is no GPU, or that a checkpoint is of a CPU."""
    monkeypatch.setattr(cli, "world", SerialComm)
    cases = make_cases(folder, inputs)
    before = snapshot(folder)
    for name, case in cases.items():
        code, message, seconds = run_case(Case([*case.arguments, "--set", "run.device=cuda"], case.words))
        others = ('device "cuda" was asked for, but ', "run.precision")
        check(name, code, message, seconds, [] if any(other in message for other in others) else case.words)
        assert snapshot(folder) == before, name


@pytest.mark.mpi
@pytest.mark.parametrize("every", [EVERY, pytest.param(1, marks=pytest.mark.slow)])
def test_all_ranks_end_and_one_speaks(folder: Path, inputs: Path, mpirun: Callable, tmp_path: Path, every: int) -> None:
    script = Path(__file__).parent.parent / "support" / "bad_inputs.py"
    results = tmp_path / "results.json"
    done = mpirun(3, sys.executable, script, folder, inputs, results, every, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(results.read_text())
    cases = sample(make_cases(folder, inputs), every)
    assert outcomes.keys() == cases.keys()
    for name, ranks in outcomes.items():
        assert len(ranks) == 3
        check(name, *ranks[0], cases[name].words)
        assert [rank[:2] for rank in ranks[1:]] == [[2, ""], [2, ""]], name


@pytest.mark.mpi
def test_the_program_itself_exits_with_2_under_mpirun(folder: Path, inputs: Path, mpirun: Callable) -> None:
    case = make_cases(folder, inputs)["structures: element not in the model"]
    done = mpirun(2, sys.executable, "-m", "allegro_sim", *case.arguments, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("allegro-sim: ") == 1 and "Traceback" not in done.stderr + done.stdout
    assert "Na (2 atoms)" in done.stderr


def test_wrong_arguments_exit_with_2() -> None:
    for arguments in ([], ["a.toml", "b.toml"], ["a.toml", "--unknown"], ["a.toml", "--restart", "--overwrite"]):
        done = subprocess.run([sys.executable, "-m", "allegro_sim", *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: allegro-sim" in done.stderr and "Traceback" not in done.stderr
