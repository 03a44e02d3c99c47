// From a kernel's number, sizes and pointers to its arguments, to blocks that run.
#pragma once

namespace cuda_on_cpu {

// ---- A parameter's type as text: f4 u8 i4 b1 for a number, *f4 *f4x2 *V12 *v for a pointer, a trailing c if const
using Text = List<char>;

UNWATCHED inline void put(Text& text, const char* letters, size_t number = 0) {
  for (; *letters; letters++) text.add(*letters);
  if (number >= 10) put(text, "", number / 10);
  if (number) text.add(static_cast<char>('0' + number % 10));
}

template <class T>
struct Name {
  static void write(Text& text) {
    const bool is_signed = std::is_signed<T>::value;
    if (std::is_floating_point<T>::value) put(text, "f", sizeof(T));
    else if (std::is_same<T, bool>::value) put(text, "b1");
    else if (std::is_integral<T>::value) put(text, is_signed ? "i" : "u", sizeof(T));
    else put(text, "V", sizeof(T));
  }
};
template <>
struct Name<void> {
  static void write(Text& text) { put(text, "v"); }
};
template <class T>
struct Name<T*> {
  static void write(Text& text) {
    put(text, "*");
    Name<std::remove_cv_t<T>>::write(text);
    if (std::is_const<T>::value) put(text, "c");
  }
};
#define VECTOR_NAME(T, N, ELEMENT)  \
  template <>                       \
  struct Name<cuda::T> {            \
    static void write(Text& text) { \
      Name<ELEMENT>::write(text);   \
      put(text, "x" #N);            \
    }                               \
  };
#define VECTOR_NAMES(T, ELEMENT) \
  VECTOR_NAME(T##2, 2, ELEMENT) VECTOR_NAME(T##3, 3, ELEMENT) VECTOR_NAME(T##4, 4, ELEMENT)
VECTOR_NAMES(float, float)
VECTOR_NAMES(double, double)
VECTOR_NAMES(int, int)
VECTOR_NAMES(uint, unsigned)
VECTOR_NAMES(longlong, long long)
VECTOR_NAMES(ulonglong, unsigned long long)
#undef VECTOR_NAMES
#undef VECTOR_NAME

struct Kernel {
  const char* name;
  void (*call)(void**);
  const char* parameters;  // separated by spaces
};

template <auto function>
struct Entry;
template <class... Parameters, void (*function)(Parameters...)>
struct Entry<function> {
  template <size_t... i>
  static void unpack(void** arguments, std::index_sequence<i...>) {
    (void)arguments;
    function(*static_cast<std::remove_reference_t<Parameters>*>(arguments[i])...);
  }
  static void call(void** arguments) { unpack(arguments, std::index_sequence_for<Parameters...>{}); }
  static Kernel kernel(const char* name) {
    Text parameters;
    ((Name<std::remove_cv_t<Parameters>>::write(parameters), parameters.add(' ')), ...);
    parameters.add(0);
    return {name, call, parameters.items};
  }
};

UNWATCHED static int launch(const Kernel& kernel, const unsigned* sizes, size_t shared_bytes, void** arguments) {
  state.grid_size = {sizes[0], sizes[1], sizes[2]};
  state.block_size = {sizes[3], sizes[4], sizes[5]};
  const uint64_t threads = uint64_t{sizes[3]} * sizes[4] * sizes[5], plane = uint64_t{sizes[0]} * sizes[1];
  const uint64_t blocks = plane * sizes[2];
  state.call = kernel.call;
  state.arguments = arguments;
  state.failed = false;
  state.message[0] = 0;
  state.first.stack = nullptr;
  state.first.bytes = 0;
#ifdef WATCH_RACES
  state.first.race_history = __tsan_get_current_fiber();
#endif
  set_dynamic_shared(shared_bytes);
  while (state.fibers_made < (watch_races ? static_cast<int>(threads) : 1)) {
    if (make_fiber()) continue;
    snprintf(state.message, sizeof state.message, "%s", no_stack);
    return true;
  }
  for (unsigned i = 0; i < threads; i++) {
    Thread& thread = state.threads[i];
    thread.index = {i % sizes[3], i / sizes[3] % sizes[4], i / (sizes[3] * sizes[4])};
    thread.warp = static_cast<int>(i) / warp_lanes;
    thread.lane = static_cast<int>(i) % warp_lanes;
  }
  for (uint64_t number = 0; number < blocks && !state.failed; number++) {
    uint64_t block = state.blocks_reversed ? blocks - 1 - number : number;
    state.block_index = {static_cast<unsigned>(block % sizes[0]), static_cast<unsigned>(block % plane / sizes[0]),
                         static_cast<unsigned>(block / plane)};
    block_number = static_cast<unsigned>(number) + 1;
    fill_with_ones(dynamic_shared, shared_bytes);
    run_block(static_cast<int>(threads));
  }
  if (state.failed) abandon_threads();
  release_fibers(256);
  return state.failed;
}

}  // namespace cuda_on_cpu

// ---- What cuda_runner.py calls; kernel_table() follows the kernels' source in the translation unit. The last has no name.
static const cuda_on_cpu::Kernel* kernel_table();

extern "C" {
UNWATCHED int cuda_on_cpu_launch(unsigned kernel, const unsigned* sizes, size_t shared_bytes, void** arguments) {
  return cuda_on_cpu::launch(kernel_table()[kernel], sizes, shared_bytes, arguments);
}
UNWATCHED void cuda_on_cpu_release_stacks() { cuda_on_cpu::release_fibers(0); }
UNWATCHED const char* cuda_on_cpu_parameters(unsigned kernel) { return kernel_table()[kernel].parameters; }
UNWATCHED const char* cuda_on_cpu_message() { return cuda_on_cpu::state.message; }
UNWATCHED void cuda_on_cpu_set_order(int order, uint64_t seed, int blocks_reversed) {
  cuda_on_cpu::state.order = static_cast<cuda_on_cpu::Order>(order);
  cuda_on_cpu::state.random = seed * 0x9e3779b97f4a7c15ull | 1;
  cuda_on_cpu::state.blocks_reversed = blocks_reversed != 0;
}
// Arrays whose traffic is counted, and their counts: n_counts numbers for each, and then the matrix units' operations.
UNWATCHED void cuda_on_cpu_watch_arrays(size_t n, char* const* begins, const size_t* bytes) {
  using namespace cuda_on_cpu;
  for (size_t i = 0; i < n_ranges; i++) {
    free(ranges[i].last_load);
    free(ranges[i].last_store);
  }
  free(ranges);
  matrix_operations = 0;
  ranges = static_cast<Range*>(calloc(n + 1, sizeof(Range)));
  n_ranges = n;
  for (size_t i = 0; i < n; i++) {
    size_t words = bytes[i] / 4 + 1;
    ranges[i].begin = begins[i];
    ranges[i].end = begins[i] + bytes[i];
    ranges[i].last_load = static_cast<unsigned*>(calloc(words, sizeof(unsigned)));
    ranges[i].last_store = static_cast<unsigned*>(calloc(words, sizeof(unsigned)));
  }
}
UNWATCHED void cuda_on_cpu_counts(uint64_t* counts) {
  using namespace cuda_on_cpu;
  for (size_t i = 0; i < n_ranges; i++) memcpy(counts + i * n_counts, ranges[i].counts, sizeof ranges[i].counts);
  counts[n_ranges * n_counts] = matrix_operations;
}
}
