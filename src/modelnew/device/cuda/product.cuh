// Family 3: products with what follows them. P[m][n] = sum over k of x[m][k] * w[n][k]. The plan:
//   [0, device, m, n, k, batch tile, splits, SMs]  per operand (outputs, then inputs) two strides:
//   x: m, k; w: n, k; others: m, n
//   batch tile: rows of x per block, 16, 64 or 128; splits: parts of k. 0: chosen here
#pragma once

#include <atomic>

#include "cuda/product_sm90.cuh"

namespace mn {

inline constexpr int not_covered = -1;  // nothing was launched; the caller takes another product

namespace detail {

inline constexpr int product_cluster = 2;

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

// The weight, in boxes of 32 along k by 128 rows, swizzled on chip. What is outside reads as 0.
inline bool encode_weight(CUtensorMap& map, const float* w, int64_t k, int64_t rows, int64_t stride) {
  const auto encode = tensor_map_encoder();
  if (!encode) return false;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitches[] = {static_cast<cuuint64_t>(stride) * 4};
  const cuuint32_t box[] = {product_group, product_rows_per_block}, steps[] = {1, 1};
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, const_cast<float*>(w), sizes, pitches, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Parts of k: so many that the clusters end together, as few as do.
inline int choose_splits(int64_t units, int64_t clusters, int64_t blocks) {
  int best = 1;
  double least = 1e30;
  for (int splits = 1; splits <= 16 && splits * 8 <= blocks + 7; ++splits) {
    const double time = double(ceil_div(units * splits, clusters)) / splits * (1 + 0.02 * (splits - 1));
    if (time < least) least = time, best = splits;
  }
  return best;
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

// Memory for one launch after the other. The default pool would give it back to the system whenever the host waits for
// the device, and take it anew with the next launch, which costs more than a small product does.
inline cudaMemPool_t launch_pool(int64_t device) {
  constexpr int devices = 64;
  static std::array<std::atomic<cudaMemPool_t>, devices> pools = {};
  if (device < 0 || device >= devices) return nullptr;
  cudaMemPool_t pool = pools[device];
  if (pool) return pool;
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = static_cast<int>(device);
  if (taken(cudaMemPoolCreate(&pool, &properties)) != 0) return nullptr;
  uint64_t kept = 256 << 20;  // bytes
  taken(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept));
  cudaMemPool_t before = nullptr;
  if (pools[device].compare_exchange_strong(before, pool)) return pool;
  cudaMemPoolDestroy(pool);  // another thread was faster
  return before;
}

// Places in one piece of memory.
class product_workspace {
 public:
  int64_t place(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += ceil_div(bytes, 1024) * 1024;
    return at;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

template <class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
int product_tiled(const product_operands<Outs, Ins>& o, float* hints, const int64_t* plan, queue stream) {
  using X = mn::type_at<0, Ins>;
  using value_type = typename reduced_type<Reduce>::type;
  constexpr int x = Outs::size, cluster = product_cluster;
  constexpr bool reduces = !std::is_same<Reduce, no_reduction>::value;
  using layout = product_layout<Columns, cluster>;
  product_shape s = {};
  s.m = plan[2], s.n = plan[3], s.k = plan[4], s.hints = hints;
  s.blocks = static_cast<int>(ceil_div(s.k, product_k_block));
  s.n_tiles = static_cast<int>(ceil_div(s.n, product_rows_per_block));
  s.m_tiles = static_cast<int>(ceil_div(s.m, Columns));
  launch_shape where = {0, product_threads};
  where.shared_bytes = layout::template bytes<value_type>();
  where.cluster = cluster;
  where.early = true;
  constexpr auto kernel = product_tiles<Body, Reduce, Finish, Columns, cluster, Outs, Ins>;
  const int64_t tiles = int64_t(s.n_tiles) * s.m_tiles, clusters = clusters_at_a_time<kernel>(where, plan[1]);
  int64_t units = ceil_div(s.n_tiles, cluster) * s.m_tiles;
  s.splits = plan[6] > 0 ? static_cast<int>(plan[6] < s.blocks ? plan[6] : s.blocks)
                         : choose_splits(units, clusters, s.blocks);
  units *= s.splits;
  if (units > 0x7fffffff || int64_t(s.blocks) * groups_per_block > 0x7fffffff) return not_covered;
  s.units = static_cast<unsigned>(units);

  product_split<X> split = {};
  split.x = static_cast<const X*>(o.at.in[0]), split.w = static_cast<const float*>(o.at.in[1]);
  split.rows = s.m, split.size = s.k, split.w_rows = s.n;
  split.stride_row = o.stride[x][0], split.stride_k = o.stride[x][1], split.w_stride = o.stride[x + 1][0];
  split.groups = int64_t(s.blocks) * groups_per_block;
  split.tile_rows = Columns;
  split.hints = hints;
  split.counted = (s.splits > 1 ? tiles : 0) + (reduces ? s.m_tiles : 0);

  product_workspace places;
  const int64_t halves = places.place(int64_t(s.m_tiles) * Columns * split.groups * 128);
  const int64_t x_unit = places.place(int64_t(s.m_tiles) * Columns * 4), w_unit = places.place(s.n * 4);
  const int64_t counters = places.place(split.counted * 4);
  const int64_t sums = places.place(s.splits > 1 ? tiles * s.splits * (Columns / 2 + 2) * product_workers * 4 : 0);
  const int64_t partials = places.place(reduces ? s.m * s.n_tiles * int64_t(sizeof(partial_words<value_type>)) : 0);
  void* memory = nullptr;
  const cudaMemPool_t pool = launch_pool(plan[1]);
  const size_t bytes = static_cast<size_t>(places.bytes());
  const cudaError_t error =
      pool ? cudaMallocFromPoolAsync(&memory, bytes, pool, stream) : cudaMallocAsync(&memory, bytes, stream);
  if (error != cudaSuccess) return taken(error);
  const auto at = [&](int64_t place) { return static_cast<unsigned char*>(memory) + place; };
  s.x = at(halves);
  split.halves = reinterpret_cast<uint4*>(at(halves));
  s.x_unit = split.row_unit = reinterpret_cast<float*>(at(x_unit));
  s.w_unit = split.w_unit = reinterpret_cast<float*>(at(w_unit));
  split.counters = s.tile_counters = reinterpret_cast<uint32_t*>(at(counters));
  s.row_counters = s.tile_counters + (s.splits > 1 ? tiles : 0);
  s.sums = reinterpret_cast<float*>(at(sums));
  s.partials = at(partials);

  CUtensorMap w_map;
  int result = not_covered;
  if (encode_weight(w_map, split.w, s.k, s.n, split.w_stride)) {
    split.parts = split.groups > 512 ? 8 : split.groups > 256 ? 4 : split.groups > 128 ? 2 : 1;
    launch_shape before = {4 * plan[7] / split.parts, split_threads};
    const int64_t rows = int64_t(s.m_tiles) * Columns;
    if (before.blocks < rows) before.blocks = rows < most_blocks / 8 ? rows : most_blocks / 8;
    before.blocks *= split.parts;
    before.shared_bytes = block_group::scratch_bytes + cluster_group::scratch_bytes;
    before.cluster = split.parts;
    result = launch(product_split_rows<X>, before, stream, split);
    where.blocks = (units < clusters ? units : clusters) * cluster;
    if (result == 0) result = launch(kernel, where, stream, w_map, s, o);
  }
  cudaFreeAsync(memory, stream);
  return result;
}

template <class Outs, class Ins>
bool product_covers(const product_operands<Outs, Ins>& o, const int64_t* plan) {
  constexpr int w = Outs::size + 1;
  constexpr int64_t most = 1 << 30;
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, static_cast<int>(plan[1]));
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, static_cast<int>(plan[1]));
  const bool strides = (o.stride[w][1] == 1 || plan[4] == 1) && o.stride[w][0] % 4 == 0 && o.stride[w][0] >= plan[4];
  const bool sizes = plan[2] <= most && plan[3] <= most && plan[4] <= most && plan[7] >= product_cluster;
  const bool aligned = reinterpret_cast<uintptr_t>(o.at.in[1]) % 16 == 0;
  return plan[0] == 0 && major == 9 && minor == 0 && strides && sizes && aligned;
}

template <class Body, class Reduce, class Finish, class Outs, class Ins>
int product_on(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
               const int64_t* plan, queue stream) {
  static_assert(std::is_same<mn::type_at<1, Ins>, float>::value, "the weight is fp32");
  const device_scope device(plan[1]);
  if (device.error() != cudaSuccess) return taken(device.error());
  product_operands<Outs, Ins> o = {make_operands<Outs, Ins>(outs, ins), {}};
  for (int i = 0; i < o.count; ++i)
    for (int j = 0; j < 2; ++j) o.stride[i][j] = plan[8 + 2 * i + j];
  if (!product_covers(o, plan)) return not_covered;
#if defined(MN_BATCH_TILE)  // compiled for one
  return product_tiled<Body, Reduce, Finish, MN_BATCH_TILE>(o, static_cast<float*>(hints), plan, stream);
#else
  const int64_t tile = plan[5] > 0 ? plan[5] : plan[2] <= 16 ? 16 : plan[2] <= 64 ? 64 : 128;
  float* hint = static_cast<float*>(hints);
  switch (tile) {
    case 16:
      return product_tiled<Body, Reduce, Finish, 16>(o, hint, plan, stream);
    case 64:
      return product_tiled<Body, Reduce, Finish, 64>(o, hint, plan, stream);
    default:
      return product_tiled<Body, Reduce, Finish, 128>(o, hint, plan, stream);
  }
#endif
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
