"""CUDA C++ to machine code by NVRTC, without a GPU, and where the results are kept.

CuPy's own compiling adds -ftz=true to every module, which flushes subnormal float32 numbers to zero; so NVRTC is called
here, and CuPy loads the finished code. Every fused multiply-add is written as one in the sources: the compiler makes
none of its own (-fmad=false), so that what it makes of an expression cannot change a bit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from allegro_sim.errors import DeviceError
from allegro_sim.kernels.cpu.compilation import cache_directory
from allegro_sim.kernels.numba_cuda import compilation as numba_compilation

OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")

FOLDER_VARIABLE = "ALLEGRO_SIM_CUBINS"
"""Environment variable: a folder of modules compiled beforehand, looked through before anything is compiled."""


def compile_module(source: str, architecture: str, options: Sequence[str] = OPTIONS) -> tuple[bytes, str]:
    """Machine code of a module, and what the compiler said (empty if nothing).

    architecture: "sm_90", or "compute_90" for PTX, which the driver finishes.

    Raises
    ------
    DeviceError : NVRTC is not installed, or the module does not compile
    """
    nvrtc = _nvrtc()
    program = _check(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), b"allegro.cu", 0, [], []))
    given = [option.encode() for option in (f"--gpu-architecture={architecture}", *options)]
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(given), given)
    log = bytearray(_check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
    _check(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
    said = bytes(log).rstrip(b"\0").decode(errors="replace").strip()
    if int(status) != 0:
        raise DeviceError(f"the CUDA kernels of this model do not compile for {architecture}:\n{said[:4000]}")
    as_ptx = architecture.startswith("compute_")
    size, get = (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if as_ptx else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    code = bytearray(_check(nvrtc, size(program)))
    _check(nvrtc, get(program, code))
    _check(nvrtc, nvrtc.nvrtcDestroyProgram(program))
    return bytes(code), said


def module_name(source: str, architecture: str) -> str:
    """File name of a compiled module: its architecture, and the hash of all that it was made from."""
    digest = hashlib.sha256("\0".join((source, *OPTIONS)).encode()).hexdigest()[:24]
    return f"{digest}.{architecture}.cubin"


def load_or_compile(source: str, capability: tuple[int, int]) -> bytes:
    """Machine code for a device of this compute capability: made beforehand, or compiled once and kept."""
    major, minor = capability
    folders = [Path(folder) for folder in (os.environ.get(FOLDER_VARIABLE),) if folder]
    for folder in folders:
        # Code for one minor version runs on all later ones of the same major version.
        for older in range(minor, -1, -1):
            path = folder / module_name(source, f"sm_{major}{older}")
            if path.exists():
                return path.read_bytes()
    architecture = _architecture(capability)
    # By the compiler's version too: another one may make other bits of the same text.
    version = ".".join(map(str, _check(_nvrtc(), _nvrtc().nvrtcVersion())))
    path = cache_directory().parent / f"cuda-{version}" / module_name(source, architecture)
    return _kept(path, lambda: compile_module(source, architecture)[0])


def load_or_compile_numba(name: str, capability: tuple[int, int]) -> bytes:
    """Machine code of a kernel of `kernels.numba_cuda`: made beforehand, or compiled once and kept."""
    file = numba_compilation.file_name(name, capability)
    if (folder := os.environ.get(FOLDER_VARIABLE)) and (Path(folder) / file).exists():
        return (Path(folder) / file).read_bytes()
    return _kept(cache_directory().parent / "numba-cuda" / file, lambda: _compile_numba(name, capability))


def _compile_numba(name: str, capability: tuple[int, int]) -> bytes:
    try:
        return numba_compilation.compile_kernel(name, capability)[0]
    except ImportError as error:
        raise DeviceError(
            f"Numba's CUDA target cannot be loaded ({error}); install the extra for your driver: "
            'pip install "allegro-sim[cuda13]", or [cuda12]'
        ) from None


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """A file's contents, made where it is missing; ranks that make it at the same time write the same bytes."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(make())
        temporary.replace(path)
    return path.read_bytes()


def _architecture(capability: tuple[int, int]) -> str:
    """What to compile for: the device itself, or PTX of the newest one that this NVRTC knows."""
    nvrtc = _nvrtc()
    known = _check(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    own = 10 * capability[0] + capability[1]
    return f"sm_{own}" if own in known else f"compute_{max(arch for arch in known if arch < own)}"


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise DeviceError(
            f"NVIDIA's compiler NVRTC cannot be loaded ({error}); install the extra for your driver: "
            'pip install "allegro-sim[cuda13]", or [cuda12]'
        ) from None
    return nvrtc


def _check(nvrtc: Any, result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status) != 0:
        raise DeviceError(f"NVRTC failed: {status}; reinstall the extra [cuda13] or [cuda12]")
    return values[0] if len(values) == 1 else values
