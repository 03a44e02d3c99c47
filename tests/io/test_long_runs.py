"""A run of many steps: memory flat, open files constant, thermo.csv and log readable while it goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.survival import fork_run, write_input

from allegro_sim.output.checkpoint import list_checkpoints
from allegro_sim.output.thermo import THERMO_COLUMNS

# HDF5 keeps what it has read of a file's indices, 50 bytes a frame, up to 2 MiB. A leak of the positions of 24 atoms
# with each frame would be 5 MiB in the long run.
GROWTH_KIB = 2048


def resident_kib(pid: int) -> int:
    """Memory of a process that is in use now; 0 when it has just ended."""
    with open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("VmRSS")), 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("steps", [2000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_many_steps_take_no_more_than_few(tmp_path: Path, repository: Path, steps: int) -> None:
    write_input(tmp_path, repository, steps=steps)
    samples: list[tuple[int, int, int]] = []  # step, memory, open files

    def watch(pid: int) -> None:
        csv, log = tmp_path / "out" / "thermo.csv", tmp_path / "stdout.txt"
        while ") Z" not in Path(f"/proc/{pid}/stat").read_text():
            # The system may show a row that is being written in two parts.
            if csv.exists() and (rows := csv.read_bytes().split(b"\n")[1:-1]):
                assert all(row.count(b",") == len(THERMO_COLUMNS) - 1 for row in rows)
                step = int(rows[-1].split(b",")[0])
                # The log has a row by the time that the next is in the file.
                assert len(rows) == 1 or f"\n{rows[-2].split(b',')[0].decode():>10}" in log.read_text()
                if step > 0 and (not samples or step > samples[-1][0]):
                    sample = (step, resident_kib(pid), len(os.listdir(f"/proc/{pid}/fd")))
                    if all(sample):
                        samples.append(sample)
            time.sleep(0.01 + steps / 1e6)

    every = (
        "--set=output.trajectory_every=10",
        "--set=output.thermo_every=2",
        f"--set=output.checkpoint_every={steps // 20}",
    )
    ended = fork_run(tmp_path, "input.toml", *every, while_running=watch)
    assert ended.code == 0, ended
    assert len(samples) > 20
    # At the last step files are being closed already.
    warm = [sample for sample in samples if steps // 10 < sample[0] < steps]
    first, last = warm[0], warm[-1]
    assert last[0] > steps // 2
    assert max(memory for _, memory, _ in warm) - first[1] < GROWTH_KIB, samples
    # The checkpoint that is being written is one more for a moment.
    files = sorted(count for _, _, count in warm)
    assert files[-1] - files[0] <= 2 and files[len(files) // 2] == files[0], samples
    assert len(list_checkpoints(tmp_path / "out")) == 2
