// A program that runs launches asked of it on its standard input: kernels under a sanitizer live in a process of their
// own, which ends with a finding or a failed launch. Every array is an allocation of exactly its size, so that red
// zones surround it.
//
//   first    bytes (uint64) and text: a line for each kernel, the types of its parameters
//   request  kernel, 6 sizes, order, blocks reversed: uint32; shared bytes, seed, n buffers, n arguments: uint64;
//            buffers: bytes (uint64), content; arguments: buffer (int64; -1 null, -2 value), offset or bytes (uint64),
//            the value if one
//   reply    failed, bytes of the message: uint64; message; contents of all buffers
#pragma once
#include <string>
#include <vector>

namespace cuda_on_cpu {

UNWATCHED static bool receive(void* target, size_t bytes) {
  char* p = static_cast<char*>(target);
  while (bytes) {
    ssize_t got = read(0, p, bytes);
    if (got <= 0) return false;
    p += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

template <class T>
T receive() {
  T value;
  if (!receive(&value, sizeof value)) exit(0);  // no more requests
  return value;
}

UNWATCHED static void send(int file, const void* source, size_t bytes) {
  const char* p = static_cast<const char*>(source);
  while (bytes) {
    ssize_t sent = write(file, p, bytes);
    if (sent <= 0) exit(1);
    p += sent;
    bytes -= static_cast<size_t>(sent);
  }
}

static void serve(int replies) {
  auto kernel = receive<uint32_t>();
  unsigned sizes[6];
  receive(sizes, sizeof sizes);
  auto order = receive<uint32_t>(), blocks_reversed = receive<uint32_t>();
  auto shared_bytes = receive<uint64_t>(), seed = receive<uint64_t>();
  auto n_buffers = receive<uint64_t>(), n_arguments = receive<uint64_t>();
  std::vector<std::pair<char*, size_t>> buffers;
  for (uint64_t i = 0; i < n_buffers; i++) {
    auto bytes = receive<uint64_t>();
    char* memory = static_cast<char*>(malloc(bytes ? bytes : 1));
    receive(memory, bytes);
    buffers.push_back({memory, bytes});
  }
  std::vector<std::vector<char>> values;
  std::vector<void*> arguments;
  for (uint64_t i = 0; i < n_arguments; i++) {
    auto buffer = receive<int64_t>();
    auto number = receive<uint64_t>();
    void* pointer = buffer >= 0 ? buffers[static_cast<size_t>(buffer)].first + number : nullptr;
    values.emplace_back(16 + (buffer == -2 ? number : sizeof pointer));
    if (buffer == -2)
      receive(values.back().data(), number);
    else
      memcpy(values.back().data(), &pointer, sizeof pointer);
  }
  for (auto& value : values) arguments.push_back(value.data());
  cuda_on_cpu_set_order(static_cast<int>(order), seed, static_cast<int>(blocks_reversed));
  uint64_t failed = static_cast<uint64_t>(cuda_on_cpu_launch(kernel, sizes, shared_bytes, arguments.data()));
  uint64_t length = strlen(state.message);
  send(replies, &failed, sizeof failed);
  send(replies, &length, sizeof length);
  send(replies, state.message, length);
  for (auto& [memory, bytes] : buffers) send(replies, memory, bytes);
  if (failed) _exit(0);  // threads stopped where they stood: the sanitizers' books do not add up any more
  for (auto& [memory, bytes] : buffers) free(memory);
}

}  // namespace cuda_on_cpu

int main() {
  int replies = dup(1);
  dup2(2, 1);  // what a sanitizer prints must not mix with replies
  std::string lines;
  for (const cuda_on_cpu::Kernel* kernel = kernel_table(); kernel->name; kernel++)
    lines += std::string(kernel->parameters) + "\n";
  uint64_t length = lines.size();
  cuda_on_cpu::send(replies, &length, sizeof length);
  cuda_on_cpu::send(replies, lines.data(), length);
  for (;;) cuda_on_cpu::serve(replies);
}
