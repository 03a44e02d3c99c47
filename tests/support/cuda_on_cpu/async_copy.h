// cp.async: a copy happens when it is waited for, as late as the hardware may make it, so that a missing wait shows.
#pragma once
#include "shared_memory.h"

namespace cuda_on_cpu {

UNWATCHED static void copy_async(void* target, const void* source, unsigned bytes, unsigned source_bytes) {
  if (!is_shared(target, bytes)) fail("cp.async: the target is not in shared memory");
  if (reinterpret_cast<uintptr_t>(target) % bytes || reinterpret_cast<uintptr_t>(source) % bytes)
    fail("cp.async: addresses must be multiples of %u bytes", bytes);
  if (source_bytes > bytes) fail("cp.async: source size %u over %u bytes", source_bytes, bytes);
  state.current->copies.add({target, source, bytes, source_bytes});
}

UNWATCHED inline void copy_async_commit() {
  Thread* here = state.current;
  size_t open = here->copies.count;
  for (size_t group = 0; group < here->copies_closed.count; group++) open -= here->copies_closed.items[group];
  here->copies_closed.add(open);
}

// Word by word and watched: the sanitizers and the byte counters see the copy as the thread's own.
inline void copy_now(const AsyncCopy& copy) {
  typedef unsigned Word __attribute__((may_alias));
  const Word* source = static_cast<const Word*>(copy.source);
  Word* target = static_cast<Word*>(copy.target);
  for (unsigned word = 0; word < copy.bytes / 4; word++) target[word] = 4 * word < copy.source_bytes ? source[word] : 0;
}

// Waits until no more than `newest` of the committed groups are under way.
inline void copy_async_wait(size_t newest) {
  Thread* here = state.current;
  while (here->copies_closed.count > newest) {
    const size_t oldest = here->copies_closed.items[0];
    for (size_t i = 0; i < oldest; i++) copy_now(here->copies.items[i]);
    here->copies.drop_first(oldest);
    here->copies_closed.drop_first(1);
  }
}

}  // namespace cuda_on_cpu
