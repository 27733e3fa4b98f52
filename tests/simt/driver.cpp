// Runs the launchers of one generated .cu file on behalf of harness.py: requests on stdin, replies on stdout.
//
// Every buffer is its own heap block of exactly the bytes that the tensor spans, at the same place within a cache line
// as the original: AddressSanitizer then stops at the first byte read or written beside it.
#include <dlfcn.h>
#include <stdlib.h>

#include <cstdio>
#include <string>
#include <utility>

#include SIMT_SOURCE

#include "requests.h"

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_poison_memory_region(void const volatile* address, size_t size);
extern "C" const char* __asan_default_options() {
  return "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1";
}
#endif

namespace {

constexpr size_t line = 512;            // what PyTorch's CUDA allocator aligns to
constexpr unsigned char poison = 0xff;  // NaN in every float type, -1 in every integer

struct buffer {
  unsigned char* block;
  unsigned char* data;
  size_t bytes;
  std::string before;
};

buffer allocate(size_t bytes, size_t misaligned) {
  void* block = nullptr;
  if (posix_memalign(&block, line, misaligned + bytes)) abort();
  unsigned char* data = static_cast<unsigned char*>(block) + misaligned;
  memset(block, poison, misaligned + bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(block, misaligned);
#endif
  return {static_cast<unsigned char*>(block), data, bytes, {}};
}

void serve() {
  const std::string name = read_text();
  simt_reset(static_cast<int>(read_number()));
  const size_t outputs = static_cast<size_t>(read_number()), inputs = static_cast<size_t>(read_number());
  std::vector<buffer> buffers;
  std::vector<int64_t> arguments, written;
  for (size_t i = 0; i < outputs + inputs; ++i) {
    const size_t bytes = static_cast<size_t>(read_number());
    buffers.push_back(allocate(bytes, static_cast<size_t>(read_number())));
    buffer& b = buffers.back();
    if (i < outputs) {
      written.push_back(read_number());
      simt_watch(b.data, b.bytes);
    } else {
      read_bytes(b.data, bytes);
      b.before.assign(reinterpret_cast<char*>(b.data), bytes);
    }
    arguments.push_back(reinterpret_cast<int64_t>(b.data));
  }
  std::vector<int64_t> plan(static_cast<size_t>(read_number()));
  read_bytes(plan.data(), plan.size() * sizeof(int64_t));
  const size_t workspace = static_cast<size_t>(read_number());
  if (workspace) {
    buffers.push_back(allocate(workspace, 0));
    plan.push_back(reinterpret_cast<int64_t>(buffers.back().data));
  }
  arguments.push_back(reinterpret_cast<int64_t>(plan.data()));
  arguments.push_back(0);  // the default stream

  std::string said;
  void* function = dlsym(nullptr, name.c_str());
  const int code = function ? call(function, arguments) : -1;
  if (!function) said = "no such function: " + name;
  if (function && code) said = mn_error(code);
  for (size_t i = 0; i < outputs && !code; ++i) {
    const int64_t missing =
        written[i] - (static_cast<int64_t>(buffers[i].bytes) - static_cast<int64_t>(simt_unwritten(buffers[i].data)));
    if (missing) said = "output " + std::to_string(i) + ": " + std::to_string(missing) + " bytes were not written";
  }
  for (size_t i = outputs; i < outputs + inputs; ++i)
    if (memcmp(buffers[i].data, buffers[i].before.data(), buffers[i].bytes))
      said = "input " + std::to_string(i - outputs) + " was changed";
  if (simt::allocations) said = "memory for partial results was not given back";
  write_number(static_cast<int64_t>(said.size()));
  write_bytes(said.data(), said.size());
  for (size_t i = 0; i < outputs; ++i) write_bytes(buffers[i].data, buffers[i].bytes);
  fflush(stdout);
  for (const buffer& b : buffers) free(b.block);
}

}  // namespace

int main() {
  for (;;) serve();
}
