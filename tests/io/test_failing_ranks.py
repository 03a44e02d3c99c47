"""A rank that fails, at whatever moment, ends the whole run within ten seconds, and its message is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.failing import LIMIT_SECONDS, fail_in_a_run
from support.survival import write_input

MOMENTS = {
    "while MPI is started": ("allegro_sim.parallel.comm::world", 1),
    "while the communicator is split": ("allegro_sim.parallel.comm:MpiComm:split", 1),
    "while settings are handed over": ("allegro_sim.parallel.comm:MpiComm:bcast", 1),
    "while the input is handed over": ("allegro_sim.parallel.comm:MpiComm:bcast", 2),
    "while the domain is made": ("allegro_sim.parallel.migrate::migrate", 1),
    "while velocities are drawn": ("allegro_sim.dynamics.velocities::draw_velocities", 1),
    "at the first forces": ("allegro_sim.potential.cpu:CpuPotential:compute", 2),
    "at the banner": ("allegro_sim.parallel.comm:MpiComm:allreduce_max", 1),
    "while outputs are opened": ("allegro_sim.output.outputs:Outputs:create", 1),
    "in the minimisation, at the forces": ("allegro_sim.potential.cpu:CpuPotential:compute", 5),
    "in the minimisation, at its sums": ("allegro_sim.descent:HostDescent:measure", 2),
    "in a checkpoint of the minimisation": ("allegro_sim.minimization:Minimization:_save", 1),
    "at a checkpoint": ("allegro_sim.output.outputs:Outputs:write", 6),
    "in a step, at the forces": ("allegro_sim.potential.cpu:CpuPotential:compute", 9),
    "in a step, at the reduction": ("allegro_sim.neighbors:NeighborList:must_rebuild", 7),
    "in a step, at the halo": ("allegro_sim.parallel.halo:Halo:update_positions", 3),
    "in a step, at the ghost forces": ("allegro_sim.parallel.halo:Halo:add_forces", 5),
    "at a measurement": ("allegro_sim.dynamics.observables::measure", 4),
    "while a frame is gathered": ("allegro_sim.parallel.comm:MpiComm:gather_rows", 10),
    "while files are closed": ("allegro_sim.output.outputs:Outputs:close", 1),
    "after the last step": ("allegro_sim.output.screen:Screen:summary", 1),
}
"""Moment -> (module:class:function, which call of it fails)."""

IN_THE_WRITER = {
    "at a frame": ("allegro_sim.output.trajectory:TrajectoryWriter:append", 3),
    "at a checkpoint on the disk": ("allegro_sim.output.checkpoint::_seal", 2),
}
"""Moments in the thread that writes, of rank 0."""

WAYS = {
    "throws": ["internal error", "ValueError: a mistake"],
    "user error": ["this rank alone"],
    "memory": ["out of memory"],
    "exits": ["internal error", "SystemExit"],
    "dies": [],
    "crashes": [],
}
"""How a rank fails -> words of its message; a rank that is killed has none, and mpirun tells of it."""

CASES = [
    (moment, rank, list(WAYS)[(number + 2 * rank) % len(WAYS)])
    for number, moment in enumerate(MOMENTS)
    for rank in range(3)
]
QUICK = [CASES[3 * number + number // 3 % 3] for number in range(0, 18, 3)]
"""Every third moment, but for the last; each rank twice, each way once."""


@pytest.mark.alone
@pytest.mark.mpi
@pytest.mark.parametrize(
    ("moment", "rank", "how"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_failing_rank_ends_all(
    tmp_path: Path, repository: Path, launcher: str, moment: str, rank: int, how: str
) -> None:
    write_input(tmp_path, repository)
    options = ["--set", "minimize.max_steps=20"] if "minimisation" in moment else []
    seconds, code, printed = fail_in_a_run(tmp_path, launcher, MOMENTS[moment], rank, how, options=options)
    assert seconds < LIMIT_SECONDS, printed
    assert code != 0, printed
    assert all(word in printed for word in WAYS[how]), printed
    if how == "throws" and moment != "while MPI is started":
        assert f"on rank {rank} of 3" in printed
    if how in ("user error", "memory") and moment != "while the communicator is split":
        assert "Traceback" not in printed


@pytest.mark.alone
@pytest.mark.mpi
@pytest.mark.alone
@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("at a frame", "full disk"),
        ("at a checkpoint on the disk", "throws"),
        pytest.param("at a checkpoint on the disk", "full disk", marks=pytest.mark.slow),
        pytest.param("at a frame", "throws", marks=pytest.mark.slow),
        pytest.param("at a frame", "exits", marks=pytest.mark.slow),
    ],
)
def test_an_error_in_the_thread_that_writes_ends_all_ranks(
    tmp_path: Path, repository: Path, launcher: str, moment: str, how: str
) -> None:
    """A full disk is told once, with its step and the newest checkpoint; a mistake as anywhere else."""
    write_input(tmp_path, repository, steps=100_000)
    seconds, code, printed = fail_in_a_run(tmp_path, launcher, IN_THE_WRITER[moment], 0, how)
    assert seconds < LIMIT_SECONDS, printed
    if how == "full disk":
        assert code == 3, printed
        told = [line for line in printed.splitlines() if line.startswith("allegro-sim: ")]
        step, newest = (4, 0) if moment == "at a frame" else (5, 0)
        assert len(told) == 1 and told[0].startswith(f"allegro-sim: stopped at step {step}: "), printed
        assert "No space left on device" in told[0] and f"checkpoint-{newest:09d}.h5 is whole" in told[0]
        assert "Traceback" not in printed
    else:
        assert code != 0 and "on rank 0 of 3" in printed, printed
        assert all(word in printed for word in WAYS[how]), printed
