// Launching: device, stream, shared memory, clusters, cooperative grids; errors as numbers.
#pragma once

#include <cuda_runtime.h>

#include <array>

#include "common/call.h"
#include "common/core.h"

namespace mn {

using queue = cudaStream_t;

// Dynamic shared memory is the only kind used: each kernel divides it up itself.
MN_FN unsigned char* shared_memory() {
#if defined(MN_SIMT)
  return simt::dynamic_shared();
#else
  extern __shared__ uint4 mn_shared_memory[];
  return reinterpret_cast<unsigned char*>(mn_shared_memory);
#endif
}

// Makes `device` current, and the caller's device again at the end.
class device_scope {
 public:
  explicit device_scope(int64_t device) : device_(static_cast<int>(device)) {
    error_ = cudaGetDevice(&previous_);
    if (error_ == cudaSuccess && previous_ != device_) error_ = cudaSetDevice(device_);
  }
  ~device_scope() {
    if (error_ == cudaSuccess && previous_ != device_) cudaSetDevice(previous_);
  }
  device_scope(const device_scope&) = delete;
  device_scope& operator=(const device_scope&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int device_;
  int previous_ = 0;
  cudaError_t error_;
};

// A kernel may start while the one before it still runs (`early`, from compute capability 9.0 on), once all blocks of that
// one have said so; what that one has written is there after the wait.
MN_FN void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
MN_FN void wait_for_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

struct launch_shape {
  int64_t blocks = 1;
  int threads = 256;
  size_t shared_bytes = 0;
  int cluster = 1;
  bool cooperative = false;
  bool early = false;  // starts when the kernel before it lets it, and waits for that one by itself
};

// A failed launch leaves its error pending in the runtime; it is taken away, so that nobody else is blamed for it.
inline int taken(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return static_cast<int>(error);
}

template <class... P>
cudaError_t allow(void (*kernel)(P...), const launch_shape& shape) {
  constexpr size_t shared_without_asking = 48 << 10;
  if (shape.shared_bytes > shared_without_asking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  if (shape.cluster > 8) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return cudaSuccess;
}

template <class... P, class... A>
int launch(void (*kernel)(P...), const launch_shape& shape, queue stream, const A&... arguments) {
  const cudaError_t error = allow(kernel, shape);
  if (error != cudaSuccess) return taken(error);
  cudaLaunchAttribute attributes[3];
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
  }
#if !defined(MN_SIMT)
  if (shape.early) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
#endif
  return taken(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// How many clusters of a launch the device takes in at a time: a question to the driver, asked once for a kernel.
template <class... P>
int resident_clusters(void (*kernel)(P...), const launch_shape& shape, int64_t& clusters) {
  struct asked {
    const void* kernel;
    int device, cluster;
    size_t shared_bytes;
    int answer;
  };
  static thread_local asked last = {};
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return taken(error);
  const void* const key = reinterpret_cast<const void*>(kernel);
  if (last.kernel != key || last.device != device || last.cluster != shape.cluster ||
      last.shared_bytes != shape.shared_bytes) {
    error = allow(kernel, shape);
    if (error != cudaSuccess) return taken(error);
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.cluster) * 64);
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int answer = 0;
    error = cudaOccupancyMaxActiveClusters(&answer, kernel, &config);
    if (error != cudaSuccess) return taken(error);
    if (answer < 1) return cudaErrorInvalidConfiguration;
    last = {key, device, shape.cluster, shape.shared_bytes, answer};
  }
  clusters = last.answer;
  return cudaSuccess;
}

inline constexpr int64_t most_blocks = 0x7fffffff;  // of one launch

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace mn

MN_EXPORT const char* mn_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
