// Bytes of global memory that a kernel loads and stores, and operations of the matrix units, counted (-DCOUNT_BYTES).
//
// The compiler instruments every access as for ThreadSanitizer, after its optimisations; the calls lead here instead of
// to that library. Accesses outside the arrays given to the launch (shared memory, locals, constants) do not count.
#pragma once

namespace cuda_on_cpu {

enum Access { loaded, stored, added, loaded_once, stored_once, n_counts };

struct Range {  // one argument of the launch
  const char *begin, *end;
  uint64_t counts[n_counts];
  unsigned *last_load, *last_store;  // for each word of 4 bytes: number of the block that touched it last
};

// Plain arrays: a container's functions would be instrumented, and count themselves.
static Range* ranges = nullptr;
static size_t n_ranges = 0;
static unsigned block_number = 0;
static uint64_t matrix_operations = 0;  // of the launch; a multiply-add is two

#ifdef COUNT_BYTES
UNWATCHED static Range* range_of(const void* place) {
  static size_t last = 0;  // most accesses follow one to the same array
  const char* p = static_cast<const char*>(place);
  for (size_t tried = 0; tried < n_ranges; tried++) {
    if (last >= n_ranges) last = 0;
    if (p >= ranges[last].begin && p < ranges[last].end) return &ranges[last];
    last++;
  }
  return nullptr;
}

UNWATCHED static void count(const void* place, size_t bytes, Access access) {
  Range* range = range_of(place);
  if (!range) return;
  range->counts[access] += bytes;
  if (access == added) return;
  unsigned* last = access == loaded ? range->last_load : range->last_store;
  size_t offset = static_cast<size_t>(static_cast<const char*>(place) - range->begin);
  size_t step = bytes < 4 ? bytes : 4;
  for (size_t byte = offset; byte < offset + bytes; byte += step) {
    unsigned& block = last[byte / 4];
    if (block == block_number || (access == loaded && range->last_store[byte / 4] == block_number)) continue;
    block = block_number;
    range->counts[access == loaded ? loaded_once : stored_once] += 4;
  }
}
UNWATCHED inline void count_added(const void* place, size_t bytes) { count(place, bytes, added); }
UNWATCHED inline void count_matrix_operations(uint64_t number) { matrix_operations += number; }
#else
inline void count_added(const void*, size_t) {}
inline void count_matrix_operations(uint64_t) {}
#endif

}  // namespace cuda_on_cpu

#ifdef COUNT_BYTES
#define WATCH(BYTES)                                                                                              \
  UNWATCHED void __tsan_read##BYTES(void* p) { cuda_on_cpu::count(p, BYTES, cuda_on_cpu::loaded); }              \
  UNWATCHED void __tsan_write##BYTES(void* p) { cuda_on_cpu::count(p, BYTES, cuda_on_cpu::stored); }             \
  UNWATCHED void __tsan_unaligned_read##BYTES(void* p) { cuda_on_cpu::count(p, BYTES, cuda_on_cpu::loaded); }    \
  UNWATCHED void __tsan_unaligned_write##BYTES(void* p) { cuda_on_cpu::count(p, BYTES, cuda_on_cpu::stored); }
extern "C" {
WATCH(1) WATCH(2) WATCH(4) WATCH(8) WATCH(16)
UNWATCHED void __tsan_read_range(void* p, size_t bytes) { cuda_on_cpu::count(p, bytes, cuda_on_cpu::loaded); }
UNWATCHED void __tsan_write_range(void* p, size_t bytes) { cuda_on_cpu::count(p, bytes, cuda_on_cpu::stored); }
UNWATCHED void __tsan_vptr_update(void*, void*) {}
UNWATCHED void __tsan_func_entry(void*) {}
UNWATCHED void __tsan_func_exit() {}
UNWATCHED void __tsan_init() {}
}
#undef WATCH
#endif
