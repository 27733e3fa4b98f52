// The product on Hopper's tensor cores. A block has 128 rows of the weight, 64 per warpgroup, times `Columns` rows of x.
// A third warpgroup brings stages of 32 along k: the weight as it is, and x in halves, to all blocks of the cluster at a
// time. The weight is split in registers. w · x = low · high + high · low + high · high goes to one accumulator, which is
// added to fp32 registers every 32 along k (128 in long sums): the tensor core truncates, and more would show it.
#pragma once

#include "cuda/product_ptx.cuh"
#include "cuda/product_units.cuh"

namespace mn {

inline constexpr int long_sum = 32768;  // along k: fp32's own rounding shows there, and additions every 128 will do
inline constexpr int groups_per_stage = 2;  // brought at a time: neighbours in memory, which DRAM likes

template <int Columns, int Cluster>
struct product_layout {
  static constexpr int w_bytes = product_rows_per_block * product_group * 4;
  static constexpr int x_bytes = Columns * product_group * 4;
  static constexpr int group_bytes = w_bytes + x_bytes;
  static constexpr int stage_bytes = groups_per_stage * group_bytes;
  static constexpr int stages = (192 << 10) / stage_bytes;
  static constexpr int barriers = stages * stage_bytes;  // where they begin: full, then empty ones
  static constexpr int flag = barriers + 16 * stages;
  static constexpr int scratch = flag + 16;
  static constexpr int align = 1024;
  template <class A>
  static constexpr int bytes() {
    return align + scratch + product_warps * Columns * int(sizeof(A));
  }
};
// A position in the ring of stages.
template <int Columns, int Cluster>
struct product_ring {
  using layout = product_layout<Columns, Cluster>;
  uint32_t base;  // address of the shared memory
  int stage = 0;
  uint32_t phase = 0;

  MN_FN uint32_t full() const { return base + layout::barriers + 8 * stage; }
  MN_FN uint32_t empty() const { return base + layout::barriers + 8 * (layout::stages + stage); }
  MN_FN int offset(int group) const { return stage * layout::stage_bytes + group * layout::group_bytes; }
  MN_FN void advance() {
    if (++stage == layout::stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <int Columns, int Cluster>
MN_FN void bring_stage(const CUtensorMap& w, const unsigned char* x, const product_ring<Columns, Cluster>& ring, int k,
                       int w_row, const product_batch& b, uint64_t pass, uint64_t keep) {
  using layout = product_layout<Columns, Cluster>;
  constexpr int share = layout::x_bytes / Cluster;  // of x, that this block brings to all
  const int first = blockIdx.x % Cluster * share;
  sm90::barrier_wait(ring.empty(), ring.phase ^ 1);
  sm90::barrier_expect(ring.full(), layout::stage_bytes);
#pragma unroll
  for (int g = 0; g < groups_per_stage; ++g) {
    const uint32_t to = ring.base + ring.offset(g);
    if constexpr (weight_across) {
#pragma unroll
      for (int n = 0; n < product_rows_per_block; n += 32)
        sm90::load_box(to + n * product_group * 4, w, ring.full(), w_row + n, (k + g) * product_group, b.inner, b.outer, pass);
    } else {
      sm90::load_box(to, w, ring.full(), (k + g) * product_group, w_row, b.inner, b.outer, pass);
    }
  }
#pragma unroll
  for (int g = 0; g < groups_per_stage; ++g)
    sm90::load_to_cluster<Cluster>(ring.base + ring.offset(g) + layout::w_bytes + first,
                                   x + int64_t(k + g) * layout::x_bytes + first, share, ring.full(), keep);
}

// Brings what the other warpgroups work on. One thread.
template <int Columns, int Cluster>
MN_FN void bring_stages(const CUtensorMap& w, const product_shape& s, product_ring<Columns, Cluster> ring) {
  const bool again = s.m_tiles > 1 || (s.w_batches == 1 && s.outer * s.inner > 1);  // the weight is brought more than once
  const uint64_t keep = sm90::keep_policy(), pass = again ? keep : sm90::pass_policy();
  for (unsigned index = blockIdx.x / Cluster; index < s.units; index += gridDim.x / Cluster) {
    const product_unit u = unit_at<Cluster>(s, index);
    const int w_row = u.n_tile * product_rows_per_block;
    const int64_t tile_bytes = int64_t(s.blocks) * groups_per_block * product_layout<Columns, Cluster>::x_bytes;
    const unsigned char* x = s.x + x_tile_of(s, u) * tile_bytes;
    const product_batch b = batch_of(s, u), at = {b.outer * s.w_outer_step, b.inner * s.w_inner_step};
    const int first = u.first * groups_per_block, last = u.last * groups_per_block;
    for (int k = first; k < last; k += groups_per_stage, ring.advance())
      bring_stage<Columns, Cluster>(w, x, ring, k, w_row, at, pass, keep);
  }
}

MN_FN void pin(product_fragments& w) {
#pragma unroll
  for (int s = 0; s < 2; ++s) sm90::pin(w.high[s]), sm90::pin(w.low[s]);
}

// The products of a group, whose halves of x are at address `x`. The small ones come first: as long as the sums are
// small, little is truncated.
template <int N>
MN_FN void multiply_group(float (&sums)[N], const product_fragments& w, uint32_t x, int accumulate) {
  sm90::products_begin();
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    sm90::product64(sums, w.low[s], sm90::operand_at(x + 32 * s), s > 0 ? 1 : accumulate);
    sm90::product64(sums, w.high[s], sm90::operand_at(x + 64 + 32 * s), 1);
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) sm90::product64(sums, w.high[s], sm90::operand_at(x + 32 * s), 1);
  sm90::products_commit();
}

// A block of k, whose first group's products have been started; with `More`, those of the next block's are at its end.
// The sums are added to `total` after each group (`often`), or after this block (`ends`).
// While the tensor cores work on a group, the next one is split.
template <bool More, int Columns, int Cluster>
MN_FN void sum_block(float (&sums)[Columns / 2], product_fragments (&w)[2], product_ring<Columns, Cluster>& ring,
                     const unsigned char* shared, product_weight_rows& rows, float (&total)[Columns / 2], bool often,
                     bool ends) {
  using layout = product_layout<Columns, Cluster>;
#pragma unroll
  for (int j = 0; j < groups_per_block; ++j) {
    const bool more = More || j + 1 < groups_per_block;
    const int next = (j + 1) % groups_per_stage;
    const uint32_t worked_on = ring.empty();
    if (next == 0) ring.advance();
    if (more) {
      if (next == 0) sm90::barrier_wait(ring.full(), ring.phase);
      rows.split_group(shared + ring.offset(next), w[(j + 1) % 2]);
    }
    sm90::products_wait<0>();
    sm90::pin(sums);
    pin(w[j % 2]);
    const bool adds = often || (ends && j + 1 == groups_per_block);
    if (adds) {
#pragma unroll
      for (int i = 0; i < Columns / 2; ++i) total[i] += sums[i];
    }
    if (more) multiply_group(sums, w[(j + 1) % 2], ring.base + ring.offset(next) + layout::w_bytes, !adds);
    if (next == 0) {
      __syncwarp();
      if (threadIdx.x % 32 < Cluster) sm90::barrier_arrive(worked_on, threadIdx.x % 32);
    }
  }
}

// A warpgroup's sums of a unit.
template <int Columns, int Cluster>
MN_FN void sum_unit(const product_unit& u, product_ring<Columns, Cluster>& ring, const unsigned char* shared,
                    product_weight_rows& rows, float (&total)[Columns / 2], bool often) {
  float sums[Columns / 2];
  product_fragments w[2];
#pragma unroll
  for (int i = 0; i < Columns / 2; ++i) total[i] = sums[i] = 0.0f;
  sm90::barrier_wait(ring.full(), ring.phase);
  rows.split_group(shared + ring.offset(0), w[0]);
  multiply_group(sums, w[0], ring.base + ring.offset(0) + product_layout<Columns, Cluster>::w_bytes, 0);
  for (int block = u.first; block + 1 < u.last; ++block)
    sum_block<true>(sums, w, ring, shared, rows, total, often, (block - u.first) % 2 != 0);
  sum_block<false>(sums, w, ring, shared, rows, total, often, true);
}

}  // namespace mn
