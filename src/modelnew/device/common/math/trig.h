// provides: sin, cos, tan
#pragma once

#include "common/math/base.h"

namespace mn {

#if defined(MN_CUDA)
MN_FN float sin(float x) { return ::sinf(x); }
MN_FN float cos(float x) { return ::cosf(x); }
MN_FN float tan(float x) { return static_cast<float>(::tan(static_cast<double>(x))); }  // tanf errs by 4 ulp
#else

namespace detail {

// 64 bits of 2/pi (behind 32 zeros) from bit 32 `word` on, word = 0 ... 6. Selected, not looked up: a gather costs
// more.
MN_FN uint64_t two_over_pi(uint32_t word) {
  const uint64_t first = word & 1u ? 0xa2f9836e4e441529ull : 0x00000000a2f9836eull;
  const uint64_t second = word & 1u ? 0xfc2757d1f534ddc0ull : 0x4e441529fc2757d1ull;
  const uint64_t third = word & 1u ? 0xdb6295993c439041ull : 0xf534ddc0db629599ull;
  const uint64_t lower = word & 2u ? second : first;
  return word & 4u ? (word & 2u ? 0x3c439041fe5163abull : third) : lower;
}

// |x| = (quadrant + fraction) * pi/2 with |fraction| <= 1/2, for every finite float: the product of the 24-bit mantissa
// with the 96 bits of 2/pi that decide the result modulo 4, in units of 2^-62.
struct quarter_turns {
  double angle;  // fraction * pi/2, in radians
  uint32_t quadrant;
};
MN_FN quarter_turns reduce_angle(float x) {
  const uint32_t bits = bit_cast<uint32_t>(magnitude(x));
  const uint32_t biased = bits >> 23;
  const uint32_t position = (biased < 126u ? 126u : biased) - 120u, word = position >> 5;
  const uint64_t mantissa = uint64_t((bits & 0x7fffffu) | 0x800000u) & 0xffffffffu;
  const uint64_t shift = position & 31u;
  const uint64_t high = two_over_pi(word), low = two_over_pi(word + 2);
  const uint64_t window = (high << shift) | ((low >> 1) >> (63u - shift));
  // 32 x 32 bit products; of the highest only the low half counts
  const uint64_t turns = ((mantissa * (window >> 32)) << 32) + mantissa * (window & 0xffffffffu) +
                         ((mantissa * ((low << shift) >> 32)) >> 32);
  const uint64_t quadrant = (turns + (1ull << 61)) >> 62;
  const double angle = static_cast<double>(static_cast<int64_t>(turns - (quadrant << 62))) * 0x1.921fb54442d18p-62;
  const bool small = biased < 126u;  // below 1/2, where the fixed point would lose digits
  return {small ? static_cast<double>(magnitude(x)) : angle, small ? 0u : static_cast<uint32_t>(quadrant)};
}

// |x| <= pi/4, good to 2^-43
MN_FN double sin_near_zero(double x) {
  const double z = x * x;
  return fma(x * z,
             polynomial(z, -0x1.5555555552385p-3, 0x1.1111110c9a245p-7, -0x1.a019f94ee112bp-13, 0x1.71d776a3027a5p-19,
                        -0x1.a9648ad0e732cp-26),
             x);
}
MN_FN double cos_near_zero(double x) {
  const double z = x * x;
  return fma(z,
             polynomial(z, -0x1.ffffffffebcafp-2, 0x1.55555546d80b7p-5, -0x1.6c16b3ec9c97dp-10, 0x1.a00f06d99cb74p-16,
                        -0x1.23d6098e3f896p-22),
             1.0);
}

MN_FN float sin_of_quadrant(double angle, uint32_t quadrant) {
  const double value = quadrant & 1u ? cos_near_zero(angle) : sin_near_zero(angle);
  return static_cast<float>(quadrant & 2u ? -value : value);
}

MN_FN float nan_unless_finite(float x, float result) { return isfinite(x) ? result : bounds<float>::nan; }

}  // namespace detail

MN_FN float sin(float x) {
  const detail::quarter_turns a = detail::reduce_angle(x);
  const float result = detail::sin_of_quadrant(a.angle, a.quadrant);
  return detail::nan_unless_finite(x,
                                   bit_cast<float>(bit_cast<uint32_t>(result) ^ (bit_cast<uint32_t>(x) & 0x80000000u)));
}
MN_FN float cos(float x) {
  const detail::quarter_turns a = detail::reduce_angle(x);
  return detail::nan_unless_finite(x, detail::sin_of_quadrant(a.angle, a.quadrant + 1u));
}
MN_FN float tan(float x) {
  const detail::quarter_turns a = detail::reduce_angle(x);
  const double s = detail::sin_near_zero(a.angle), c = detail::cos_near_zero(a.angle);
  const float result = static_cast<float>(a.quadrant & 1u ? -c / s : s / c);
  return detail::nan_unless_finite(x,
                                   bit_cast<float>(bit_cast<uint32_t>(result) ^ (bit_cast<uint32_t>(x) & 0x80000000u)));
}
#endif

MN_FN double sin(double x) { return ::sin(x); }
MN_FN double cos(double x) { return ::cos(x); }
MN_FN double tan(double x) { return ::tan(x); }

}  // namespace mn
