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

struct hopper {
  static constexpr int cluster = product_cluster, threads = product_threads, split_blocks = 4;
  static constexpr bool early = true;
  static bool runs_on(int major, int minor) { return major == 9 && minor == 0; }
  static int split_parts(int64_t groups) { return groups > 512 ? 8 : groups > 256 ? 4 : groups > 128 ? 2 : 1; }

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
    bool found(const float* w, int64_t k, int64_t rows, int64_t stride) { return encode_weight(map, w, k, rows, stride); }
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
