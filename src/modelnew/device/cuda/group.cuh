// Threads that work on one row together: a part of a warp, a block, a cluster of blocks, blocks all over the grid.
// What they combine is combined in one fixed order.
#pragma once

#include "cuda/launch.cuh"

namespace mn {

// The value of lane `lane ^ distance`, four bytes at a time. All 32 lanes take part.
template <class A>
MN_FN A shuffle_xor(const A& value, int distance) {
  constexpr int words = (sizeof(A) + 3) / 4;
  unsigned w[words] = {};
  __builtin_memcpy(w, &value, sizeof(A));
#pragma unroll
  for (int i = 0; i < words; ++i) w[i] = __shfl_xor_sync(0xffffffffu, w[i], distance);
  A result;
  __builtin_memcpy(&result, w, sizeof(A));
  return result;
}

// All of `lanes` (a power of two) neighbouring lanes get the same bits: a + b and b + a are one number.
template <class Op, class A>
MN_FN A combine_lanes(Op op, A value, int lanes) {
#pragma unroll 1
  for (int distance = lanes / 2; distance > 0; distance /= 2) value = op.combine(value, shuffle_xor(value, distance));
  return value;
}

constexpr int partial_bytes = 48;  // of one partial result, at most

// A block on one row. One partial result per warp; two sets in turn, so that one barrier per reduction is enough.
struct block_group {
  unsigned char* scratch;
  int parity = 0;

  static constexpr int warp_scratch = 2 * 32 * partial_bytes;
  MN_FN static int scratch_bytes() { return warp_scratch; }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    static_assert(sizeof(A) <= partial_bytes, "too many reductions in one sweep");
    value = combine_lanes(op, value, 32);
    const int warps = blockDim.x / 32;
    if (warps == 1) return value;
    A* partial = reinterpret_cast<A*>(scratch + parity * (warp_scratch / 2));
    parity ^= 1;
    const int lane = threadIdx.x % 32;
    if (lane == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    return combine_lanes(op, lane < warps ? partial[lane] : op.identity(), 32);
  }
};

// A block on `across` rows side by side, whose threads are not in one warp: a tree in shared memory.
struct side_by_side_group {
  unsigned char* scratch;
  int lane, along, across;

  MN_FN static int scratch_bytes() { return blockDim.x * partial_bytes; }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    static_assert(sizeof(A) <= partial_bytes, "too many reductions in one sweep");
    A* partial = reinterpret_cast<A*>(scratch);
    int count = blockDim.x / across;
    if (count == 1) return value;
    partial[threadIdx.x] = value;
    __syncthreads();
    for (count /= 2; count > 0; count /= 2) {
      if (along < count) partial[threadIdx.x] = op.combine(partial[threadIdx.x], partial[threadIdx.x + count * across]);
      __syncthreads();
    }
    const A result = partial[lane];
    __syncthreads();  // the next reduction writes where others still read
    return result;
  }
};

// Every block of a cluster gives its value to all, and all combine them in the order of the blocks.
struct cluster_group {
  static constexpr int most_blocks = 16;
  static constexpr int bytes = 2 * most_blocks * partial_bytes;
  unsigned char* slots;
  int parity = 0;

  MN_FN static void barrier() {
#if defined(MN_SIMT) || __CUDA_ARCH__ >= 900
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
#endif
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value, bool speaks) {
#if defined(MN_SIMT) || __CUDA_ARCH__ >= 900
    const int blocks = __clusterSizeInBlocks();
    A* mine = reinterpret_cast<A*>(slots + parity * (bytes / 2));
    parity ^= 1;
    if (speaks)
      for (int r = 0; r < blocks; ++r)
        static_cast<A*>(__cluster_map_shared_rank(mine, r))[__clusterRelativeBlockRank()] = value;
    barrier();
    value = mine[0];
    for (int r = 1; r < blocks; ++r) value = op.combine(value, mine[r]);
#endif
    return value;
  }
};

// Blocks of a cooperative launch that share rows, through memory. Their counter was zeroed before the launch.
template <bool Across>
struct grid_group {
  unsigned long long* arrived = nullptr;
  unsigned char* partials = nullptr;
  int blocks, rank, lane, lanes;
  int parity = 0;
  unsigned long long target = 0;

  __host__ __device__ static constexpr int64_t bytes(int64_t blocks, int64_t lanes) {
    return 2 * blocks * lanes * partial_bytes;
  }

  MN_FN grid_group(unsigned char* workspace, int blocks_, int rank_, int lane_, int lanes_, bool used)
      : blocks(blocks_), rank(rank_), lane(lane_), lanes(lanes_) {
    if (!used) return;
    const int64_t teams = gridDim.x / blocks, team = blockIdx.x / blocks;
    arrived = reinterpret_cast<unsigned long long*>(workspace) + team;
    partials = workspace + (teams * sizeof(unsigned long long) + 15) / 16 * 16 + team * bytes(blocks, lanes);
  }

  MN_FN void barrier() {
    target += blocks;
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(arrived, 1ull);
      while (__ldcv(arrived) < target) __nanosleep(20);
      __threadfence();
    }
    __syncthreads();
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value, bool speaks) {
    A* partial = reinterpret_cast<A*>(partials + parity * (bytes(blocks, lanes) / 2));
    parity ^= 1;
    if (speaks) partial[rank * lanes + lane] = value;
    barrier();
    if (Across) {
      value = read(partial + lane);
      for (int r = 1; r < blocks; ++r) value = op.combine(value, read(partial + r * lanes + lane));
      return value;
    }
    value = op.identity();
    for (int r = threadIdx.x % 32; r < blocks; r += 32) value = op.combine(value, read(partial + r));
    return combine_lanes(op, value, 32);
  }

 private:
  // Written by other blocks meanwhile: not from this SM's L1.
  template <class A>
  MN_FN static A read(const A* p) {
    constexpr int size = sizeof(A) % 4 == 0 ? 4 : 1;
    using unit = std::conditional_t<size == 4, unsigned, unsigned char>;
    unit w[sizeof(A) / size];
#pragma unroll
    for (size_t i = 0; i < sizeof(A) / size; ++i) w[i] = __ldcg(reinterpret_cast<const unit*>(p) + i);
    A result;
    __builtin_memcpy(&result, w, sizeof(A));
    return result;
  }
};

// The threads of one block that share a row.
template <bool Across>
struct local_group : block_group {
  MN_FN local_group(unsigned char* scratch_, int, int, int) : block_group{scratch_} {}
};
template <>
struct local_group<true> : side_by_side_group {
  MN_FN local_group(unsigned char* scratch_, int lane_, int along_, int across_)
      : side_by_side_group{scratch_, lane_, along_, across_} {}
};

}  // namespace mn
