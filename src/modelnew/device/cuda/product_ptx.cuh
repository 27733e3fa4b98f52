// Hopper's instructions that C++ has no words for: barriers that count bytes, bulk copies, products of warpgroups.
// They exist for sm_90a only; elsewhere the functions are empty and the launcher never gets this far.
#pragma once

#include <cuda.h>

#include "cuda/launch.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "products on compute capability 9.0 are built with -gencode=arch=compute_90a,code=sm_90a"
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MN_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define MN_SM90A(...) ((void)0)
#endif

namespace mn {
namespace sm90 {

MN_FN uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A barrier in shared memory; `phase` is the parity of how often it has completed.
MN_FN void barrier_init(uint32_t barrier, int arrivals) {
  MN_SM90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
MN_FN void barrier_inits_visible() { MN_SM90A("fence.mbarrier_init.release.cluster;" ::: "memory"); }

MN_FN void barrier_expect(uint32_t barrier, int bytes) {
  MN_SM90A("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Arrives at the barrier at the same place in the block `rank` of the cluster.
MN_FN void barrier_arrive(uint32_t barrier, int rank) {
  MN_SM90A(
      "{\n .reg .b32 there;\n"
      " mapa.shared::cluster.u32 there, %0, %1;\n"
      " mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

MN_FN void barrier_wait(uint32_t barrier, uint32_t phase) {
  MN_SM90A(
      "{\n .reg .pred done;\n"
      "again:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      " @!done bra again;\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

// A box of one of a tensor's matrices, from (column, row) on.
MN_FN void load_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int row, int inner, int outer,
                    uint64_t policy) {
  MN_SM90A(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(inner), "r"(outer), "l"(policy)
      : "memory");
}
// Bytes that lie together, a multiple of 16, to the same place in every block of the cluster.
template <int Cluster>
MN_FN void load_to_cluster(uint32_t to, const void* from, int bytes, uint32_t barrier, uint64_t policy) {
  if constexpr (Cluster > 1) {
    MN_SM90A(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
        " [%0], [%1], %2, [%3], %4, %5;" ::"r"(to),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier), "h"(static_cast<uint16_t>((1 << Cluster) - 1)),
        "l"(policy)
        : "memory");
  } else {
    MN_SM90A(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1], %2, [%3], %4;" ::"r"(to),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
  }
}
MN_FN uint64_t keep_policy() {
  uint64_t policy = 0;
  MN_SM90A("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
MN_FN uint64_t pass_policy() {
  uint64_t policy = 0;
  MN_SM90A("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

template <int Registers>
MN_FN void take_registers() {
  MN_SM90A("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
MN_FN void give_registers() {
  MN_SM90A("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Where the second operand of a product begins: rows of 128 bytes, swizzled by 128 bytes, 8 rows after each other.
MN_FN uint64_t operand_at(uint32_t address) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Products read registers and shared memory later: the values that they touch are pinned around them.
MN_FN void products_begin() { MN_SM90A("wgmma.fence.sync.aligned;" ::: "memory"); }
MN_FN void products_commit() { MN_SM90A("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
MN_FN void products_wait() {
  MN_SM90A("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
template <int N>
MN_FN void pin(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) MN_SM90A("" : "+f"(d[i])::"memory");
}
template <int N>
MN_FN void pin(uint32_t (&a)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) MN_SM90A("" : "+r"(a[i])::"memory");
}

#define MN_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MN_D16(i) MN_D4(i), MN_D4(i + 4), MN_D4(i + 8), MN_D4(i + 12)
#define MN_A4 "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

// d += a · b (d = a · b where not `accumulate`): 64 rows of `a`, 16 halves long, in registers; 2 * N rows of `b`.
MN_FN void product64(float (&d)[8], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  MN_SM90A(
      "{\n .reg .pred p;\n setp.ne.b32 p, %13, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7},"
      " {%8, %9, %10, %11}, %12, p, 1, 1, 0;\n}"
      : MN_D4(0), MN_D4(4)
      : MN_A4, "l"(b), "r"(accumulate));
}
MN_FN void product64(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  MN_SM90A(
      "{\n .reg .pred p;\n setp.ne.b32 p, %37, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23,  "
      " %24, %25, %26, %27, %28, %29, %30, %31},"
      " {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
      : MN_D16(0), MN_D16(16)
      : MN_A4, "l"(b), "r"(accumulate));
}
MN_FN void product64(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  MN_SM90A(
      "{\n .reg .pred p;\n setp.ne.b32 p, %69, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      " %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      " %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      " %62, %63},"
      " {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
      : MN_D16(0), MN_D16(16), MN_D16(32), MN_D16(48)
      : MN_A4, "l"(b), "r"(accumulate));
}
#undef MN_D4
#undef MN_D16
#undef MN_A4

}  // namespace sm90
}  // namespace mn
