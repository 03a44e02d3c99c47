"""Kernels of the catalogue as machine code: Numba compiles them, and does not launch them.

A launch through Numba took the host 90 to 230 microseconds, measured beside an H200: as long as the network of a small
system. So Numba makes PTX, nvJitLink machine code, and the executor launches it as any other kernel, with the arguments
of `flat_arguments`.

As everywhere, no product and sum are fused that are not written so: what happens to an atom has the bits of the CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..cpu import compilation as cpu
from .catalogue import KERNELS


@cache
def source_hash() -> str:
    """Hash of all sources that these kernels are made of, and of Numba's CUDA target."""
    digest = hashlib.sha256((version("numba-cuda") + cpu.source_hash()).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_name(name: str, capability: tuple[int, int]) -> str:
    """File name of a kernel's machine code: the hash of all that it is made from is part of it."""
    return f"{name}-{source_hash()}.sm_{capability[0]}{capability[1]}.cubin"


@contextmanager
def _nothing_fused() -> Iterator[None]:
    """NVVM makes no fused multiply-adds of its own, nor lets the assembler: Numba has no option for it alone."""
    from numba.cuda.cudadrv import nvvm

    compile_ir = nvvm.compile_ir
    nvvm.compile_ir = partial(compile_ir, fma=False)
    try:
        yield
    finally:
        nvvm.compile_ir = compile_ir


def compile_to_ptx(name: str, capability: tuple[int, int]) -> str:
    """PTX in which the kernel has its own name.

    Raises
    ------
    RuntimeError : this release of numba-cuda fuses products and sums after all
    """
    from numba import cuda

    function, signature = KERNELS[name]
    with _nothing_fused():
        ptx, _ = cuda.compile(function, signature, device=False, abi="numba", cc=capability)
    if fused := re.findall(r"\bfma\.rn\.\w+|\b(?:mul|add|sub)\.f(?:32|64)", ptx):
        release = version("numba-cuda")
        raise RuntimeError(f"numba-cuda {release} fuses products and sums of {name} ({fused[0]}): use 0.30")
    (entry,) = re.findall(r"\.entry (\w+)\(", ptx)
    return re.sub(rf"\b{entry}\b", name, ptx)


def compile_kernel(name: str, capability: tuple[int, int], options: Sequence[str] = ()) -> tuple[bytes, str]:
    """Machine code of a kernel, and what the assembler said; options: of nvJitLink."""
    from cuda.bindings import nvjitlink

    ptx = compile_to_ptx(name, capability)
    handle = nvjitlink.create(1 + len(options), [f"-arch=sm_{capability[0]}{capability[1]}", *options])
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx.encode(), len(ptx), name)
        nvjitlink.complete(handle)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), bytes(log).rstrip(b"\0").decode()


class _Parameter(NamedTuple):
    is_array: bool
    ndim: int
    dtype: np.dtype


@cache
def _parameters(name: str) -> tuple[_Parameter, ...]:
    """Those of a kernel of the catalogue; arrays are contiguous."""
    kinds = KERNELS[name][1].args
    arrays = [hasattr(kind, "ndim") for kind in kinds]
    assert all(kind.layout == "C" for kind, is_array in zip(kinds, arrays, strict=True) if is_array)
    return tuple(
        _Parameter(True, kind.ndim, np.dtype(str(kind.dtype)))
        if is_array
        else _Parameter(False, 0, np.dtype(str(kind)))
        for kind, is_array in zip(kinds, arrays, strict=True)
    )


def flat_arguments(name: str, arguments: Sequence[Any], address: Any) -> list[Any]:
    """The values that a kernel of the catalogue is launched with, as ctypes objects.

    Numba's convention: of an array two pointers that only the host's Numba uses, its number of elements, their size,
    the address, shape and strides; a number as it is. address: function of an array.

    Raises
    ------
    TypeError : an argument is not what the kernel's signature says
    """
    values: list[Any] = []
    for number, (kind, argument) in enumerate(zip(_parameters(name), arguments, strict=True)):
        if not kind.is_array:
            value = kind.dtype.type(argument)
            values.append(ctypes.create_string_buffer(value.tobytes(), value.nbytes))
            continue
        if argument.ndim != kind.ndim or argument.dtype != kind.dtype:
            found = f"{argument.dtype} of {argument.ndim} dimensions"
            raise TypeError(f"argument {number} of {name} is {found}, not {kind.dtype} of {kind.ndim}")
        if not argument.flags.c_contiguous:
            raise TypeError(f"argument {number} of {name} is not contiguous")
        values += [ctypes.c_void_p(0), ctypes.c_void_p(0)]
        values += [ctypes.c_int64(argument.size), ctypes.c_int64(argument.dtype.itemsize)]
        values.append(ctypes.c_void_p(address(argument)))
        values += [ctypes.c_int64(length) for length in (*argument.shape, *argument.strides)]
    return values
