"""Compile the CUDA kernels of models to machine code, without a GPU, and say what each kernel uses.

    python tools/compile_kernels.py --out FOLDER [--modules medium-mixed sc23-single] [--architectures sm_90]
        [--record bench/resources.json]

Needs the packages of the extra `test`: NVRTC compiles a model's module, Numba and nvJitLink those of Numba.
FOLDER gets modules and Numba's kernels under the names by which the program finds them when ALLEGRO_SIM_CUBINS names
it, and resources.json: of every kernel registers a thread, bytes of shared memory a block (static and as launched), of
the stack frame and of spills. `bench/resources.json` is that table for the modules and architectures that the project
answers for, the defaults; tests compare with it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from allegro_sim.errors import DeviceError
from allegro_sim.gpu.module import module_source
from allegro_sim.kernels.numba_cuda.compilation import compile_kernel, file_name
from allegro_sim.model.description import AllegroModel
from allegro_sim.parallel.cores import affinity
from allegro_sim.potential.cuda.compile import OPTIONS, compile_module, module_name
from allegro_sim.potential.cuda.device import MATRIX_UNITS
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.tools.benchmark_models import MODELS as BENCHMARK_MODELS
from allegro_sim.tools.benchmark_models import benchmark_model

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
PRECISIONS = ("double", "single", "mixed")
NUMBA, SYSTEM = "numba", "system"
"""The table's names for Numba's kernels, and for the module of lists and sums: they depend on no model."""

MODULES = (
    *(f"{name}-{precision}" for name in ("medium", "degree3", "scatter", "legacy") for precision in PRECISIONS),
    *(f"{name}-mixed" for name in ("sc23", "sc23_legacy", "many_types")),
    SYSTEM,
    NUMBA,
)
"""Those of bench/resources.json, MODEL-PRECISION: (l_max, U, width) = (2, 64, 128) and (3, 64, 64), the latter with
`scatter_features`, too, the legacy generation, and wide ones."""

_PTXAS = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Resources:
    """Of one kernel: registers a thread; bytes of shared memory a block, stack frame and spills a thread."""

    registers: int
    shared: int
    stack: int
    spills: int


@dataclass(frozen=True)
class Compiled:
    """One module for one architecture."""

    cubin: bytes
    kernels: dict[str, Resources]
    log: str

    @property
    def warnings(self) -> list[str]:
        """Lines of the compilers' log that warn of something."""
        return [line for line in self.log.splitlines() if "warning" in line.lower()]


def read_log(log: str) -> dict[str, Resources]:
    """Resources by kernel from what ptxas says with --verbose; shared memory is the static part."""
    found = {}
    for match in _PTXAS.finditer(log):
        shared = _SHARED.search(match["rest"])
        found[match["name"]] = Resources(
            registers=int(match["registers"]),
            shared=int(shared[1]) if shared else 0,
            stack=int(match["stack"]),
            spills=int(match["stores"]) + int(match["loads"]),
        )
    return found


def compile_source(source: str, architecture: str) -> Compiled:
    """CUDA C++ to machine code by NVRTC, with the options of the running program.

    Raises
    ------
    DeviceError : with the compiler's messages
    """
    cubin, log = compile_module(source, architecture, (*OPTIONS, "--ptxas-options=--verbose"))
    return Compiled(cubin, read_log(log), log)


def compile_numba_kernel(name: str, architecture: str) -> Compiled:
    """One of the Numba kernels to machine code: Numba makes PTX, nvJitLink assembles it."""
    from numba.cuda import dispatcher

    capability = capability_of(architecture)
    # Functions that a kernel calls are compiled for "the current device", which Numba asks for; here there is none.
    with patch.object(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=capability)):
        code, log = compile_kernel(name, capability, ("-verbose", "-Xptxas=-v"))
    (resources,) = read_log(log).values()
    return Compiled(code, {name: resources}, log)


def capability_of(architecture: str) -> tuple[int, int]:
    """sm_90 -> (9, 0)."""
    digits = architecture.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def compile_model(model: AllegroModel, precision: str, architecture: str) -> tuple[str, Compiled]:
    """File name and code of the module of a model; shared memory includes what its launches ask for."""
    layout = Layout(model, precision, matrix_units=capability_of(architecture) in MATRIX_UNITS)
    compiled = compile_source(layout.source, architecture)
    kernels = {
        kernel: replace(used, shared=used.shared + layout.kernels[kernel].shared_bytes)
        for kernel, used in compiled.kernels.items()
    }
    return module_name(layout.source, architecture), replace(compiled, kernels=kernels)


def compiler_version() -> str:
    """NVRTC's release, as 13.0: the numbers of the table are of one release."""
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


def compile_all(
    modules: Iterable[str], architectures: Iterable[str], folder: Path | None = None
) -> dict[str, dict[str, dict[str, Resources]]]:
    """Compile modules (MODEL-PRECISION) on all cores: table[module, "system" or "numba"][architecture][kernel].

    folder: where cubins go, if anywhere.

    Raises
    ------
    DeviceError : a module is refused, or a compiler warns
    """
    modules, architectures = tuple(modules), tuple(architectures)
    wanted = [(module, architecture) for module in modules if module != NUMBA for architecture in architectures]

    def compile_one(module: str, architecture: str) -> Compiled:
        if module == SYSTEM:
            file, compiled = module_name(module_source(), architecture), compile_source(module_source(), architecture)
        else:
            name, _, precision = module.rpartition("-")
            file, compiled = compile_model(benchmark_model(name), precision, architecture)
        if compiled.warnings:
            raise DeviceError(f"{module} for {architecture}: {compiled.warnings[0]}")
        if folder:
            (folder / file).write_bytes(compiled.cubin)
        return compiled

    table: dict[str, dict[str, dict[str, Resources]]] = {}
    with ThreadPoolExecutor(len(affinity())) as pool:
        for (module, architecture), compiled in zip(
            wanted, pool.map(lambda job: compile_one(*job), wanted), strict=True
        ):
            table.setdefault(module, {})[architecture] = compiled.kernels
    if NUMBA in modules:
        table[NUMBA] = _compile_numba(architectures, folder)
    return table


def _compile_numba(architectures: tuple[str, ...], folder: Path | None) -> dict[str, dict[str, Resources]]:
    """Numba's kernels, in processes: its compiler is not for several threads."""
    from allegro_sim.kernels.numba_cuda.catalogue import KERNELS

    jobs = [(name, architecture) for architecture in architectures for name in KERNELS]
    table: dict[str, dict[str, Resources]] = {}
    with ProcessPoolExecutor(len(affinity()), get_context("spawn")) as pool:
        for (name, architecture), compiled in zip(jobs, pool.map(_compile_numba_job, jobs, chunksize=8), strict=True):
            table.setdefault(architecture, {}).update(compiled.kernels)
            if folder:
                (folder / file_name(name, capability_of(architecture))).write_bytes(compiled.cubin)
    return table


def _compile_numba_job(job: tuple[str, str]) -> Compiled:
    return compile_numba_kernel(*job)


def table_text(table: dict[str, dict[str, dict[str, Resources]]], version: str) -> str:
    """The table as JSON, a line a kernel, so that a changed kernel is a changed line."""
    modules = []
    for module, by_architecture in sorted(table.items()):
        architectures = []
        for architecture, kernels in sorted(by_architecture.items()):
            lines = ",\n".join(f'   "{name}": {json.dumps(asdict(kernels[name]))}' for name in sorted(kernels))
            architectures.append(f'  "{architecture}": {{\n{lines}\n  }}')
        modules.append(f' "{module}": {{\n' + ",\n".join(architectures) + "\n }")
    return f'{{\n "nvrtc": "{version}",\n' + ",\n".join(modules) + "\n}\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for cubins and resources.json (made)")
    known = [f"{name}-{precision}" for name in (*BENCHMARK_MODELS, "scatter") for precision in PRECISIONS]
    known += [SYSTEM, NUMBA]
    parser.add_argument("--modules", nargs="+", choices=known, default=list(MODULES), metavar="MODEL-PRECISION")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--record", type=Path, help="also write the table here")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        table = compile_all(arguments.modules, arguments.architectures, arguments.out)
        text = table_text(table, compiler_version())
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 2
    for path in (arguments.out / "resources.json", *([arguments.record] if arguments.record else [])):
        path.write_text(text)
    for module, by_architecture in sorted(table.items()):
        for architecture, kernels in sorted(by_architecture.items()):
            print(
                f"{module:18s} {architecture:7s} {len(kernels):2d} kernels; at most "
                f"{max(k.registers for k in kernels.values()):3d} registers, "
                f"{max(k.shared for k in kernels.values()):6d} bytes shared, "
                f"{max(k.stack for k in kernels.values()):4d} stack, "
                f"{sum(k.spills for k in kernels.values()):4d} spilled"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
