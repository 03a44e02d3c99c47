"""The import rule of ARCHITECTURE.md, read from the sources: imports go downward only."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Height of each part; a module may import from parts of its own height or lower. The longest matching name counts.
HEIGHTS = {
    "allegro_sim": 0,  # the package's own __init__: version and lazy names
    "allegro_sim.kernels": 0,
    "allegro_sim.errors": 0,
    "allegro_sim.units": 0,
    "allegro_sim.timers": 0,
    "allegro_sim.stops": 0,
    "allegro_sim.keys": 0,
    "allegro_sim.config": 1,
    "allegro_sim.cell": 1,
    "allegro_sim.model": 1,
    "allegro_sim.system": 1,
    "allegro_sim.neighbors": 2,
    "allegro_sim.parallel": 2,
    "allegro_sim.potential": 2,
    "allegro_sim.dynamics": 2,
    "allegro_sim.output": 2,
    "allegro_sim.structure_files": 2,
    "allegro_sim.structure": 2,
    "allegro_sim.evaluation": 3,
    "allegro_sim.start": 3,
    "allegro_sim.report": 3,
    "allegro_sim.loads": 3,
    "allegro_sim.descent": 3,
    "allegro_sim.motion": 3,
    "allegro_sim.gpu": 3,
    "allegro_sim.watch": 3,
    "allegro_sim.minimization": 3,
    "allegro_sim.simulation": 3,
    "allegro_sim.calculator": 4,
    "allegro_sim.cli": 4,
    "allegro_sim.tools": 4,
    "allegro_sim.__main__": 5,
}

# Packages from outside, and the only parts that may import them (anywhere in the file, also inside functions).
CONFINED = {
    "mpi4py": ("allegro_sim.parallel.comm",),
    "ase": (
        "allegro_sim.structure",
        "allegro_sim.structure_files",
        "allegro_sim.calculator",
        "allegro_sim.output",
        "allegro_sim.tools",
    ),
    "h5py": ("allegro_sim.model", "allegro_sim.output", "allegro_sim.tools"),
    "tqdm": ("allegro_sim.output",),
    "yaml": ("allegro_sim.tools",),
    "matplotlib": ("allegro_sim.tools",),
    "cupy": (
        "allegro_sim.kernels.cuda",
        "allegro_sim.kernels.numba_cuda",
        "allegro_sim.potential.cuda",
        "allegro_sim.gpu.nccl",
        "allegro_sim.tools.gpu_report_device",
    ),
    "numba.cuda": ("allegro_sim.kernels.numba_cuda", "allegro_sim.potential.cuda.device", "allegro_sim.tools"),
    # NVIDIA's bindings of compiler and linker.
    "cuda": ("allegro_sim.kernels.numba_cuda.compilation", "allegro_sim.potential.cuda", "allegro_sim.tools"),
    # Scripts that upstream's own interpreter runs; nothing of the running program needs them.
    "torch": (
        "allegro_sim.tools.upstream",
        "allegro_sim.tools.bench_upstream",
        "allegro_sim.tools.make_golden",
        "allegro_sim.tools.make_legacy_golden",
    ),
    "nequip": (
        "allegro_sim.tools.upstream",
        "allegro_sim.tools.bench_upstream",
        "allegro_sim.tools.make_golden",
        "allegro_sim.tools.make_legacy_golden",
    ),
    "allegro": ("allegro_sim.tools.upstream", "allegro_sim.tools.bench_upstream", "allegro_sim.tools.make_golden"),
    "e3nn": ("allegro_sim.tools.upstream",),
    "MDAnalysis": ("allegro_sim.tools",),
    "scipy": (),
}


def is_part(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def height(module: str) -> int:
    part = max((p for p in HEIGHTS if is_part(module, p)), key=len)
    assert part != "allegro_sim" or module == "allegro_sim", (
        f"{module} has no place in the import rule; give it one here"
    )
    return HEIGHTS[part]


def sources(repository: Path) -> dict[str, Path]:
    """Every module of the package by its installed name."""
    found = {}
    for folder, package in (
        ("allegro_sim", "allegro_sim"),
        ("kernels", "allegro_sim.kernels"),
        ("tools", "allegro_sim.tools"),
    ):
        for path in sorted((repository / folder).rglob("*.py")):
            parts = path.relative_to(repository / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


@functools.cache
def imported_names(module: str, path: Path, *, top_level_only: bool = False) -> tuple[str, ...]:
    """Absolute dotted names that a module imports; those for type checkers alone are left out."""
    return tuple(_imported_names(module, path, top_level_only))


def _imported_names(module: str, path: Path, top_level_only: bool) -> Iterator[str]:

    def visit(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from visit(node.orelse)
                continue
            yield node
            if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for field in ("body", "orelse", "finalbody"):
                yield from visit(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from visit(handler.body)

    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in visit(ast.parse(path.read_text(), str(path)).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_imports_go_downward_only(repository: Path) -> None:
    wrong = []
    modules = sources(repository)
    for module, path in modules.items():
        for name in imported_names(module, path):
            if not is_part(name, "allegro_sim") or name == "allegro_sim.AllegroCalculator":
                continue
            # `from package import module` names the module; `from module import function` names something inside it.
            target = name if name in modules else name.rpartition(".")[0]
            if module != "allegro_sim" and height(target) > height(module):
                wrong.append(f"{module} imports {target}")
    assert not wrong, wrong


def test_imports_make_no_cycle(repository: Path) -> None:
    modules = sources(repository)
    graph = {}
    for module, path in modules.items():
        names = imported_names(module, path, top_level_only=True)
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = {t for t in targets if t in modules and t != module}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_kernels_import_nothing_from_the_rest(repository: Path) -> None:
    for module, path in sources(repository).items():
        if is_part(module, "allegro_sim.kernels"):
            outside = [n for n in imported_names(module, path) if is_part(n, "allegro_sim")]
            assert all(is_part(n, "allegro_sim.kernels") for n in outside), (module, outside)


def test_leaves_import_nothing_but_errors_and_units(repository: Path) -> None:
    modules = sources(repository)
    for leaf in ("allegro_sim.config", "allegro_sim.units", "allegro_sim.errors", "allegro_sim.timers"):
        inside = [n for n in imported_names(leaf, modules[leaf]) if is_part(n, "allegro_sim")]
        leaves = ("allegro_sim.errors", "allegro_sim.units", "allegro_sim.keys")
        assert all(any(is_part(n, other) for other in leaves) for n in inside), (leaf, inside)


def test_settings_stay_at_the_top(repository: Path) -> None:
    """Parts get plain values, not the settings."""
    allowed = [f"allegro_sim.{part}" for part in ("cli", "simulation", "start", "tools", "config")]
    for module, path in sources(repository).items():
        if any(is_part(name, "allegro_sim.config") for name in imported_names(module, path)):
            assert any(is_part(module, part) for part in allowed), module


@pytest.mark.parametrize("package", sorted(CONFINED))
def test_outside_packages_are_imported_only_where_they_belong(package: str, repository: Path) -> None:
    wrong = [
        module
        for module, path in sources(repository).items()
        if any(is_part(name, package) for name in imported_names(module, path))
        and not any(is_part(module, part) for part in CONFINED[package])
    ]
    assert not wrong, f"{package} imported in {wrong}"


@pytest.mark.parametrize(
    "statement",
    ["import allegro_sim", "from allegro_sim import AllegroCalculator", "import allegro_sim.evaluation"],
)
def test_importing_never_initialises_mpi_nor_loads_a_gpu(statement: str) -> None:
    """`mpi4py.MPI` initialises MPI when it is imported, so it must not be among the loaded modules."""
    program = (
        f"import sys\n{statement}\n"
        "print(*sorted({'mpi4py.MPI', 'cupy', 'numba.cuda.cudadrv.driver', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_import_of_the_package_is_light() -> None:
    program = "import sys, allegro_sim; print(*({'numba', 'ase', 'h5py', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
