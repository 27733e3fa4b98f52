// Stands in for CUDA's header: device headers and generated .cu files then compile with g++ and run on the CPU, thread
// by thread.
#pragma once

#define MN_SIMT 1
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

#include "simt/runtime.h"

namespace simt {
inline unsigned char* dynamic_shared() { return gpu.current->home->shared.get(); }
}  // namespace simt
