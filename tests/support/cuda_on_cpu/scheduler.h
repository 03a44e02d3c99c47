// Threads of a block: who may run, who waits for whom, and what is wrong when nobody can.
//
// Blocks run one after the other. In a block a thread runs until it waits (barrier, warp collective) or ends, then the
// next one in the chosen order does. A thread that begins where another ended takes over its stack: without barriers a
// block is a loop of calls.
#pragma once
#include "fibers.h"
#include "list.h"

namespace cuda_on_cpu {

constexpr int warp_lanes = 32, max_warps = 32, max_threads = 1024;

struct Dimensions {
  unsigned x = 1, y = 1, z = 1;
};

struct AsyncCopy {
  void* target;
  const void* source;
  unsigned bytes, source_bytes;  // the rest of the target is filled with zeros
};

struct Thread {
  Dimensions index;
  int warp = 0, lane = 0;
  Fiber* fiber = nullptr;             // null: not begun, or ended
  List<AsyncCopy> copies;      // under way, oldest first
  List<size_t> copies_closed;  // copies in each committed group
};

// Lanes of a warp that meet in one collective. When the last has come, `deliver` reads and writes all slots.
using Deliver = void (*)(void* const* slots, uint32_t present);
struct Meeting {
  uint32_t mask = 0, arrived = 0;
  const char* what = nullptr;
  Deliver deliver = nullptr;
  void* order = nullptr;  // handle for publish/observe
};

struct Warp {
  uint32_t alive = 0, ready = 0, at_barrier = 0;
  int meetings_open = 0;
  Meeting meetings[warp_lanes];
  void* slots[warp_lanes];
  unsigned meetings_held = 0;
  char order_points[8];
};

struct BarrierVote {
  int count = 0;
  bool any = false, all = true;
};

enum Order { forward, reverse, shuffled };

struct State {
  Thread* current = nullptr;
  Dimensions block_index, block_size, grid_size;
  uint64_t blocks_begun = 0;  // over all launches
  Thread threads[max_threads];
  Warp warps[max_warps];
  uint32_t ready_warps = 0;
  int alive = 0, waiting = 0, barrier_line = 0;
  unsigned barriers_passed = 0;
  BarrierVote votes[2];

  void (*call)(void**) = nullptr;  // runs the kernel as the current thread
  void** arguments = nullptr;

  Fiber first, fibers[max_threads];
  int fibers_made = 0, fibers_idle = 0;
  Fiber* idle[max_threads];

  Order order = forward;
  bool blocks_reversed = false;
  uint64_t random = 1;
  bool failed = false;
  char message[4096] = {};
};
static State state;

UNWATCHED inline Fiber& fiber_of(Thread* thread) { return thread ? *thread->fiber : state.first; }

UNWATCHED static void go_to(Fiber& from, Thread* thread) {
  state.current = thread;
  Fiber& to = fiber_of(thread);
  switch_fiber(from, to);
  switched_to(from, state.first);
}

// Ends the launch with a message; nothing of this block goes on.
[[noreturn]] UNWATCHED __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
  const Dimensions &b = state.block_index, &t = state.current->index;
  int used = snprintf(state.message, sizeof state.message, "block (%u,%u,%u) thread (%u,%u,%u): ", b.x, b.y, b.z, t.x,
                      t.y, t.z);
  va_list rest;
  va_start(rest, format);
  vsnprintf(state.message + used, sizeof state.message - static_cast<size_t>(used), format, rest);
  va_end(rest);
  state.failed = true;
  publish(&state.alive);
  go_to(fiber_of(state.current), nullptr);
  abort();
}

// ---- Who runs next

UNWATCHED inline int pick_bit(uint32_t bits, int after) {
  switch (state.order) {
    case forward: {
      uint32_t later = after < 31 ? bits & (~0u << (after + 1)) : 0;
      return __builtin_ctz(later ? later : bits);
    }
    case reverse: {
      uint32_t later = after > 0 ? bits & (~0u >> (32 - after)) : 0;
      return 31 - __builtin_clz(later ? later : bits);
    }
    default: {
      state.random ^= state.random << 13;
      state.random ^= state.random >> 7;
      state.random ^= state.random << 17;
      for (int skip = static_cast<int>(state.random % static_cast<unsigned>(__builtin_popcount(bits))); skip; skip--)
        bits &= bits - 1;
      return __builtin_ctz(bits);
    }
  }
}

// A warp runs as far as it can before another does (but in shuffled order), the lanes of a warp in turn.
UNWATCHED inline Thread* choose(const Thread* after) {
  if (!state.ready_warps) return nullptr;
  int warp = after && state.warps[after->warp].ready && state.order != shuffled ? after->warp
             : pick_bit(state.ready_warps, state.order == reverse ? 0 : 31);
  int start = after && after->warp == warp ? after->lane : state.order == reverse ? 0 : 31;
  return &state.threads[warp * warp_lanes + pick_bit(state.warps[warp].ready, start)];
}

UNWATCHED inline void set_ready(int warp, uint32_t lanes) {
  state.warps[warp].ready |= lanes;
  if (lanes) state.ready_warps |= 1u << warp;
}

UNWATCHED inline void set_waiting(const Thread* thread) {
  Warp& warp = state.warps[thread->warp];
  warp.ready &= ~(1u << thread->lane);
  if (!warp.ready) state.ready_warps &= ~(1u << thread->warp);
}

UNWATCHED static void run_threads();

constexpr const char* no_stack = "no memory for the stack of a thread: this process may have too many mappings";

UNWATCHED static bool make_fiber() {
  if (!prepare_fiber(state.fibers[state.fibers_made], state.fibers_made, run_threads)) return false;
  state.idle[state.fibers_idle++] = &state.fibers[state.fibers_made++];
  return true;
}

// Under the race checker a thread's stack is its own (another's values in the same place would look like races), and
// made by the launch (what makes a fibre happens before all that the fibre does).
UNWATCHED static Fiber* take_fiber(const Thread* thread) {
  if (watch_races) return &state.fibers[thread - state.threads];
  if (!state.fibers_idle && !make_fiber()) fail("%s", no_stack);
  return state.idle[--state.fibers_idle];
}

UNWATCHED static void describe_deadlock() {
  char text[3000];
  size_t used = 0;
  text[0] = 0;
  auto add = [&](auto... values) {
    if (used + 200 < sizeof text) used += static_cast<size_t>(snprintf(text + used, sizeof text - used, values...));
  };
  for (int w = 0; w < max_warps; w++) {
    const Warp& warp = state.warps[w];
    if (!warp.alive) continue;
    add("\n  warp %d: lanes alive %08x", w, warp.alive);
    if (warp.at_barrier) add(", at __syncthreads (line %d) %08x", state.barrier_line, warp.at_barrier);
    for (int m = 0; m < warp.meetings_open; m++)
      add(", at %s with mask %08x %08x", warp.meetings[m].what, warp.meetings[m].mask, warp.meetings[m].arrived);
  }
  fail("deadlock: every thread waits for one that does not come%s", text);
}

// The current thread cannot go on now (or gives way): another does. Returns when this one may go on.
UNWATCHED static void wait_turn() {
  Thread* here = state.current;
  Thread* next = choose(here);
  if (next == here) return;
  if (!next) describe_deadlock();
  if (!next->fiber) next->fiber = take_fiber(next);
  go_to(*here->fiber, next);
}

// ---- Barrier of the block

UNWATCHED static void open_barrier() {
  for (int w = 0; w < max_warps; w++) {
    set_ready(w, state.warps[w].at_barrier);
    state.warps[w].at_barrier = 0;
  }
  state.waiting = 0;
  state.barriers_passed++;
  state.votes[state.barriers_passed & 1] = BarrierVote{};
}

UNWATCHED static const BarrierVote& barrier(int line, bool vote) {
  Thread* here = state.current;
  if (!state.waiting)
    state.barrier_line = line;
  else if (state.barrier_line != line)
    fail("divergence: this thread is at the __syncthreads of line %d, others at that of line %d", line,
         state.barrier_line);
  BarrierVote& votes = state.votes[state.barriers_passed & 1];
  votes.count += vote;
  votes.any |= vote;
  votes.all &= vote;
  publish(&votes);
  set_waiting(here);
  state.warps[here->warp].at_barrier |= 1u << here->lane;
  if (++state.waiting == state.alive) open_barrier();
  wait_turn();
  observe(&votes);
  return votes;
}

// ---- Meetings of a warp

UNWATCHED inline void hold_meeting_if_complete(int w, int number) {
  Warp& warp = state.warps[w];
  Meeting held = warp.meetings[number];
  if ((held.arrived ^ held.mask) & warp.alive) return;
  warp.meetings[number] = warp.meetings[--warp.meetings_open];
  set_ready(w, held.arrived);
  held.deliver(warp.slots, held.arrived);
}

// The lanes of `mask` that have not ended meet here; `slot` is this lane's, read and written by deliver.
UNWATCHED static void meet(uint32_t mask, const char* what, void* slot, Deliver deliver, bool orders_memory = false) {
  Thread* here = state.current;
  Warp& warp = state.warps[here->warp];
  const uint32_t bit = 1u << here->lane;
  if (!(mask & bit)) fail("%s: lane %d calls with mask %08x, which does not hold it", what, here->lane, mask);
  int number = 0;
  while (number < warp.meetings_open && warp.meetings[number].mask != mask) number++;
  Meeting& meeting = warp.meetings[number];
  if (number == warp.meetings_open) {
    warp.meetings_open++;
    meeting = {mask, 0, what, deliver, &warp.order_points[warp.meetings_held++ % sizeof warp.order_points]};
  }
  if (meeting.deliver != deliver)
    fail("divergence in a warp, mask %08x: this lane is at %s, others at %s", mask, what, meeting.what);
  void* order = meeting.order;
  if (orders_memory) publish(order);
  warp.slots[here->lane] = slot;
  meeting.arrived |= bit;
  set_waiting(here);
  hold_meeting_if_complete(here->warp, number);
  wait_turn();
  if (orders_memory) observe(order);
}

// ---- From the first thread to the last

UNWATCHED static void end_thread() {
  Thread* here = state.current;
  if (here->copies.count)
    fail("the thread ends with %zu asynchronous copies that it never waited for", here->copies.count);
  Warp& warp = state.warps[here->warp];
  publish(&state.alive);
  set_waiting(here);
  warp.alive &= ~(1u << here->lane);
  state.alive--;
  for (int number = warp.meetings_open - 1; number >= 0; number--) hold_meeting_if_complete(here->warp, number);
  if (state.alive && state.waiting == state.alive) open_barrier();

  Thread* next = choose(here);
  if (!next && state.alive) describe_deadlock();
  Fiber* fiber = here->fiber;
  here->fiber = nullptr;
  if (next && !next->fiber && !watch_races) {  // it begins on the stack that is free now
    next->fiber = fiber;
    state.current = next;
    return;
  }
  if (!watch_races) state.idle[state.fibers_idle++] = fiber;
  if (next && !next->fiber) next->fiber = take_fiber(next);
  go_to(*fiber, next);
}

// What a fibre runs: the current thread, then whichever it is given next.
UNWATCHED static void run_threads() {
  switched_to(fiber_of(state.current), state.first);
  for (;;) {
    observe(&state.grid_size);
    state.call(state.arguments);
    end_thread();
  }
}

UNWATCHED static void run_block(int threads) {
  state.blocks_begun++;
  state.alive = threads;
  state.waiting = 0;
  state.ready_warps = 0;
  state.votes[state.barriers_passed & 1] = BarrierVote{};
  for (int w = 0; w < max_warps; w++) {
    Warp& warp = state.warps[w];
    int lanes = threads - w * warp_lanes;
    warp.alive = lanes >= warp_lanes ? ~0u : lanes > 0 ? (1u << lanes) - 1 : 0;
    warp.ready = warp.at_barrier = 0;
    warp.meetings_open = 0;
    set_ready(w, warp.alive);
  }
  publish(&state.grid_size);
  Thread* begin = choose(nullptr);
  begin->fiber = take_fiber(begin);
  go_to(state.first, begin);
  observe(&state.alive);
}

// After a failure threads stand where they stopped; all stacks begin anew.
UNWATCHED static void abandon_threads() {
  state.fibers_idle = 0;
  for (int i = 0; i < state.fibers_made; i++) {
    prepare_fiber(state.fibers[i], i, run_threads);
    if (!watch_races) state.idle[state.fibers_idle++] = &state.fibers[i];
  }
  for (Thread& thread : state.threads) {
    thread.fiber = nullptr;
    thread.copies.count = thread.copies_closed.count = 0;
  }
}

// Between launches every fibre is idle. Those beyond `kept` give their stacks back: a process may have some 60,000
// mappings, a stack is two of them, and hundreds of modules may be loaded.
UNWATCHED static void release_fibers(int kept) {
  if (watch_races || state.fibers_made <= kept) return;
  for (int i = kept; i < state.fibers_made; i++) release_stack(state.fibers[i]);
  state.fibers_made = state.fibers_idle = kept;
  for (int i = 0; i < kept; i++) state.idle[i] = &state.fibers[i];
}

}  // namespace cuda_on_cpu
