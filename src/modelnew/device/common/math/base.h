// provides: abs, sign, floor, ceil, round, trunc, sqrt, rsqrt, fmod, remainder, isnan, isinf, isfinite
#pragma once

#include <math.h>

#include "common/math/approximate.h"
#include "common/types.h"

namespace mn {

// a * b + c. For float always with one rounding of the product's error (double holds the product exactly where there is
// no fused instruction), so that error terms may be taken with it; for double fused only where the hardware does.
MN_FN float fma(float a, float b, float c) {
#if defined(MN_CUDA) || defined(__FMA__) || defined(__aarch64__)
  return ::fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}
MN_FN double fma(double a, double b, double c) {
#if defined(MN_CUDA) || defined(__FMA__) || defined(__aarch64__)
  return ::fma(a, b, c);
#else
  return a * b + c;
#endif
}

namespace detail {

template <class C>
struct float_parts;
template <>
struct float_parts<float> {
  using bits = uint32_t;
  using signed_bits = int32_t;
  static constexpr int mantissa = 23, bias = 127;
};
template <>
struct float_parts<double> {
  using bits = uint64_t;
  using signed_bits = int64_t;
  static constexpr int mantissa = 52, bias = 1023;
};
template <class C>
using bits_of = typename float_parts<C>::bits;

// Polynomial c0 + c1 x + c2 x^2 + ... by Horner's rule.
template <class C>
MN_FN C polynomial(C, C last) {
  return last;
}
template <class C, class... Rest>
MN_FN C polynomial(C x, C first, Rest... rest) {
  return fma(x, polynomial(x, rest...), first);
}

template <class C>
MN_FN C magnitude(C x) {
  return bit_cast<C>(static_cast<bits_of<C>>(bit_cast<bits_of<C>>(x) & (~bits_of<C>(0) >> 1)));
}
template <class C>
MN_FN C negative(C x) {  // -|x|
  return bit_cast<C>(static_cast<bits_of<C>>(bit_cast<bits_of<C>>(x) | ~(~bits_of<C>(0) >> 1)));
}
template <class C>
MN_FN C copy_sign(C magnitude_of, C sign_of) {
  constexpr bits_of<C> top = ~(~bits_of<C>(0) >> 1);
  return bit_cast<C>(
      static_cast<bits_of<C>>((bit_cast<bits_of<C>>(magnitude_of) & ~top) | (bit_cast<bits_of<C>>(sign_of) & top)));
}

// Nearest integer to x, |x| < 2^22 (2^51): as a number, and as the low bits of `shifted`.
template <class C>
struct rounded {
  C value;
  bits_of<C> shifted;
};
template <class C>
MN_FN rounded<C> round_near(C x) {
  constexpr C magic = sizeof(C) == 4 ? C(0x1.8p23) : C(0x1.8p52);
  const C sum = x + magic;
  return {sum - magic, bit_cast<bits_of<C>>(sum)};
}

// 2^n for -bias < n <= bias; n is taken from the low bits.
template <class C>
MN_FN C power_of_two(bits_of<C> n) {
  return bit_cast<C>(static_cast<bits_of<C>>((n + float_parts<C>::bias) << float_parts<C>::mantissa));
}

// x * 2^n in two exact steps and one rounding, so that subnormal results are rounded once.
template <class C>
MN_FN C scale(C x, bits_of<C> n) {
  using signed_bits = typename float_parts<C>::signed_bits;
  const bits_of<C> magic = sizeof(C) == 4 ? bits_of<C>(0x4b400000u) : static_cast<bits_of<C>>(0x4338000000000000ull);
  const signed_bits steps = static_cast<signed_bits>(n - magic);
  const bits_of<C> first = static_cast<bits_of<C>>(steps >> 1);
  return x * power_of_two<C>(first) * power_of_two<C>(static_cast<bits_of<C>>(steps) - first);
}

// The same for n <= 0 and down to -160 (-1100): cheaper, the second step is a constant.
MN_FN float scale_down(float x, uint32_t n) { return x * power_of_two<float>(n + 40u) * 0x1p-40f; }
MN_FN double scale_down(double x, uint64_t n) { return x * power_of_two<double>(n + 100u) * 0x1p-100; }

}  // namespace detail

template <class C>
MN_FN C abs(C x) {
  if constexpr (std::is_floating_point<C>::value) {
    return detail::magnitude(x);
  } else if constexpr (std::is_signed<C>::value) {
    return x < 0 ? static_cast<C>(0 - static_cast<uint64_t>(x)) : x;  // the lowest integer stays itself
  } else {
    return x;
  }
}

// NaN has sign 0, as in PyTorch.
template <class C>
MN_FN C sign(C x) {
  return static_cast<C>(static_cast<C>(x > C(0)) - static_cast<C>(x < C(0)));
}

MN_FN float floor(float x) { return ::floorf(x); }
MN_FN double floor(double x) { return ::floor(x); }
MN_FN float ceil(float x) { return ::ceilf(x); }
MN_FN double ceil(double x) { return ::ceil(x); }
MN_FN float trunc(float x) { return ::truncf(x); }
MN_FN double trunc(double x) { return ::trunc(x); }
MN_FN float round(float x) { return ::rintf(x); }  // half to even
MN_FN double round(double x) { return ::rint(x); }
MN_FN float sqrt(float x) { return ::sqrtf(x); }
MN_FN double sqrt(double x) { return ::sqrt(x); }
#if defined(MN_CUDA)
MN_FN float rsqrt(float x) { return ::rsqrtf(x); }
MN_FN double rsqrt(double x) { return ::rsqrt(x); }
#else
MN_FN float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
MN_FN double rsqrt(double x) { return 1.0 / ::sqrt(x); }
#endif

MN_FN float fmod(float x, float y) { return ::fmodf(x, y); }
MN_FN double fmod(double x, double y) { return ::fmod(x, y); }

// The result has the divisor's sign.
template <class C>
MN_FN C remainder(C x, C y) {
  if constexpr (std::is_floating_point<C>::value) {
    const C r = fmod(x, y);
    return ((r != C(0)) & ((r < C(0)) != (y < C(0)))) ? r + y : r;
  } else if constexpr (std::is_signed<C>::value) {
    const bool traps = (y == C(-1)) | (y == C(0));  // lowest % -1 and x % 0; PyTorch refuses the latter
    const C r = traps ? C(0) : static_cast<C>(x % y);
    return ((r != C(0)) & ((r < C(0)) != (y < C(0)))) ? static_cast<C>(r + y) : r;
  } else {
    return y == C(0) ? C(0) : static_cast<C>(x % y);
  }
}

template <class C>
MN_FN bool isnan(C x) {
  return x != x;
}
template <class C>
MN_FN bool isinf(C x) {
  if constexpr (std::is_floating_point<C>::value) {
    return detail::magnitude(x) == bounds<C>::highest;
  } else {
    return false;
  }
}
template <class C>
MN_FN bool isfinite(C x) {
  if constexpr (std::is_floating_point<C>::value) {
    return detail::magnitude(x) < bounds<C>::highest;
  } else {
    return true;
  }
}

}  // namespace mn
