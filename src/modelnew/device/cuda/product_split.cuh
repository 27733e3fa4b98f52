// An fp32 number as two fp16 parts: its scaled value rounded, and what that left over. Rows are scaled by powers of two
// of their own, so that the largest element is in [2^14, 2^15): below it, 40 binary orders of magnitude are kept.
// The kernel here does it for `x`, once per call, and finds the scales of the weight's rows.
#pragma once

#include "cuda/group.cuh"
#include "cuda/memory.cuh"

namespace mn {

// Both operands come in groups of 32 along k. A lane of the product kernel reads 4 neighbouring floats of the weight and
// has them where its fragment wants k = {2q, 2q + 1, 2q + 8, 2q + 9} of a product of 16; x is permuted to match.
inline constexpr int product_group = 32;
inline constexpr int most_exponent = 60;  // of a row's largest element, either sign; so that scales and their products are normal

struct halves2 {
  uint32_t high, low;  // two elements each
};
MN_FN halves2 split(float a, float b) {
  const __half2 high = __floats2half2_rn(a, b);
  const float2 back = __half22float2(high);
  return {bit_cast<uint32_t>(high), bit_cast<uint32_t>(__floats2half2_rn(a - back.x, b - back.y))};
}

MN_FN int exponent_of(float value) { return int(bit_cast<uint32_t>(value) >> 23 & 255u) - 127; }
MN_FN float power_of_two(int exponent) { return bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23); }

// What a row is divided by; its inverse is a power of two as well.
MN_FN float unit_of(float largest) {
  const int e = exponent_of(largest);
  return power_of_two((e < -most_exponent ? -most_exponent : e > most_exponent ? most_exponent : e) - 14);
}
MN_FN float inverse_of(float power) { return power_of_two(-exponent_of(power)); }

// What `x` is turned into: per row and group 32 high, then 32 low halves.
template <class X>
struct product_split {
  const X* x;
  int64_t rows, size, stride_row, stride_k;
  uint2* halves;  // rows of 16 * groups
  int64_t groups;
  float* row_unit;
  int parts;  // blocks of a cluster, for one row
  const float* w;  // rows of the weight, whose units are looked for
  int64_t w_rows, w_stride;
  float *hints, *w_unit;
  uint32_t* counters;  // set to 0
  int64_t counted;
};

// Bits of magnitudes: as integers they are in the order of their values, and NaN is above infinity.
MN_FN uint32_t magnitude(float value) { return bit_cast<uint32_t>(value) & 0x7fffffffu; }
struct largest_bits {
  MN_FN static uint32_t identity() { return 0; }
  MN_FN static uint32_t combine(uint32_t a, uint32_t b) { return a > b ? a : b; }
};

template <class X>
MN_FN void load_four(const X* x, int64_t stride, int64_t k, int64_t size, bool whole, float (&v)[4]) {
  if (whole && k + 4 <= size) {
    const vec<X, 4> four = load_aligned<reuse::expected, X, 4>(x + k);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = to_compute(four.at[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = k + i < size ? to_compute(load_one<reuse::expected>(x + (k + i) * stride)) : 0.0f;
  }
}

// A row by a cluster of blocks, each a part of it.
template <class X>
MN_FN void split_row(const product_split<X>& s, int64_t row, int part, int parts, int round) {
  const X* x = s.x + row * s.stride_row;
  const bool whole = s.stride_k == 1 && is_aligned<X, 4>(x);
  const int64_t begin = s.groups * part / parts * 8, end = s.groups * (part + 1) / parts * 8;  // fours
  uint32_t most = 0;
#pragma unroll 8
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    float v[4];
    load_four(x, s.stride_k, i * 4, s.size, whole, v);
#pragma unroll
    for (int e = 0; e < 4; ++e) most = largest_bits::combine(most, magnitude(v[e]));
  }
  most = block_group::combine(largest_bits{}, most, 0, round);
  if (parts > 1) most = cluster_group::combine(largest_bits{}, most, block_group::scratch_bytes, round);
  const float largest = bit_cast<float>(most);
  const int e = exponent_of(largest);
  const bool held = most == 0 || (e >= -most_exponent && e <= most_exponent);
  const float unit = most == 0 ? 1.0f : unit_of(largest);
  // NaN in the halves makes the whole tile be computed another way.
  const float scale = held ? inverse_of(unit) : bounds<float>::nan;
  if (threadIdx.x == 0 && part == 0) s.row_unit[row] = unit;
  uint32_t* to = reinterpret_cast<uint32_t*>(s.halves + row * s.groups * 16);
#pragma unroll 8
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    float v[4];
    load_four(x, s.stride_k, i * 4, s.size, whole, v);
    const halves2 first = split(v[0] * scale, v[1] * scale), second = split(v[2] * scale, v[3] * scale);
    const int q = i % 8 / 2, step = i % 2;
    uint32_t* group = to + i / 8 * 32 + 8 * step + q;
    group[0] = first.high;
    group[4] = second.high;
    group[16] = first.low;
    group[20] = second.low;
  }
}

// The largest element of a row of the weight, by one warp: from the hint, or from the row.
template <class X>
MN_FN void find_unit(const product_split<X>& s, int64_t row) {
  const int lane = threadIdx.x % 32;
  float hint = s.hints ? s.hints[row] : 0.0f;
  if (hint == 0.0f) {
    const float* w = s.w + row * s.w_stride;
    uint32_t most = 0;
#pragma unroll 4
    for (int64_t k = lane * 4; k < s.size; k += 128) {
      float v[4];
      load_four(w, 1, k, s.size, true, v);
#pragma unroll
      for (int e = 0; e < 4; ++e) most = largest_bits::combine(most, magnitude(v[e]));
    }
    most = combine_lanes(largest_bits{}, most, 32);
    hint = most == 0 ? 1.0f : bit_cast<float>(most);
    if (s.hints && lane == 0) s.hints[row] = hint;
  }
  if (lane == 0) s.w_unit[row] = unit_of(hint);
}

inline constexpr int split_threads = 512;

template <class X>
__global__ void __launch_bounds__(split_threads) product_split_rows(const __grid_constant__ product_split<X> s) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < s.counted; i += threads) s.counters[i] = 0;
  for (int64_t row = thread / 32; row < s.w_rows; row += threads / 32) find_unit(s, row);
  const int parts = s.parts, teams = gridDim.x / parts;
  int round = 0;
  for (int64_t row = blockIdx.x / parts; row < s.rows; row += teams)
    split_row(s, row, blockIdx.x % parts, parts, round++);
  if (parts > 1) cluster_group::barrier();  // nobody leaves while others still write to its scratch
}

}  // namespace mn
