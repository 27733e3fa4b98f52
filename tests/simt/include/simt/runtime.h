// The part of the CUDA runtime that launchers use, with the limits that a real launch has.
#pragma once

#include <stdlib.h>

#include <tuple>
#include <utility>

#include "simt/intrinsics.h"
#include "simt/tensor.h"

typedef struct CUstream_st* cudaStream_t;
typedef struct CUmemPool_st* cudaMemPool_t;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
  cudaErrorCooperativeLaunchTooLarge = 720,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributeNonPortableClusterSizeAllowed = 13
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeCooperative = 2,
  cudaLaunchAttributeClusterDimension = 4
};
union cudaLaunchAttributeValue {
  int cooperative;
  struct {
    unsigned x, y, z;
  } clusterDim;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace simt {
struct limits {
  size_t shared_per_block = 48 << 10;          // without asking
  size_t shared_per_block_opt_in = 227 << 10;  // with cudaFuncSetAttribute
  unsigned resident_threads = 1 << 14;         // of a cooperative grid
  int resident_clusters = 2;
  int devices = 1;
};
inline limits device_limits;
inline std::vector<std::pair<const void*, size_t>> shared_asked;
inline cudaError_t last_error = cudaSuccess;
inline int current_device = 0;
inline int allocations = 0;

inline cudaError_t note(cudaError_t error) { return last_error = error ? error : last_error, error; }

inline size_t shared_allowed(const void* kernel) {
  size_t bytes = device_limits.shared_per_block;
  for (const auto& asked : shared_asked)
    if (asked.first == kernel) bytes = asked.second;
  return bytes;
}

inline std::unique_ptr<block> new_block(size_t flat, size_t shared_bytes) {
  auto b = std::make_unique<block>();
  const size_t x = gridDim.x, y = gridDim.y;
  b->index = dim3(unsigned(flat % x), unsigned(flat / x % y), unsigned(flat / x / y));
  b->size = int(blockDim.x * blockDim.y * blockDim.z);
  b->shared_bytes = shared_bytes;
  b->shared.reset(static_cast<unsigned char*>(operator new[](shared_bytes + 1)));
  memset(b->shared.get(), 0xff, shared_bytes);  // NaN in every float type: nothing may rely on what it holds
  return b;
}

inline cudaError_t run_grid(size_t cluster, bool cooperative, size_t shared_bytes) {
  const size_t blocks = size_t(gridDim.x) * gridDim.y * gridDim.z;
  const size_t resident = cooperative ? blocks : cluster;
  std::mt19937 random(static_cast<unsigned>(gpu.order));
  gpu.failed = false;
  for (size_t group : order_of(blocks / resident, random)) {
    std::vector<std::unique_ptr<block>> cohort;
    std::vector<barrier> cluster_barriers(resident / cluster);
    for (size_t i = 0; i < resident; ++i) cohort.push_back(new_block(group * resident + i, shared_bytes));
    for (size_t i = 0; i < resident; ++i) {
      cohort[i]->rank_in_cluster = int(i % cluster);
      cohort[i]->cluster_barrier = &cluster_barriers[i / cluster];
      for (size_t j = 0; j < cluster; ++j) cohort[i]->cluster.push_back(cohort[i - i % cluster + j].get());
    }
    run_together(cohort);
    if (gpu.failed) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}
}  // namespace simt

// The kernel runs to its end before this returns: a stream's order, without the overlap.
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  using simt::gpu;
  size_t cluster = 1;
  bool cooperative = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id == cudaLaunchAttributeCooperative) cooperative = config->attrs[i].val.cooperative != 0;
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) cluster = config->attrs[i].val.clusterDim.x;
  }
  const size_t threads = size_t(config->blockDim.x) * config->blockDim.y * config->blockDim.z;
  const dim3 g = config->gridDim;
  if (threads == 0 || threads > 1024 || g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 ||
      g.z > 65535)
    return simt::note(cudaErrorInvalidConfiguration);
  if (cluster == 0 || cluster > 16 || g.x % cluster) return simt::note(cudaErrorInvalidConfiguration);
  if (config->dynamicSmemBytes > simt::shared_allowed(reinterpret_cast<const void*>(kernel)))
    return simt::note(cudaErrorInvalidValue);
  if (cooperative && size_t(g.x) * g.y * g.z * threads > simt::device_limits.resident_threads)
    return simt::note(cudaErrorCooperativeLaunchTooLarge);
  gridDim = g;
  blockDim = config->blockDim;
  std::tuple<std::decay_t<P>...> copies(std::forward<A>(arguments)...);
  gpu.kernel = [&] { std::apply([&](auto&... argument) { kernel(argument...); }, copies); };
  return simt::note(simt::run_grid(cluster, cooperative, config->dynamicSmemBytes));
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (size_t(value) > simt::device_limits.shared_per_block_opt_in) return simt::note(cudaErrorInvalidValue);
  simt::shared_asked.emplace_back(kernel, size_t(value));
  return cudaSuccess;
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

template <class... P>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*)(P...), const cudaLaunchConfig_t*) {
  return *clusters = simt::device_limits.resident_clusters, cudaSuccess;
}

template <class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(P...), int, size_t) {
  return *blocks = 1, cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  return *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 0, cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }
inline cudaError_t cudaPeekAtLastError() { return simt::last_error; }
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchFailure:
      return simt::gpu.error.c_str();
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
  }
  return "unknown error";
}
inline cudaError_t cudaGetDevice(int* device) { return *device = simt::current_device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= simt::device_limits.devices) return simt::note(cudaErrorInvalidDevice);
  return simt::current_device = device, cudaSuccess;
}

enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
struct cudaMemLocation {
  cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  cudaMemLocation location;
};
inline cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  return *pool = nullptr, cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  *p = malloc(bytes);
  memset(*p, 0xff, bytes);
  ++simt::allocations;
  return cudaSuccess;
}
inline cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t, cudaStream_t stream) {
  return cudaMallocAsync(p, bytes, stream);
}
inline cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  free(p);
  --simt::allocations;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  return memset(p, value, bytes), cudaSuccess;
}
