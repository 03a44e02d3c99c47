"""Launches of built CUDA sources, in this process or in one of their own: see `cuda_runner`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from support.cuda_building import KernelError

COUNTS = ("loaded", "stored", "added", "loaded_once", "stored_once")  # enum Access in traffic.h
SANITIZER_SETTINGS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=0",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@dataclass(frozen=True)
class Launch:
    kernel: int
    sizes: tuple[int, ...]  # grid, block
    shared_bytes: int
    order: int
    seed: int
    blocks_reversed: bool
    arguments: tuple[np.ndarray | bytes | None, ...]  # array, bytes of a value, null pointer


class Library:
    """A module in this process.

    The stacks of its threads stay for its next launch; of many modules only the last few in use keep them, since the
    system limits how many pieces of memory a process may have. A module has one state, however often it is loaded:
    of all launches of the process one runs at a time.
    """

    _WITH_STACKS = 32
    _one_at_a_time: ClassVar[threading.Lock] = threading.Lock()
    _in_use: ClassVar[dict[int, ctypes.CDLL]] = {}  # the last used at the end

    def __init__(self, path: Path, n_kernels: int, count_bytes: bool) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.cuda_on_cpu_parameters.restype = ctypes.c_char_p
        self._library.cuda_on_cpu_message.restype = ctypes.c_char_p
        self._count = count_bytes
        self.parameters: list[str] = [
            self._library.cuda_on_cpu_parameters(ctypes.c_uint(kernel)).decode() for kernel in range(n_kernels)
        ]

    def run(self, launch: Launch) -> tuple[str, np.ndarray]:
        """Message of what went wrong, or nothing; the counts of each argument, and operations of the matrix units."""
        with self._one_at_a_time:
            return self._run(launch)

    def run_pointers(self, kernel: int, sizes: Sequence[int], shared_bytes: int, pointers: int) -> str:
        """Message of what went wrong; pointers: address of one to each argument's value, as cuLaunchKernel takes it."""
        with self._one_at_a_time:
            self._keep_stacks()
            self._library.cuda_on_cpu_set_order(0, ctypes.c_uint64(0), 0)
            return self._launch(kernel, sizes, shared_bytes, ctypes.c_void_p(pointers))

    def _launch(self, kernel: int, sizes: Sequence[int], shared_bytes: int, pointers: Any) -> str:
        failed = self._library.cuda_on_cpu_launch(
            ctypes.c_uint(kernel), (ctypes.c_uint * 6)(*sizes), ctypes.c_size_t(shared_bytes), pointers
        )
        return self._library.cuda_on_cpu_message().decode(errors="replace") if failed else ""

    def _run(self, launch: Launch) -> tuple[str, np.ndarray]:
        self._keep_stacks()
        n = len(launch.arguments)
        values: list[Any] = []
        for argument in launch.arguments:
            if isinstance(argument, bytes):
                values.append(ctypes.create_string_buffer(argument, max(16, len(argument))))
            else:
                values.append(ctypes.c_void_p(None if argument is None else argument.ctypes.data))
        pointers = (ctypes.c_void_p * max(1, n))(*(ctypes.addressof(value) for value in values))
        if self._count:
            arrays = [a if isinstance(a, np.ndarray) else np.empty(0, np.uint8) for a in launch.arguments]
            begins = (ctypes.c_void_p * max(1, n))(*(array.ctypes.data for array in arrays))
            lengths = (ctypes.c_size_t * max(1, n))(*(array.nbytes for array in arrays))
            self._library.cuda_on_cpu_watch_arrays(ctypes.c_size_t(n), begins, lengths)
        self._library.cuda_on_cpu_set_order(launch.order, ctypes.c_uint64(launch.seed), launch.blocks_reversed)
        message = self._launch(launch.kernel, launch.sizes, launch.shared_bytes, pointers)
        counts = np.zeros(n * len(COUNTS) + 1, np.int64)
        if self._count:
            self._library.cuda_on_cpu_counts(ctypes.c_void_p(counts.ctypes.data))
        return message, counts

    def _keep_stacks(self) -> None:
        """This module is the last used; the one unused for longest gives its stacks back."""
        self._in_use.pop(id(self._library), None)
        self._in_use[id(self._library)] = self._library
        if len(self._in_use) > self._WITH_STACKS:
            self._in_use.pop(next(iter(self._in_use))).cuda_on_cpu_release_stacks()


class Worker:
    """A module in a process of its own, in which every array is an allocation with the sanitizer's red zones around."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._findings: IO[bytes]
        self.parameters: list[str] = self._start()

    def _start(self) -> list[str]:
        """Start the process, and read what it says first: the parameters of its kernels."""
        commands = [[str(self._path)]]
        if setarch := shutil.which("setarch"):
            # ThreadSanitizer of older compilers refuses some random layouts of memory; then without.
            commands.append([setarch, "-R", str(self._path)])
        for command in commands:
            self._findings = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._findings,
                env=os.environ | SANITIZER_SETTINGS,
            )
            weakref.finalize(self, _stop, self._process, self._findings)
            with contextlib.suppress(EOFError):
                return self._read(int.from_bytes(self._read(8), "little")).decode().splitlines()
        raise KernelError(f"the process of the sanitized kernels does not start:\n{self._report()}")

    def _read(self, n_bytes: int) -> bytes:
        assert self._process and self._process.stdout
        content = self._process.stdout.read(n_bytes)
        if len(content) < n_bytes:
            raise EOFError
        return content

    def _report(self) -> str:
        assert self._process
        _stop(self._process)
        self._findings.seek(0)
        text = self._findings.read().decode(errors="replace").strip()
        self._findings.close()
        self._process = None
        return text[:6000] or "the process ended without a word"

    def run(self, launch: Launch) -> tuple[str, np.ndarray]:
        """Message of what went wrong, or nothing; and no counts."""
        uncounted = np.zeros(len(launch.arguments) * len(COUNTS) + 1, np.int64)
        if self._process is None:
            self._start()
        assert self._process and self._process.stdin
        pieces, of_argument = _distinct_memory(launch.arguments)
        request = [
            struct.pack("<9I", launch.kernel, *launch.sizes, launch.order, launch.blocks_reversed),
            struct.pack("<4Q", launch.shared_bytes, launch.seed, len(pieces), len(launch.arguments)),
        ]
        for piece in pieces:
            request += [struct.pack("<Q", piece.nbytes), piece.tobytes()]
        for argument, place in zip(launch.arguments, of_argument, strict=True):
            request.append(struct.pack("<qQ", *place))
            if isinstance(argument, bytes):
                request.append(argument)
        try:
            self._process.stdin.write(b"".join(request))
            self._process.stdin.flush()
            failed, length = struct.unpack("<2Q", self._read(16))
            message = self._read(length).decode(errors="replace")
            for piece in pieces:
                content = self._read(piece.nbytes)
                if piece.flags.writeable:
                    piece[:] = np.frombuffer(content, np.uint8)
        except (EOFError, BrokenPipeError):
            return self._report(), uncounted
        if failed:
            self._report()
        return (message if failed else ""), uncounted


def _stop(process: subprocess.Popen[bytes], findings: IO[bytes] | None = None) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if findings:
        findings.close()


def _distinct_memory(
    arguments: Sequence[np.ndarray | bytes | None],
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Distinct pieces of memory, as bytes, and for each argument (piece, offset); (-1, 0) null, (-2, bytes) a value.

    Arrays that overlap are views of one piece, as on a device.
    """
    arrays = sorted(
        (a for a in arguments if isinstance(a, np.ndarray)), key=lambda a: (a.ctypes.data, -a.nbytes, a.flags.writeable)
    )
    spans: list[list[int]] = []  # begin, end, writeable
    for array in arrays:
        begin, end = array.ctypes.data, array.ctypes.data + array.nbytes
        if spans and begin < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
            spans[-1][2] |= array.flags.writeable
        else:
            spans.append([begin, end, array.flags.writeable])
    pieces = []
    for begin, end, writeable in spans:
        piece = np.ctypeslib.as_array((ctypes.c_uint8 * (end - begin)).from_address(begin))
        piece.flags.writeable = bool(writeable)
        pieces.append(piece)
    places: list[tuple[int, int]] = []
    for argument in arguments:
        if argument is None:
            places.append((-1, 0))
        elif isinstance(argument, bytes):
            places.append((-2, len(argument)))
        else:
            address = argument.ctypes.data
            piece_number = max(i for i, span in enumerate(spans) if span[0] <= address)
            places.append((piece_number, address - spans[piece_number][0]))
    return pieces, places
