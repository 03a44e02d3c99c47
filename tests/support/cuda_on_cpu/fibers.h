// Stacks to run CUDA threads on, and the switch between them.
//
// A fibre is a stack with a saved place to go on from. switch_fiber(from, to) leaves the running one and goes on in
// another; nothing is pre-empted. The sanitizers are told of every switch: AddressSanitizer which stack is in use,
// ThreadSanitizer which thread's history goes on. The latter learns no order from the switch itself (no_sync): order
// between CUDA threads comes from barriers alone.
#pragma once

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

// On other processors, or with -DUCONTEXT, the C library switches: slower, as it saves signal masks.
#if defined(__x86_64__) && !defined(UCONTEXT)
#define OWN_SWITCH
#else
#include <ucontext.h>
#endif

// Functions of the runner itself are not watched: they write to other threads' stacks and keep shared books by design.
#define UNWATCHED __attribute__((no_sanitize("thread"), no_sanitize("address"), no_sanitize("undefined")))

namespace cuda_on_cpu {

#ifdef WATCH_RACES
constexpr bool watch_races = true;
#else
constexpr bool watch_races = false;
#endif

UNWATCHED inline void publish([[maybe_unused]] void* point) {  // what this thread did so far ...
#ifdef WATCH_RACES
  __tsan_release(point);
#endif
}

UNWATCHED inline void observe([[maybe_unused]] void* point) {  // ... happened before what that thread does from now on
#ifdef WATCH_RACES
  __tsan_acquire(point);
#endif
}

constexpr size_t stack_bytes = 512 << 10;
constexpr size_t page_bytes = 4096;

struct Fiber {
  void* stack_pointer = nullptr;  // where it left off
  char* stack = nullptr;          // lowest address; null for the stack that the program began on
  size_t bytes = 0;
#ifndef OWN_SWITCH
  ucontext_t context;
#endif
  void* fake_stack = nullptr;    // AddressSanitizer's
  void* race_history = nullptr;  // ThreadSanitizer's
};

#ifdef OWN_SWITCH
// Saves the registers that a callee must preserve, stores the stack pointer in *save, and goes on where `load` stands.
UNWATCHED __attribute__((naked, noinline)) static void switch_stack(void** /*save: rdi*/, void* /*load: rsi*/) {
  asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n"
      "movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
      "ret\n");
}
#endif

// Gives a fibre a stack (once) and sets it to begin at `entry`, which never returns. False: there is no memory for it.
UNWATCHED static bool prepare_fiber(Fiber& fiber, int number, void (*entry)()) {
  if (!fiber.stack) {
    void* memory = mmap(nullptr, stack_bytes + page_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    if (mprotect(memory, page_bytes, PROT_NONE)) {  // running off the stack must stop the program
      munmap(memory, stack_bytes + page_bytes);
      return false;
    }
    fiber.stack = static_cast<char*>(memory) + page_bytes;
    fiber.bytes = stack_bytes;
#ifdef WATCH_RACES
    fiber.race_history = __tsan_create_fiber(0);
#endif
  }
  fiber.fake_stack = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fiber.stack, fiber.bytes);
#endif
  // Stacks begin 9 cache lines apart modulo a page: tops at equal offsets would all share the same sets of the cache.
  size_t usable = fiber.bytes - static_cast<size_t>(number % 64) * 576;
#ifdef OWN_SWITCH
  void** top = reinterpret_cast<void**>(fiber.stack + usable) - 8;  // 6 registers, where to return to, alignment
  memset(top, 0, 8 * sizeof(void*));
  top[6] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = usable;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
  return true;
}

UNWATCHED inline void release_stack(Fiber& fiber) {
  munmap(fiber.stack - page_bytes, fiber.bytes + page_bytes);
  fiber.stack = nullptr;
}

// First thing on a stack that was switched to. `first` is the stack that the program began on.
UNWATCHED inline void switched_to([[maybe_unused]] Fiber& here, [[maybe_unused]] Fiber& first) {
#ifdef __SANITIZE_ADDRESS__
  const void* stack;
  size_t bytes;
  __sanitizer_finish_switch_fiber(here.fake_stack, &stack, &bytes);
  if (!first.stack) {  // only the first switch away from it tells where it lies
    first.stack = static_cast<char*>(const_cast<void*>(stack));
    first.bytes = bytes;
  }
#endif
}

UNWATCHED inline void switch_fiber(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.bytes);
#endif
#ifdef WATCH_RACES
  __tsan_switch_to_fiber(to.race_history, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef OWN_SWITCH
  switch_stack(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
}

}  // namespace cuda_on_cpu
