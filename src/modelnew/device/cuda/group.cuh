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

// One thread's own; the array is used up.
template <class Op, class A, int V>
MN_FN A combine_values(Op op, A (&value)[V]) {
#pragma unroll
  for (int distance = V / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int v = 0; v < distance; ++v) value[v] = op.combine(value[v], value[v + distance]);
  return value[0];
}

// All of `lanes` (a power of two) neighbouring lanes get the same bits: a + b and b + a are one number.
template <class Op, class A>
MN_FN A combine_lanes(Op op, A value, int lanes) {
#pragma unroll 1
  for (int distance = lanes / 2; distance > 0; distance /= 2) value = op.combine(value, shuffle_xor(value, distance));
  return value;
}

template <class Op, class A>
MN_FN A combine_warp(Op op, A value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value = op.combine(value, shuffle_xor(value, distance));
  return value;
}

inline constexpr int partial_bytes = 48;  // of one partial result, at most

// One set of partial results is written while slower threads may still read the last one's: sets are used in turn, so
// that one barrier per reduction is enough. `round`: how many reductions there have been.

// A block's first `Threads` threads, while the others do something else; 0: all of them.
template <int Threads>
MN_FN void block_barrier() {
  if constexpr (Threads == 0) {
    __syncthreads();
  } else {
#if defined(MN_SIMT)
    simt::named_barrier(1, Threads);
#else
    asm volatile("bar.sync 1, %0;" ::"n"(Threads) : "memory");
#endif
  }
}

// A block, or its first `Threads` threads, on one row: one partial result per warp.
struct block_group {
  static constexpr int scratch_bytes = 2 * 32 * partial_bytes;

  template <int Threads = 0, class Op, class A>
  MN_FN static A combine(Op op, A value, int scratch, int round) {
    static_assert(sizeof(A) <= partial_bytes, "too many reductions in one sweep");
    value = combine_warp(op, value);
    const int warps = (Threads > 0 ? Threads : int(blockDim.x)) / 32;
    if (warps == 1) return value;
    A* partial = reinterpret_cast<A*>(shared_memory() + scratch + (round & 1) * (scratch_bytes / 2));
    const int lane = threadIdx.x % 32;
    if (lane == 0) partial[threadIdx.x / 32] = value;
    block_barrier<Threads>();
    return combine_warp(op, lane < warps ? partial[lane] : op.identity());
  }
};

// A block on `across` rows side by side, whose threads are not in one warp: a tree in shared memory.
struct side_by_side_group {
  static constexpr int threads = 256;
  static constexpr int scratch_bytes = threads * partial_bytes;

  template <class Op, class A>
  MN_FN static A combine(Op op, A value, int scratch, int across) {
    static_assert(sizeof(A) <= partial_bytes, "too many reductions in one sweep");
    A* partial = reinterpret_cast<A*>(shared_memory() + scratch);
    if (across == threads) return value;
    partial[threadIdx.x] = value;
    __syncthreads();
    for (int count = threads / 2; count >= across; count /= 2) {
      if (int(threadIdx.x) < count)
        partial[threadIdx.x] = op.combine(partial[threadIdx.x], partial[threadIdx.x + count]);
      __syncthreads();
    }
    value = partial[threadIdx.x % across];
    __syncthreads();  // the next reduction writes where others still read
    return value;
  }
};

// Every block of a cluster gives its value to all, and all combine them in the order of the blocks.
struct cluster_group {
  static constexpr int most_blocks = 16;
  static constexpr int scratch_bytes = 2 * most_blocks * partial_bytes;

  MN_FN static void barrier() {
#if defined(MN_SIMT) || __CUDA_ARCH__ >= 900
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
#endif
  }

  template <class Op, class A>
  MN_FN static A combine(Op op, A value, int scratch, int round) {
#if defined(MN_SIMT) || __CUDA_ARCH__ >= 900
    const int blocks = __clusterSizeInBlocks();
    A* mine = reinterpret_cast<A*>(shared_memory() + scratch + (round & 1) * (scratch_bytes / 2));
    if (int(threadIdx.x) < blocks)
      static_cast<A*>(__cluster_map_shared_rank(mine, threadIdx.x))[__clusterRelativeBlockRank()] = value;
    barrier();
    value = mine[0];
#pragma unroll 1
    for (int r = 1; r < blocks; ++r) value = op.combine(value, mine[r]);
#endif
    return value;
  }
};

// Blocks of a cooperative launch that share rows, through memory: a counter per team, zeroed before the launch, then
// the partial results of each team's blocks, `lanes` of each block.
struct grid_group {
  unsigned char* workspace;
  int blocks, lanes;

  __host__ __device__ static constexpr int64_t counter_bytes(int64_t teams) { return (teams * 8 + 15) / 16 * 16; }
  __host__ __device__ static constexpr int64_t team_bytes(int64_t blocks, int64_t lanes) {
    return 2 * blocks * lanes * partial_bytes;
  }

  MN_FN void barrier(int64_t team, int round) const {
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long* arrived = reinterpret_cast<unsigned long long*>(workspace) + team;
      const unsigned long long all = (round + 1ull) * blocks;
      __threadfence();
      atomicAdd(arrived, 1ull);
      while (__ldcv(arrived) < all) __nanosleep(20);
      __threadfence();
    }
    __syncthreads();
  }

  // `speaks`: this thread has its block's result for `lane`.
  template <class Op, class A>
  MN_FN A combine(Op op, A value, int lane, bool speaks, int round) const {
    const int64_t team = blockIdx.x / blocks;
    unsigned char* mine = workspace + counter_bytes(gridDim.x / blocks) + team * team_bytes(blocks, lanes);
    A* partial = reinterpret_cast<A*>(mine + (round & 1) * (team_bytes(blocks, lanes) / 2));
    if (speaks) partial[blockIdx.x % blocks * lanes + lane] = value;
    barrier(team, round);
    value = op.identity();
    if (lanes > 1) {
#pragma unroll 1
      for (int r = 0; r < blocks; ++r) value = op.combine(value, read(partial + r * lanes + lane));
      return value;
    }
#pragma unroll 1
    for (int r = threadIdx.x % 32; r < blocks; r += 32) value = op.combine(value, read(partial + r));
    return combine_warp(op, value);
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

}  // namespace mn
