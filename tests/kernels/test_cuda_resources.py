"""Every CUDA module compiles without warnings for each architecture, spills nothing, and uses what the table says.

After a change of kernels that is meant, make the table anew:

    python tools/compile_kernels.py --out /tmp/cubins --record bench/resources.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from allegro_sim.errors import DeviceError
from allegro_sim.potential.cuda.compile import module_name
from allegro_sim.potential.cuda.device import MATRIX_UNITS
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.tools.benchmark_models import benchmark_model
from allegro_sim.tools.compile_kernels import (
    ARCHITECTURES,
    MODULES,
    NUMBA,
    SYSTEM,
    Resources,
    capability_of,
    compile_source,
    read_log,
)

EVERYWHERE = ("medium-mixed", "sc23-mixed", SYSTEM, NUMBA)
ONCE = ("degree3-mixed", "legacy-mixed", "many_types-mixed")
"""By default the first are compiled for all four architectures, the second for one of them; everything with --slow."""


def is_default(module: str, architecture: str) -> bool:
    return module in EVERYWHERE or (module in ONCE and architecture == "sm_90")


CASES = [
    pytest.param(module, architecture, marks=() if is_default(module, architecture) else pytest.mark.slow)
    for module in MODULES
    for architecture in ARCHITECTURES
]

MOST_SHARED = 99 * 1024
"""Bytes a block may have on compute capability 12.0, the least of the four."""

REGISTERS_APART = 32
"""Another release of the compiler allocates somewhat differently; the table is of one release."""

Table = dict[str, dict[str, dict[str, dict[str, int]]]]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Where the tool put machine code and tables; in processes of its own, as numba.cuda may be simulated here."""
    path = tmp_path_factory.mktemp("cubins")
    compile_to(path, repository, [module for module in MODULES if module in EVERYWHERE], ARCHITECTURES)
    rest = [module for module in MODULES if module not in EVERYWHERE]
    if request.config.getoption("--slow"):
        compile_to(path / "rest", repository, rest, ARCHITECTURES)
    else:
        compile_to(path / "rest", repository, list(ONCE), ("sm_90",))
    return path


def compile_to(path: Path, repository: Path, modules: list[str], architectures: Iterable[str]) -> None:
    command = [sys.executable, "tools/compile_kernels.py", "--out", str(path), "--modules", *modules]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(
        [*command, "--architectures", *architectures], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr  # the tool refuses what a compiler warns of


@pytest.fixture(scope="module")
def table(folder: Path) -> Table:
    tables = (json.loads((place / "resources.json").read_text()) for place in (folder / "rest", folder))
    return {name: value for table in tables for name, value in table.items()}


@pytest.fixture(scope="module")
def recorded(repository: Path) -> Table:
    return json.loads((repository / "bench" / "resources.json").read_text())


@pytest.mark.parametrize(("module", "architecture"), CASES)
def test_no_kernel_spills_and_shared_memory_fits_every_gpu(table, module, architecture):
    kernels = table[module][architecture]
    spilled = {name: used for name, used in kernels.items() if used["spills"] or used["stack"]}
    assert not spilled
    assert max(used["shared"] for used in kernels.values()) <= MOST_SHARED


@pytest.mark.parametrize(("module", "architecture"), CASES)
def test_resources_are_those_of_the_table(table, recorded, module, architecture):
    found, expected = table[module][architecture], recorded[module][architecture]
    assert set(found) == set(expected)
    if table["nvrtc"] == recorded["nvrtc"]:
        assert found == expected
        return
    for name, used in found.items():
        assert used["shared"] == expected[name]["shared"], name
        assert abs(used["registers"] - expected[name]["registers"]) <= REGISTERS_APART, name


@pytest.mark.parametrize(("module", "architecture"), [case for case in CASES if case.values[0] not in (SYSTEM, NUMBA)])
def test_the_program_finds_every_module_compiled_beforehand_with_all_its_kernels(folder, table, module, architecture):
    name, _, precision = module.rpartition("-")
    matrix_units = capability_of(architecture) in MATRIX_UNITS
    layout = Layout(benchmark_model(name), precision, matrix_units=matrix_units)
    place = folder if module in EVERYWHERE else folder / "rest"
    assert (place / module_name(layout.source, architecture)).stat().st_size > 0
    assert set(table[module][architecture]) == set(layout.kernels)


# --- what the tool would find -----------------------------------------------------------------------------------------

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) crowded(const float* in, float* out) {
  float a[64];
  for (int n = 0; n < 64; ++n) a[n] = in[threadIdx.x + n * 7];
  __shared__ float s[64];
  s[threadIdx.x % 64] = in[0];
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 64; ++r)
#pragma unroll
    for (int n = 0; n < 64; ++n) a[n] = a[n] * a[(n * 13 + r) % 64] + s[r];
  for (int n = 0; n < 64; ++n) out[threadIdx.x + n] = a[n];
}
"""


def test_spills_and_shared_memory_are_read_from_the_compiler():
    (name, used), *others = compile_source(SPILLING, "sm_90").kernels.items()
    assert (name, others) == ("crowded", [])
    assert used.spills > 0 and used.stack > 0 and used.registers <= 32 and used.shared == 256


def test_warnings_and_errors_are_found():
    source = 'extern "C" __global__ void k(float* x) { int unused; *x = 1; }'
    assert any("unused" in line for line in compile_source(source, "sm_90").warnings)
    with pytest.raises(DeviceError, match="undeclared"):
        compile_source('extern "C" __global__ void k(float* x) { *x = undeclared; }', "sm_90")


def test_the_log_of_several_kernels_is_told_apart():
    log = "\n".join(
        f"ptxas info    : Compiling entry function '{name}' for 'sm_90'\n"
        f"ptxas info    : Function properties for {name}\n"
        f"ptxas         .     {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
        f"ptxas info    : Used {registers} registers, used 1 barriers{shared}\n"
        for name, stack, stores, loads, registers, shared in (
            ("first", 0, 0, 0, 40, ""),
            ("second", 16, 8, 12, 255, ", 1024 bytes smem"),
        )
    )
    assert read_log(log) == {"first": Resources(40, 0, 0, 0), "second": Resources(255, 1024, 16, 20)}
