// The product's kernel by the tensor cores' instructions of Ampere: halves, and the layout of sums, are as on Hopper. All
// threads of a block copy what comes next, and each warp multiplies its 16 rows of the weight with all of the tile's rows of
// x. The sums are added to fp32 registers every 32 along k.
#pragma once

#include "cuda/product_finish.cuh"
#include "cuda/product_mma.cuh"

namespace mn {

template <int Columns>
struct copied_layout {
  static constexpr int w_bytes = product_rows_per_block * product_group * 4;
  static constexpr int x_bytes = Columns * product_group * 4;
  static constexpr int stage_bytes = w_bytes + x_bytes;
  static constexpr int stages = 3;  // one that is worked on, one that may be there, one that is written to
  static constexpr int flag = stages * stage_bytes;
  static constexpr int scratch = flag + 16;
  template <class A>
  static constexpr int bytes() {
    return scratch + product_warps * Columns * int(sizeof(A));
  }
};

// A thread's part of a group: of the weight's rows, swizzled, and of x in halves, which lies as it is to lie. What is outside
// of the weight is 0, and not read.
template <int Columns, class Outs, class Ins>
MN_FN void copy_group(const product_operands<Outs, Ins>& o, const product_shape& s, const product_unit& u, int group,
                      unsigned char* stage) {
  using layout = copied_layout<Columns>;
  constexpr int vector = 4;
  const float* w = o.at.template input<1>();
  const int64_t stride_n = o.stride[Outs::size + 1][0], stride_k = o.stride[Outs::size + 1][1];
#pragma unroll
  for (int i = 0; i < layout::w_bytes / 16 / product_workers; ++i) {
    const int piece = threadIdx.x + i * product_workers;
    const int in_n = weight_across ? piece % 32 * vector : piece / 8, in_k = weight_across ? piece / 32 : piece % 8 * vector;
    const int64_t n = int64_t(u.n_tile) * product_rows_per_block + in_n, k = int64_t(group) * product_group + in_k;
    const bool inside = n < s.n && k < s.k;
    const int64_t left = weight_across ? s.n - n : s.k - k;
    const float* from = inside ? w + n * stride_n + k * stride_k : w;
    unsigned char* to = stage + (weight_across ? in_n / 32 * 4096 + in_k * 128 + ((in_n % 32 / 4) ^ (in_k & 7)) * 16
                                               : in_n * 128 + ((in_k / 4) ^ (in_n & 7)) * 16);
    if (!inside || left >= vector) {
      sm80::copy16(to, from, inside);
    } else {  // the end of a row
#pragma unroll
      for (int e = 0; e < vector; ++e) sm80::copy4(to + 4 * e, e < left ? from + e : from, e < left);
    }
  }
  const unsigned char* x = s.x + (int64_t(u.m_tile) * s.blocks * groups_per_block + group) * layout::x_bytes;
#pragma unroll
  for (int i = threadIdx.x * 16; i < layout::x_bytes; i += product_workers * 16)
    sm80::copy16(stage + layout::w_bytes + i, x + i, true);
}

// A warp's sums of a group, added to `total`. As on Hopper the small products come first, but each 16 along k have sums of
// their own: Ampere's tensor cores cut off more.
template <int Columns>
MN_FN void add_group(const product_fragments& w, const unsigned char* x, float (&total)[Columns / 2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < Columns / 8; ++j) {
    uint32_t high[4], low[4];
    const unsigned char* row = x + (8 * j + lane % 8) * 128;
    sm80::load_matrices(high, row + ((lane / 8) ^ (lane % 8)) * 16);
    sm80::load_matrices(low, row + ((lane / 8 + 4) ^ (lane % 8)) * 16);
    float sums[2][4] = {};
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      sm80::product16(sums[s], w.low[s], high[2 * s], high[2 * s + 1]);
      sm80::product16(sums[s], w.high[s], low[2 * s], low[2 * s + 1]);
      sm80::product16(sums[s], w.high[s], high[2 * s], high[2 * s + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) total[4 * j + i] += sums[0][i] + sums[1][i];
  }
}

template <int Columns, class Outs, class Ins>
MN_FN void sum_copied(const product_operands<Outs, Ins>& o, const product_shape& s, const product_unit& u,
                      unsigned char* shared, product_weight_rows& rows, float (&total)[Columns / 2]) {
  using layout = copied_layout<Columns>;
  const int last = u.last * groups_per_block;
  int ahead = u.first * groups_per_block;
  const auto copy_next = [&](int stage) {  // a group of copies, an empty one at the end
    if (ahead < last) copy_group<Columns>(o, s, u, ahead, shared + stage * layout::stage_bytes);
    ++ahead;
    sm80::copies_commit();
  };
#pragma unroll
  for (int i = 0; i < Columns / 2; ++i) total[i] = 0.0f;
  __syncthreads();  // the stages of the unit before have been read
#pragma unroll
  for (int stage = 0; stage + 1 < layout::stages; ++stage) copy_next(stage);
#pragma unroll 1
  for (int stage = 0; ahead - (layout::stages - 1) < last;) {
    sm80::copies_wait<layout::stages - 2>();
    __syncthreads();  // what all have copied is there, and the stage before has been read by all
    copy_next(stage == 0 ? layout::stages - 1 : stage - 1);
    const unsigned char* at = shared + stage * layout::stage_bytes;
    product_fragments w;
    rows.split_group(at, w);
    add_group<Columns>(w, at + layout::w_bytes, total);
    if (++stage == layout::stages) stage = 0;
  }
}

template <class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
__global__ void __launch_bounds__(product_workers, Columns > 16 ? 1 : 2)
    product_copied(const __grid_constant__ product_shape s, const __grid_constant__ product_operands<Outs, Ins> o) {
  static_assert(Columns <= 64, "more sums would not fit in registers");
#if defined(MN_SIMT) || __CUDA_ARCH__ >= 800
  using layout = copied_layout<Columns>;
  unsigned char* shared = shared_memory();
  for (unsigned index = blockIdx.x; index < s.units; index += gridDim.x) {
    const product_unit u = unit_at<1>(s, index);
    product_weight_rows w(s, u);
    float total[Columns / 2];
    sum_copied<Columns>(o, s, u, shared, w, total);
    finish_unit<Body, Reduce, Finish, Columns, 1>(o, s, index, w, total, shared + layout::scratch,
                                                  reinterpret_cast<uint32_t*>(shared + layout::flag));
  }
#endif
}

}  // namespace mn
