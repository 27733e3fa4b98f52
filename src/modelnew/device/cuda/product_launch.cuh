// Launching a product with what follows it, by the kernels of a `Way`. P[m][n] = sum over k of x[m][k] * w[n][k]. The plan:
//   [across, device, m, n, k, batch tile, splits, SMs, outer, inner]  across: 1 where the weight's stride along n is 1,
//   not that along k; batch tile: rows of x per block; splits: parts of k; outer, inner: how many products, in two dims
//   where parts of the workspace begin: units of x's rows, of the weight's, counters, sums, partial results
//   per operand (outputs, then inputs) four strides: outer, inner, then x: m, k; w: n, k; others: m, n
//   the workspace's address
// The code is compiled for one batch tile, MN_BATCH_TILE, and for weights that lie across with MN_WEIGHT_ACROSS.
#pragma once

#include "cuda/product_finish.cuh"

namespace mn {

inline constexpr int not_covered = -1;  // nothing was launched; the caller takes another product

namespace detail {

// Places in the plan.
inline constexpr int across_at = 0, device_at = 1, m_at = 2, n_at = 3, k_at = 4, batch_tile_at = 5, splits_at = 6;
inline constexpr int sms_at = 7, outer_at = 8, inner_at = 9;
inline constexpr int x_unit_at = 10, w_unit_at = 11, counters_at = 12, sums_at = 13, partials_at = 14;
inline constexpr int strides_at = 15;

// A way to multiply has kernels, of so many `threads`, whose blocks work on a unit in clusters; what they take for a weight,
// and their launch; `clusters_at_a_time`: how many the device runs; and of the kernels that split, blocks per SM (short rows,
// others) and blocks that split one row.
template <class Way, class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
int product_tiled(const product_operands<Outs, Ins>& o, float* hints, const int64_t* plan, queue stream) {
  using X = mn::type_at<0, Ins>;
  using value_type = typename reduced_type<Reduce>::type;
  constexpr int x = Outs::size, cluster = Way::cluster;
  constexpr bool reduces = !std::is_same<Reduce, no_reduction>::value;
  using kernel = typename Way::template kernel<Body, Reduce, Finish, Columns, Outs, Ins>;
  product_shape s = {};
  s.m = plan[m_at], s.n = plan[n_at], s.k = plan[k_at], s.hints = hints;
  s.blocks = static_cast<int>(ceil_div(s.k, product_k_block));
  s.n_tiles = static_cast<int>(ceil_div(s.n, product_rows_per_block));
  s.m_tiles = static_cast<int>(ceil_div(s.m, Columns));
  s.outer = static_cast<int>(plan[outer_at]), s.inner = static_cast<int>(plan[inner_at]);
  const int64_t batches = plan[outer_at] * plan[inner_at];
  const auto& apart = o.apart[x + 1];
  s.w_outer_step = s.outer > 1 && apart[0] != 0, s.w_inner_step = s.inner > 1 && apart[1] != 0;
  s.w_batches = s.w_outer_step || s.w_inner_step ? static_cast<int>(batches) : 1;
  const bool x_varies = (s.outer > 1 && o.apart[x][0] != 0) || (s.inner > 1 && o.apart[x][1] != 0);
  s.x_batches = x_varies ? static_cast<int>(batches) : 1;
  launch_shape where = {0, Way::threads};
  where.shared_bytes = kernel::layout::template bytes<value_type>();
  where.cluster = cluster;
  where.early = Way::early;
  const int64_t m_tiles = s.m_tiles * batches, tiles = s.n_tiles * m_tiles;  // of all products
  const int64_t clusters = Way::template clusters_at_a_time<kernel::function>(where, plan[device_at], plan[sms_at]);
  s.splits = static_cast<int>(plan[splits_at]);
  const int64_t units = ceil_div(s.n_tiles, cluster) * m_tiles * s.splits;
  const int64_t rows = int64_t(s.x_batches) * s.m_tiles * Columns;  // of x, in tiles
  for (const int64_t count : {units, int64_t(s.blocks) * groups_per_block, rows, s.w_batches * s.n})
    if (count > 0x7fffffff) return not_covered;
  s.units = static_cast<unsigned>(units);

  product_split<X> split = {};
  split.x = {static_cast<const X*>(o.at.in[0]), o.stride[x][0], o.apart[x][0], o.apart[x][1], s.x_batches};
  split.w = {static_cast<const float*>(o.at.in[1]), o.stride[x + 1][weight_across ? 1 : 0], apart[0], apart[1], s.w_batches};
  split.rows = static_cast<int>(s.m), split.w_rows = static_cast<int>(s.n), split.inner = s.inner;
  split.size = static_cast<int>(s.k), split.stride_k = o.stride[x][1];
  split.groups = s.blocks * groups_per_block;
  split.tile_rows = Columns, split.tiles = s.m_tiles;
  split.hints = hints;
  split.counted = (s.splits > 1 ? tiles : 0) + (reduces ? m_tiles : 0);

  static_assert(sizeof(partial_words<value_type>) <= 16, "the workspace has 16 bytes for each");
  const int64_t workspace = plan[strides_at + 4 * o.count];
  const auto at = [&](int place) { return reinterpret_cast<unsigned char*>(workspace) + plan[place]; };
  s.x = reinterpret_cast<unsigned char*>(workspace);
  split.halves = reinterpret_cast<uint4*>(workspace);
  s.x_unit = split.row_unit = reinterpret_cast<float*>(at(x_unit_at));
  s.w_unit = split.w_unit = reinterpret_cast<float*>(at(w_unit_at));
  split.counters = s.tile_counters = reinterpret_cast<uint32_t*>(at(counters_at));
  s.row_counters = s.tile_counters + (s.splits > 1 ? tiles : 0);
  s.sums = reinterpret_cast<float*>(at(sums_at));
  s.partials = at(partials_at);

  typename Way::weight weight;
  if (!weight.found(split.w, s)) return not_covered;
  const int lanes = split_by_lanes::lanes_for(split.groups);
  split.parts = lanes ? 1 : Way::split_parts(split.groups), split.lanes = lanes ? lanes : 32;
  launch_shape before = {4 * plan[sms_at] / split.parts, split_threads};
  if (!lanes && before.blocks < rows) before.blocks = rows < most_blocks / 8 ? rows : most_blocks / 8;
  before.blocks *= split.parts;
  before.shared_bytes = block_group::scratch_bytes + cluster_group::scratch_bytes;
  before.cluster = split.parts;
  const int error = lanes ? launch(product_split_short<X, Way::short_blocks>, before, stream, split)
                          : launch(product_split_rows<X, Way::split_blocks>, before, stream, split);
  if (error) return error;
  where.blocks = (units < clusters ? units : clusters) * cluster;
  return weight.launch(kernel::function, where, stream, s, o);
}

template <class Way, class Outs, class Ins>
bool product_covers(const product_operands<Outs, Ins>& o, const int64_t* plan) {
  constexpr int w = Outs::size + 1;
  constexpr int64_t most = 1 << 30;
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, static_cast<int>(plan[device_at]));
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, static_cast<int>(plan[device_at]));
  const int along = weight_across ? 0 : 1;  // contiguous
  const int64_t pitch = o.stride[w][1 - along], length = plan[weight_across ? n_at : k_at];
  const auto lies = [](int64_t stride, int64_t size) { return size == 1 || (stride % 4 == 0 && stride >= 0); };
  const bool strides = (o.stride[w][along] == 1 || length == 1) && pitch % 4 == 0 && pitch >= length &&
                       lies(o.apart[w][0], plan[outer_at]) && lies(o.apart[w][1], plan[inner_at]);
  const bool sizes = plan[m_at] <= most && plan[n_at] <= most && plan[k_at] <= most && plan[outer_at] <= most &&
                     plan[inner_at] <= most && plan[outer_at] * plan[inner_at] <= most && plan[sms_at] >= Way::cluster &&
                     plan[batch_tile_at] == MN_BATCH_TILE && plan[splits_at] >= 1;
  const bool aligned = reinterpret_cast<uintptr_t>(o.at.in[1]) % 16 == 0;
  return plan[across_at] == weight_across && Way::runs_on(major, minor) && strides && sizes && aligned;
}

template <class Way, class Body, class Reduce, class Finish, class Outs, class Ins>
int product_on(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
               const int64_t* plan, queue stream) {
  static_assert(std::is_same<mn::type_at<1, Ins>, float>::value, "the weight is fp32");
  const device_scope device(plan[device_at]);
  if (device.error() != cudaSuccess) return taken(device.error());
  product_operands<Outs, Ins> o = {make_operands<Outs, Ins>(outs, ins), {}, {}};
  for (int i = 0; i < o.count; ++i)
    for (int j = 0; j < 2; ++j) {
      o.apart[i][j] = plan[strides_at + 4 * i + j];
      o.stride[i][j] = plan[strides_at + 4 * i + 2 + j];
    }
  if (!product_covers<Way>(o, plan)) return not_covered;
  return product_tiled<Way, Body, Reduce, Finish, MN_BATCH_TILE>(o, static_cast<float*>(hints), plan, stream);
}

}  // namespace detail
}  // namespace mn
