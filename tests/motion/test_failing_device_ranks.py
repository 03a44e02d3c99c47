"""A rank that fails in a run on GPUs (here a CPU) ends the whole run within ten seconds, and its message is seen."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import pytest
from support.device_motion import periodic_case
from support.failing import LIMIT_SECONDS, fail_in_a_run

from allegro_sim.model.weight_file import save_model

pytestmark = [pytest.mark.mpi, pytest.mark.simulator]

PRELUDE = f"""
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.cuda_harness import HostDevice, HostExecutor
import allegro_sim.potential.cuda.potential as potential
from allegro_sim.potential.cuda import device
device.find_device = lambda local_rank: HostDevice()
potential._gpu_executor = lambda local_rank: HostExecutor()
"""

MOMENTS = {
    "while ghosts are made anew": ("allegro_sim.gpu.bricks:DeviceBricks:_make_ghosts", 2),
    "while atoms migrate": ("allegro_sim.gpu.bricks:DeviceBricks:_migrate", 2),
    "while the list is built": ("allegro_sim.gpu.neighbors:DeviceNeighbors:build", 2),
    "in a step, at the halo": ("allegro_sim.gpu.bricks:DeviceBricks:update_positions", 3),
    "in a step, at the exchange": ("allegro_sim.gpu.transport:HostTransport:exchange", 9),
    "in a step, at the forces": ("allegro_sim.potential.cuda.engine:Engine:launch", 4),
    "in a step, at the control words": ("support.cuda_harness:HostExecutor:download", 60),
    "while a frame is gathered": ("allegro_sim.gpu.motion:DeviceMotion:snapshot", 3),
}
"""Moment -> (module:class:function, which call of it fails)."""

WORDS = {
    "throws": ["internal error", "ValueError: a mistake"],
    "device memory": ["CPU runner is out of memory", "could not be allocated"],
    "dies": [],
}

CASES = [
    ("while ghosts are made anew", "device memory", 2, 1),
    ("while the list is built", "throws", 3, 2),
    ("while atoms migrate", "dies", 3, 1),
    ("in a step, at the halo", "throws", 2, 0),
    ("in a step, at the exchange", "dies", 2, 1),
    ("in a step, at the forces", "throws", 3, 1),
    ("in a step, at the forces", "dies", 2, 0),
    ("in a step, at the control words", "throws", 2, 1),
    ("while a frame is gathered", "throws", 2, 1),
]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("moment", "how", "ranks", "rank"),
    [case if number == 0 else pytest.param(*case, marks=pytest.mark.slow) for number, case in enumerate(CASES)],
)
def test_a_failing_rank_ends_all(tmp_path: Path, launcher: str, moment: str, how: str, ranks: int, rank: int) -> None:
    case = periodic_case(4)
    save_model(tmp_path / "model.h5", case.model, {}, [])
    symbols = [case.model.type_names[t] for t in case.types]
    atoms = ase.Atoms(symbols, positions=case.positions, cell=case.vectors, pbc=True)
    ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
    (tmp_path / "input.toml").write_text("""
        model.file = "model.h5"
        structure.file = "start.xyz"
        run = { steps = 40, timestep_fs = 1.0, device = "cuda", precision = "double" }
        neighbors.skin_A = 0.05
        velocities.temperature_K = 3000.0
        output.directory = "out"
        output.trajectory_every = 2
        output.thermo_every = 2
    """)
    seconds, code, printed = fail_in_a_run(tmp_path, launcher, MOMENTS[moment], rank, how, ranks=ranks, prelude=PRELUDE)
    assert seconds < LIMIT_SECONDS, printed
    assert code != 0, printed
    assert all(word in printed for word in WORDS[how]), printed
    if how == "throws":
        assert f"on rank {rank} of {ranks}" in printed
