// Tensor-core instructions: the 32 lanes' fragments are gathered once, multiplied, and handed back.
//
// Layout of fragments: PTX ISA, "Matrix Fragments for mma.m16n8k8" (.tf32) and "mma.m8n8k4" (.f64). How the hardware adds
// within one instruction is not stated for TF32; measured, it cuts sums off instead of rounding them (Fasi, Higham,
// Mikaitis and Pranesh, PeerJ Comput. Sci. 7, e330, 2021). Here: the exact sum, cut off at float32's last bit.
#pragma once

namespace cuda_on_cpu {

constexpr uint32_t all_lanes = ~0u;
constexpr uint32_t tf32_mask = ~0x1fffu;  // the hardware reads 10 bits of the mantissa and ignores the rest

inline float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

struct Tf32Slot {
  float* d;
  const uint32_t *a, *b;
};

UNWATCHED static void require_whole_warp(uint32_t present) {
  if (present != all_lanes) fail("mma: all 32 lanes must take part, these do: %08x", present);
}

UNWATCHED static void deliver_mma_tf32(void* const* slots, uint32_t present) {
  require_whole_warp(present);
  count_matrix_operations(2 * 16 * 8 * 8);
  typedef double Row __attribute__((vector_size(64)));  // 8 columns
  typedef int64_t Bits __attribute__((vector_size(64)));
  Row b[8], d[16];
  double a[16][8];
  for (int lane = 0; lane < warp_lanes; lane++) {
    const Tf32Slot& slot = *static_cast<Tf32Slot*>(slots[lane]);
    const int g = lane >> 2, t = lane & 3;
    a[g][t] = as_float(slot.a[0] & tf32_mask);
    a[g + 8][t] = as_float(slot.a[1] & tf32_mask);
    a[g][t + 4] = as_float(slot.a[2] & tf32_mask);
    a[g + 8][t + 4] = as_float(slot.a[3] & tf32_mask);
    b[t][g] = as_float(slot.b[0] & tf32_mask);
    b[t + 4][g] = as_float(slot.b[1] & tf32_mask);
    d[g][2 * t] = slot.d[0];
    d[g][2 * t + 1] = slot.d[1];
    d[g + 8][2 * t] = slot.d[2];
    d[g + 8][2 * t + 1] = slot.d[3];
  }
  for (int row = 0; row < 16; row++) {
    for (int k = 0; k < 8; k++) d[row] += a[row][k] * b[k];
    d[row] = (Row)((Bits)d[row] & ~((int64_t(1) << 29) - 1));  // float32 has 29 bits fewer
  }
  for (int lane = 0; lane < warp_lanes; lane++) {
    const Tf32Slot& slot = *static_cast<Tf32Slot*>(slots[lane]);
    const int g = lane >> 2, t = lane & 3;
    slot.d[0] = (float)d[g][2 * t];
    slot.d[1] = (float)d[g][2 * t + 1];
    slot.d[2] = (float)d[g + 8][2 * t];
    slot.d[3] = (float)d[g + 8][2 * t + 1];
  }
}

UNWATCHED inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  Tf32Slot slot{d, a, b};
  meet(all_lanes, "mma m16n8k8 tf32", &slot, deliver_mma_tf32);
}

struct DoubleSlot {
  double* d;
  double a, b;
};

UNWATCHED static void deliver_mma_f64(void* const* slots, uint32_t present) {
  require_whole_warp(present);
  count_matrix_operations(2 * 8 * 8 * 4);
  double a[8][4], b[4][8];
  for (int lane = 0; lane < warp_lanes; lane++) {
    const DoubleSlot& slot = *static_cast<DoubleSlot*>(slots[lane]);
    a[lane >> 2][lane & 3] = slot.a;
    b[lane & 3][lane >> 2] = slot.b;
  }
  for (int lane = 0; lane < warp_lanes; lane++) {
    const DoubleSlot& slot = *static_cast<DoubleSlot*>(slots[lane]);
    for (int j = 0; j < 2; j++)
      for (int k = 0; k < 4; k++) slot.d[j] = fma(a[lane >> 2][k], b[k][2 * (lane & 3) + j], slot.d[j]);
  }
}

UNWATCHED inline void mma_m8n8k4_f64(double (&d)[2], double a, double b) {
  DoubleSlot slot{d, a, b};
  meet(all_lanes, "mma m8n8k4 f64", &slot, deliver_mma_f64);
}

}  // namespace cuda_on_cpu
