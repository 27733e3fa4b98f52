// What becomes of a unit's sums: those that cannot be relied on once more, parts of k put together, and their way out.
#pragma once

#include "cuda/product_units.cuh"

namespace mn {

// Sums of `Group` columns for a thread's two rows, in plain fp32: sums of pieces, so that they err little.
template <int Group, int N, class Outs, class Ins>
MN_FN void sum_columns(const product_operands<Outs, Ins>& o, int64_t k, const held_sums<N>& s, int first,
                       float (&sums)[2 * Group]) {
  constexpr int operand = Outs::size, piece = 128;
  const auto* x = o.at.template input<0>() + o.template offset<operand>(s.batch, 0, 0);
  const float* w = o.at.template input<1>() + o.template offset<operand + 1>(s.batch, 0, 0);
  int64_t offset[Group];
#pragma unroll
  for (int c = 0; c < Group; ++c) {
    const int m = s.column + held_column(first + c);
    offset[c] = int64_t(m < s.columns ? m : s.columns - 1) * o.stride[operand][0];  // columns outside are not used
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t n = s.row + 8 * r < s.rows ? s.row + 8 * r : s.rows - 1;
    const float* row = w + n * o.stride[operand + 1][0];
    const int64_t step = o.stride[operand + 1][1];
#pragma unroll
    for (int c = 0; c < Group; ++c) sums[2 * c + r] = 0.0f;
#pragma unroll 1
    for (int64_t first_k = 0; first_k < k; first_k += piece) {
      const int64_t end = first_k + piece < k ? first_k + piece : k;
      float part[Group] = {};
#pragma unroll 4
      for (int64_t i = first_k; i < end; ++i) {
        const float factor = row[i * step];
#pragma unroll
        for (int c = 0; c < Group; ++c)
          part[c] = fmaf(factor, to_compute(load_one(x + offset[c] + i * o.stride[operand][1])), part[c]);
      }
#pragma unroll
      for (int c = 0; c < Group; ++c) sums[2 * c + r] += part[c];
    }
  }
}

// The same sums in plain fp32, where they cannot be relied on: infinities, NaN, rows whose scale is not what it was.
// `bad`: a bit for each column of the thread, for either of its rows.
template <int N, class Outs, class Ins>
MN_FN void sum_again(const product_operands<Outs, Ins>& o, int64_t k, const held_sums<N>& s, uint32_t bad) {
  constexpr int group = N < 8 ? N : 8;
#pragma unroll 1
  for (int first = 0; first < N; first += group) {
    if ((bad >> first & ((1u << group) - 1)) == 0) continue;
    float sums[2 * group];
    sum_columns<group>(o, k, s, first, sums);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i / group * group != first || (bad >> i & 1) == 0) continue;
      s.at[held_place(i)] = sums[2 * (i % group)];
      s.at[held_place(i) + 2] = sums[2 * (i % group) + 1];
    }
  }
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
  if (!comes_last<product_workers>(s.tile_counters + tile, s.splits, flag)) return false;
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

// A bit for each of the thread's columns where its sums cannot be relied on. Notes the rows' largest elements for the
// next call, where there are `hints`.
template <int N>
MN_FN uint32_t unreliable(const product_shape& s, const product_weight_rows& w, const held_sums<N>& sums,
                          float* hints) {
  constexpr float least = 2048.0f, most = 65504.0f, largest = 3.402823466e38f;
  uint32_t bad = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const bool finite = fabsf(sums.at[held_place(i)]) <= largest && fabsf(sums.at[held_place(i) + 2]) <= largest;
    bad |= uint32_t(!finite) << i;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float seen = w.largest[r], scaled = seen * w.scale[r];
    if (seen > 0.0f && !(scaled >= least && scaled < most)) bad = ~0u;
    const bool known = w.scale[r] > 0.0f && seen > 0.0f && seen <= largest;
    const bool moved = known && !(scaled >= 16384.0f && scaled < 32768.0f);
    if (moved && hints && sums.row + 8 * r < s.n && threadIdx.x % 4 == 0) hints[sums.row + 8 * r] = seen;
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
  block_barrier<product_workers>();  // the last tile's values have been read
  if (o.same_along_m()) {
    reduce_sums<Body, Reduce, true>(o, sums, values + warp * columns);
  } else {
    reduce_sums<Body, Reduce, false>(o, sums, values + warp * columns);
  }
  block_barrier<product_workers>();
  auto* partials = static_cast<partial_words<value_type>*>(s.partials);
  const int column = threadIdx.x;
  const int64_t m0 = int64_t(u.m_tile) * columns;
  partials += u.batch * s.m * s.n_tiles;
  if (column < columns && m0 + column < s.m) {
    value_type value = values[column];
#pragma unroll
    for (int i = 1; i < product_warps; ++i) value = Reduce::combine(value, values[i * columns + column]);
    partials[(m0 + column) * s.n_tiles + u.n_tile].set(value);
  }
  if (!comes_last<product_workers>(s.row_counters + int64_t(u.batch) * s.m_tiles + u.m_tile, s.n_tiles, flag)) return;
  constexpr int each = columns / product_warps;
  const int64_t first = m0 + warp * each;
  finish_columns<Reduce, Finish, each>(o, partials + first * s.n_tiles, s.n_tiles, sums.batch, first, s.m, s.n);
}

template <class Reduce>
struct reduced_type {
  using type = typename Reduce::type;
};
template <>
struct reduced_type<no_reduction> {
  using type = float;
};

// The way out of a thread's sums, whose last element along k has been added.
template <class Body, class Reduce, class Finish, int Columns, int Cluster, class Outs, class Ins>
MN_FN void finish_unit(const product_operands<Outs, Ins>& o, const product_shape& s, unsigned index,
                       product_weight_rows& w, float (&total)[Columns / 2], unsigned char* scratch, uint32_t* flag) {
  constexpr int N = Columns / 4;
  // Found again, so that it took no registers till now.
  const product_unit u = unit_at<Cluster>(s, static_cast<unsigned>(hidden(static_cast<int>(index))));
  if (u.n_tile >= s.n_tiles) return;
  const int column = u.m_tile * Columns + 2 * (threadIdx.x % 4);
  const held_sums<N> sums = {total,  static_cast<int>(row_of(u)), column, static_cast<int>(s.n), static_cast<int>(s.m),
                             batch_of(s, u)};
  const float* units = s.x_unit + (x_tile_of(s, u) - u.m_tile) * Columns + column;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x_unit = units[held_column(i)];  // there are as many as tiles have columns
    total[held_place(i)] = total[held_place(i)] * inverse_of(w.scale[0]) * x_unit;
    total[held_place(i) + 2] = total[held_place(i) + 2] * inverse_of(w.scale[1]) * x_unit;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
    for (int d = 1; d < 4; d *= 2) w.largest[r] = fmaxf(w.largest[r], __shfl_xor_sync(0xffffffffu, w.largest[r], d));
  const int64_t tile = (int64_t(u.batch) * s.m_tiles + u.m_tile) * s.n_tiles + u.n_tile;
  if (s.splits > 1 && !join_parts(s, tile, u.part, flag, total, w.largest)) return;
  float* const hints = s.hints && u.m_tile == 0 ? s.hints + w_begin_of(s, u) : nullptr;
  const uint32_t bad = unreliable(s, w, sums, hints);
  if (bad != 0) sum_again(o, s.k, sums, bad);
  __syncwarp();
  if constexpr (std::is_same<Reduce, no_reduction>::value) {
    if (o.same_along_m()) {
      store_sums<Body, true>(o, sums);
    } else {
      store_sums<Body, false>(o, sums);
    }
  } else {
    reduce_tile<Body, Reduce, Finish>(o, s, u, sums, scratch, flag);
  }
}

}  // namespace mn
