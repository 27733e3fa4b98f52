// Ampere's copies to shared memory that a thread waits for later, and its tensor cores' products.
#pragma once

#include <cuda_fp16.h>

#include "simt/intrinsics.h"

namespace simt {

inline void in_shared(const void* p, size_t bytes, const char* what) {
  const block& home = *gpu.current->home;
  const unsigned char* first = static_cast<const unsigned char*>(p);
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("%s at an address that is not a multiple of %zu", what, bytes);
  if (first < home.shared.get() || first + bytes > home.shared.get() + home.shared_bytes)
    fail("%s outside of shared memory", what);
}

// A copy is made when its thread waits for it: what is read too early is not there yet. Beyond `bytes` there are zeros.
inline void copy_later(void* to, const void* from, size_t size, size_t bytes) {
  in_shared(to, size, "a copy");
  if (reinterpret_cast<uintptr_t>(from) % size) fail("a copy of %zu bytes from an address that is no multiple of it", size);
  memset(to, 0xff, size);  // it may be written from now on
  gpu.current->copies.back().push_back([=] {
    memset(to, 0, size);
    memcpy(to, from, bytes);
  });
}
inline void copies_commit() { gpu.current->copies.emplace_back(); }
inline void copies_wait(size_t pending) {
  auto& groups = gpu.current->copies;
  for (; groups.size() - 1 > pending; groups.erase(groups.begin()))
    for (const auto& copy : groups.front()) copy();
}

// ldmatrix, as the PTX manual lays the four matrices' rows and elements over the lanes.
inline void load_matrices(unsigned (&to)[4], const void* row) {
  in_shared(row, 16, "a matrix's row");
  const int lane = gpu.current->lane;
  for (int i = 0; i < 4; ++i) {
    const uint64_t at = shuffle(collective::shuffle, ~0u, reinterpret_cast<uint64_t>(row), 8 * i + lane / 4, 32);
    memcpy(&to[i], reinterpret_cast<const unsigned char*>(at) + lane % 4 * 4, 4);
  }
}

// The sum of eight products and `total` as Ampere's tensor core is known to make it: aligned to the largest of them, cut off
// 24 bits below it, added exactly, and cut off to fp32.
inline float sum_of_eight(const float (&a)[8], const float (&b)[8], float total) {
  int top = -1000, exponent = 0;
  double terms[9] = {total};
  bool any = false;
  for (int e = 0; e < 8; ++e) any |= (terms[e + 1] = double(a[e]) * b[e]) != 0;
  if (!any) return total;  // as the sum would be; tiles have much that is 0 around them
  if (total != 0) frexp(total, &top);
  for (int e = 0; e < 8; ++e) {
    if (terms[e + 1] == 0) continue;
    int of_a = 0, of_b = 0;
    frexp(a[e], &of_a), frexp(b[e], &of_b);
    top = std::max(top, of_a + of_b - 1);
  }
  double sum = 0;
  for (const double term : terms) sum += isfinite(term) ? trunc(ldexp(term, 25 - top)) : term;
  if (sum == 0 || !isfinite(sum)) return float(sum);
  frexp(sum, &exponent);
  return float(ldexp(trunc(ldexp(sum, 24 - exponent)), exponent - 24 + top - 25));
}

// mma.m16n8k16 of halves, as the PTX manual lays its operands over the lanes; 16 along k are two sums of eight.
inline void product16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct part {
    float2 a[4], b[2];
  } mine;
  const unsigned registers[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 6; ++i) {
    __half2 two;
    memcpy(&two, &registers[i], 4);
    (i < 4 ? mine.a[i] : mine.b[i - 4]) = __half22float2(two);
  }
  together(collective::sync, ~0u, reinterpret_cast<uint64_t>(&mine));
  const int lane = gpu.current->lane;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (int eight = 0; eight < 2; ++eight) {
      float x[8], y[8];
      for (int q = 0; q < 4; ++q) {
        const float2 of_a = reinterpret_cast<const part*>(peer(row * 4 + q)->payload)->a[i / 2 + 2 * eight];
        const float2 of_b = reinterpret_cast<const part*>(peer(column * 4 + q)->payload)->b[eight];
        x[2 * q] = of_a.x, x[2 * q + 1] = of_a.y, y[2 * q] = of_b.x, y[2 * q + 1] = of_b.y;
      }
      d[i] = sum_of_eight(x, y, d[i]);
    }
  }
  together(collective::sync, ~0u, reinterpret_cast<uint64_t>(&mine));  // all have read what is in it
}

}  // namespace simt
