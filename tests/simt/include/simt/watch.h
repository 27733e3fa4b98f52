// Stores under watch: every byte of a watched output is to be written exactly once per launch.
#pragma once

#include <stdint.h>

#include <vector>

#include "simt/machine.h"

namespace simt {

struct watched {
  uintptr_t begin;
  std::vector<uint8_t> writes;
};

inline std::vector<watched> outputs;

inline void on_store(const void* pointer, size_t bytes) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(pointer);
  if (first % bytes) fail("store of %zu bytes at an address that is not a multiple of %zu", bytes, bytes);
  for (watched& output : outputs) {
    if (first < output.begin || first >= output.begin + output.writes.size()) continue;
    if (first + bytes > output.begin + output.writes.size())
      fail("store of %zu bytes runs past the end of an output", bytes);
    for (size_t i = 0; i < bytes; ++i)
      if (output.writes[first - output.begin + i]++)
        fail("byte %zu of an output is written twice", size_t(first - output.begin + i));
    return;
  }
}

}  // namespace simt

extern "C" {
// For the harness. Watches are dropped by simt_reset; simt_unwritten gives the number of bytes never written.
__attribute__((visibility("default"), used)) inline void simt_reset(int order) {
  simt::outputs.clear();
  simt::gpu.order = order;
  simt::gpu.failed = false;
}
__attribute__((visibility("default"), used)) inline void simt_watch(const void* pointer, size_t bytes) {
  simt::outputs.push_back({reinterpret_cast<uintptr_t>(pointer), std::vector<uint8_t>(bytes)});
}
__attribute__((visibility("default"), used)) inline size_t simt_unwritten(const void* pointer) {
  for (const simt::watched& output : simt::outputs)
    if (output.begin == reinterpret_cast<uintptr_t>(pointer))
      return static_cast<size_t>(std::count(output.writes.begin(), output.writes.end(), 0));
  return ~size_t(0);
}
}
