// provides: pow
#pragma once

#include "common/math/exp.h"
#include "common/math/log.h"

namespace mn {

namespace detail {

// base^exponent of an integer; exponents below 0 give what is left of 1 / base.
template <class C>
MN_FN C integer_pow(C base, C exponent) {
  if constexpr (std::is_signed<C>::value) {
    if (exponent < 0) {
      if (base == C(1)) return C(1);
      if (base == C(-1)) return exponent % 2 == 0 ? C(1) : C(-1);
      return C(0);
    }
  }
  uint64_t result = 1, factor = static_cast<uint64_t>(base);
  for (uint64_t left = static_cast<uint64_t>(exponent); left != 0; left >>= 1) {
    result *= left & 1 ? factor : 1;
    factor *= factor;
  }
  return static_cast<C>(result);
}

}  // namespace detail

MN_FN double pow(double x, double y) { return ::pow(x, y); }

// In double, whose logarithm has the digits that a float result needs.
MN_FN float pow(float x, float y) {
  const float result =
      static_cast<float>(exp2(static_cast<double>(y) * log2(static_cast<double>(detail::magnitude(x)))));
  const float half = 0.5f * y;
  const bool integer = trunc(y) == y, odd = integer & (trunc(half) != half);
  const bool negative = (bit_cast<uint32_t>(x) >> 31) != 0;
  float signed_result = negative & odd ? -result : result;
  signed_result = (x < 0.0f) & !integer & isfinite(x) ? bounds<float>::nan : signed_result;
  const bool one = (y == 0.0f) | (x == 1.0f) | ((x == -1.0f) & isinf(y));
  return one ? 1.0f : signed_result;
}

template <class C, class = std::enable_if_t<std::is_integral<C>::value>>
MN_FN C pow(C base, C exponent) {
  return detail::integer_pow(base, exponent);
}

}  // namespace mn
