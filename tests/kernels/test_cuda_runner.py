"""The runner that executes CUDA sources on the CPU: it computes what CUDA promises, and catches what CUDA forbids."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import cuda_building, cuda_runner
from support.cuda_runner import CpuModule, KernelError

ORDERS = ["forward", "reverse", "random:1", "random:2"]
TYPES = {"int": "i4", "unsigned": "u4", "float": "f4", "long long": "i8", "unsigned long long": "u8", "double": "f8"}

RIGHT = r"""
extern "C" __global__ void __launch_bounds__(256) sum(const float* __restrict__ x, double* total, int n) {
  __shared__ double warps[8];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  double value = i < n ? x[i] : 0.0;
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) value += __shfl_down_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < 8; w++) value += warps[w];
    total[blockIdx.x] = value;
  }
}
#define TILE 16
extern "C" __global__ void transpose(const float* a, float* b, int rows, int columns) {
  __shared__ __align__(16) float tile[TILE][TILE + 1];
  const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
  if (row < rows && column < columns) tile[y][x] = a[row * columns + column];
  __syncthreads();
  const int to_row = blockIdx.x * TILE + y, to_column = blockIdx.y * TILE + x;
  if (to_row < columns && to_column < rows) b[to_row * rows + to_column] = tile[x][y];
}
extern "C" __global__ void places(int* index, uint4* sizes) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int place = block * blockDim.x * blockDim.y * blockDim.z + thread;
  index[place] = place;
  sizes[place] = make_uint4(gridDim.z, blockDim.z, blockIdx.y, threadIdx.y);
}
extern "C" __global__ void leave_early(int* seen) {  // those that stay meet without those that left
  if (threadIdx.x >= 40) return;
  const int votes = __syncthreads_count(threadIdx.x % 2);
  const int any = __syncthreads_or(threadIdx.x == 39), all = __syncthreads_and(threadIdx.x != 39);
  seen[threadIdx.x] = votes + 100 * any + 1000 * all;
}
extern "C" __global__ void votes(const int* x, unsigned* out) {
  const int lane = threadIdx.x;
  out[lane] = __ballot_sync(0xffffffffu, x[lane]);
  if (lane < 16) {
    out[32 + lane] = __any_sync(0xffffu, x[lane]) + 2 * __all_sync(0xffffu, x[lane] >= 0);
    __syncwarp(0xffffu);
  } else {
    out[32 + lane] = __popc(__ballot_sync(0xffff0000u, x[lane]));
  }
}
extern "C" __global__ void hand_over(int* flags, int* total) {  // a lock: who waits lets others run
  while (atomicCAS(flags, 0, 1) != 0) {}
  *total = *total + 1;
  __threadfence();
  atomicExch(flags, 0);
}
"""

WRONG = r"""
extern "C" __global__ void missing_barrier(float* x) {  // right only if lower threads run first
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] : 0.0f;
}
extern "C" __global__ void missing_syncwarp(float* x) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] : 0.0f;
}
extern "C" __global__ void race_in_global_memory(float* x) {
  if (threadIdx.x == 0) x[0] = 1.0f;
  if (threadIdx.x == 40) x[40] = x[0];
}
extern "C" __global__ void same_place(float* x) { x[0] = 1.0f; }
extern "C" __global__ void race_of_blocks(float* x) {
  if (threadIdx.x == 0) x[blockIdx.x] = blockIdx.x ? x[blockIdx.x - 1] + 1.0f : 1.0f;
}
extern "C" __global__ void deadlock(float* x) {
  if (threadIdx.x < 16) __syncthreads();
  else x[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 0);
}
extern "C" __global__ void two_barriers(float* x) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  x[threadIdx.x] = 1.0f;
}
extern "C" __global__ void outside_mask(float* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffff0000u, x[threadIdx.x], 1);
}
extern "C" __global__ void absent_lane(float* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 20);
}
extern "C" __global__ void mixed_collectives(float* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 0);
  else x[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
}
extern "C" __global__ void trap(float* x) { if (x[0] == 0.0f) __trap(); }
template <int N> __device__ void fill_all_but_last(float* x) {
  __shared__ float s[N], unwritten[2][N / 2];
  alignas(16) __shared__ float2 pairs[N];
  extern __shared__ __align__(16) float dynamic[];
  const int i = threadIdx.x;
  if (i < N - 1) s[i] = dynamic[i] = pairs[i].x = pairs[i].y = 1.0f;
  __syncthreads();
  x[i] = s[i];
  x[N + i] = dynamic[i];
  x[2 * N + i] = pairs[i].x + pairs[i].y;
  x[3 * N + i] = unwritten[i % 2][i / 2];
}
extern "C" __global__ void unwritten_shared(float* x) { fill_all_but_last<32>(x + blockIdx.x * 128); }
extern "C" __global__ void past_array(float* x, int i) { x[i + threadIdx.x] = 1.0f; }
extern "C" __global__ void past_shared(float* x, int i) {
  __shared__ float s[64];
  float* p = s;
  p[i + threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = p[threadIdx.x];
}
extern "C" __global__ void past_dynamic(float* x, int i) {
  extern __shared__ float s[];
  s[i + threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void past_local(float* x, int i) {
  float a[4] = {0, 1, 2, 3};
  a[i] = x[0];
  x[threadIdx.x] = a[0] + a[threadIdx.x % 4];
}
extern "C" __global__ void shift(float* x, int i) { x[threadIdx.x] = 1 << (i + 32); }
extern "C" __global__ void overflow(float* x, int i) { x[threadIdx.x] = 2147483647 + i; }
extern "C" __global__ void misaligned(float* x, int i) { x[0] = reinterpret_cast<float4*>(x + i)->y; }
"""


@pytest.fixture(scope="module", params=[*ORDERS, "other processors"])
def right(request: pytest.FixtureRequest) -> CpuModule:
    if request.param == "other processors":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_runner, "cpu_flags", lambda: (*cuda_building.cpu_flags(), "-DUCONTEXT"))
            return CpuModule(RIGHT)
    return CpuModule(RIGHT, order=request.param, block_order="reverse" if "r" in request.param[1:] else "forward")


@pytest.fixture(scope="module")
def wrong() -> CpuModule:
    return CpuModule(WRONG)


# ---- What CUDA promises


def test_blocks_of_several_warps_with_barriers_and_shuffles(right: CpuModule) -> None:
    x = np.random.default_rng(0).random(1000).astype("f4")
    total = np.zeros(4)
    right.launch("sum", (4,), (256,), (x, total, np.int32(x.size)))
    np.testing.assert_allclose(total, np.append(x, np.zeros(24)).reshape(4, 256).sum(1), rtol=1e-14)  # sums of 256


def test_blocks_of_two_dimensions(right: CpuModule) -> None:
    a = np.arange(50 * 37, dtype="f4").reshape(50, 37)
    b = np.full((37, 50), np.nan, "f4")
    right.launch("transpose", (3, 4), (16, 16), (a, b, np.int32(50), np.int32(37)))
    assert (b == a.T).all()


def test_every_thread_of_a_grid_runs_once(right: CpuModule) -> None:
    index, sizes = np.full(2 * 3 * 2 * 4 * 5 * 3, -1, "i4"), np.zeros((2 * 3 * 2 * 4 * 5 * 3, 4), "u4")
    right.launch("places", (2, 3, 2), (4, 5, 3), (index, sizes))
    assert (index == np.arange(index.size)).all()
    blocks, threads = np.divmod(index, 60)
    assert (sizes == np.stack([0 * index + 2, 0 * index + 3, blocks // 2 % 3, threads // 4 % 5], axis=1)).all()


def test_barriers_wait_only_for_threads_that_have_not_ended(right: CpuModule) -> None:
    seen = np.zeros(64, "i4")
    right.launch("leave_early", (1,), (64,), (seen,))
    assert (seen == np.where(np.arange(64) < 40, 20 + 100, 0)).all()


def test_votes(right: CpuModule) -> None:
    x = np.random.default_rng(1).integers(0, 2, 32).astype("i4")
    out = np.zeros(64, "u4")
    right.launch("votes", (1,), (32,), (x, out))
    assert (out[:32] == sum(int(bit) << lane for lane, bit in enumerate(x))).all()
    assert (out[32:48] == 1 * x[:16].any() + 2).all() and (out[48:] == x[16:].sum()).all()


def test_threads_that_wait_for_a_lock_let_others_run(right: CpuModule) -> None:
    lock, total = np.zeros(1, "i4"), np.zeros(1, "i4")
    right.launch("hand_over", (2,), (64,), (lock, total))
    assert total[0] == 128


def test_shuffles_of_every_type_and_width() -> None:
    source = """
    #define SHUFFLES(NAME, T) extern "C" __global__ void NAME(const T* x, T* y, int by, int width) { \\
      const int lane = threadIdx.x; \\
      y[lane] = __shfl_sync(0xffffffffu, x[lane], by, width); \\
      y[32 + lane] = __shfl_xor_sync(0xffffffffu, x[lane], by, width); \\
      y[64 + lane] = __shfl_up_sync(0xffffffffu, x[lane], by, width); \\
      y[96 + lane] = __shfl_down_sync(0xffffffffu, x[lane], by, width); }
    """ + "\n".join(f"SHUFFLES({dtype}, {kind})" for kind, dtype in TYPES.items())
    module = CpuModule(source, order="random:3")
    lane = np.arange(32)
    for dtype in TYPES.values():
        x = np.random.default_rng(2).integers(0, 1 << 31, 32).astype(dtype)
        for width in (1, 2, 8, 32):
            first = lane // width * width
            for by in range(width):
                y = np.zeros(128, dtype)
                module.launch(dtype, (1,), (32,), (x, y, np.int32(by), np.int32(width)))
                up = np.where(lane - by < first, lane, lane - by)
                down = np.where(lane + by < first + width, lane + by, lane)
                assert (y == np.concatenate([x[source] for source in (first + by, lane ^ by, up, down)])).all()


def test_atomic_operations() -> None:
    add = dict(TYPES)
    del add["long long"]  # CUDA has none for it
    bits = {kind: dtype for kind, dtype in TYPES.items() if kind in ("int", "unsigned", "unsigned long long")}
    whole = {kind: dtype for kind, dtype in TYPES.items() if dtype[0] != "f"}
    operations = {"Add": add, "Min": whole, "Max": whole, "And": bits, "Or": bits, "Xor": bits, "Exch": bits}
    module = CpuModule(
        "\n".join(
            f'extern "C" __global__ void {name}_{dtype}(const {kind}* x, {kind}* y)'
            f" {{ atomic{name}(y, x[blockIdx.x * blockDim.x + threadIdx.x]); }}"
            for name, kinds in operations.items()
            for kind, dtype in kinds.items()
        )
    )
    expected = {"Add": np.add, "Min": np.minimum, "Max": np.maximum}
    expected |= {"And": np.bitwise_and, "Or": np.bitwise_or, "Xor": np.bitwise_xor}
    for name, kinds in operations.items():
        for dtype in kinds.values():
            x = np.random.default_rng(3).integers(1, 1 << 16, 96).astype(dtype)  # sums are exact in float32
            y = np.array([1 << 15]).astype(dtype)
            last = x[-1] if name == "Exch" else expected[name].reduce(x, initial=y[0])
            module.launch(f"{name}_{dtype}", (3,), (32,), (x, y))
            assert y[0] == last, (name, dtype)


def evaluate(kind: str, x: object, **expressions: tuple[str, str]) -> dict[str, np.ndarray]:
    """Expressions of `x`, as (type, C++), for every element of an array."""
    kernels = "\n".join(
        f'extern "C" __global__ void get_{name}(const {kind}* in, {result}* out) {{'
        f" const {kind} x = in[threadIdx.x]; out[threadIdx.x] = {expression}; }}"
        for name, (result, expression) in expressions.items()
    )
    module, values = CpuModule(kernels), np.array(x, TYPES[kind])
    results = {name: np.zeros(values.size, TYPES[result]) for name, (result, _) in expressions.items()}
    for name, out in results.items():
        module.launch(f"get_{name}", (1,), (values.size,), (values, out))
    return results


def test_conversions_round_to_even_and_saturate() -> None:
    x = [0.5, 1.5, -2.5, 2.0**52 + 1, 1e300, -1e300, np.inf, -np.inf, np.nan]
    got = evaluate("double", x, wide=("long long", "__double2ll_rn(x)"), positive=("unsigned", "__double2uint_rz(x)"))
    low, high = -(2**63), 2**63 - 1
    assert got["wide"].tolist() == [0, 2, -2, 2**52 + 1, high, low, high, low, low]
    assert got["positive"][:4].tolist() == [0, 1, 0, 2**32 - 1]
    y = [0.5, -1.5, 3e9, -3e9, np.nan]
    got = evaluate("float", y, nearest=("int", "__float2int_rn(x)"), down=("int", "__float2int_rd(x)"))
    assert got["nearest"].tolist() == got["down"].tolist() == [0, -2, 2**31 - 1, -(2**31), 0]


def test_only_fma_fuses() -> None:
    x = np.array([1.0 + 2.0**-30, 1.0 - 2.0**-29])
    written, named, fused = ("x * x - 1.0", "__dsub_rn(__dmul_rn(x, x), 1.0)", "fma(x, x, -1.0)")
    got = evaluate("double", x, written=("double", written), named=("double", named), fused=("double", fused))
    assert (got["written"] == x * x - 1.0).all() and (got["named"] == x * x - 1.0).all()
    assert got["fused"].tolist() == [2.0**-29 + 2.0**-60, -(2.0**-28) + 2.0**-58]
    y = np.array([1.0 + 2.0**-13], "f4")
    got = evaluate("float", y, written=("float", "x * x - 1.0f"), fused=("float", "fmaf(x, x, -1.0f)"))
    assert got["written"] == y * y - np.float32(1) and got["fused"] == np.float32(2.0**-12 + 2.0**-26)


def test_functions_that_the_c_library_lacks() -> None:
    x = np.append(np.linspace(-3.0, 3.0, 97), 1e15)
    functions = {name: ("double", f"{name}(x)") for name in ("sinpi", "cospi", "rsqrt")}
    got = evaluate("double", x, **functions)
    # 4 units in the last place of numbers up to one: two roundings of the angle, one of the function
    np.testing.assert_allclose(got["sinpi"][:-1], np.sin(np.pi * x[:-1]), atol=9e-16)
    np.testing.assert_allclose(got["cospi"][:-1], np.cos(np.pi * x[:-1]), atol=9e-16)
    halves = [24, 32, 40, 48, 56, 64, -1]  # of x: -1.5, -1, ..., 1, 1e15
    assert got["sinpi"][halves].tolist() == [1, 0, -1, 0, 1, 0, 0]
    assert got["cospi"][halves].tolist() == [0, -1, 0, 1, 0, -1, 1]
    positive = x[x > 0]
    np.testing.assert_allclose(got["rsqrt"][x > 0], positive**-0.5, rtol=1e-15)
    whole = [0, 1, 6, -1, 1 << 30]
    got = evaluate("int", whole, popc=("int", "__popc(x)"), ffs=("int", "__ffs(x)"), clz=("int", "__clz(x)"))
    assert got["popc"].tolist() == [0, 1, 2, 32, 1]
    assert got["ffs"].tolist() == [0, 1, 2, 1, 31]
    assert got["clz"].tolist() == [32, 31, 29, 0, 1]


# ---- What CUDA forbids


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("deadlock", r"deadlock.*\n.*lanes alive ffffffff, at __syncthreads .* 0000ffff, at __shfl .* ffff0000"),
        ("two_barriers", "divergence: this thread is at the __syncthreads of line"),
        ("outside_mask", "lane 0 calls with mask ffff0000, which does not hold it"),
        ("absent_lane", "reads from lane 20, which does not take part"),
        ("mixed_collectives", "divergence in a warp, .* at a vote, others at __shfl of 4 bytes"),
        ("trap", r"block \(0,0,0\) thread \(0,0,0\): __trap"),
    ],
)
def test_what_hangs_or_is_undefined_on_a_gpu_is_an_error(wrong: CpuModule, kernel: str, message: str) -> None:
    with pytest.raises(KernelError, match=f"^{kernel}: .*{message}"):
        wrong.launch(kernel, (1,), (32,), (np.zeros(32, "f4"),))
    x = np.arange(64, dtype="f4")  # and the module goes on working
    wrong.launch("missing_barrier", (1,), (64,), (x,))
    assert (x[2:] == np.arange(1, 63)).all()


def test_thread_order_exposes_a_race() -> None:
    expected = np.append(0, np.arange(63)).astype("f4")
    results = {}
    for order in ORDERS:
        x = np.arange(64, dtype="f4")
        CpuModule(WRONG, order=order).launch("missing_barrier", (1,), (64,), (x,))
        results[order] = np.array_equal(x, expected)
    assert results == {"forward": True, "reverse": False, "random:1": False, "random:2": False}


def test_block_order_exposes_a_race_of_blocks() -> None:
    results = []
    for order in ("forward", "reverse"):
        x = np.zeros(4, "f4")
        CpuModule(WRONG, block_order=order).launch("race_of_blocks", (4,), (32,), (x,))
        results.append(x.tolist())
    assert results == [[1, 2, 3, 4], [1, 1, 1, 1]]


def test_shared_memory_is_not_a_number_when_a_block_begins(wrong: CpuModule) -> None:
    x = np.zeros((3, 4, 32), "f4")
    wrong.launch("unwritten_shared", (3,), (32,), (x,), shared_bytes=128)
    assert np.isnan(x[:, :3, 31]).all() and np.isnan(x[:, 3]).all() and (x[:, :3, :31] == [[1], [1], [2]]).all()


@pytest.mark.parametrize(
    ("sanitize", "kernel", "block", "shift", "message"),
    [
        ("address", "past_array", 64, 1, "heap-buffer-overflow"),
        ("address", "past_shared", 64, 1, "global-buffer-overflow"),
        ("address", "past_dynamic", 64, 1, "use-after-poison"),
        ("address", "past_local", 32, 4, "stack-buffer-overflow"),
        ("undefined", "shift", 32, 0, "shift exponent 32 is too large"),
        ("undefined", "overflow", 32, 1, "signed integer overflow"),
        ("undefined", "misaligned", 32, 1, "misaligned address"),
        ("thread", "missing_barrier", 64, None, "data race"),
        ("thread", "missing_syncwarp", 32, None, "data race"),
        ("thread", "race_in_global_memory", 64, None, "data race"),
        ("thread", "same_place", 32, None, "data race"),
    ],
)
def test_sanitizers_catch_planted_faults(
    sanitize: str, kernel: str, block: int, shift: int | None, message: str, sanitized: Callable[[str], CpuModule]
) -> None:
    arguments = (np.zeros(64, "f4"),) if shift is None else (np.zeros(64, "f4"), np.int32(shift))
    with pytest.raises(KernelError, match=f"^{kernel}: [^^]*{message}"):
        sanitized(sanitize).launch(kernel, (1,), (block,), arguments, shared_bytes=256)


@pytest.fixture(scope="module")
def sanitized() -> Callable[[str], CpuModule]:
    modules: dict[str, CpuModule] = {}
    return lambda kind: modules.setdefault(kind, modules.get(kind) or CpuModule(WRONG, sanitize=kind))


@pytest.mark.parametrize("sanitize", ["address", "undefined", "thread"])
def test_sanitizers_find_nothing_in_right_kernels(sanitize: str) -> None:
    module = CpuModule(RIGHT, sanitize=sanitize, order="random:5")
    x, total = np.ones(500, "f4"), np.zeros(2)
    for _ in range(2):
        module.launch("sum", (2,), (256,), (x, total, np.int32(500)))
        assert total.tolist() == [256, 244]
    a, b = np.arange(600, dtype="f4").reshape(20, 30), np.zeros((30, 20), "f4")
    module.launch("transpose", (2, 2), (16, 16), (a, b, np.int32(20), np.int32(30)))
    assert (b == a.T).all()


def test_arrays_that_overlap_stay_one_memory_in_another_process() -> None:
    source = (
        'extern "C" __global__ void add(const int* a, int* b, const int* none) { b[0] += a[1] + (none == nullptr); }'
    )
    memory = np.array([1, 2, 3, 4], "i4")
    for sanitize in ("", "address"):
        CpuModule(source, sanitize=sanitize).launch("add", (1,), (1,), (memory, memory[2:], None))
    assert memory.tolist() == [1, 2, 9, 4]


# ---- Launches and compiling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda x: (x, 4), "argument 1 is a int, not a NumPy scalar"),
        (lambda x: (x, np.int64(4)), "argument 1 is of int64; the kernel takes i4"),
        (lambda x: (x, np.float32(4)), "argument 1 is of float32; the kernel takes i4"),
        (lambda x: (x.astype("f8"), np.int32(4)), r"argument 0 is of float64 .* the kernel takes \*f4"),
        (lambda x: (x[::2], np.int32(4)), "argument 0 is not C-contiguous"),
        (lambda x: (x.tolist(), np.int32(4)), "argument 0 is a list"),
        (lambda x: (np.broadcast_to(x, (1, 8)), np.int32(4)), "argument 0 is read-only"),
        (lambda x: (x,), "1 arguments for 2 parameters"),
    ],
)
def test_arguments_must_be_what_the_kernel_takes(wrong: CpuModule, arguments: Callable, message: str) -> None:
    with pytest.raises(KernelError, match=f"past_array: {message}"):
        wrong.launch("past_array", (1,), (1,), arguments(np.zeros(8, "f4")))


@pytest.mark.parametrize(("grid", "block"), [((0,), (32,)), ((1,), (32, 33)), ((1,), (0,)), ((1, 70000), (1,))])
def test_sizes_that_a_gpu_refuses_are_errors(wrong: CpuModule, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    with pytest.raises(KernelError, match="no launch with grid"):
        wrong.launch("same_place", grid, block, (np.zeros(8, "f4"),))
    with pytest.raises(KernelError, match="bytes of shared memory"):
        wrong.launch("same_place", (1,), (1,), (np.zeros(8, "f4"),), shared_bytes=1 << 20)
    with pytest.raises(KernelError, match="no kernel 'nothing'"):
        wrong.launch("nothing", (1,), (1,), ())


def test_kernels_are_found_by_name() -> None:
    module = CpuModule(
        '#define K(n) extern "C" __global__ void n\nK(first)(int* x) { *x = 1; }\n// __global__ void no()'
    )
    assert module.kernels == ("first",) and module.counters() is None and module.warnings == ""


def test_what_the_compiler_says_names_the_line() -> None:
    broken = 'extern "C" __global__ void f(int* x) {\n  *x = missing;\n}'
    with pytest.raises(KernelError, match=r"kernel source:2:.*missing"):
        CpuModule(broken)
    careless = 'extern "C" __global__ void f(int* x, unsigned n) {\n  if (*x < n) *x = 1;\n}'
    assert "kernel source:2" in CpuModule(careless).warnings
    with pytest.raises(KernelError, match="kernel source:2"):
        CpuModule(careless, warnings_are_errors=True)


@pytest.mark.parametrize("sanitize", ["", "address", "undefined", "thread"])
def test_runtime_itself_compiles_without_warnings(sanitize: str) -> None:
    assert CpuModule(RIGHT, sanitize=sanitize, warnings_are_errors=True).warnings == ""


def test_bytes_of_global_memory_are_counted() -> None:
    source = r"""
    extern "C" __global__ void move(const double* x, float4* y, int* flags, const float* table) {
      __shared__ double s[64];
      const int i = blockIdx.x * 64 + threadIdx.x;
      s[threadIdx.x] = x[i];
      __syncthreads();
      const float v = s[63 - threadIdx.x] + table[threadIdx.x % 4];
      y[i] = make_float4(v, v, v, v);
      if (threadIdx.x < 3) atomicAdd(flags, 1);
    }"""
    module = CpuModule(source, count_bytes=True, warnings_are_errors=True)
    arguments = (np.zeros(128), np.zeros((128, 4), "f4"), np.zeros(1, "i4"), np.ones(4, "f4"))
    for _ in range(2):
        module.launch("move", (2,), (64,), arguments)
    counters = module.counters()
    assert counters is not None
    traffic = counters["move"]
    assert [count["loaded"] for count in traffic.per_argument] == [2 * 128 * 8, 0, 0, 2 * 128 * 4]
    assert [count["loaded_once"] for count in traffic.per_argument] == [2 * 128 * 8, 0, 0, 2 * 2 * 4 * 4]
    assert [count["stored"] for count in traffic.per_argument] == [0, 2 * 128 * 16, 0, 0]
    assert (traffic.stored_once, traffic.added) == (2 * 128 * 16, 2 * 2 * 3 * 4)
    assert traffic.loaded == 2 * 128 * 12 and (arguments[1] == 1).all()


def test_processes_that_start_at_once_compile_a_module_once(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np; from support.cuda_runner import CpuModule\n"
        "x = np.zeros(1, 'i4')\n"
        "CpuModule('extern \"C\" __global__ void one(int* x) { *x = 1; }').launch('one', (1,), (1,), (x,))\n"
        "print(x[0])\n"
    )
    command = [sys.executable, "-c", program, str(Path(cuda_building.__file__).parents[1])]
    environment = os.environ | {"ALLEGRO_SIM_CACHE": str(tmp_path)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["1", "1", "1"]
    (folder,) = tmp_path.iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".lock", ".warnings"]


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_building._compiler.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(KernelError, match=re.escape("apt install g++")):
            CpuModule('extern "C" __global__ void never_compiled_before(int*) {}')
    cuda_building._compiler.cache_clear()
