// A list that grows. std::vector would do, and keep the compiler busy for longer than a small module.
#pragma once
#include "fibers.h"

namespace cuda_on_cpu {

// T: plain data, moved as bytes. The memory is never given back: lists live as long as the module.
template <class T>
struct List {
  T* items = nullptr;
  size_t count = 0, room = 0;

  UNWATCHED void add(const T& item) {
    if (count == room) {
      room = 2 * room + 8;
      items = static_cast<T*>(realloc(static_cast<void*>(items), room * sizeof(T)));
      if (!items) abort();
    }
    items[count++] = item;
  }
  UNWATCHED void drop_first(size_t n) {
    count -= n;
    for (size_t i = 0; i < count; i++) items[i] = items[i + n];
  }
};

}  // namespace cuda_on_cpu
