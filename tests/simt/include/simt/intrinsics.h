// Device functions that the library and generated kernels call.
#pragma once

#include <math.h>
#include <string.h>

#include <type_traits>

#include "simt/watch.h"

struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

namespace simt {
template <class T>
T checked_load(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T))
    fail("load of %zu bytes at an address that is not a multiple of %zu", sizeof(T), sizeof(T));
  T value;
  memcpy(static_cast<void*>(&value), p, sizeof(T));
  return value;
}
inline void off_chip(const void* p, const char* instruction) {
  for (const block* b : gpu.current->home->cluster) {
    const unsigned char* first = b->shared.get();
    if (p >= first && p < first + b->shared_bytes) fail("%s at an address in shared memory", instruction);
  }
}
template <class T>
void checked_store(T* p, T value) {
  on_store(p, sizeof(T));
  memcpy(p, &value, sizeof(T));
}
}  // namespace simt

// Cache hints change where data is kept, not what is read. These instructions are for memory, not for what is on chip.
#define SIMT_LOAD(name)           \
  template <class T>              \
  inline T name(const T* p) {     \
    simt::off_chip(p, #name);     \
    return simt::checked_load(p); \
  }
#define SIMT_STORE(name)                                \
  template <class T>                                    \
  inline void name(T* p, std::common_type_t<T> value) { \
    simt::off_chip(p, #name);                           \
    simt::checked_store(p, value);                      \
  }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldca)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldlu)
SIMT_LOAD(__ldcv)
SIMT_STORE(__stwb)
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
SIMT_STORE(__stwt)
#undef SIMT_LOAD
#undef SIMT_STORE

inline void __syncthreads() { simt::arrive_and_wait(simt::gpu.current->home->local, simt::gpu.current->home->size); }
inline int __syncthreads_or(int predicate) {
  simt::block& home = *simt::gpu.current->home;
  int& votes = home.votes[home.local.generation];
  votes |= predicate != 0;
  __syncthreads();
  return votes;
}
namespace simt {
inline void named_barrier(int number, int threads) {
  arrive_and_wait(gpu.current->home->named.at(size_t(number)), threads);
}
}  // namespace simt
inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::together(simt::collective::sync, mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { simt::poll(); }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(simt::together(simt::collective::ballot, mask, predicate != 0));
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __activemask() {
  simt::fail("__activemask says nothing about which lanes will meet");
  return 0;
}

namespace simt {
template <class T>
T shuffle(collective op, unsigned mask, T value, int argument, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = together(op, mask, bits, argument, width);
  memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace simt
#define SIMT_SHUFFLE(name, op, argument_type)                                      \
  template <class T>                                                               \
  T name(unsigned mask, T value, argument_type argument, int width = 32) {         \
    return simt::shuffle(simt::collective::op, mask, value, int(argument), width); \
  }
SIMT_SHUFFLE(__shfl_sync, shuffle, int)
SIMT_SHUFFLE(__shfl_up_sync, shuffle_up, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, shuffle_down, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, shuffle_xor, int)
#undef SIMT_SHUFFLE

template <class T>
T atomicAdd(T* p, std::common_type_t<T> value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <class T>
T atomicExch(T* p, std::common_type_t<T> value) {
  const T old = *p;
  *p = value;
  return old;
}

// Clusters: blocks that see each other's shared memory.
inline unsigned __clusterRelativeBlockRank() { return unsigned(simt::gpu.current->home->rank_in_cluster); }
inline unsigned __clusterSizeInBlocks() { return unsigned(simt::gpu.current->home->cluster.size()); }
inline void __cluster_barrier_arrive() {}  // the wait below is where threads stop; arriving early gives no order here
inline void __cluster_barrier_wait() {
  simt::block& home = *simt::gpu.current->home;
  simt::arrive_and_wait(*home.cluster_barrier, home.size * int(home.cluster.size()));
}
inline void* __cluster_map_shared_rank(const void* p, unsigned rank) {
  simt::block& home = *simt::gpu.current->home;
  const unsigned char* byte = static_cast<const unsigned char*>(p);
  if (rank >= home.cluster.size()) simt::fail("cluster: no block of rank %u", rank);
  if (byte < home.shared.get() || byte >= home.shared.get() + home.shared_bytes)
    simt::fail("cluster: the pointer is not in this block's shared memory");
  return home.cluster[rank]->shared.get() + (byte - home.shared.get());
}

// Barriers in shared memory that count arrivals and bytes (mbarrier), and what arrives at them. A copy is made when somebody waits for
// it, so what is read too early is not there yet.
namespace simt {
struct arrival_state {
  uint64_t completed = 0;
  int64_t bytes = 0;  // announced, and not yet there
  int all = 1, missing = 1;  // arrivals
  int waiting = 0;
  std::vector<std::function<void()>> copies;
};
inline arrival_state& state_of(void* barrier) {
  const auto found = gpu.current->home->arrivals.find(barrier);
  if (found == gpu.current->home->arrivals.end()) fail("a barrier that was not initialised");
  return *static_cast<arrival_state*>(found->second.get());
}
inline void arrival_init(void* barrier, int arrivals) {
  if (reinterpret_cast<uintptr_t>(barrier) % 8) fail("a barrier at an address that is not a multiple of 8");
  const auto made = std::make_shared<arrival_state>();
  made->all = made->missing = arrivals;
  gpu.current->home->arrivals[barrier] = made;
}
inline void settle(arrival_state& s) {
  if (s.missing > 0 || s.bytes != 0) return;
  s.missing = s.all;
  ++s.completed;
}
inline void make_copies(arrival_state& s) {
  std::vector<std::function<void()>> copies;
  copies.swap(s.copies);
  for (const auto& copy : copies) copy();
  settle(s);
}
inline void arrival_expect(void* barrier, int bytes) {
  arrival_state& s = state_of(barrier);
  if (--s.missing < 0) fail("more arrivals at a barrier than it was made for");
  s.bytes += bytes;
  settle(s);
}
inline void arrival_arrive(void* barrier) { arrival_expect(barrier, 0); }
inline void arrival_copy(void* barrier, void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16 || bytes % 16 || bytes <= 0)
    fail("bulk copy of %d bytes: sizes and addresses are multiples of 16", bytes);
  block& home = *gpu.current->home;
  unsigned char* first = static_cast<unsigned char*>(to);
  if (first < home.shared.get() || first + bytes > home.shared.get() + home.shared_bytes)
    fail("bulk copy to an address outside of shared memory");
  memset(to, 0xff, size_t(bytes));  // it may be written from now on
  arrival_state& s = state_of(barrier);
  s.copies.push_back([&s, to, from, bytes] {
    memcpy(to, from, size_t(bytes));
    s.bytes -= bytes;
  });
  if (s.waiting > 0) make_copies(s);
}
inline void arrival_wait(void* barrier, int parity) {
  arrival_state& s = state_of(barrier);
  make_copies(s);
  while (int(s.completed & 1) == parity) {  // the phase of this parity is not complete
    ++s.waiting;
    wait(s.completed, s.completed + 1);
    --s.waiting;
  }
}
inline void arrival_send(void* barrier, int rank, unsigned* to, unsigned value) {
  block& home = *gpu.current->home;
  if (rank < 0 || rank >= int(home.cluster.size())) fail("cluster: no block of rank %d", rank);
  block& there = *home.cluster[size_t(rank)];
  const auto moved = [&](void* p) {
    const ptrdiff_t at = static_cast<unsigned char*>(p) - home.shared.get();
    if (at < 0 || size_t(at) >= home.shared_bytes) fail("cluster: the pointer is not in this block's shared memory");
    return there.shared.get() + at;
  };
  const auto found = there.arrivals.find(moved(barrier));
  if (found == there.arrivals.end()) fail("a barrier that was not initialised");
  memcpy(moved(to), &value, 4);
  arrival_state& s = *static_cast<arrival_state*>(found->second.get());
  s.bytes -= 4;
  settle(s);
}
}  // namespace simt

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32) | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = (uint64_t(b) << 32) | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= unsigned((both >> (((selector >> (4 * i)) & 7) * 8)) & 0xff) << (8 * i);
  return result;
}
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
