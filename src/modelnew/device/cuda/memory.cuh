// Vectors of consecutive elements: loads and stores of up to 16 bytes, whatever the operand's stride and alignment.
// Accesses are plain ones: evict-first hints leave the second-level cache to what others wrote, and cost 2 % on an H200.
#pragma once

#include "cuda/launch.cuh"

namespace mn {

template <int Bytes>
struct word_of;
template <>
struct word_of<1> {
  using type = unsigned char;
};
template <>
struct word_of<2> {
  using type = unsigned short;
};
template <>
struct word_of<4> {
  using type = unsigned int;
};
template <>
struct word_of<8> {
  using type = uint2;
};
template <>
struct word_of<16> {
  using type = uint4;
};
template <int Bytes>
using word = typename word_of<Bytes>::type;

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }

// An address that is not taken apart again into a beginning and an offset: what is near it is then one sum away.
MN_FN void settled([[maybe_unused]] uintptr_t& address) {
#if !defined(MN_SIMT)
  asm("" : "+l"(address));
#endif
}

// V consecutive elements as they lie in memory. Wider than 16 bytes, it takes several accesses.
template <class S, int V>
struct alignas(smaller(16, sizeof(S) * V)) vec {
  static constexpr int access = smaller(16, sizeof(S) * V);  // bytes
  static constexpr int accesses = sizeof(S) * V / access;
  S at[V];
};

template <class S, int V>
MN_FN bool is_aligned(const S* p) {
  return (reinterpret_cast<uintptr_t>(p) & (vec<S, V>::access - 1)) == 0;
}

// One element, stored as bytes of its size (`half` and `bool` have no load instruction of their own).
template <class S>
MN_FN S load_one(const S* p) {
  return bit_cast<S>(*reinterpret_cast<const word<sizeof(S)>*>(p));
}

template <class S>
MN_FN void store_one(S* p, S value) {
  __stwb(reinterpret_cast<word<sizeof(S)>*>(p), bit_cast<word<sizeof(S)>>(value));
}

template <class S, int V>
MN_FN vec<S, V> load_aligned(const S* p) {
  using piece = word<vec<S, V>::access>;
  vec<S, V> result;
#pragma unroll
  for (int i = 0; i < vec<S, V>::accesses; ++i)
    reinterpret_cast<piece*>(&result)[i] = reinterpret_cast<const piece*>(p)[i];
  return result;
}

template <class S, int V>
MN_FN void store_aligned(S* p, const vec<S, V>& value) {
  using piece = word<vec<S, V>::access>;
#pragma unroll
  for (int i = 0; i < vec<S, V>::accesses; ++i)
    __stwb(reinterpret_cast<piece*>(p) + i, reinterpret_cast<const piece*>(&value)[i]);
}

// The first and the last byte (exclusive) that an operand may be read at.
struct extent {
  uintptr_t begin, end;
};

// Elements that are contiguous but not aligned: the two aligned vectors around them, shifted. `p` is uniform in its
// misalignment only within a row, so this is decided per thread; reads stay inside the operand's extent.
template <class S, int V>
MN_FN vec<S, V> load_shifted(const S* p) {
  constexpr int bytes = sizeof(S) * V;
  constexpr int words = bytes / 4;
  constexpr int pieces = vec<S, V>::accesses;
  using piece = word<vec<S, V>::access>;
  const unsigned misaligned = reinterpret_cast<uintptr_t>(p) & (vec<S, V>::access - 1);
  const piece* base = reinterpret_cast<const piece*>(reinterpret_cast<const char*>(p) - misaligned);
  struct alignas(16) {
    unsigned at[words + vec<S, V>::access / 4];
  } around;
#pragma unroll
  for (int i = 0; i <= pieces; ++i) reinterpret_cast<piece*>(&around)[i] = base[i];
  unsigned* w = around.at;
  constexpr int count = words + vec<S, V>::access / 4;
  if constexpr (vec<S, V>::access == 16) {
#pragma unroll
    for (int i = 0; i + 2 < count; ++i) w[i] = misaligned & 8 ? w[i + 2] : w[i];
  }
  if constexpr (vec<S, V>::access >= 8 && sizeof(S) < 8) {
#pragma unroll
    for (int i = 0; i + 1 < count; ++i) w[i] = misaligned & 4 ? w[i + 1] : w[i];
  }
  if constexpr (sizeof(S) < 4) {
    const unsigned shift = (misaligned & 3) * 8;
#pragma unroll
    for (int i = 0; i < words; ++i) w[i] = __funnelshift_r(w[i], w[i + 1], shift);
  }
  vec<S, V> result;
#pragma unroll
  for (int i = 0; i < words; ++i) reinterpret_cast<unsigned*>(&result)[i] = w[i];
  return result;
}

// `count` of V elements, `stride` apart; the elements beyond `count` are zero. `stride` is the same for the whole grid.
template <class S, int V>
MN_FN vec<S, V> load_along(const S* p, int64_t stride, int count, const extent& readable) {
  if (stride == 1 && count >= V) {
    if (is_aligned<S, V>(p)) return load_aligned<S, V>(p);
    if constexpr (V > 1 && sizeof(S) * V >= 4 && sizeof(S) < 16) {
      constexpr uintptr_t access = vec<S, V>::access;
      const uintptr_t base = reinterpret_cast<uintptr_t>(p) & ~(access - 1);
      if (base >= readable.begin && base + (vec<S, V>::accesses + 1) * access <= readable.end)
        return load_shifted<S, V>(p);
    }
  }
  vec<S, V> result = {};
  if (stride == 0 && count > 0) {
    const S value = load_one(p);
#pragma unroll
    for (int v = 0; v < V; ++v) result.at[v] = value;
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (v < count) result.at[v] = load_one(p + v * stride);
  }
  return result;
}

template <class S, int V>
MN_FN void store_along(S* p, int64_t stride, int count, const vec<S, V>& value) {
  if (stride == 1 && count >= V && is_aligned<S, V>(p)) {
    store_aligned<S, V>(p, value);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (v < count) store_one(p + v * stride, value.at[v]);
  }
}

}  // namespace mn
