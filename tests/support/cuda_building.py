"""Builds CUDA sources for the CPU: see `cuda_runner`."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RUNTIME = Path(__file__).resolve().parent / "cuda_on_cpu"
SANITIZERS = {
    "": [],
    "address": ["-fsanitize=address"],
    "undefined": ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-fno-sanitize=vptr"],
    "thread": ["-fsanitize=thread"],
}
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function"]


class KernelError(RuntimeError):
    """A kernel cannot be compiled, is launched wrongly, or did what no kernel may do."""


@dataclass(frozen=True)
class Built:
    path: Path
    kernels: tuple[str, ...]
    warnings: str


@functools.cache
def _compiler() -> str:
    path = shutil.which("g++")
    if path is None:
        raise KernelError("no g++: kernels run on the CPU only where it is installed (Debian, Ubuntu: apt install g++)")
    return path


@functools.cache
def cpu_flags() -> tuple[str, ...]:
    """Real fused multiply-adds where the processor has them; elsewhere the C library computes them, slowly."""
    flags = ["-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"]
    if platform.machine() == "x86_64":
        features = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
        present = features[1].split() if features else []
        flags += [f"-m{name}" for name in ("avx2", "fma") if name in present]
    return tuple(flags)


def _cache_directory() -> Path:
    """A folder of the user's; one below the temporary directory where the home cannot be written."""
    chosen = os.environ.get("ALLEGRO_SIM_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "allegro-sim"
    for directory in (base / "cuda-on-cpu", Path(tempfile.gettempdir()) / f"cuda-on-cpu-{os.getuid()}"):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(directory, os.W_OK):
                return directory
    raise KernelError("no folder to keep compiled kernels in")


def _call_compiler(arguments: Sequence[str], text: str) -> tuple[str, str]:
    done = subprocess.run([_compiler(), "-std=c++17", *arguments], input=text, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"g++ refuses the kernels:\n{done.stderr[:8000]}")
    return done.stdout, done.stderr


def _translate(text: str) -> str:
    """The preprocessed source, with what only CUDA has put into C++: the two kinds of shared memory."""
    align = r"(?:alignas\s*\([^()]*\)|__attribute__\s*\(\(aligned\([^()]*\)\)\))"

    def static(match: re.Match[str]) -> str:
        alignment, declaration = match[1] or match[2] or "", match[3]
        names = re.findall(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?:,|$)", re.sub(r"<[^;]*>", "", declaration))
        begin = "cuda_on_cpu::begin_shared(seen, &{0}, sizeof({0}));"
        return f"{alignment} static {declaration};" + "".join(
            f" {{ static uint64_t seen; {begin.format(name)} }}" for name in names
        )

    text = re.sub(
        rf"\bextern\s+(?:{align}\s*)?__shared__\s+(?:{align}\s*)?([\w:\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;",
        r"[[maybe_unused]] \1* const \2 = reinterpret_cast<\1*>(cuda_on_cpu::dynamic_shared);",
        text,
    )
    text = re.sub(rf"({align})?\s*\b__shared__\s+({align})?\s*([^;={{}}]*);", static, text)
    return re.sub(r"\b__global__\b", "", text)


@functools.cache
def build(source: str, flags: tuple[str, ...], include: tuple[str, ...], link: str, sanitize: str) -> Built:
    """Preprocess, translate, compile and link; the result is kept under the hash of all that it depends on."""
    source = f'#include "runtime.h"\nnamespace cuda {{\nnamespace {{\n#line 1 "kernel source"\n{source}\n}}\n}}\n'
    macros = ["-DCUDA_ON_CPU", *(flag for flag in flags if flag.startswith(("-D", "-fsanitize=")))]
    includes = [f"-I{folder}" for folder in (RUNTIME, *include)]
    text, _ = _call_compiler([*macros, *includes, "-E", "-x", "c++", "-"], source)
    kernels = tuple(re.findall(r"\b__global__\s+(?:static\s+)?void\s+(\w+)\s*\(", text))
    table = ", ".join(f'cuda_on_cpu::Entry<cuda::{name}>::kernel("{name}")' for name in kernels)
    # Made while the module is loaded, and never destroyed: threads may ask for it at the same time, and at any time.
    text = _translate(text) + (
        f"static const cuda_on_cpu::Kernel* const table = new cuda_on_cpu::Kernel[{len(kernels) + 1}]{{{table}}};\n"
        "static const cuda_on_cpu::Kernel* kernel_table() { return table; }\n"
    )
    version = _call_compiler(["--version"], "")[0]
    key = hashlib.sha256("\0".join((text, version, link, *flags)).encode()).hexdigest()[:32]
    path = _cache_directory() / key
    said = path.with_suffix(".warnings")
    with open(path.with_suffix(".lock"), "w") as lock:  # concurrent processes compile a module once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as work:
                compiled = Path(work) / "module"
                command = [*flags, *WARNINGS, "-x", "c++-cpp-output", "-c", "-", "-o", f"{compiled}.o"]
                _, warnings = _call_compiler(command, text)
                # Counted loads and stores call the runtime's own functions, so no sanitizer's library is linked then.
                command = [f"{compiled}.o", "-o", str(compiled), *([link, "-Wl,-z,defs"] if link else [])]
                _call_compiler([*command, *(["-fsanitize=" + sanitize] if sanitize else [])], "")
                said.write_text(warnings)
                os.replace(compiled, path)
    return Built(path, kernels, said.read_text())
