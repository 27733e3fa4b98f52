// Ampere's instructions that C++ has no words for: copies to shared memory that a thread waits for later, and products of a
// warp. Compute capability 8.0 and later; elsewhere the functions are empty and the launcher never gets this far.
#pragma once

#include "cuda/launch.cuh"

#if defined(MN_SIMT)
#define MN_SM80(emulated, ...) emulated
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define MN_SM80(emulated, ...) asm volatile(__VA_ARGS__)
#else
#define MN_SM80(emulated, ...) ((void)0)
#endif

namespace mn {
namespace sm80 {

// A place in shared memory.
#if defined(MN_SIMT)
using place = unsigned char*;
MN_FN place place_of(unsigned char* shared) { return shared; }
#else
using place = uint32_t;
MN_FN place place_of(unsigned char* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); }
#endif

// 16 bytes to shared memory, or zeros instead: then nothing is read. Both addresses are multiples of 16.
MN_FN void copy16(place to, const void* from, bool there) {
  MN_SM80(simt::copy_later(to, from, 16, there ? 16 : 0), "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
          "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
          : "memory");
}
// 4 bytes likewise.
MN_FN void copy4(place to, const void* from, bool there) {
  MN_SM80(simt::copy_later(to, from, 4, there ? 4 : 0), "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to),
          "l"(__cvta_generic_to_global(from)), "r"(there ? 4 : 0)
          : "memory");
}
// A group of copies ends.
MN_FN void copies_commit() { MN_SM80(simt::copies_commit(), "cp.async.commit_group;" ::: "memory"); }
// All groups of this thread are there but the last `Pending`.
template <int Pending>
MN_FN void copies_wait() {
  MN_SM80(simt::copies_wait(Pending), "cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four matrices of 8 rows of 8 halves; lane l has the address of row l % 8 of matrix l / 8, and gets of each matrix two
// neighbours of row l / 4.
MN_FN void load_matrices(uint32_t (&to)[4], place row) {
  MN_SM80(simt::load_matrices(to, row), "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
          : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
          : "r"(row)
          : "memory");
}

// d += a · b: 16 rows of `a`, 16 halves long, times 8 rows of `b`.
MN_FN void product16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MN_SM80(simt::product16(d, a, b0, b1),
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
          " {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace sm80
}  // namespace mn
