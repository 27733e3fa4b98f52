// The product's kernel on Hopper: one warpgroup brings, two work.
#pragma once

#include "cuda/product_finish.cuh"
#include "cuda/product_sums.cuh"

namespace mn {

inline constexpr int product_threads = 384;

// Sums and their way out, by two warpgroups.
template <class Body, class Reduce, class Finish, int Columns, int Cluster, class Outs, class Ins>
MN_FN void work_on_stages(const product_operands<Outs, Ins>& o, const product_shape& s, unsigned char* shared,
                          product_ring<Columns, Cluster> ring) {
  using layout = product_layout<Columns, Cluster>;
  uint32_t* flag = reinterpret_cast<uint32_t*>(shared + layout::flag);
  product_weight_units units;
  units.load<Cluster>(s, blockIdx.x / Cluster);
  for (unsigned index = blockIdx.x / Cluster; index < s.units; index += gridDim.x / Cluster) {
    const product_unit u = unit_at<Cluster>(s, index);
    product_weight_rows w(units);
    float total[Columns / 2];
    sum_unit(u, ring, shared, w, total, (u.last - u.first) * product_k_block < long_sum);
    units.load<Cluster>(s, index + gridDim.x / Cluster);
    finish_unit<Body, Reduce, Finish, Columns, Cluster>(o, s, index, w, total, shared + layout::scratch, flag);
  }
}

template <class Body, class Reduce, class Finish, int Columns, int Cluster, class Outs, class Ins>
__global__ void __launch_bounds__(product_threads, 1)
    product_tiles(const __grid_constant__ CUtensorMap w, const __grid_constant__ product_shape s,
                  const __grid_constant__ product_operands<Outs, Ins> o) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using layout = product_layout<Columns, Cluster>;
  unsigned char* shared = shared_memory();
  shared += -sm90::shared_address(shared) & (layout::align - 1);
  product_ring<Columns, Cluster> ring = {sm90::shared_address(shared)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < layout::stages; ++i) {
      sm90::barrier_init(ring.base + layout::barriers + 8 * i, 1);
      sm90::barrier_init(ring.base + layout::barriers + 8 * (layout::stages + i), product_warps * Cluster);
    }
    sm90::barrier_inits_visible();
  }
  cluster_group::barrier();
  wait_for_kernel_before();
  if (threadIdx.x >= product_workers) {
    sm90::give_registers<40>();
    if (threadIdx.x == product_workers) bring_stages<Columns, Cluster>(w, s, ring);
    __syncwarp();
  } else {
    sm90::take_registers<232>();
    work_on_stages<Body, Reduce, Finish, Columns, Cluster>(o, s, shared, ring);
  }
  cluster_group::barrier();  // nobody leaves while others still write to its barriers
#endif
}

}  // namespace mn
