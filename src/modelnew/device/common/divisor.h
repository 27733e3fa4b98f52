// Division of many numbers by one: the reciprocal is taken once, in two parts.
#pragma once

#include "common/math/base.h"

namespace mn {

// a / d is fma(a', high, a' low) with a' = a * factor: the sum of the parts is the reciprocal to 2^-46, so the quotient is
// rounded as a division rounds it but for rare cases, which are 1 ulp off, most of them subnormal. `factor` is a power of
// two that keeps both parts normal numbers. They have one sign and neither is 0, so that infinities, zeros and their signs
// come out as a division's do.
struct reciprocal {
  float factor, high, low;
};

MN_FN float divisor_below(float x) {  // the float next to x, towards 0
  return bit_cast<float>(bit_cast<uint32_t>(x) - 1u);
}

MN_FN reciprocal divisor(float d) {
  const float size = detail::magnitude(d);
  if (!(size > 0.0f && size < bounds<float>::highest)) return {1.0f, 1.0f / d, 1.0f / d};  // 0, infinite or NaN
  const float factor = size > 0x1p64f ? 0x1p-64f : size < 0x1p-64f ? 0x1p64f : 1.0f;
  const float scaled = d * factor, nearest = 1.0f / scaled;
  const float high = fma(-scaled, nearest, 1.0f) < 0.0f ? divisor_below(nearest) : nearest;
  const float rest = fma(-scaled, high, 1.0f) * high;
  return {factor, high, rest != 0.0f ? rest : high * 0x1p-60f};
}
MN_FN float operator/(float a, const reciprocal& d) {
  const float scaled = a * d.factor;
  return fma(scaled, d.high, scaled * d.low);
}

// Other types are divided as they are.
template <class C>
MN_FN C divisor(C d) {
  return d;
}

}  // namespace mn
