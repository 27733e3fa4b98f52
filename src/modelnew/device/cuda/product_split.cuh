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

// Matrices of one shape, in two dims; the stride along k (along n of a weight that lies across) is the caller's to know.
template <class S>
struct product_factor {
  const S* at;
  int64_t stride, outer_stride, inner_stride;  // of rows, of matrices
  int batches;                                 // 1 where they are one and the same

  MN_FN const S* matrix(int batch, int inner) const {
    return at + batch / inner * outer_stride + batch % inner * inner_stride;
  }
};

// What `x` is turned into: for each tile of rows, and each group of k in it, rows of 32 high and 32 low halves as they
// lie in shared memory: pieces of 16 bytes, swizzled. What is outside of x is 0.
template <class X>
struct product_split {
  product_factor<X> x;
  int64_t stride_k;
  int rows, size;        // of a matrix
  int tile_rows, tiles;  // of its rows
  int groups;            // of k, and beyond it
  uint4* halves;
  float* row_unit;
  int inner;                // of the dims that matrices are in
  int parts;                // of a row: blocks of a cluster
  int lanes;                // of a warp, for one row
  product_factor<float> w;  // rows of the weight, whose units are looked for; its stride is the one that is not 1
  int w_rows;
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
// One in 64 may be small; in a row of fewer one in 32, or every thousandth row of 64 normal numbers would be too wide.
MN_FN bool too_wide(int64_t count) {
  const int64_t small = count & 0xffffffff, large = count >> 32;
  return small * (small == 1 ? 32 : 64) > large;
}

inline constexpr int split_threads = 256;

// Those who split a row, and how many eights of it each keeps from finding the largest to splitting.
struct split_by_lanes {
  static constexpr int held = 4;
  static constexpr bool all_held = true;
  static constexpr int parts = 1, part = 0;
  int threads;
  MN_FN int thread() const { return threadIdx.x % threads; }
  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    return combine_lanes(op, value, threads);
  }
  // As few as hold a row of so many groups; 0 where a warp does not.
  static int lanes_for(int groups) {
    int lanes = 8;
    while (held * lanes < 4 * groups) lanes *= 2;
    return lanes <= 32 ? lanes : 0;
  }
};
struct split_by_cluster {
  static constexpr int held = 2;
  static constexpr bool all_held = false;
  static constexpr int threads = split_threads;
  int part, parts;  // blocks
  int round = 0;
  MN_FN int thread() const { return threadIdx.x; }
  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    value = block_group::combine(op, value, 0, round);
    if (parts > 1) value = cluster_group::combine(op, value, block_group::scratch_bytes, round);
    ++round;
    return value;
  }
};

// The eight elements of one piece of high halves and one of low ones: pairs from four places of a group, or neighbours
// (`weight_across`). The i-th eight of a row is piece i % 4 of group i / 4.
template <class X>
MN_FN void load_eight(const X* x, int64_t stride, int i, int size, bool pairs, float (&v)[8]) {
  constexpr int step = weight_across ? 2 : 8;
  const int first = i / 4 * product_group + i % 4 * (weight_across ? 8 : 2);
  if (pairs && first + 3 * step + 2 <= size) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const vec<X, 2> two = load_aligned<X, 2>(x + first + step * q);
      v[2 * q] = to_compute(two.at[0]), v[2 * q + 1] = to_compute(two.at[1]);
    }
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int k = first + step * (e / 2) + e % 2;
      v[e] = k < size ? to_compute(load_one(x + k * stride)) : 0.0f;
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

// A row, of all matrices together. Those from a matrix's last on are 0.
template <class X, class Team>
MN_FN void split_row(const product_split<X>& s, int row, Team& team) {
  constexpr int held_eights = Team::held;
  const int threads = team.threads;
  const int padded = s.tiles * s.tile_rows, in_matrix = row % padded;
  const X* x = s.x.matrix(row / padded, s.inner) + in_matrix * s.x.stride;
  const bool pairs = s.stride_k == 1 && is_aligned<X, 2>(x);
  const int size = in_matrix < s.rows ? s.size : 0;
  const int begin = s.groups * team.part / team.parts * 4 + team.thread();  // eights
  const int end = s.groups * (team.part + 1) / team.parts * 4, rest = begin + held_eights * threads;
  float held[held_eights][8];
  uint32_t most = 0;
#pragma unroll
  for (int j = 0; j < held_eights; ++j) {
    const int i = begin + j * threads;
    load_eight(x, s.stride_k, i, i < end ? size : 0, pairs, held[j]);
  }
#pragma unroll
  for (int j = 0; j < held_eights; ++j) most = largest_bits::combine(most, largest_of(held[j]));
  for (int i = rest; !Team::all_held && i < end; i += threads) {
    float v[8];
    load_eight(x, s.stride_k, i, size, pairs, v);
    most = largest_bits::combine(most, largest_of(v));
  }
  most = team.combine(largest_bits{}, most);
  const float largest = bit_cast<float>(most);
  const int e = exponent_of(largest);
  const float unit = most == 0 ? 1.0f : unit_of(largest);
  const float scale = inverse_of(unit);
  const int in_tile = static_cast<int>(row % s.tile_rows);
  const int64_t group_pieces = int64_t(s.tile_rows) * 8;
  uint4* to = s.halves + int64_t(row / s.tile_rows) * s.groups * group_pieces + in_tile * 8;
  int64_t range = 0;
#pragma unroll
  for (int j = 0; j < held_eights; ++j) {
    const int i = begin + j * threads;
    range += count_range(held[j], scale);
    if (i < end) put_eight(to + i / 4 * group_pieces, in_tile, i % 4, held[j], scale);
  }
  for (int i = rest; !Team::all_held && i < end; i += threads) {
    float v[8];
    load_eight(x, s.stride_k, i, size, pairs, v);
    range += count_range(v, scale);
    put_eight(to + i / 4 * group_pieces, in_tile, i % 4, v, scale);
  }
  range = team.combine(sum<int64_t>{}, range);
  // NaN there makes the row's products be computed another way.
  const bool held_well = e >= -most_exponent && e <= most_exponent && !too_wide(range);
  if (team.thread() == 0 && team.part == 0) s.row_unit[row] = most == 0 || held_well ? unit : bounds<float>::nan;
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

// The largest element of a row of the weight, by some lanes of a warp; below 0 where the row is too wide.
template <class X>
MN_FN float look_through(const product_split<X>& s, int row) {
  const int lane = threadIdx.x % s.lanes, step = 4 * s.lanes;
  const float* w = s.w.matrix(row / s.w_rows, s.inner) + int64_t(row % s.w_rows) * s.w.stride;
  uint32_t most = 0;
#pragma unroll 4
  for (int64_t k = lane * 4; k < s.size; k += step) {
    float v[4];
    load_four(w, k, s.size, v);
    most = largest_bits::combine(most, largest_of(v));
  }
  most = combine_lanes(largest_bits{}, most, s.lanes);
  const float largest = bit_cast<float>(most), scale = most == 0 ? 1.0f : inverse_of(unit_of(largest));
  int64_t range = 0;
#pragma unroll 4
  for (int64_t k = lane * 4; k < s.size; k += step) {
    float v[4];
    load_four(w, k, s.size, v);
    range += count_range(v, scale);
  }
  range = combine_lanes(sum<int64_t>{}, range, s.lanes);
  return most == 0 ? 1.0f : too_wide(range) ? -largest : largest;
}

// The largest elements of 32 rows of a weight that lies across, one for each lane, by a block; as of one row.
template <class X>
MN_FN float look_across(const product_split<X>& s, const float* w) {
  constexpr int warps = split_threads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t* scratch = reinterpret_cast<int64_t*>(shared_memory()) + lane;
  uint32_t most = 0;
#pragma unroll 8
  for (int64_t k = warp; k < s.size; k += warps) most = largest_bits::combine(most, magnitude(w[k * s.w.stride]));
  __syncthreads();  // others have read what they combined here before
  scratch[warp * 32] = most;
  __syncthreads();
  for (int i = 0; i < warps; ++i) most = largest_bits::combine(most, static_cast<uint32_t>(scratch[i * 32]));
  const float largest = bit_cast<float>(most), scale = most == 0 ? 1.0f : inverse_of(unit_of(largest));
  int64_t range = 0;
#pragma unroll 8
  for (int64_t k = warp; k < s.size; k += warps) {
    const float v[1] = {w[k * s.w.stride]};
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

// `find_unit` for a weight's rows from a multiple of 32 on, which lie across, by a block.
template <class X>
MN_FN void find_units_across(const product_split<X>& s, int batch, int first) {
  const bool there = first + static_cast<int>(threadIdx.x % 32) < s.w_rows;
  const int in_matrix = there ? first + static_cast<int>(threadIdx.x % 32) : s.w_rows - 1;
  const int row = batch * s.w_rows + in_matrix;
  float hint = s.hints ? s.hints[row] : 0.0f;
  const bool known = hint > 0.0f;
  if (__syncthreads_or(!known)) {
    const float found = look_across(s, s.w.matrix(batch, s.inner) + in_matrix);
    if (!known) hint = found;
    if (s.hints && !known && there && threadIdx.x < 32) s.hints[row] = hint;
  }
  if (there && threadIdx.x < 32) s.w_unit[row] = unit_from(hint);
}

// What a row of the weight is divided by: from the hint, or from the row. Rows that are not there are the last one.
template <class X>
MN_FN void find_unit(const product_split<X>& s, unsigned row, unsigned rows) {
  const bool speaks = threadIdx.x % s.lanes == 0 && row < rows;
  row = row < rows ? row : rows - 1;
  float hint = s.hints ? s.hints[row] : 0.0f;
  if (__any_sync(0xffffffffu, !(hint > 0.0f))) {
    const float found = look_through(s, static_cast<int>(row));
    if (!(hint > 0.0f)) {
      hint = found;
      if (s.hints && speaks) s.hints[row] = hint;
    }
  }
  if (speaks) s.w_unit[row] = unit_from(hint);
}

// What there is to do besides splitting x. Numbers of rows are below 2^31, and so are they when threads have been added.
template <class X>
MN_FN void prepare_product(const product_split<X>& s) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < s.counted; i += threads) s.counters[i] = 0;
  const unsigned rows = unsigned(s.w.batches) * s.w_rows;
  if constexpr (weight_across) {
    const unsigned each = (s.w_rows + 31) / 32, all = each * s.w.batches;  // pieces of 32 rows
    for (unsigned piece = blockIdx.x; piece < all; piece += gridDim.x)
      find_units_across(s, piece / each, piece % each * 32);
  } else {
    const unsigned first = (blockIdx.x * split_threads + threadIdx.x) / 32 * (32 / s.lanes);  // of the warp
    for (unsigned row = first; row < rows; row += gridDim.x * (split_threads / s.lanes))
      find_unit(s, row + threadIdx.x % 32 / s.lanes, rows);
  }
}

template <class X>
MN_FN unsigned rows_to_split(const product_split<X>& s) {
  return unsigned(s.x.batches) * s.tiles * s.tile_rows;
}

// Rows that a warp can hold, each by some of its lanes. There are at least 16 rows in a tile: none is missing for a lane.
template <class X, int BlocksPerSm>
__global__ void __launch_bounds__(split_threads, BlocksPerSm) product_split_short(const __grid_constant__ product_split<X> s) {
  let_next_kernel_start();
  split_by_lanes team = {s.lanes};
  const unsigned rows = rows_to_split(s), first = (blockIdx.x * split_threads + threadIdx.x) / s.lanes;
  for (unsigned row = first; row < rows; row += gridDim.x * (split_threads / s.lanes)) split_row(s, row, team);
  prepare_product(s);
}

template <class X, int BlocksPerSm>
__global__ void __launch_bounds__(split_threads, BlocksPerSm) product_split_rows(const __grid_constant__ product_split<X> s) {
  let_next_kernel_start();
  split_by_cluster team = {static_cast<int>(blockIdx.x % s.parts), s.parts};
  const unsigned rows = rows_to_split(s);
  for (unsigned row = blockIdx.x / s.parts; row < rows; row += gridDim.x / s.parts) split_row(s, row, team);
  prepare_product(s);
  if (s.parts > 1) cluster_group::barrier();  // nobody leaves while others still write to its scratch
}

}  // namespace mn
