// The instructions that CUDA C++ has no name for, one function each: the only inline assembly of the project.
//
// Sources: PTX ISA 8.0, sections "cvt", "mma" (fragments of .m16n8k8 .tf32 and .m8n8k4 .f64) and "cp.async". All need
// compute capability 8.0. With CUDA_ON_CPU defined (tests/support/cuda_on_cpu) each has a twin that does the same on
// the CPU. In fragments lane = 4 g + t, g = 0..7, t = 0..3.
#pragma once

// Float32 rounded to TF32 (10 bits of mantissa), to nearest, ties away from zero; infinities and NaN stay so.
// The result has float32's bits, the lower 13 of them zero: what mma_m16n8k8_tf32 takes.
__device__ __forceinline__ unsigned round_tf32(float x) {
#ifdef CUDA_ON_CPU
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits & 0x007fffffu ? 0x7fffe000u : bits;
  return (bits + 0x1000u) & ~0x1fffu;
#else
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
#endif
}

// d += a b on tensor cores: a (16 x 8) and b (8 x 8) in TF32, d (16 x 8) in float32. Whole warps only. Of a and b the
// lower 13 bits are ignored, that is, operands are truncated: round them first.
//   a[0] = A[g, t]      a[1] = A[g + 8, t]      a[2] = A[g, t + 4]   a[3] = A[g + 8, t + 4]
//   b[0] = B[t, g]      b[1] = B[t + 4, g]
//   d[0] = D[g, 2 t]    d[1] = D[g, 2 t + 1]    d[2] = D[g + 8, 2 t]    d[3] = D[g + 8, 2 t + 1]
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::mma_m16n8k8_tf32(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d += a b in float64: a (8 x 4), b (4 x 8), d (8 x 8). Whole warps only.
//   a = A[g, t]    b = B[t, g]    d[0] = D[g, 2 t]    d[1] = D[g, 2 t + 1]
__device__ __forceinline__ void mma_m8n8k4_f64(double (&d)[2], double a, double b) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::mma_m8n8k4_f64(d, a, b);
#else
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(d[0]), "+d"(d[1])
               : "d"(a), "d"(b));
#endif
}

// 16 bytes to global memory at once, at a multiple of 16: left to itself the assembler stores four times 4 bytes where that
// suits its registers.
__device__ __forceinline__ void store_16(float* global, const float (&x)[4]) {
#ifdef CUDA_ON_CPU
  for (int n = 0; n < 4; n++) global[n] = x[n];
#else
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(global)), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
#endif
}

// ---- Copies from global to shared memory beside the computation. A copy may land at any time until its own thread has
// waited for its group; other threads see it after a barrier that follows.

// 16 bytes, past the first-level cache. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async(shared, global, 16, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(__cvta_generic_to_global(global))
               : "memory");
#endif
}

// 16 bytes, of which the first `source_bytes` (0 or 16) are read and the rest are zero. With 0, `global` must still be
// an address of the array, but is not read.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, unsigned source_bytes) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async(shared, global, 16, source_bytes);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(__cvta_generic_to_global(global)),
                 "r"(source_bytes)
               : "memory");
#endif
}

// 8 bytes, through the first-level cache. Both addresses are multiples of 8.
__device__ __forceinline__ void copy_async_8(void* shared, const void* global) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async(shared, global, 8, 8);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(__cvta_generic_to_global(global))
               : "memory");
#endif
}

// The copies that this thread asked for since its last commit become a group.
__device__ __forceinline__ void copy_async_commit() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most NEWEST of this thread's groups, the latest ones, are under way.
template <int NEWEST>
__device__ __forceinline__ void copy_async_wait() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async_wait(NEWEST);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
#endif
}
