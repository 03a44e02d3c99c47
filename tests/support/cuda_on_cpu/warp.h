// Collectives of a warp. Only __syncwarp orders memory; shuffles, votes and mma do not.
#pragma once

namespace cuda_on_cpu {

constexpr int own_value = -1;

template <class T>
struct ShuffleSlot {
  T value;
  int source;  // lane, or own_value
};

template <class T>
UNWATCHED void deliver_shuffle(void* const* slots, uint32_t present) {
  T values[warp_lanes];
  for (uint32_t left = present; left; left &= left - 1) {
    int lane = __builtin_ctz(left);
    values[lane] = static_cast<ShuffleSlot<T>*>(slots[lane])->value;
  }
  for (uint32_t left = present; left; left &= left - 1) {
    int lane = __builtin_ctz(left);
    auto* slot = static_cast<ShuffleSlot<T>*>(slots[lane]);
    if (slot->source == own_value) continue;
    if (!(present >> slot->source & 1))
      fail("__shfl: lane %d reads from lane %d, which does not take part (lanes that do: %08x)", lane, slot->source,
           present);
    slot->value = values[slot->source];
  }
}

template <class T>
UNWATCHED inline T shuffle(uint32_t mask, T value, int width, int source, bool in_segment) {
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "no shuffle for this type");
  if (width < 1 || width > warp_lanes || (width & (width - 1)))
    fail("__shfl: width %d is no power of two up to 32", width);
  ShuffleSlot<T> slot{value, in_segment ? source : own_value};
  meet(mask, sizeof(T) == 4 ? "__shfl of 4 bytes" : "__shfl of 8 bytes", &slot, deliver_shuffle<T>);
  return slot.value;
}

struct BallotSlot {
  bool predicate;
  uint32_t votes;
};

UNWATCHED static void deliver_ballot(void* const* slots, uint32_t present) {
  uint32_t votes = 0;
  for (uint32_t left = present; left; left &= left - 1) {
    int lane = __builtin_ctz(left);
    votes |= static_cast<uint32_t>(static_cast<BallotSlot*>(slots[lane])->predicate) << lane;
  }
  for (uint32_t left = present; left; left &= left - 1)
    static_cast<BallotSlot*>(slots[__builtin_ctz(left)])->votes = votes;
}

// Bit by lane: took part and voted yes.
UNWATCHED inline uint32_t ballot(uint32_t mask, bool predicate) {
  BallotSlot slot{predicate, 0};
  meet(mask, "a vote", &slot, deliver_ballot);
  return slot.votes;
}

UNWATCHED static void deliver_nothing(void* const*, uint32_t) {}

UNWATCHED inline int lane() { return state.current->lane; }

}  // namespace cuda_on_cpu

namespace cuda {

constexpr int warpSize = 32;

inline void __syncwarp(unsigned mask = ~0u) {
  cuda_on_cpu::meet(mask, "__syncwarp", nullptr, cuda_on_cpu::deliver_nothing, true);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  int first = cuda_on_cpu::lane() & ~(width - 1);
  return cuda_on_cpu::shuffle(mask, value, width, first + (source & (width - 1)), true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  int here = cuda_on_cpu::lane(), source = here ^ bits;  // may reach into an earlier segment, never into a later one
  return cuda_on_cpu::shuffle(mask, value, width, source, source < (here & ~(width - 1)) + width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  int here = cuda_on_cpu::lane(), source = here - static_cast<int>(distance);
  return cuda_on_cpu::shuffle(mask, value, width, source, source >= (here & ~(width - 1)));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  int here = cuda_on_cpu::lane(), source = here + static_cast<int>(distance);
  return cuda_on_cpu::shuffle(mask, value, width, source, source < (here & ~(width - 1)) + width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return cuda_on_cpu::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return cuda_on_cpu::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return cuda_on_cpu::ballot(mask, predicate == 0) == 0; }

inline void __threadfence() {}  // one thread runs at a time: writes are visible at once
inline void __threadfence_block() {}
inline void __threadfence_system() {}

}  // namespace cuda
