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

// What a thread copies of a unit, one group after the other: four pieces of the weight, swizzled, and of x in halves, which
// lies as it is to lie. What is outside of the weight is 0, and not read.
template <int Columns, class Outs, class Ins>
struct copied_pieces {
  static constexpr int vector = 4, pieces = 4;
  static constexpr int n_step = weight_across ? 0 : 32, k_step = weight_across ? 8 : 0;  // from a piece to the next
  static constexpr int place_step = weight_across ? 1024 : 4096;
  using layout = copied_layout<Columns>;
  const product_operands<Outs, Ins>& o;
  const product_shape& s;
  int n, k;               // of the first piece in the next group
  const float* w;         // that piece
  const unsigned char* x;

  MN_FN copied_pieces(const product_operands<Outs, Ins>& o, const product_shape& s, const product_unit& u) : o(o), s(s) {
    const int group = u.first * groups_per_block;
    n = u.n_tile * product_rows_per_block + int(weight_across ? threadIdx.x % 32 * vector : threadIdx.x / 8);
    k = group * product_group + int(weight_across ? threadIdx.x / 32 : threadIdx.x % 8 * vector);
    w = o.at.template input<1>() + o.template offset<Outs::size + 1>(batch_of(s, u), 0, 0) + offset(n, k);
    x = s.x + (x_tile_of(s, u) * s.blocks * groups_per_block + group) * layout::x_bytes + threadIdx.x * 16;
  }
  // In the weight, whose other stride is 1.
  MN_FN int64_t offset(int n, int k) const {
    return weight_across ? k * o.stride[Outs::size + 1][1] + n : n * o.stride[Outs::size + 1][0] + k;
  }
  MN_FN void copy(sm80::place stage) {
    const int in_n = n % product_rows_per_block, in_k = k % product_group;
    const int first_n = n - in_n, first_k = k - in_k;
    const sm80::place to = stage + (weight_across ? in_n / 32 * 4096 + in_k * 128 + ((in_n % 32 / 4) ^ (in_k & 7)) * 16
                                                  : in_n * 128 + ((in_k / 4) ^ (in_n & 7)) * 16);
    if (first_n + product_rows_per_block <= s.n && first_k + product_group <= s.k) {
#pragma unroll
      for (int i = 0; i < pieces; ++i) sm80::copy16(to + i * place_step, w + offset(i * n_step, i * k_step), true);
    } else {
#pragma unroll 1
      for (int i = 0; i < pieces; ++i) copy_end(i * n_step, i * k_step, to + i * place_step);
    }
    constexpr int together = product_workers * 16;
#pragma unroll
    for (int i = 0; i < layout::x_bytes; i += together)
      if (layout::x_bytes % together == 0 || i + int(threadIdx.x) * 16 < layout::x_bytes)
        sm80::copy16(stage + layout::w_bytes + threadIdx.x * 16 + i, x + i, true);
    k += product_group, w += offset(0, product_group), x += layout::x_bytes;
  }
  // A piece, so far from the first one, that may be outside, or the end of a row.
  MN_FN void copy_end(int further_n, int further_k, sm80::place to) const {
    const int left_n = static_cast<int>(s.n) - n - further_n, left_k = static_cast<int>(s.k) - k - further_k;
    const bool inside = left_n > 0 && left_k > 0;
    const int left = weight_across ? left_n : left_k;
    const float* from = inside ? w + offset(further_n, further_k) : o.at.template input<1>();
    if (!inside || left >= vector) {
      sm80::copy16(to, from, inside);
      return;
    }
#pragma unroll
    for (int e = 0; e < vector; ++e) sm80::copy4(to + 4 * e, e < left ? from + e : from, e < left);
  }
};

// A warp's sums of a group, added to `total`. As on Hopper the small products come first, but each 16 along k have sums of
// their own: Ampere's tensor cores cut off more.
template <int Columns>
MN_FN void add_group(const product_fragments& w, sm80::place x, float (&total)[Columns / 2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < Columns / 8; ++j) {
    uint32_t high[4], low[4];
    sm80::load_matrices(high, x + ((lane / 8) ^ (lane % 8)) * 16 + lane % 8 * 128 + j * 1024);
    sm80::load_matrices(low, x + ((lane / 8 + 4) ^ (lane % 8)) * 16 + lane % 8 * 128 + j * 1024);
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

template <int Columns, class Pieces>
MN_FN void sum_copied(Pieces pieces, const product_unit& u, unsigned char* shared, product_weight_rows& rows,
                      float (&total)[Columns / 2]) {
  using layout = copied_layout<Columns>;
  const sm80::place base = sm80::place_of(shared);
  const int last = u.last * groups_per_block;
  int ahead = u.first * groups_per_block;
  const auto copy_next = [&](int stage) {  // a group of copies, an empty one at the end
    if (ahead < last) pieces.copy(base + stage * layout::stage_bytes);
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
    product_fragments w;
    rows.split_group(shared + stage * layout::stage_bytes, w);
    add_group<Columns>(w, base + stage * layout::stage_bytes + layout::w_bytes, total);
    if (++stage == layout::stages) stage = 0;
  }
}

template <class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
__global__ void __launch_bounds__(product_workers, Columns > 16 || !std::is_same<Reduce, no_reduction>::value ? 1 : 2)
    product_copied(const __grid_constant__ product_shape s, const __grid_constant__ product_operands<Outs, Ins> o) {
  static_assert(Columns <= 64, "more sums would not fit in registers");
#if defined(MN_SIMT) || __CUDA_ARCH__ >= 800
  using layout = copied_layout<Columns>;
  unsigned char* shared = shared_memory();
  for (unsigned index = blockIdx.x; index < s.units; index += gridDim.x) {
    const product_unit u = unit_at<1>(s, index);
    product_weight_units units;
    units.load<1>(s, index);
    product_weight_rows w(units);
    float total[Columns / 2];
    sum_copied<Columns>(copied_pieces<Columns, Outs, Ins>(o, s, u), u, shared, w, total);
    finish_unit<Body, Reduce, Finish, Columns, 1>(o, s, index, w, total, shared + layout::scratch,
                                                  reinterpret_cast<uint32_t*>(shared + layout::flag));
  }
#endif
}

}  // namespace mn
