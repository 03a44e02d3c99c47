// Shared memory. It starts as ones in every bit, NaN, in every block: who reads before writing shows.
//
// Blocks run one at a time, so one copy of each variable is enough. cuda_runner.py makes of
//   __shared__ float s[64];          a static variable, and a call of begin_shared
//   extern __shared__ float s[];     a pointer to the one dynamic array
#pragma once
#include "scheduler.h"

namespace cuda_on_cpu {

constexpr size_t max_shared_bytes = 227 << 10;  // what a block may have on compute capability 9.0

struct Variable {
  const char* begin;
  size_t bytes;
};
struct SharedMemory {
  size_t dynamic_bytes = 0;  // of this launch
  List<Variable> variables;  // every static one that was met so far
};
static SharedMemory shared_memory;
alignas(1024) static unsigned char dynamic_shared[max_shared_bytes];

UNWATCHED static void fill_with_ones(void* memory, size_t bytes) {
  volatile char* p = static_cast<char*>(memory);  // volatile: not made a call of memset, which sanitizers watch
  typedef volatile uint64_t Word __attribute__((may_alias));
  if (reinterpret_cast<uintptr_t>(memory) % sizeof(Word) == 0)
    for (; bytes >= sizeof(Word); p += sizeof(Word), bytes -= sizeof(Word)) *reinterpret_cast<Word*>(p) = ~0ull;
  for (; bytes; p++, bytes--) *p = -1;
}

// Where a static variable is declared; `seen` is its own: the block that was there last.
UNWATCHED __attribute__((noinline)) static void begin_shared(uint64_t& seen, void* variable, size_t bytes) {
  if (seen == state.blocks_begun) return;
  if (!seen) shared_memory.variables.add({static_cast<char*>(variable), bytes});
  seen = state.blocks_begun;
  fill_with_ones(variable, bytes);
}

UNWATCHED static void set_dynamic_shared(size_t bytes) {
  shared_memory.dynamic_bytes = bytes;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(dynamic_shared, max_shared_bytes);
  __asan_poison_memory_region(dynamic_shared + bytes, max_shared_bytes - bytes);
#endif
}

UNWATCHED static bool is_shared(const void* place, size_t bytes) {
  const char* p = static_cast<const char*>(place);
  const char* dynamic = reinterpret_cast<const char*>(dynamic_shared);
  if (p >= dynamic && p + bytes <= dynamic + shared_memory.dynamic_bytes) return true;
  for (size_t i = 0; i < shared_memory.variables.count; i++) {
    const Variable& variable = shared_memory.variables.items[i];
    if (p >= variable.begin && p + bytes <= variable.begin + variable.bytes) return true;
  }
  return false;
}

}  // namespace cuda_on_cpu
