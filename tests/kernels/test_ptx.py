"""Each function of kernels/cuda/ptx.cuh does on the CPU what its instruction does, and nothing else uses assembly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.cuda_runner import CpuModule, KernelError

SOURCE = r"""
#include "ptx.cuh"

extern "C" __global__ void round_all(const float* x, unsigned* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = round_tf32(x[i]);
}
extern "C" __global__ void multiply_tf32(const unsigned* A, const unsigned* B, float* D) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const unsigned a[4] = {A[g * 8 + t], A[(g + 8) * 8 + t], A[g * 8 + t + 4], A[(g + 8) * 8 + t + 4]};
  const unsigned b[2] = {B[t * 8 + g], B[(t + 4) * 8 + g]};
  float* low = D + g * 8 + 2 * t;
  float* high = low + 64;
  float d[4] = {low[0], low[1], high[0], high[1]};
  mma_m16n8k8_tf32(d, a, b);
  low[0] = d[0], low[1] = d[1], high[0] = d[2], high[1] = d[3];
}
extern "C" __global__ void multiply_f64(const double* A, const double* B, double* D) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  double d[2] = {D[g * 8 + 2 * t], D[g * 8 + 2 * t + 1]};
  mma_m8n8k4_f64(d, A[g * 4 + t], B[t * 8 + g]);
  D[g * 8 + 2 * t] = d[0], D[g * 8 + 2 * t + 1] = d[1];
}
extern "C" __global__ void multiply_in_half_a_warp(float* D) {
  float d[4] = {0, 0, 0, 0};
  const unsigned a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
  if (threadIdx.x < 16) mma_m16n8k8_tf32(d, a, b);
  D[threadIdx.x] = d[0];
}
extern "C" __global__ void store_fours(const float* x, float* y) {
  const float* four = x + 4 * threadIdx.x;
  store_16(y + 4 * threadIdx.x, {four[3], four[2], four[1], four[0]});
}
// Two stages, each a group. How many groups may be under way when the stages are read: 2 is a missing wait.
template <int NEWEST>
__device__ void copy_two_stages(const float* x, float* y) {
  __shared__ __align__(16) float stage[2][128];
  const int i = threadIdx.x;
  copy_async_16(stage[0] + 4 * i, x + 4 * i);
  copy_async_commit();
  copy_async_16(stage[1] + 4 * i, x + 128 + 4 * i);
  copy_async_commit();
  copy_async_wait<NEWEST>();
  __syncthreads();
  for (int s = 0; s < 2; s++)
    for (int j = 0; j < 4; j++) y[128 * s + 32 * j + i] = stage[s][32 * j + i];
  __syncthreads();
  copy_async_wait<0>();
}
extern "C" __global__ void wait_for_all(const float* x, float* y) { copy_two_stages<0>(x, y); }
extern "C" __global__ void wait_for_older(const float* x, float* y) { copy_two_stages<1>(x, y); }
extern "C" __global__ void wait_for_none(const float* x, float* y) { copy_two_stages<2>(x, y); }
extern "C" __global__ void copy_with_zeros(const float* x, float* y, int n) {
  extern __shared__ __align__(16) float s[];
  const int i = threadIdx.x;
  copy_async_16(s + 4 * i, x + (4 * i < n ? 4 * i : 0), 4 * i < n ? 16u : 0u);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  for (int j = 0; j < 4; j++) y[32 * j + i] = s[32 * j + i];
}
extern "C" __global__ void copy_pairs(const float* x, float* y, int shift) {
  extern __shared__ __align__(16) float s[];
  copy_async_8(s + 2 * threadIdx.x + shift, x + 2 * threadIdx.x);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
  y[32 + threadIdx.x] = s[32 + threadIdx.x];
}
extern "C" __global__ void never_wait(const float* x) {
  __shared__ __align__(16) float s[128];
  copy_async_16(s + 4 * threadIdx.x, x);
}
extern "C" __global__ void copy_elsewhere(const float* x, float* y) { copy_async_16(y, x); }
"""


@pytest.fixture(scope="module")
def module() -> CpuModule:
    return CpuModule(SOURCE, order="random:1", warnings_are_errors=True)


def to_tf32(x: np.ndarray) -> np.ndarray:
    """To 10 bits of mantissa by arithmetic: scaled to whole numbers, halves away from zero."""
    _, exponent = np.frexp(x.astype("f8"))
    exponent = np.maximum(exponent, -125)  # below 2^-126 the spacing stays
    whole = np.ldexp(x.astype("f8"), 11 - exponent)
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(x), np.ldexp(np.copysign(np.floor(abs(whole) + 0.5), x), exponent - 11), x).astype(
            "f4"
        )


def test_rounding_to_tf32_is_to_nearest_with_ties_away_from_zero(module: CpuModule) -> None:
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 1 << 32, 20000, dtype="u4")
    ties = (rng.integers(0, 1 << 19, 2000, dtype="u4") << 13) | 0x1000
    near_ties = np.concatenate([ties - 1, ties + 1])
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 1, 0xFFF, 0x1000, 0x7F000], "u4")
    x = np.concatenate([any_bits, ties, near_ties, special]).view("f4")
    x = np.append(x[~np.isnan(x)], np.zeros(-np.count_nonzero(~np.isnan(x)) % 32, "f4"))
    y = np.zeros(x.size, "u4")
    module.launch("round_all", (x.size // 32,), (32,), (x, y))
    assert (y & 0x1FFF == 0).all()
    assert (y == to_tf32(x).view("u4")).all()


def test_rounding_to_tf32_keeps_what_is_not_a_number(module: CpuModule) -> None:
    x = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0x7F801000], "u4").view("f4")
    y = np.zeros(x.size, "u4")
    module.launch("round_all", (1,), (x.size,), (x, y))
    assert np.isnan(y.view("f4")).all() and (y & 0x1FFF == 0).all()


def test_product_in_tf32(module: CpuModule) -> None:
    """Bit for bit: products of TF32 numbers are exact, and their sum is cut off at float32's last bit."""
    rng = np.random.default_rng(1)
    a, b, start = (rng.standard_normal(shape, "f4") for shape in ((16, 8), (8, 8), (16, 8)))
    a, b = to_tf32(a), to_tf32(b)
    got = start.copy()
    whole = start.astype("f8")
    for k in range(8):
        whole += a[:, k, None].astype("f8") * b[k]
    nearest = whole.astype("f4")
    expected = np.where(np.abs(nearest) > np.abs(whole), np.nextafter(nearest, np.float32(0)), nearest)
    module.launch("multiply_tf32", (1,), (32,), (a.view("u4"), b.view("u4"), got))
    assert (got == expected).all()
    assert abs(got - (start + a.astype("f8") @ b.astype("f8"))).max() < 1e-5  # 8 roundings of numbers up to 10


def test_product_in_tf32_truncates_operands_that_were_not_rounded(module: CpuModule) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((16, 8), "f4"), rng.random((8, 8), "f4")
    raw, cut = np.zeros((16, 8), "f4"), np.zeros((16, 8), "f4")
    module.launch("multiply_tf32", (1,), (32,), (a.view("u4"), b.view("u4"), raw))
    mask = np.uint32(0xFFFFE000)
    module.launch("multiply_tf32", (1,), (32,), (a.view("u4") & mask, b.view("u4") & mask, cut))
    assert (raw == cut).all() and (raw < a @ b).all()


def test_product_in_float64(module: CpuModule) -> None:
    rng = np.random.default_rng(3)
    whole = [rng.integers(-1000, 1000, shape).astype("f8") for shape in ((8, 4), (4, 8), (8, 8))]
    got = whole[2].copy()
    module.launch("multiply_f64", (1,), (32,), (whole[0], whole[1], got))
    assert (got == whole[2] + whole[0] @ whole[1]).all()
    a, b, start = (rng.standard_normal(shape) for shape in ((8, 4), (4, 8), (8, 8)))
    got = start.copy()
    module.launch("multiply_f64", (1,), (32,), (a, b, got))
    np.testing.assert_allclose(got, start + a @ b, atol=4e-15)  # 4 roundings of numbers up to 10


def test_products_need_the_whole_warp(module: CpuModule) -> None:
    with pytest.raises(KernelError, match="all 32 lanes must take part, these do: 0000ffff"):
        module.launch("multiply_in_half_a_warp", (1,), (32,), (np.zeros(32, "f4"),))


@pytest.mark.parametrize(("kernel", "landed"), [("wait_for_all", 2), ("wait_for_older", 1), ("wait_for_none", 0)])
def test_copies_land_when_they_are_waited_for(module: CpuModule, kernel: str, landed: int) -> None:
    x, y = np.arange(256, dtype="f4"), np.zeros(256, "f4")
    module.launch(kernel, (2,), (32,), (x, y))
    assert (y[: 128 * landed] == x[: 128 * landed]).all() and np.isnan(y[128 * landed :]).all()


def test_copies_fill_with_zeros_and_do_not_read_what_they_fill(module: CpuModule) -> None:
    x, y = np.arange(1, 61, dtype="f4"), np.full(128, -1, "f4")
    for runner in (module, CpuModule(SOURCE, sanitize="address")):
        runner.launch("copy_with_zeros", (1,), (32,), (x, y, np.int32(60)), shared_bytes=512)
        assert (y == np.append(x, np.zeros(68, "f4"))).all()


def test_copies_of_8_bytes(module: CpuModule) -> None:
    x, y = np.arange(64, dtype="f4"), np.zeros(64, "f4")
    module.launch("copy_pairs", (1,), (32,), (x, y, np.int32(0)), shared_bytes=256)
    assert (y == x).all()


@pytest.mark.parametrize(
    ("kernel", "arguments", "message"),
    [
        ("copy_pairs", (np.zeros(64, "f4"), np.zeros(64, "f4"), np.int32(1)), "addresses must be multiples of 8 bytes"),
        ("copy_pairs", (np.zeros(64, "f4"), np.zeros(64, "f4"), np.int32(2)), "the target is not in shared memory"),
        ("copy_elsewhere", (np.zeros(64, "f4"), np.zeros(64, "f4")), "the target is not in shared memory"),
        ("never_wait", (np.zeros(64, "f4"),), "ends with 1 asynchronous copies that it never waited for"),
    ],
)
def test_wrong_copies_are_errors(module: CpuModule, kernel: str, arguments: tuple, message: str) -> None:
    with pytest.raises(KernelError, match=f"^{kernel}: .*{message}"):
        module.launch(kernel, (1,), (32,), arguments, shared_bytes=256)


def test_sixteen_bytes_are_four_numbers(module: CpuModule) -> None:
    x, y = np.arange(128, dtype="f4"), np.zeros(128, "f4")
    module.launch("store_fours", (1,), (32,), (x, y))
    assert np.array_equal(y.reshape(-1, 4)[:, ::-1], x.reshape(-1, 4))


# ---- Rules over the sources


def without_comments(path: Path) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def test_assembly_is_in_one_file_only(repository: Path) -> None:
    sources = [path for suffix in ("*.cu", "*.cuh", "*.h") for path in (repository / "kernels").rglob(suffix)]
    assert repository / "kernels/cuda/ptx.cuh" in sources
    using = {path.name for path in sources if re.search(r"\b(asm|__asm__|__asm)\b", without_comments(path))}
    assert using == {"ptx.cuh"}


def test_every_instruction_has_a_function_a_twin_and_a_test(repository: Path) -> None:
    text = without_comments(repository / "kernels/cuda/ptx.cuh")
    functions = re.findall(
        r"__device__ __forceinline__ \w+ (\w+)\([^{]*\) \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE
    )
    assert len(functions) == text.count("__device__") == len(re.findall(r"\basm\b", text))
    for name, body in functions:
        assert re.fullmatch(r"#ifdef CUDA_ON_CPU\n.*#else\n.*\basm\b.*#endif\n", body, re.DOTALL), name
        assert f"{name}(" in SOURCE or f"{name}<" in SOURCE, name
