// Storage types, compute types and the conversions between them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define MN_CUDA 1
#define MN_FN __device__ __forceinline__
#define MN_SELDOM inline __device__ __noinline__  // called so seldom that it should not stand in the way of the rest
#define MN_EXPORT extern "C" __attribute__((visibility("default")))
#define MN_UNROLL _Pragma("unroll")
#else
#define MN_FN inline __attribute__((always_inline))
#define MN_SELDOM MN_FN
#define MN_EXPORT extern "C" __attribute__((visibility("default")))
#define MN_UNROLL
#endif

#if defined(MN_CUDA)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace mn {

// The 16-bit types exist in memory only; values are computed in float.
struct half {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

template <class S>
struct compute_of {
  using type = S;
};
template <>
struct compute_of<half> {
  using type = float;
};
template <>
struct compute_of<bf16> {
  using type = float;
};
template <class S>
using compute_t = typename compute_of<S>::type;

// Smallest and largest value, infinities included, and NaN. At class scope, where nvcc takes the constants without a
// flag.
template <class C>
struct bounds {
  using limits = std::numeric_limits<C>;
  static constexpr C highest = limits::has_infinity ? limits::infinity() : limits::max();
  static constexpr C nan = limits::quiet_NaN();
  static constexpr C lowest = limits::has_infinity ? static_cast<C>(-highest) : limits::lowest();
};

template <class To, class From>
MN_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// float -> 16 bits, round to nearest even. Branch-free: every case is computed, then selected.
MN_FN half float_to_half(float value) {
#if defined(MN_CUDA)
  return half{__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: rebias the exponent (127 -> 15), round the 13 dropped bits; a carry out of 65504 lands on infinity.
  const uint32_t rounded = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 makes the hardware round to multiples of 2^-24, the subnormal spacing.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t result = magnitude < 0x38800000u ? subnormal : rounded;
  result = magnitude >= 0x47800000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return half{static_cast<uint16_t>(result | ((bits >> 16) & 0x8000u))};
#endif
}

MN_FN float half_to_float(half value) {
#if defined(MN_CUDA)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t magnitude = value.bits & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t subnormal = bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  uint32_t result = magnitude < 0x0400u ? subnormal : normal;
  result = magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : result;
  return bit_cast<float>(result | (static_cast<uint32_t>(value.bits & 0x8000u) << 16));
#endif
}

MN_FN bf16 float_to_bf16(float value) {
#if defined(MN_CUDA)
  return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return bf16{static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
#endif
}

MN_FN float bf16_to_float(bf16 value) { return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// Numeric conversion between compute types, as PyTorch does it.
template <class To, class From>
MN_FN To cast(From value) {
  if constexpr (std::is_same<To, From>::value) {
    return value;
  } else if constexpr (std::is_same<To, bool>::value) {
    return value != From(0);
  } else if constexpr (std::is_floating_point<From>::value && std::is_same<To, uint8_t>::value) {
    return static_cast<To>(static_cast<int64_t>(value));  // negative values wrap, as in PyTorch
  } else if constexpr (std::is_floating_point<From>::value && std::is_integral<To>::value && sizeof(To) < 4) {
    return static_cast<To>(static_cast<int32_t>(value));
  } else {
    return static_cast<To>(value);
  }
}

// What a load gives: the compute value of a stored one.
template <class S>
MN_FN compute_t<S> to_compute(S stored) {
  if constexpr (std::is_same<S, half>::value) {
    return half_to_float(stored);
  } else if constexpr (std::is_same<S, bf16>::value) {
    return bf16_to_float(stored);
  } else {
    return stored;
  }
}

// What a store writes: any compute value, rounded to nearest even where the storage type is narrower.
template <class S, class V>
MN_FN S to_storage(V value) {
  if constexpr (std::is_same<S, half>::value) {
    return float_to_half(cast<float>(value));
  } else if constexpr (std::is_same<S, bf16>::value) {
    return float_to_bf16(cast<float>(value));
  } else {
    return cast<S>(value);
  }
}

// The value after a store to and a load from storage type S.
template <class S, class V>
MN_FN compute_t<S> round_to(V value) {
  return to_compute(to_storage<S>(value));
}

}  // namespace mn
