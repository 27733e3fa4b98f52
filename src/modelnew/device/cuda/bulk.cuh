// What arrives in shared memory by itself: copies that a thread starts, and words from other blocks of the cluster. Both
// count themselves in at a barrier. Compute capability 9.0 and later; no plan gets this far elsewhere.
#pragma once

#include "cuda/launch.cuh"

namespace mn {

// Completes when as many have arrived as it was made for, and all bytes have that they announced; then it begins anew.
// `parity`: of how often it has completed before; of a new one, 1 is complete.
struct arrival {
  uint64_t state;

#if defined(MN_SIMT)
  MN_FN void init(int arrivals = 1) { simt::arrival_init(this, arrivals); }
  MN_FN void arrive() { simt::arrival_arrive(this); }
  MN_FN void expect(int bytes) { simt::arrival_expect(this, bytes); }
  MN_FN void wait(int parity) { simt::arrival_wait(this, parity); }
  MN_FN void copy(void* to, const void* from, int bytes) { simt::arrival_copy(this, to, from, bytes); }
  MN_FN void send(int rank, unsigned* to, unsigned value) { simt::arrival_send(this, rank, to, value); }
  MN_FN static void inits_visible() {}
  MN_FN static void order_writes() {}
#elif __CUDA_ARCH__ >= 900
  MN_FN static unsigned address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
  MN_FN void init(int arrivals = 1) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(this)), "r"(arrivals) : "memory");
  }
  MN_FN void arrive() { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(this)) : "memory"); }
  MN_FN static void inits_visible() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
  // What this thread has written to shared memory comes before copies that are started later.
  MN_FN static void order_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
  MN_FN void expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(this)), "r"(bytes) : "memory");
  }
  MN_FN void wait(int parity) {
    asm volatile(
        "{\n .reg .pred done;\n"
        "again:\n"
        " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        " @!done bra again;\n}" ::"r"(address(this)),
        "r"(parity)
        : "memory");
  }
  // `bytes` and both addresses are multiples of 16.
  MN_FN void copy(void* to, const void* from, int bytes) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(address(to)),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(address(this))
        : "memory");
  }
  // A word to the same place in the cluster's block `rank`, where it counts at the barrier in this one's place.
  MN_FN void send(int rank, unsigned* to, unsigned value) {
    asm volatile(
        "{\n .reg .b32 there, barrier;\n"
        " mapa.shared::cluster.u32 there, %0, %2;\n"
        " mapa.shared::cluster.u32 barrier, %1, %2;\n"
        " st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %3, [barrier];\n}" ::"r"(address(to)),
        "r"(address(this)), "r"(rank), "r"(value)
        : "memory");
  }
#else
  MN_FN void init(int = 1) {}
  MN_FN void arrive() {}
  MN_FN void expect(int) {}
  MN_FN void wait(int) {}
  MN_FN void copy(void*, const void*, int) {}
  MN_FN void send(int, unsigned*, unsigned) {}
  MN_FN static void inits_visible() {}
  MN_FN static void order_writes() {}
#endif
};

}  // namespace mn
