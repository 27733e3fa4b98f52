// What a product is divided into: units of work, and a thread's part of one, the same for every kernel that multiplies. A
// block has 128 rows of the weight, 16 for each of eight warps, times a tile of rows of x. The weight is split in registers.
#pragma once

#include "cuda/product_epilogue.cuh"
#include "cuda/product_split.cuh"

namespace mn {

inline constexpr int product_workers = 256;  // threads of a block that hold sums
inline constexpr int product_rows_per_block = 128;
inline constexpr int groups_per_block = 2;  // of 32 along k
inline constexpr int product_k_block = groups_per_block * product_group;

struct product_shape {
  int64_t m, n, k;
  int outer, inner;                      // products, in two dims
  int blocks, n_tiles, m_tiles, splits;  // blocks: of k
  unsigned units;  // of work, for a cluster each: neighbouring tiles of n, one of m, a part of k, in one product
  int x_batches, w_batches;        // 1 where all products have the same factor
  int w_outer_step, w_inner_step;  // 0 where products along that dim have the same weight
  const unsigned char* x;                // in halves
  const float *x_unit, *w_unit;
  float* hints;
  float* sums;                             // of parts of k
  uint32_t *tile_counters, *row_counters;  // parts that are there; tiles of n that are there
  void* partials;                          // [m][n_tiles]
};

// What a cluster works on.
struct product_unit {
  int batch, n_tile, m_tile, part;
  int first, last;  // blocks of k
};
template <int Cluster>
MN_FN product_unit unit_at(const product_shape& s, unsigned index) {
  product_unit u;
  u.part = static_cast<int>(index % unsigned(s.splits));
  index /= unsigned(s.splits);
  u.m_tile = static_cast<int>(index % unsigned(s.m_tiles));
  index /= unsigned(s.m_tiles);
  const unsigned pairs = unsigned(s.n_tiles + Cluster - 1) / Cluster;
  u.batch = static_cast<int>(index / pairs);
  u.n_tile = static_cast<int>(index % pairs) * Cluster + static_cast<int>(blockIdx.x % Cluster);
  u.first = static_cast<int>(int64_t(s.blocks) * u.part / s.splits);
  u.last = static_cast<int>(int64_t(s.blocks) * (u.part + 1) / s.splits);
  return u;
}

MN_FN product_batch batch_of(const product_shape& s, const product_unit& u) {
  return {u.batch / s.inner, u.batch % s.inner};
}
// Of the tiles of x's rows in all batches, and of the rows of all weights, those that this unit's begin with.
MN_FN int64_t x_tile_of(const product_shape& s, const product_unit& u) {
  return int64_t(s.x_batches == 1 ? 0 : u.batch) * s.m_tiles + u.m_tile;
}
MN_FN int64_t w_begin_of(const product_shape& s, const product_unit& u) {
  return int64_t(s.w_batches == 1 ? 0 : u.batch) * s.n;
}

// A thread's first row of the weight in a unit.
MN_FN int64_t row_of(const product_unit& u) {
  return int64_t(u.n_tile) * product_rows_per_block + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
}

// A thread's part of the weight's fragments for one group: two products of 16 along k, high and low.
struct product_fragments {
  uint32_t high[2][4], low[2][4];
};

// What a thread's rows of the weight in a unit are divided by. Hopper's kernel reads it while the unit before is on its way out.
struct product_weight_units {
  float unit[2];

  template <int Cluster>
  MN_FN void load(const product_shape& s, unsigned index) {
    const product_unit u = unit_at<Cluster>(s, index);
    const float* at = s.w_unit + w_begin_of(s, u) + row_of(u);
#pragma unroll
    for (int r = 0; r < 2; ++r) unit[r] = index < s.units && row_of(u) + 8 * r < s.n ? at[8 * r] : 1.0f;
  }
};

// A thread's two rows of the weight: their scales, and the largest magnitudes seen.
struct product_weight_rows {
  float scale[2];
  float largest[2] = {0.0f, 0.0f};

  MN_FN explicit product_weight_rows(const product_weight_units& of) {
#pragma unroll
    for (int r = 0; r < 2; ++r) scale[r] = inverse_of(of.unit[r]);
  }

  // The tile lies across: four pieces of 32 rows; in each, `row` runs along 128 bytes, swizzled, and k from those to the next.
  MN_FN static float4 chunk_across(const unsigned char* w, int k, int row) {
    const int pair = 2 * (threadIdx.x % 4);
    const auto at = [&](int i) {
      const int place = k + pair + i;
      return *reinterpret_cast<const float*>(w + row / 32 * 4096 + place * 128 + ((row % 32 / 4) ^ (place & 7)) * 16 + row % 4 * 4);
    };
    return make_float4(at(0), at(1), at(8), at(9));
  }
  MN_FN void split_chunk(const float4& v, int r, uint32_t (&high)[4], uint32_t (&low)[4]) {
    largest[r] = fmaxf(fmaxf(largest[r], fabsf(v.x)), fmaxf(fabsf(v.y), fmaxf(fabsf(v.z), fabsf(v.w))));
    const halves2 first = split(v.x * scale[r], v.y * scale[r]), second = split(v.z * scale[r], v.w * scale[r]);
    high[r] = first.high, high[r + 2] = second.high;
    low[r] = first.low, low[r + 2] = second.low;
  }
  // `w`: the group's tile; rows of 128 bytes whose pieces of 16 are swizzled. No two lanes meet in a bank.
  MN_FN void split_group(const unsigned char* w, product_fragments& to) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      if constexpr (weight_across) {
        split_chunk(chunk_across(w, 16 * s, row), 0, to.high[s], to.low[s]);
        split_chunk(chunk_across(w, 16 * s, row + 8), 1, to.high[s], to.low[s]);
        continue;
      }
      const unsigned char* at = w + row * 128 + ((2 * (lane % 4) + s) ^ (row & 7)) * 16;
      split_chunk(*reinterpret_cast<const float4*>(at), 0, to.high[s], to.low[s]);
      split_chunk(*reinterpret_cast<const float4*>(at + 8 * 128), 1, to.high[s], to.low[s]);
    }
  }
};

}  // namespace mn
