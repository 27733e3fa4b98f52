// Family 3: products with what follows them, by Hopper's kernel. product_launch.cuh has the plan.
#pragma once

#include <atomic>

#include "cuda/product_launch.cuh"
#include "cuda/product_sm90.cuh"

namespace mn {

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

// The weights, in boxes of 32 along k by 128 rows, or 32 where they lie across, swizzled on chip. What is outside reads as
// 0. A dim along which they are the same has one.
inline bool encode_weight(CUtensorMap& map, const product_factor<float>& w, const product_shape& s) {
  const auto encode = tensor_map_encoder();
  if (!encode) return false;
  const auto size = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  const cuuint64_t inner = s.w_inner_step ? size(s.inner) : 1, outer = s.w_outer_step ? size(s.outer) : 1;
  const cuuint64_t sizes[] = {size(weight_across ? s.n : s.k), size(weight_across ? s.k : s.n), inner, outer};
  const cuuint64_t row = size(w.stride) * 4;
  const cuuint64_t pitches[] = {row, inner > 1 ? size(w.inner_stride) * 4 : row, outer > 1 ? size(w.outer_stride) * 4 : row};
  const cuuint32_t box[] = {32u, weight_across ? 32u : unsigned(product_rows_per_block), 1, 1}, steps[] = {1, 1, 1, 1};
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, const_cast<float*>(w.at), sizes, pitches, box, steps,
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

struct hopper {
  static constexpr int cluster = product_cluster, threads = product_threads, short_blocks = 2, split_blocks = 4;
  static constexpr bool early = true;
  static bool runs_on(int major, int minor) { return major == 9 && minor == 0; }
  static int split_parts(int groups) { return groups > 512 ? 8 : groups > 256 ? 4 : groups > 128 ? 2 : 1; }

  template <class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
  struct kernel {
    using layout = product_layout<Columns, cluster>;
    static constexpr auto function = product_tiles<Body, Reduce, Finish, Columns, cluster, Outs, Ins>;
  };
  template <auto Kernel>
  static int64_t clusters_at_a_time(const launch_shape& shape, int64_t device, int64_t) {
    return detail::clusters_at_a_time<Kernel>(shape, device);
  }
  struct weight {
    CUtensorMap map;
    bool found(const product_factor<float>& w, const product_shape& s) { return encode_weight(map, w, s); }
    template <class Kernel, class Operands>
    int launch(Kernel kernel, const launch_shape& where, queue stream, const product_shape& s, const Operands& o) const {
      return mn::launch(kernel, where, stream, map, s, o);
    }
  };
};

}  // namespace detail

template <class Body, class Outs, class Ins>
int product(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
            const int64_t* plan, queue stream) {
  return detail::product_on<detail::hopper, Body, no_reduction, no_reduction, Outs, Ins>(outs, ins, hints, plan, stream);
}

template <class Body, class Reduce, class Finish, class Outs, class Ins>
int product_rows(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
                 const int64_t* plan, queue stream) {
  return detail::product_on<detail::hopper, Body, Reduce, Finish, Outs, Ins>(outs, ins, hints, plan, stream);
}

}  // namespace mn
