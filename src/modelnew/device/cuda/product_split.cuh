// An fp32 number as two fp16 parts: its scaled value rounded, and what that left over. Rows are scaled by powers of two
// of their own, so that the largest element is in [2^14, 2^15): below it, 40 binary orders of magnitude are kept.
// The kernel here does it for `x`, once per call, and finds the scales of the weight's rows.
#pragma once

#include <cuda_fp16.h>

#include "cuda/group.cuh"
#include "cuda/memory.cuh"

namespace mn {

// Both operands come in groups of 32 along k. Where the weight's rows are contiguous, a lane of the product kernel reads 4
// neighbouring floats of one and has them where its fragment wants k = {2q, 2q + 1, 2q + 8, 2q + 9} of a product of 16; x
// is permuted to match. Where it lies `across`, its columns along n contiguous, fragments and x are in k's own order.
#if defined(MN_WEIGHT_ACROSS)
inline constexpr bool weight_across = true;  // contiguous along n
#else
inline constexpr bool weight_across = false;  // along k
#endif
inline constexpr int product_group = 32;
inline constexpr int most_exponent = 60;  // of a row's largest, either sign: scales and their products are normal

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

// What `x` is turned into: for each tile of rows, and each group of k in it, rows of 32 high and 32 low halves as they
// lie in shared memory: pieces of 16 bytes, swizzled. What is outside of x is 0.
template <class X>
struct product_split {
  const X* x;
  int64_t rows, size, stride_row, stride_k;
  uint4* halves;
  int64_t groups;  // of k, and beyond it
  int tile_rows;
  float* row_unit;
  int parts;       // blocks of a cluster, for one row
  const float* w;  // rows of the weight, whose units are looked for
  int64_t w_rows, w_stride;  // the stride that is not 1
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

// A row keeps fp32's accuracy where nearly all of its weight is in elements that keep 22 bits: what is below 2^-3,
// scaled, keeps fewer. Counted: those, and in the upper half those of 2^5 and more.
template <int N>
MN_FN int64_t count_range(const float (&v)[N], float scale) {
  int64_t count = 0;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    const float size = fabsf(v[e]) * scale;
    count += int64_t(v[e] != 0.0f && size < 0.125f) | int64_t(size >= 32.0f) << 32;
  }
  return count;
}
MN_FN bool too_wide(int64_t count) { return (count & 0xffffffff) * 64 > count >> 32; }

inline constexpr int split_threads = 256;
inline constexpr int split_held = 2;  // eights of a row that a thread keeps from finding the largest to splitting

// The eight elements of one piece of high halves and one of low ones: pairs from four places of a group, or neighbours
// (`weight_across`). The i-th eight of a row is piece i % 4 of group i / 4.
template <class X>
MN_FN void load_eight(const X* x, int64_t stride, int64_t i, int64_t size, bool pairs, float (&v)[8]) {
  const int64_t first = i / 4 * product_group + i % 4 * (weight_across ? 8 : 2);
  constexpr int step = weight_across ? 2 : 8;
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int64_t k = first + step * q;
    if (pairs && k + 2 <= size) {
      const vec<X, 2> two = load_aligned<X, 2>(x + k);
      v[2 * q] = to_compute(two.at[0]), v[2 * q + 1] = to_compute(two.at[1]);
    } else {
      v[2 * q] = k < size ? to_compute(load_one(x + k * stride)) : 0.0f;
      v[2 * q + 1] = k + 1 < size ? to_compute(load_one(x + (k + 1) * stride)) : 0.0f;
    }
  }
}

MN_FN void put_eight(uint4* group_row, int in_tile, int piece, const float (&v)[8], float scale) {
  halves2 two[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) two[q] = split(v[2 * q] * scale, v[2 * q + 1] * scale);
  group_row[piece ^ (in_tile & 7)] = make_uint4(two[0].high, two[1].high, two[2].high, two[3].high);
  group_row[(piece + 4) ^ (in_tile & 7)] = make_uint4(two[0].low, two[1].low, two[2].low, two[3].low);
}

template <int N>
MN_FN uint32_t largest_of(const float (&v)[N]) {
  uint32_t most = 0;
#pragma unroll
  for (int e = 0; e < N; ++e) most = largest_bits::combine(most, magnitude(v[e]));
  return most;
}

// A row by a cluster of blocks, each a part of it. Rows from `rows` on are 0.
template <class X>
MN_FN void split_row(const product_split<X>& s, int64_t row, int part, int parts, int round) {
  const X* x = s.x + row * s.stride_row;
  const bool pairs = s.stride_k == 1 && is_aligned<X, 2>(x);
  const int64_t size = row < s.rows ? s.size : 0;
  const int64_t begin = s.groups * part / parts * 4 + threadIdx.x, end = s.groups * (part + 1) / parts * 4;  // eights
  float held[split_held][8];
  uint32_t most = 0;
#pragma unroll
  for (int j = 0; j < split_held; ++j) {
    const int64_t i = begin + j * split_threads;
    load_eight(x, s.stride_k, i, i < end ? size : 0, pairs, held[j]);
  }
#pragma unroll
  for (int j = 0; j < split_held; ++j) most = largest_bits::combine(most, largest_of(held[j]));
  for (int64_t i = begin + split_held * split_threads; i < end; i += split_threads) {
    float v[8];
    load_eight(x, s.stride_k, i, size, pairs, v);
    most = largest_bits::combine(most, largest_of(v));
  }
  most = block_group::combine(largest_bits{}, most, 0, round);
  if (parts > 1) most = cluster_group::combine(largest_bits{}, most, block_group::scratch_bytes, round);
  const float largest = bit_cast<float>(most);
  const int e = exponent_of(largest);
  const float unit = most == 0 ? 1.0f : unit_of(largest);
  const float scale = inverse_of(unit);
  const int in_tile = static_cast<int>(row % s.tile_rows);
  const int64_t group_pieces = int64_t(s.tile_rows) * 8;
  uint4* to = s.halves + row / s.tile_rows * s.groups * group_pieces + in_tile * 8;
  int64_t range = 0;
#pragma unroll
  for (int j = 0; j < split_held; ++j) {
    const int64_t i = begin + j * split_threads;
    range += count_range(held[j], scale);
    if (i < end) put_eight(to + i / 4 * group_pieces, in_tile, i % 4, held[j], scale);
  }
  for (int64_t i = begin + split_held * split_threads; i < end; i += split_threads) {
    float v[8];
    load_eight(x, s.stride_k, i, size, pairs, v);
    range += count_range(v, scale);
    put_eight(to + i / 4 * group_pieces, in_tile, i % 4, v, scale);
  }
  range = block_group::combine(sum<int64_t>{}, range, 0, round + 1);
  if (parts > 1) range = cluster_group::combine(sum<int64_t>{}, range, block_group::scratch_bytes, round + 1);
  // NaN there makes the row's products be computed another way.
  const bool held_well = e >= -most_exponent && e <= most_exponent && !too_wide(range);
  if (threadIdx.x == 0 && part == 0) s.row_unit[row] = most == 0 || held_well ? unit : bounds<float>::nan;
}

MN_FN void load_four(const float* w, int64_t k, int64_t size, float (&v)[4]) {
  if (k + 4 <= size) {
    const vec<float, 4> four = load_aligned<float, 4>(w + k);
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = four.at[e];
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = k + e < size ? w[k + e] : 0.0f;
  }
}

// The largest element of a row of the weight, by one warp; below 0 where the row is too wide.
template <class X>
MN_FN float look_through(const product_split<X>& s, int64_t row) {
  const int lane = threadIdx.x % 32;
  const float* w = s.w + row * s.w_stride;
  uint32_t most = 0;
#pragma unroll 4
  for (int64_t k = lane * 4; k < s.size; k += 128) {
    float v[4];
    load_four(w, k, s.size, v);
    most = largest_bits::combine(most, largest_of(v));
  }
  most = combine_lanes(largest_bits{}, most, 32);
  if (most == 0) return 1.0f;
  const float largest = bit_cast<float>(most), scale = inverse_of(unit_of(largest));
  int64_t range = 0;
#pragma unroll 4
  for (int64_t k = lane * 4; k < s.size; k += 128) {
    float v[4];
    load_four(w, k, s.size, v);
    range += count_range(v, scale);
  }
  return too_wide(combine_lanes(sum<int64_t>{}, range, 32)) ? -largest : largest;
}

// The largest elements of 32 rows of a weight that lies across, one for each lane, by a block; as of one row.
template <class X>
MN_FN float look_across(const product_split<X>& s, int64_t row) {
  constexpr int warps = split_threads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float* w = s.w + (row < s.w_rows ? row : s.w_rows - 1);
  int64_t* scratch = reinterpret_cast<int64_t*>(shared_memory()) + lane;
  uint32_t most = 0;
#pragma unroll 4
  for (int64_t k = warp; k < s.size; k += warps) most = largest_bits::combine(most, magnitude(w[k * s.w_stride]));
  __syncthreads();  // others have read what they combined here before
  scratch[warp * 32] = most;
  __syncthreads();
  for (int i = 0; i < warps; ++i) most = largest_bits::combine(most, static_cast<uint32_t>(scratch[i * 32]));
  const float largest = bit_cast<float>(most), scale = most == 0 ? 1.0f : inverse_of(unit_of(largest));
  int64_t range = 0;
#pragma unroll 4
  for (int64_t k = warp; k < s.size; k += warps) {
    const float v[1] = {w[k * s.w_stride]};
    range += count_range(v, scale);
  }
  __syncthreads();
  scratch[warp * 32] = range;
  __syncthreads();
  range = 0;
  for (int i = 0; i < warps; ++i) range += scratch[i * 32];
  return most == 0 ? 1.0f : too_wide(range) ? -largest : largest;
}

MN_FN float unit_from(float hint) { return hint < 0.0f ? bounds<float>::nan : unit_of(hint); }

// `find_unit` for 32 rows of a weight that lies across, by a block.
template <class X>
MN_FN void find_units_across(const product_split<X>& s, int64_t first) {
  const int64_t row = first + threadIdx.x % 32;
  const bool there = row < s.w_rows;
  float hint = !there ? 1.0f : s.hints ? s.hints[row] : 0.0f;
  const bool known = hint > 0.0f;
  if (__syncthreads_or(!known)) {
    const float found = look_across(s, row);
    if (!known) hint = found;
    if (s.hints && !known && threadIdx.x < 32) s.hints[row] = hint;
  }
  if (there && threadIdx.x < 32) s.w_unit[row] = unit_from(hint);
}

// What a row of the weight is divided by: from the hint, or from the row.
template <class X>
MN_FN void find_unit(const product_split<X>& s, int64_t row) {
  const int lane = threadIdx.x % 32;
  float hint = s.hints ? s.hints[row] : 0.0f;
  if (!(hint > 0.0f)) {
    hint = look_through(s, row);
    if (s.hints && lane == 0) s.hints[row] = hint;
  }
  if (lane == 0) s.w_unit[row] = unit_from(hint);
}

// A kernel may start while the one before it still runs, once all blocks of that one have said so.
MN_FN void let_next_kernel_start() {
#if !defined(MN_SIMT) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class X, int BlocksPerSm>
__global__ void __launch_bounds__(split_threads, BlocksPerSm) product_split_rows(const __grid_constant__ product_split<X> s) {
  let_next_kernel_start();
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < s.counted; i += threads) s.counters[i] = 0;
  const int parts = s.parts, teams = gridDim.x / parts;
  int round = 0;
  const int64_t rows = (s.rows + s.tile_rows - 1) / s.tile_rows * s.tile_rows;
  for (int64_t row = blockIdx.x / parts; row < rows; row += teams)
    split_row(s, row, blockIdx.x % parts, parts, round), round += 2;
  if constexpr (weight_across) {
    for (int64_t row = int64_t(blockIdx.x) * 32; row < s.w_rows; row += gridDim.x * 32ll) find_units_across(s, row);
  } else {
    for (int64_t row = thread / 32; row < s.w_rows; row += threads / 32) find_unit(s, row);
  }
  if (parts > 1) cluster_group::barrier();  // nobody leaves while others still write to its scratch
}

}  // namespace mn
