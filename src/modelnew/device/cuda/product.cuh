// Family 3: products with what follows them. P[m][n] = sum over k of x[m][k] * w[n][k]. The plan:
//   [across, device, m, n, k, batch tile, splits, SMs]  across: 1 where the weight's stride along n is 1, not that
//   along k; batch tile: rows of x per block; splits: parts of k
//   where parts of the workspace begin: units of x's rows, of the weight's, counters, sums, partial results
//   per operand (outputs, then inputs) two strides: x: m, k; w: n, k; others: m, n
//   the workspace's address
// The code is compiled for one batch tile, MN_BATCH_TILE, and for weights that lie across with MN_WEIGHT_ACROSS.
#pragma once

#include <atomic>

#include "cuda/product_sm90.cuh"

namespace mn {

inline constexpr int not_covered = -1;  // nothing was launched; the caller takes another product

namespace detail {

inline constexpr int product_cluster = 2;

// Places in the plan.
inline constexpr int across_at = 0, device_at = 1, m_at = 2, n_at = 3, k_at = 4, batch_tile_at = 5, splits_at = 6;
inline constexpr int sms_at = 7, x_unit_at = 8, w_unit_at = 9, counters_at = 10, sums_at = 11, partials_at = 12;
inline constexpr int strides_at = 13;

// cuTensorMapEncodeTiled, without linking the driver's library.
inline auto tensor_map_encoder() {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(result == cudaDriverEntryPointSuccess ? found : nullptr);
  }();
  return encode;
}

// The weight, in boxes of 32 along k by 128 rows, or 32 where it lies across, swizzled on chip. What is outside reads as 0.
inline bool encode_weight(CUtensorMap& map, const float* w, int64_t k, int64_t rows, int64_t stride) {
  const auto encode = tensor_map_encoder();
  if (!encode) return false;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(weight_across ? rows : k),
                              static_cast<cuuint64_t>(weight_across ? k : rows)};
  const cuuint64_t pitches[] = {static_cast<cuuint64_t>(stride) * 4};
  const cuuint32_t box[] = {32u, weight_across ? 32u : unsigned(product_rows_per_block)}, steps[] = {1, 1};
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, const_cast<float*>(w), sizes, pitches, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// How many clusters of such a kernel run at a time: parts of the chip have not the number of SMs that it takes.
template <auto Kernel>
int64_t clusters_at_a_time(const launch_shape& shape, int64_t device) {
  constexpr int devices = 64;
  static std::array<std::atomic<int>, devices> known = {};
  std::atomic<int>& here = known[device % devices];
  if (here == 0) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.cluster));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int count = 0;
    cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (shape.cluster > 8) cudaFuncSetAttribute(Kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (taken(cudaOccupancyMaxActiveClusters(&count, Kernel, &config)) != 0 || count < 1) count = 1;
    here = count;
  }
  return here;
}

template <class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
int product_tiled(const product_operands<Outs, Ins>& o, float* hints, const int64_t* plan, queue stream) {
  using X = mn::type_at<0, Ins>;
  using value_type = typename reduced_type<Reduce>::type;
  constexpr int x = Outs::size, cluster = product_cluster;
  constexpr bool reduces = !std::is_same<Reduce, no_reduction>::value;
  using layout = product_layout<Columns, cluster>;
  product_shape s = {};
  s.m = plan[m_at], s.n = plan[n_at], s.k = plan[k_at], s.hints = hints;
  s.blocks = static_cast<int>(ceil_div(s.k, product_k_block));
  s.n_tiles = static_cast<int>(ceil_div(s.n, product_rows_per_block));
  s.m_tiles = static_cast<int>(ceil_div(s.m, Columns));
  launch_shape where = {0, product_threads};
  where.shared_bytes = layout::template bytes<value_type>();
  where.cluster = cluster;
  where.early = true;
  constexpr auto kernel = product_tiles<Body, Reduce, Finish, Columns, cluster, Outs, Ins>;
  const int64_t tiles = int64_t(s.n_tiles) * s.m_tiles, clusters = clusters_at_a_time<kernel>(where, plan[device_at]);
  s.splits = static_cast<int>(plan[splits_at]);
  const int64_t units = ceil_div(s.n_tiles, cluster) * s.m_tiles * s.splits;
  if (units > 0x7fffffff || int64_t(s.blocks) * groups_per_block > 0x7fffffff) return not_covered;
  s.units = static_cast<unsigned>(units);

  product_split<X> split = {};
  split.x = static_cast<const X*>(o.at.in[0]), split.w = static_cast<const float*>(o.at.in[1]);
  split.rows = s.m, split.size = s.k, split.w_rows = s.n;
  split.stride_row = o.stride[x][0], split.stride_k = o.stride[x][1], split.w_stride = o.stride[x + 1][weight_across ? 1 : 0];
  split.groups = int64_t(s.blocks) * groups_per_block;
  split.tile_rows = Columns;
  split.hints = hints;
  split.counted = (s.splits > 1 ? tiles : 0) + (reduces ? s.m_tiles : 0);

  static_assert(sizeof(partial_words<value_type>) <= 16, "the workspace has 16 bytes for each");
  const auto at = [&](int place) { return reinterpret_cast<unsigned char*>(plan[strides_at + 2 * o.count]) + plan[place]; };
  s.x = reinterpret_cast<unsigned char*>(plan[strides_at + 2 * o.count]);
  split.halves = reinterpret_cast<uint4*>(plan[strides_at + 2 * o.count]);
  s.x_unit = split.row_unit = reinterpret_cast<float*>(at(x_unit_at));
  s.w_unit = split.w_unit = reinterpret_cast<float*>(at(w_unit_at));
  split.counters = s.tile_counters = reinterpret_cast<uint32_t*>(at(counters_at));
  s.row_counters = s.tile_counters + (s.splits > 1 ? tiles : 0);
  s.sums = reinterpret_cast<float*>(at(sums_at));
  s.partials = at(partials_at);

  CUtensorMap w_map;
  if (!encode_weight(w_map, split.w, s.k, s.n, split.w_stride)) return not_covered;
  split.parts = split.groups > 512 ? 8 : split.groups > 256 ? 4 : split.groups > 128 ? 2 : 1;
  launch_shape before = {4 * plan[sms_at] / split.parts, split_threads};
  const int64_t rows = int64_t(s.m_tiles) * Columns;
  if (before.blocks < rows) before.blocks = rows < most_blocks / 8 ? rows : most_blocks / 8;
  before.blocks *= split.parts;
  before.shared_bytes = block_group::scratch_bytes + cluster_group::scratch_bytes;
  before.cluster = split.parts;
  if (const int error = launch(product_split_rows<X>, before, stream, split)) return error;
  where.blocks = (units < clusters ? units : clusters) * cluster;
  return launch(kernel, where, stream, w_map, s, o);
}

template <class Outs, class Ins>
bool product_covers(const product_operands<Outs, Ins>& o, const int64_t* plan) {
  constexpr int w = Outs::size + 1;
  constexpr int64_t most = 1 << 30;
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, static_cast<int>(plan[device_at]));
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, static_cast<int>(plan[device_at]));
  const int along = weight_across ? 0 : 1;  // contiguous
  const int64_t pitch = o.stride[w][1 - along], length = plan[weight_across ? n_at : k_at];
  const bool strides = (o.stride[w][along] == 1 || length == 1) && pitch % 4 == 0 && pitch >= length;
  const bool sizes = plan[m_at] <= most && plan[n_at] <= most && plan[k_at] <= most && plan[sms_at] >= product_cluster &&
                     plan[batch_tile_at] == MN_BATCH_TILE && plan[splits_at] >= 1;
  const bool aligned = reinterpret_cast<uintptr_t>(o.at.in[1]) % 16 == 0;
  return plan[across_at] == weight_across && major == 9 && minor == 0 && strides && sizes && aligned;
}

template <class Body, class Reduce, class Finish, class Outs, class Ins>
int product_on(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
               const int64_t* plan, queue stream) {
  static_assert(std::is_same<mn::type_at<1, Ins>, float>::value, "the weight is fp32");
  const device_scope device(plan[device_at]);
  if (device.error() != cudaSuccess) return taken(device.error());
  product_operands<Outs, Ins> o = {make_operands<Outs, Ins>(outs, ins), {}};
  for (int i = 0; i < o.count; ++i)
    for (int j = 0; j < 2; ++j) o.stride[i][j] = plan[strides_at + 2 * i + j];
  if (!product_covers(o, plan)) return not_covered;
  return product_tiled<Body, Reduce, Finish, MN_BATCH_TILE>(o, static_cast<float*>(hints), plan, stream);
}

}  // namespace detail

template <class Body, class Outs, class Ins>
int product(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
            const int64_t* plan, queue stream) {
  return detail::product_on<Body, no_reduction, no_reduction, Outs, Ins>(outs, ins, hints, plan, stream);
}

template <class Body, class Reduce, class Finish, class Outs, class Ins>
int product_rows(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
                 const int64_t* plan, queue stream) {
  return detail::product_on<Body, Reduce, Finish, Outs, Ins>(outs, ins, hints, plan, stream);
}

}  // namespace mn
