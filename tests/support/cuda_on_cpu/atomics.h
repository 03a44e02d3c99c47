// Atomic operations, for the types that CUDA has them for. Nothing interrupts a thread, so a plain read and write is
// atomic; the race checker does not see them.
#pragma once

namespace cuda_on_cpu {

template <class T, class Change>
UNWATCHED __attribute__((noinline)) T change_atomically(T* place, Change change) {
  count_added(place, sizeof(T));
  T old = *place;
  *place = change(old);
  return old;
}

}  // namespace cuda_on_cpu

namespace cuda {

#define ATOMIC(NAME, T, NEW) \
  inline T NAME(T* place, T value) { \
    return cuda_on_cpu::change_atomically(place, [value](T old) -> T { return NEW; }); \
  }
#define ATOMIC_OF_INTEGERS(NAME, NEW) \
  ATOMIC(NAME, int, NEW) ATOMIC(NAME, unsigned, NEW) ATOMIC(NAME, unsigned long long, NEW)

// Sums of int wrap around, as the instruction does.
ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
ATOMIC(atomicAdd, unsigned, old + value)
ATOMIC(atomicAdd, unsigned long long, old + value)
ATOMIC(atomicAdd, float, old + value)
ATOMIC(atomicAdd, double, old + value)
ATOMIC(atomicSub, int, static_cast<int>(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
ATOMIC(atomicSub, unsigned, old - value)
ATOMIC_OF_INTEGERS(atomicMin, value < old ? value : old)
ATOMIC(atomicMin, long long, value < old ? value : old)
ATOMIC_OF_INTEGERS(atomicMax, value > old ? value : old)
ATOMIC(atomicMax, long long, value > old ? value : old)
ATOMIC_OF_INTEGERS(atomicAnd, old & value)
ATOMIC_OF_INTEGERS(atomicOr, old | value)
ATOMIC_OF_INTEGERS(atomicXor, old ^ value)
ATOMIC_OF_INTEGERS(atomicExch, (static_cast<void>(old), value))
ATOMIC(atomicExch, float, (static_cast<void>(old), value))
#undef ATOMIC_OF_INTEGERS
#undef ATOMIC

#define COMPARE_AND_SWAP(T) \
  inline T atomicCAS(T* place, T expected, T value) { \
    T found = cuda_on_cpu::change_atomically(place, [=](T old) -> T { return old == expected ? value : old; }); \
    if (found != expected) cuda_on_cpu::wait_turn(); /* a thread that waits for another lets it run */ \
    return found; \
  }
COMPARE_AND_SWAP(int)
COMPARE_AND_SWAP(unsigned)
COMPARE_AND_SWAP(unsigned long long)
#undef COMPARE_AND_SWAP

}  // namespace cuda
