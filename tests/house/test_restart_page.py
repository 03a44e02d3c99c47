"""docs/restart.md says what is: settings that may change, exit codes, and batch scripts that do what they promise."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.survival import contents, differing, fork_run, write_input

from allegro_sim import config, errors
from allegro_sim.keys import KEYS, SECTIONS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "restart.md").read_text()


def scripts(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def test_settings_that_may_change_are_those_of_the_program(page: str) -> None:
    table = page.split("<!-- may change -->")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+\.\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[3:])))
    whole = re.findall(r"`\[(\w+)\]`", table)
    assert set(whole) <= set(SECTIONS)
    named |= {key.path for key in KEYS if key.section in whole}
    assert named == config._MAY_CHANGE_ON_RESTART


def test_exit_codes_are_those_of_the_program(page: str) -> None:
    table = page.split("## Exit codes")[1].split("##")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)}
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass)]
    assert {item.exit_code for item in classes} | {0, 130} == listed


def test_scripts_are_valid_and_ask_for_time_to_stop_in(page: str) -> None:
    assert len(scripts(page)) == 3
    for script in scripts(page):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        hours, minutes, seconds = map(int, re.findall(r"--time=(\d+):(\d+):(\d+)", script)[0])
        limit = hours + minutes / 60 + seconds / 3600
        max_hours = float(re.findall(r"--max-hours (\S+)", script)[0])
        assert 0.05 <= limit - max_hours <= 0.5


def test_the_script_carries_a_run_through_several_jobs(page: str, tmp_path: Path, repository: Path) -> None:
    """With stand-ins for Slurm's commands, and time for one step a job."""
    script = scripts(page)[0].replace("--max-hours 11.9", "--max-hours 0")
    (tmp_path / "nvt.sh").write_text(script)
    (tmp_path / "nvt.toml").write_text(write_input(tmp_path, repository, steps=3).read_text().replace('"out"', '"nvt"'))
    tools = tmp_path / "bin"
    tools.mkdir()
    commands = {
        "srun": f'exec "{sys.executable}" -c "{SERIAL}" "${{@:2}}"',
        "sbatch": 'echo "$1" >> queue',
    }
    for name, body in commands.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    queue = tmp_path / "queue"
    queue.write_text("nvt.sh\n")
    for job in range(1, 4):
        assert len(queue.read_text().splitlines()) == job  # as many as were submitted, this one among them
        done = subprocess.run(["bash", "nvt.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr and ("stopped by --max-hours" in done.stderr) == (job < 3), done.stderr
    assert len(queue.read_text().splitlines()) == 3
    ended = fork_run(tmp_path, "nvt.toml", "--set", "output.directory=whole")
    assert ended.code == 0
    assert differing(contents(tmp_path / "nvt"), contents(tmp_path / "whole")) == ["checkpoint/settings"]


SERIAL = (
    "from allegro_sim import cli; from allegro_sim.parallel.comm import SerialComm; cli.world = SerialComm; cli.main()"
)
"""The program on one rank; MPI would not start twice in a session that has it."""
