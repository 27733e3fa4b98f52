// The product on Hopper's tensor cores. A block has 128 rows of the weight, 64 per warpgroup, times `Columns` rows of x.
// A third warpgroup brings stages of 32 along k: the weight as it is, and x in halves, to all blocks of the cluster at a
// time. The weight is split in registers. w · x = high · high + high · low + low · high goes to one accumulator, which is
// added to fp32 registers every 128 along k: the tensor core truncates, and longer sums would show it.
#pragma once

#include "cuda/product_epilogue.cuh"
#include "cuda/product_ptx.cuh"
#include "cuda/product_split.cuh"

namespace mn {

inline constexpr int product_rows_per_block = 128;
inline constexpr int groups_per_block = 4;  // of 32 along k: those between two additions to fp32
inline constexpr int product_k_block = groups_per_block * product_group;
#ifndef DEPTH
#define DEPTH 2
#endif
inline constexpr int groups_per_stage = DEPTH;  // brought at a time: neighbours in memory, which DRAM likes
#ifndef AHEAD
#define AHEAD 8
#endif
#ifndef FETCH
#define FETCH 8
#endif
// The weight comes into L2 in longer runs of a row than fit on chip, and earlier: DRAM gives them faster.
inline constexpr int groups_per_fetch = FETCH;
inline constexpr int groups_ahead = AHEAD;

struct product_maps {
  CUtensorMap w, w_ahead, x;
};

struct product_shape {
  int64_t m, n, k;
  int blocks, n_tiles, m_tiles, splits;  // blocks: of k
  int64_t units;                         // of work, for one cluster each: neighbouring tiles of n, one of m, a part of k
  const float *x_unit, *w_unit;
  float* hints;
  float* sums;                             // of parts of k
  uint32_t *tile_counters, *row_counters;  // parts that are there; tiles of n that are there
  void* partials;                          // [m][n_tiles]
};

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
template <class Reduce>
struct reduced_type {
  using type = typename Reduce::type;
};
template <>
struct reduced_type<no_reduction> {
  using type = float;
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

// What a cluster works on.
struct product_unit {
  int n_tile, m_tile, part;
  int first, last;  // blocks of k
};
template <int Cluster>
MN_FN product_unit unit_at(const product_shape& s, int64_t index) {
  product_unit u;
  u.part = static_cast<int>(index % s.splits);
  index /= s.splits;
  u.m_tile = static_cast<int>(index % s.m_tiles);
  u.n_tile = static_cast<int>(index / s.m_tiles) * Cluster + static_cast<int>(blockIdx.x % Cluster);
  u.first = static_cast<int>(int64_t(s.blocks) * u.part / s.splits);
  u.last = static_cast<int>(int64_t(s.blocks) * (u.part + 1) / s.splits);
  return u;
}

template <int Columns, int Cluster>
MN_FN void bring_stage(const CUtensorMap& w, const CUtensorMap& x, const product_ring<Columns, Cluster>& ring, int k,
                       int w_row, int x_row, uint64_t pass, uint64_t keep) {
  using layout = product_layout<Columns, Cluster>;
  constexpr int share = Columns / Cluster;  // rows of x that this block brings to all
  const int rank = blockIdx.x % Cluster;
  sm90::barrier_wait(ring.empty(), ring.phase ^ 1);
  sm90::barrier_expect(ring.full(), layout::stage_bytes);
#pragma unroll
  for (int g = 0; g < groups_per_stage; ++g)
    sm90::load_box(ring.base + ring.offset(g), w, ring.full(), (k + g) * product_group, w_row, pass);
#pragma unroll
  for (int g = 0; g < groups_per_stage; ++g) {
    const uint32_t to = ring.base + ring.offset(g) + layout::w_bytes + rank * share * 128;
    const int column = (k + g) * 2 * product_group;
    if constexpr (Cluster > 1) {
      sm90::load_box_to((1 << Cluster) - 1, to, x, ring.full(), column, x_row + rank * share, keep);
    } else {
      sm90::load_box(to, x, ring.full(), column, x_row, keep);
    }
  }
}

// Brings what the other warpgroups work on. One thread.
template <int Columns, int Cluster>
MN_FN void bring_stages(const product_maps& maps, const product_shape& s, product_ring<Columns, Cluster> ring) {
  const uint64_t keep = sm90::keep_policy(), pass = s.m_tiles > 1 ? keep : sm90::pass_policy();
  for (int64_t index = blockIdx.x / Cluster; index < s.units; index += gridDim.x / Cluster) {
    const product_unit u = unit_at<Cluster>(s, index);
    const int w_row = u.n_tile * product_rows_per_block, x_row = u.m_tile * Columns;
    const int first = u.first * groups_per_block, last = u.last * groups_per_block;
    int fetched = first;
    for (int k = first; k < last; k += groups_per_stage, ring.advance()) {
      for (; u.m_tile == 0 && fetched < last && fetched <= k + groups_ahead; fetched += groups_per_fetch)
        sm90::prefetch_box(maps.w_ahead, fetched * product_group, w_row);
      bring_stage<Columns, Cluster>(maps.w, maps.x, ring, k, w_row, x_row, pass, keep);
    }
  }
}

// A thread's part of the weight's fragments for one group: two products of 16 along k, high and low.
struct product_fragments {
  uint32_t high[2][4], low[2][4];

  MN_FN void pin() {
#pragma unroll
    for (int s = 0; s < 2; ++s) sm90::pin(high[s]), sm90::pin(low[s]);
  }
};

// A thread's two rows of the weight: their scales, and the largest magnitudes seen.
struct product_weight_rows {
  float scale[2];
  float largest[2] = {0.0f, 0.0f};

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
      const unsigned char* at = w + row * 128 + ((2 * (lane % 4) + s) ^ (row & 7)) * 16;
      split_chunk(*reinterpret_cast<const float4*>(at), 0, to.high[s], to.low[s]);
      split_chunk(*reinterpret_cast<const float4*>(at + 8 * 128), 1, to.high[s], to.low[s]);
    }
  }
};

// The products of a group; `x`: address of its halves.
template <int N>
MN_FN void multiply_group(float (&sums)[N], const product_fragments& w, uint32_t x, bool accumulate) {
  sm90::products_begin();
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const uint64_t high = sm90::operand_at(x + 32 * s), low = sm90::operand_at(x + 64 + 32 * s);
    sm90::product64(sums, w.low[s], high, accumulate || s > 0);
    sm90::product64(sums, w.high[s], low, 1);
    sm90::product64(sums, w.high[s], high, 1);
  }
  sm90::products_commit();
}

// The sums of a unit, by two warpgroups. While the tensor cores work on a group, the next one is split.
template <int Columns, int Cluster>
MN_FN void sum_unit(const product_unit& u, product_ring<Columns, Cluster>& ring, const unsigned char* shared,
                    product_weight_rows& rows, float (&total)[Columns / 2]) {
  using layout = product_layout<Columns, Cluster>;
  const int lane = threadIdx.x % 32;
  float sums[Columns / 2];
  product_fragments w[2];
#pragma unroll
  for (int i = 0; i < Columns / 2; ++i) total[i] = sums[i] = 0.0f;
  uint32_t worked_on = 0;  // the barrier of the stage whose products may not be done
  const auto give_back = [&] {
    __syncwarp();
    if (lane < Cluster) sm90::barrier_arrive(worked_on, lane);
  };
  sm90::barrier_wait(ring.full(), ring.phase);
  rows.split_group(shared + ring.offset(0), w[0]);
  for (int block = u.first; block < u.last; ++block) {
#pragma unroll
    for (int j = 0; j < groups_per_block; ++j) {
      multiply_group(sums, w[j % 2], ring.base + ring.offset(j % groups_per_stage) + layout::w_bytes, j > 0);
      if (j > 0) {
        sm90::products_wait<1>();
        w[(j + 1) % 2].pin();
        if (j % groups_per_stage == 0) give_back();
      }
      const int next = (j + 1) % groups_per_stage;
      if (next == 0) {
        worked_on = ring.empty();
        ring.advance();
      }
      if (j + 1 < groups_per_block || block + 1 < u.last) {
        if (next == 0) sm90::barrier_wait(ring.full(), ring.phase);
        rows.split_group(shared + ring.offset(next), w[(j + 1) % 2]);
      }
    }
    sm90::products_wait<0>();
    sm90::pin(sums);
    w[(groups_per_block - 1) % 2].pin();
    give_back();
#pragma unroll
    for (int i = 0; i < Columns / 2; ++i) total[i] += sums[i];
  }
}

// The same sums in plain fp32: for infinities, NaN, and rows whose scale is not what it was.
template <int N, class Outs, class Ins>
MN_FN void sum_plainly(const product_operands<Outs, Ins>& o, int64_t k, const held_sums<N>& s) {
  constexpr int first = Outs::size;
  const auto* x = o.at.template input<0>() + s.column * o.stride[first][0];
  const float* w = o.at.template input<1>();
#pragma unroll
  for (int i = 0; i < 2 * N; ++i) s.at[i] = 0.0f;
#pragma unroll 1
  for (int64_t i = 0; i < k; ++i, x += o.stride[first][1]) {
    const float w0 = s.row < s.rows ? w[s.row * o.stride[first + 1][0] + i] : 0.0f;
    const float w1 = s.row + 8 < s.rows ? w[(s.row + 8) * o.stride[first + 1][0] + i] : 0.0f;
    const auto* at = x;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      asm volatile("" : "+l"(at));  // one address, or all of them would have registers of their own
      if (s.column + held_column(c) < s.columns) {
        const float v = to_compute(load_one<reuse::expected>(at));
        s.at[held_place(c)] = fmaf(w0, v, s.at[held_place(c)]);
        s.at[held_place(c) + 2] = fmaf(w1, v, s.at[held_place(c) + 2]);
      }
      at += (held_column(c + 1) - held_column(c)) * o.stride[first][0];
    }
  }
}

inline constexpr int product_threads = 384, product_workers = 256;
inline constexpr int worker_barrier = 1;

// Whether this block is the last of `count` to come here: it may read what the others wrote before.
MN_FN bool comes_last(uint32_t* counter, int count, uint32_t* flag) {
  sm90::barrier_among(worker_barrier, product_workers);
  if (threadIdx.x == 0) {
    __threadfence();
    *flag = atomicAdd(counter, 1u);
    __threadfence();
  }
  sm90::barrier_among(worker_barrier, product_workers);
  return *flag + 1 == static_cast<uint32_t>(count);
}

// Puts the sums of all parts of k together, in their order, in the block that comes last. False: another one does it.
template <int N>
MN_FN bool join_parts(const product_shape& s, int64_t tile, int part, uint32_t* flag, float (&total)[N],
                      float (&largest)[2]) {
  float* sums = s.sums + (tile * s.splits * (N + 2)) * product_workers + threadIdx.x;
  float* mine = sums + int64_t(part) * (N + 2) * product_workers;
#pragma unroll
  for (int i = 0; i < N; ++i) __stcg(mine + i * product_workers, total[i]);
#pragma unroll
  for (int r = 0; r < 2; ++r) __stcg(mine + (N + r) * product_workers, largest[r]);
  if (!comes_last(s.tile_counters + tile, s.splits, flag)) return false;
#pragma unroll
  for (int i = 0; i < N; ++i) total[i] = 0.0f;
  for (int p = 0; p < s.splits; ++p, sums += (N + 2) * product_workers) {
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] += __ldcg(sums + i * product_workers);
#pragma unroll
    for (int r = 0; r < 2; ++r) largest[r] = fmaxf(largest[r], __ldcg(sums + (N + r) * product_workers));
  }
  return true;
}

// True where these sums cannot be relied on. Notes the rows' largest elements for the next call.
template <int N>
MN_FN bool unreliable(const product_shape& s, const product_weight_rows& w, const float (&total)[N], int64_t row,
                      bool notes) {
  constexpr float least = 2048.0f, most = 65504.0f;
  bool bad = false;
#pragma unroll
  for (int i = 0; i < N; ++i) bad |= !(fabsf(total[i]) <= 3.402823466e38f);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float seen = w.largest[r], scaled = seen * w.scale[r];
    bad |= seen > 0.0f && !(scaled >= least && scaled < most);
    const bool moved = seen > 0.0f && seen <= 3.402823466e38f && !(scaled >= 16384.0f && scaled < 32768.0f);
    if (notes && moved && s.hints && row + 8 * r < s.n && threadIdx.x % 4 == 0) s.hints[row + 8 * r] = seen;
  }
  return bad;
}

// The tile's part of a reduction over n, and its end in the block that comes last.
template <class Body, class Reduce, class Finish, class Outs, class Ins, int N>
MN_FN void reduce_tile(const product_operands<Outs, Ins>& o, const product_shape& s, const product_unit& u,
                       const held_sums<N>& sums, unsigned char* scratch, uint32_t* flag) {
  using value_type = typename Reduce::type;
  constexpr int columns = 4 * N;
  value_type* values = reinterpret_cast<value_type*>(scratch);
  const int warp = threadIdx.x / 32;
  reduce_sums<Body, Reduce>(o, sums, values + warp * columns);
  sm90::barrier_among(worker_barrier, product_workers);
  auto* partials = static_cast<partial_words<value_type>*>(s.partials);
  const int column = threadIdx.x;
  const int64_t m0 = int64_t(u.m_tile) * columns;
  if (column < columns && m0 + column < s.m) {
    value_type value = values[column];
#pragma unroll
    for (int i = 1; i < product_warps; ++i) value = Reduce::combine(value, values[i * columns + column]);
    partials[(m0 + column) * s.n_tiles + u.n_tile].set(value);
  }
  if (!comes_last(s.row_counters + u.m_tile, s.n_tiles, flag)) return;
  constexpr int each = columns / product_warps;
  const int64_t first = m0 + warp * each;
  finish_columns<Reduce, Finish, each>(o, partials + first * s.n_tiles, s.n_tiles, first, s.m, s.n);
}

// Sums and their way out, by two warpgroups.
template <class Body, class Reduce, class Finish, int Columns, int Cluster, class Outs, class Ins>
MN_FN void work_on_stages(const product_operands<Outs, Ins>& o, const product_shape& s, unsigned char* shared,
                          product_ring<Columns, Cluster> ring) {
  using layout = product_layout<Columns, Cluster>;
  constexpr int N = Columns / 4;
  uint32_t* flag = reinterpret_cast<uint32_t*>(shared + layout::flag);
  const int lane = threadIdx.x % 32;
  for (int64_t index = blockIdx.x / Cluster; index < s.units; index += gridDim.x / Cluster) {
    const product_unit u = unit_at<Cluster>(s, index);
    const int64_t row = int64_t(u.n_tile) * product_rows_per_block + threadIdx.x / 32 * 16 + lane / 4;
    const int64_t column = int64_t(u.m_tile) * Columns + 2 * (lane % 4);
    product_weight_rows w;
    float unit[2], total[2 * N];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      unit[r] = row + 8 * r < s.n ? s.w_unit[row + 8 * r] : 1.0f;
      w.scale[r] = inverse_of(unit[r]);
    }
    sum_unit(u, ring, shared, w, total);
    if (u.n_tile >= s.n_tiles) continue;
    const held_sums<N> sums = {total, row, column, s.n, s.m};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x_unit = column + held_column(i) < s.m ? s.x_unit[column + held_column(i)] : 1.0f;
      total[held_place(i)] = total[held_place(i)] * unit[0] * x_unit;
      total[held_place(i) + 2] = total[held_place(i) + 2] * unit[1] * x_unit;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r)
      for (int d = 1; d < 4; d *= 2) w.largest[r] = fmaxf(w.largest[r], __shfl_xor_sync(0xffffffffu, w.largest[r], d));
    const int64_t tile = int64_t(u.m_tile) * s.n_tiles + u.n_tile;
    if (s.splits > 1 && !join_parts(s, tile, u.part, flag, total, w.largest)) continue;
    const bool bad = unreliable(s, w, total, row, u.m_tile == 0);
    if (sm90::any_among(worker_barrier, product_workers, bad)) sum_plainly(o, s.k, sums);
    if constexpr (std::is_same<Reduce, no_reduction>::value) {
      store_sums<Body>(o, sums);
    } else {
      reduce_tile<Body, Reduce, Finish>(o, s, u, sums, shared + layout::scratch, flag);
    }
  }
}

template <class Body, class Reduce, class Finish, int Columns, int Cluster, class Outs, class Ins>
__global__ void __launch_bounds__(product_threads, 1)
    product_tiles(const __grid_constant__ product_maps maps, const __grid_constant__ product_shape s,
                  const __grid_constant__ product_operands<Outs, Ins> o) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using layout = product_layout<Columns, Cluster>;
  unsigned char* shared = shared_memory();
  shared += -sm90::shared_address(shared) & (layout::align - 1);
  product_ring<Columns, Cluster> ring = {sm90::shared_address(shared)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < layout::stages; ++i) {
      sm90::barrier_init(ring.base + layout::barriers + 8 * i, 1);
      sm90::barrier_init(ring.base + layout::barriers + 8 * (layout::stages + i), product_warps * Cluster);
    }
    sm90::barrier_inits_visible();
  }
  cluster_group::barrier();
  if (threadIdx.x >= product_workers) {
    sm90::give_registers<40>();
    if (threadIdx.x == product_workers) bring_stages<Columns, Cluster>(maps, s, ring);
    __syncwarp();
  } else {
    sm90::take_registers<232>();
    work_on_stages<Body, Reduce, Finish, Columns, Cluster>(o, s, shared, ring);
  }
  cluster_group::barrier();  // nobody leaves while others still write to its barriers
#endif
}

}  // namespace mn
