"""CUDA C++ sources executed on the CPU: compiled by g++ against `cuda_on_cpu/runtime.h`, run on NumPy arrays.

    module = CpuModule('#include "some.cuh"\\nextern "C" __global__ void scale(float* x, int n) { ... }')
    module.launch("scale", (grid,), (block,), (x, np.int32(x.size)))

Kernels are `extern "C" __global__` functions, found by name. Each CUDA thread is a fibre; blocks run one after the
other. Shared memory is all ones (NaN) when a block begins. The compiler never fuses or reorders floating-point
operations: `fmaf` and `fma` are the only fused ones. A source knows that it is compiled here by the macro CUDA_ON_CPU.

With a sanitizer the module runs in a process of its own, which a finding ends; the next launch starts another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support.cuda_building import RUNTIME, SANITIZERS, KernelError, build, cpu_flags
from support.cuda_running import COUNTS, Launch, Library, Worker

KERNELS = RUNTIME.parents[2] / "kernels" / "cuda"
MAX_THREADS = 1024
MAX_SHARED_BYTES = 227 * 1024
ORDERS = {"forward": 0, "reverse": 1, "random": 2}


@dataclass(frozen=True)
class Traffic:
    """Bytes of global memory of one kernel, and operations of the matrix units, over all launches so far.

    `loaded`, `stored`, `added` (atomics): as every thread asks for them. `loaded_once`, `stored_once`: what a block
    touches of an array counted once in the block (words of 4 bytes), summed over blocks; what a block reads of what it
    has written itself is not counted: it comes from a cache. `per_argument` holds the same
    five for each parameter, in order; of parameters that overlap, the first. Of `matrix_operations` a multiply-add
    is two.
    """

    loaded: int
    stored: int
    added: int
    loaded_once: int
    stored_once: int
    per_argument: tuple[dict[str, int], ...]
    matrix_operations: int


@dataclass(frozen=True)
class _Parameter:
    """Type of a kernel's parameter, as launch.h names it: `f4`, `*f4`, `*f4x2`, `*i4c` (const), `*v`, `V12`."""

    code: str

    @property
    def is_pointer(self) -> bool:
        return self.code.startswith("*")

    @property
    def is_const(self) -> bool:
        return self.code.endswith("c")

    def check_array(self, array: np.ndarray, where: str) -> None:
        if not array.flags.c_contiguous:
            raise KernelError(f"{where} is not C-contiguous")
        if not self.is_const and not array.flags.writeable:
            raise KernelError(f"{where} is read-only, and the kernel may write it ({self.code})")
        element, _, width = self.code.strip("*c").partition("x")
        if element.startswith(("v", "*")):
            return
        size = int(element[1:]) * int(width or 1)
        if array.nbytes % size or (element[0] != "V" and array.dtype.str.lstrip("<|") != element):
            raise KernelError(f"{where} is of {array.dtype} and has {array.nbytes} bytes; the kernel takes {self.code}")

    def check_value(self, value: Any, where: str) -> bytes:
        if not isinstance(value, np.generic):
            raise KernelError(f"{where} is a {type(value).__name__}, not a NumPy scalar or array; it takes {self.code}")
        same_size = self.code[0] == "V" and value.nbytes == int(self.code[1:])
        if not same_size and value.dtype.str.lstrip("<|") != self.code:
            raise KernelError(f"{where} is of {value.dtype}; the kernel takes {self.code}")
        return value.tobytes()


class CpuModule:
    """A module of CUDA kernels on the CPU.

    `sanitize`: "address", "undefined", "thread" (races; happens-before comes from barriers and __syncwarp alone) or "".
    `order`: in which order the threads of a block run: "forward", "reverse", "random:SEED"; `block_order`: "forward" or
    "reverse". `include`: folders of included files. `count_bytes` makes `counters()` count.
    """

    def __init__(
        self,
        source: str,
        *,
        sanitize: str = "",
        order: str = "forward",
        block_order: str = "forward",
        optimize: str = "-O2",
        include: Sequence[Path | str] = (KERNELS,),
        count_bytes: bool = False,
        warnings_are_errors: bool = False,
    ) -> None:
        if sanitize not in SANITIZERS:
            raise ValueError(f"sanitize={sanitize!r}: one of {sorted(SANITIZERS)}")
        if sanitize and count_bytes:
            raise ValueError("bytes are counted without a sanitizer")
        self._order = _parse_order(order)
        if block_order not in ("forward", "reverse"):
            raise ValueError(f"block_order={block_order!r}: forward or reverse")
        self._blocks_reversed = block_order == "reverse"
        flags = [optimize, *SANITIZERS[sanitize], *cpu_flags()]
        flags += ["-g1", "-fno-omit-frame-pointer", "-DWORKER"] if sanitize else ["-fPIC"]
        flags += ["-fsanitize=thread", "-DCOUNT_BYTES"] if count_bytes else []
        built = build(source, tuple(flags), tuple(map(str, include)), "" if sanitize else "-shared", sanitize)
        #: Names of the kernels, in the order of the source.
        self.kernels: tuple[str, ...] = built.kernels
        #: What the compiler said, empty if nothing.
        self.warnings: str = built.warnings
        if warnings_are_errors and built.warnings:
            raise KernelError(f"g++ warns of the kernels:\n{built.warnings[:8000]}")
        self._engine = Worker(built.path) if sanitize else Library(built.path, len(self.kernels), count_bytes)
        self._parameters = [[_Parameter(code) for code in line.split()] for line in self._engine.parameters]
        self._traffic = {name: np.zeros(len(p) * len(COUNTS) + 1, np.int64) for name, p in self._named()}
        self._count_bytes = count_bytes

    def _named(self) -> Iterator[tuple[str, list[_Parameter]]]:
        return zip(self.kernels, self._parameters, strict=True)

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel to its end.

        `args`: for a pointer a C-contiguous array of the parameter's dtype (of the element's for float4 and such; None
        for a null pointer), for a number a NumPy scalar of exactly its type. Raises KernelError.
        """
        if name not in self.kernels:
            raise KernelError(f"no kernel {name!r} in the module; it has {', '.join(self.kernels)}")
        kernel = self.kernels.index(name)
        parameters = self._parameters[kernel]
        if len(args) != len(parameters):
            raise KernelError(f"{name}: {len(args)} arguments for {len(parameters)} parameters")
        sizes = (*_three(grid), *_three(block))
        if min(sizes) < 1 or np.prod(sizes[3:]) > MAX_THREADS or max(sizes[1:3]) > 65535:
            raise KernelError(f"{name}: no launch with grid {grid}, block {block}")
        if not 0 <= shared_bytes <= MAX_SHARED_BYTES:
            raise KernelError(f"{name}: {shared_bytes} bytes of shared memory, at most {MAX_SHARED_BYTES}")
        checked: list[np.ndarray | bytes | None] = []
        for number, (value, parameter) in enumerate(zip(args, parameters, strict=True)):
            where = f"{name}: argument {number}"
            if not parameter.is_pointer:
                checked.append(parameter.check_value(value, where))
            elif value is None:
                checked.append(None)
            elif isinstance(value, np.ndarray):
                parameter.check_array(value, where)
                checked.append(value)
            else:
                raise KernelError(
                    f"{where} is a {type(value).__name__}, not an array; the kernel takes {parameter.code}"
                )
        launch = Launch(kernel, sizes, shared_bytes, *self._order, self._blocks_reversed, tuple(checked))
        message, counts = self._engine.run(launch)
        self._traffic[name] += counts
        if message:
            raise KernelError(f"{name}: {message}")

    def parameter_bytes(self, kernel: int) -> list[int]:
        """Size of each parameter's value, of the kernel with this number."""
        return [8 if p.is_pointer else int(p.code[1:]) for p in self._parameters[kernel]]

    def counters(self) -> dict[str, Traffic] | None:
        """Traffic of each kernel, or None if the module does not count."""
        if not self._count_bytes:
            return None
        traffic = {}
        for name, counted in self._traffic.items():
            table = counted[:-1].reshape(-1, len(COUNTS))
            rows = tuple(dict(zip(COUNTS, map(int, row), strict=True)) for row in table)
            totals = {count: sum(row[count] for row in rows) for count in COUNTS}
            traffic[name] = Traffic(**totals, per_argument=rows, matrix_operations=int(counted[-1]))
        return traffic


def _three(sizes: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*(int(n) for n in sizes), 1, 1)[:3]
    return x, y, z


def _parse_order(order: str) -> tuple[int, int]:
    kind, _, seed = order.partition(":")
    if kind not in ORDERS or (kind == "random") != seed.isdecimal():
        raise ValueError(f"order={order!r}: forward, reverse or random:SEED")
    return ORDERS[kind], int(seed or 0)
