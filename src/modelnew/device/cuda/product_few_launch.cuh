// Products of few rows of x: P[m][n] = sum over k of x[m][k] * w[n][k], and what follows. The weight is read once, at the
// memory's speed, and everything is summed in plain fp32, so infinities and NaN are as they come. The plan:
//   [across, device, m, n, k, batch tile, slices, SMs, early]  across: 1 where the weight's stride along n is 1, not that
//   along k; batch tile: rows of x that the code is compiled for; slices: of k; early: the second kernel may start early
//   where parts of the workspace begin: counters, sums, partial results
//   per operand (outputs, then inputs) two strides: x: m, k; w: n, k; others: m, n
//   the workspace's address, where there is one
// One block on each multiprocessor has a slice of x on chip, as floats; what its warps read of the weight is each one's own,
// and nobody waits for anybody. Work is units, slice after slice: a few rows of the weight (strips of 32 vectors of columns
// where it lies across), of which blocks take equally many, neighbours. Sums go out by the body, or, where a slice is not
// all of k or rows are reduced, to memory, and a second kernel adds the slices up in their order.
#pragma once

#include "cuda/product_few_sums.cuh"

namespace mn {

namespace detail {
// Places in the plan.
inline constexpr int few_device_at = 1, few_m_at = 2, few_n_at = 3, few_k_at = 4, few_slices_at = 6, few_sms_at = 7;
inline constexpr int few_early_at = 8, few_counters_at = 9, few_sums_at = 10, few_partials_at = 11, few_strides_at = 12;
}  // namespace detail

// `Stores`: every element of the result is stored, none is reduced.
template <class Body, bool Stores, bool Across, int M, class Outs, class Ins>
__global__ void __launch_bounds__(few_threads, 1)
    product_few_rows(const __grid_constant__ few_shape s, const __grid_constant__ product_operands<Outs, Ins> o) {
  let_next_kernel_start();
  float* x = reinterpret_cast<float*>(shared_memory());
  const int64_t threads = int64_t(gridDim.x) * few_threads;
  for (int64_t i = int64_t(blockIdx.x) * few_threads + threadIdx.x; i < s.counted; i += threads) s.counters[i] = 0;
  const int64_t all = s.units * s.slices, end = all * (blockIdx.x + 1) / gridDim.x;
  int64_t at = all * blockIdx.x / gridDim.x;
  while (at < end) {
    const int64_t slice = at / s.units, before = slice * s.units;
    const int64_t last = end - before < s.units ? end - before : s.units;
    if constexpr (Across) {
      few_across<Body, Stores, M>(o, s, slice, at - before, last, x);
    } else {
      few_along<Body, Stores, M>(o, s, slice, at - before, last, x);
    }
    at = before + last;
    if (at < end) __syncthreads();  // the next slice of x takes this one's place
  }
}

template <class Reduce>
MN_FN auto few_identity(Reduce) {
  return Reduce::identity();
}
MN_FN int few_identity(no_reduction) { return 0; }

inline constexpr int finish_threads = 256, finish_each = 2, finish_tile = finish_threads * finish_each;  // of n

// The sums of all slices, added in their order, and their way out: tiles of n of one row of x each.
template <class Body, class Reduce, class Finish, class Outs, class Ins>
__global__ void __launch_bounds__(finish_threads)
    product_few_finish(const __grid_constant__ few_shape s, const __grid_constant__ product_operands<Outs, Ins> o) {
  constexpr bool reduces = !std::is_same<Reduce, no_reduction>::value;
  wait_for_kernel_before();
  const int64_t tile = blockIdx.x % s.tiles, m = blockIdx.x / s.tiles;
  auto value = few_identity(Reduce{});
  const product_batch only = {};
  const int64_t first = tile * finish_tile + threadIdx.x;
  float sums[finish_each] = {};
#pragma unroll 4
  for (int64_t slice = 0; slice < s.slices; ++slice) {
    const float* from = s.sums + (slice * s.m + m) * s.n + first;
#pragma unroll
    for (int i = 0; i < finish_each; ++i)
      if (first + i * finish_threads < s.n) sums[i] += __ldcg(from + i * finish_threads);
  }
#pragma unroll
  for (int i = 0; i < finish_each; ++i) {
    const int64_t n = first + i * finish_threads;
    if (n >= s.n) continue;
    const auto result = o.template body<Body, true>(sums[i], only, m, n, o.inputs(only, m, n));
    if constexpr (reduces) {
      value = Reduce::combine(value, result);
    } else {
      o.put(only, m, n, as_pack(result), indices_to<Outs::size>{});
    }
  }
  if constexpr (reduces) {
    using value_type = typename Reduce::type;
    value = block_group::combine(Reduce{}, value, 0, 0);
    auto* partials = static_cast<partial_words<value_type>*>(s.partials) + m * s.tiles;
    if (threadIdx.x == 0) partials[tile].set(value);
    uint32_t* flag = reinterpret_cast<uint32_t*>(shared_memory() + block_group::scratch_bytes);
    if (comes_last<finish_threads>(s.counters + m, static_cast<int>(s.tiles), flag) && threadIdx.x < 32)
      finish_columns<Reduce, Finish, 1>(o, partials, static_cast<int>(s.tiles), only, m, s.m, s.n);
  }
}

// For up to M rows of x. Returns 0, a CUDA error, or -1 before anything is launched, where the weight is not aligned.
template <class Body, class Reduce, class Finish, bool Across, int M, class Outs, class Ins>
int product_few(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins,
                const int64_t* plan, queue stream) {
  using namespace detail;
  using W = mn::type_at<1, Ins>;
  constexpr bool reduces = !std::is_same<Reduce, no_reduction>::value;
  const device_scope device(plan[few_device_at]);
  if (device.error() != cudaSuccess) return taken(device.error());
  product_operands<Outs, Ins> o = {make_operands<Outs, Ins>(outs, ins), {}, {}};
  for (int i = 0; i < o.count; ++i)
    for (int j = 0; j < 2; ++j) o.stride[i][j] = plan[few_strides_at + 2 * i + j];
  if (reinterpret_cast<uintptr_t>(o.at.in[1]) % 16 != 0) return -1;
  few_shape s = {};
  s.m = plan[few_m_at], s.n = plan[few_n_at], s.k = plan[few_k_at];
  s.slices = plan[few_slices_at];
  s.slice = ceil_div(ceil_div(s.k, s.slices), few_slice_multiple) * few_slice_multiple;
  s.length = Across ? s.slice : ceil_div(s.slice, few_steps<W, M>::step) * few_steps<W, M>::step;
  s.units = ceil_div(s.n, Across ? 32 * few_vector<W> : few_steps<W, M>::rows);
  s.tiles = ceil_div(s.n, finish_tile);
  if (reduces || s.slices > 1) {
    unsigned char* workspace = reinterpret_cast<unsigned char*>(plan[few_strides_at + 2 * o.count]);
    s.counters = reinterpret_cast<uint32_t*>(workspace + plan[few_counters_at]);
    s.sums = reinterpret_cast<float*>(workspace + plan[few_sums_at]);
    s.partials = workspace + plan[few_partials_at];
    s.counted = reduces ? s.m : 0;
  }
  const int64_t pieces = s.units * s.slices;
  launch_shape shape = {pieces < plan[few_sms_at] ? pieces : plan[few_sms_at], few_threads};
  shape.shared_bytes = size_t(M) * s.length * 4 + (Across ? few_scratch_bytes : 0);
  const int error = launch(product_few_rows<Body, !reduces, Across, M, Outs, Ins>, shape, stream, s, o);
  if (error != 0 || !s.sums) return error;
  shape = {s.tiles * s.m, finish_threads};
  shape.shared_bytes = block_group::scratch_bytes + 16;
  shape.early = plan[few_early_at] != 0;
  return launch(product_few_finish<Body, Reduce, Finish, Outs, Ins>, shape, stream, s, o);
}

}  // namespace mn
