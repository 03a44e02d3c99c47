"""Modules of the CPU runner share a process with each other, with threads and with the end of the interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

SEVERAL_KERNELS = "\n".join(
    f'extern "C" __global__ void scale_{n}(float* x, const float* y, int count) {{\n'
    f"  const int i = blockIdx.x * blockDim.x + threadIdx.x;\n  if (i < count) x[i] = {n}.0f * y[i];\n}}"
    for n in range(24)
)

AT_ONCE = """
import ctypes, shutil, sys, threading
from pathlib import Path
import numpy as np
from support.cuda_runner import CpuModule
from support.cuda_running import Library

folder, source = Path(sys.argv[1]), sys.argv[2]
sys.setswitchinterval(1e-6)
first = CpuModule(source)
built, wanted = Path(first._engine._library._name), first._engine.parameters
THREADS, failures = 4, []


def use(path, start, number):
    start.wait()
    library = Library(path, len(wanted), False)
    if library.parameters != wanted:
        failures.append((path, library.parameters))
    module = CpuModule(source)
    y = np.arange(1000, dtype=np.float32)
    x = np.zeros_like(y)
    module.launch(f"scale_{number}", (4,), (256,), (x, y, np.int32(1000)))
    if not np.array_equal(x, number * y):
        failures.append((path, number))


for turn in range(40):
    path = folder / f"module_{turn}"  # the loader takes it for another module
    shutil.copy(built, path)
    start = threading.Barrier(THREADS)
    threads = [threading.Thread(target=use, args=(path, start, number)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert not failures, failures[:3]
print("all agree")
"""

NO_STACKS = """
import resource, sys
import numpy as np
from support.cuda_runner import CpuModule, KernelError

module = CpuModule(sys.argv[1])
x = np.zeros(1024, np.int32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
try:
    module.launch("meet", (1,), (1024,), (x,))
except KernelError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
module.launch("meet", (1,), (1024,), (x,))
print(x.sum())
"""

MEET = """
extern "C" __global__ void meet(int* x) {
  __syncthreads();
  x[threadIdx.x] = 1;
}
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, whose end is part of the test."""
    text = f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n{script}"
    return subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=300)


def test_threads_may_load_and_launch_a_module_at_once(tmp_path: Path) -> None:
    """Until the process has ended: its heap is whole, and what a module holds is given back once."""
    done = run(AT_ONCE, str(tmp_path), SEVERAL_KERNELS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "all agree\n"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_stacks_that_find_no_memory_fail_the_launch_and_not_the_process() -> None:
    done = run(NO_STACKS, MEET)
    assert done.returncode == 0, done.stdout + done.stderr
    message, total = done.stdout.splitlines()
    assert "no memory for the stack" in message
    assert total == "1024"
