// provides: asin, acos, atan, atan2
#pragma once

#include "common/math/base.h"

namespace mn {

namespace detail {

// asin(s) for 0 <= s <= 5/8, z = s^2
MN_FN float asin_near_zero(float s, float z) {
  return fma(s * z,
             polynomial(z, 0x1.555576p-3f, 0x1.332376p-4f, 0x1.7044cap-5f, 0x1.bff7b8p-6f, 0x1.3647c2p-5f,
                        -0x1.8a0190p-6f, 0x1.076144p-4f),
             s);
}

// asin(m) below 5/8; from there on asin(sqrt((1 - m) / 2)), for asin(m) = pi/2 - 2 asin(sqrt((1 - m) / 2)). NaN for m
// > 1.
MN_FN float asin_or_half(float m, bool direct) {
  const float z = direct ? m * m : 0.5f * (1.0f - m);
  return asin_near_zero(direct ? m : sqrt(z), z);
}

// atan(q) for 0 <= q <= 1
MN_FN float atan_below_one(float q) {
  const float z = q * q;
  return fma(q * z,
             polynomial(z, -0x1.55553ep-2f, 0x1.9991e6p-3f, -0x1.2420b4p-3f, 0x1.c08f2ep-4f, -0x1.581456p-4f,
                        0x1.da59eap-5f, -0x1.fdefc4p-6f, 0x1.64b212p-7f, -0x1.d4782ap-10f),
             q);
}

constexpr float half_pi = 0x1.921fb6p+0f, half_pi_low = -0x1.777a5cp-25f;
constexpr float whole_pi = 0x1.921fb6p+1f, whole_pi_low = -0x1.777a5cp-24f;

}  // namespace detail

MN_FN float asin(float x) {
  const float m = detail::magnitude(x);
  const bool direct = m < 0.625f;
  const float a = detail::asin_or_half(m, direct);
  return detail::copy_sign(direct ? a : detail::half_pi - (2.0f * a - detail::half_pi_low), x);
}
MN_FN float acos(float x) {
  const float m = detail::magnitude(x);
  const bool direct = m < 0.625f, negative = x < 0.0f;
  const float a = detail::asin_or_half(m, direct), twice = 2.0f * a;
  const float near = detail::half_pi - ((negative ? -a : a) - detail::half_pi_low);
  return direct ? near : (negative ? detail::whole_pi - (twice - detail::whole_pi_low) : twice);
}
MN_FN float atan(float x) {
  const float m = detail::magnitude(x);
  const bool beyond = m > 1.0f;
  const float a = detail::atan_below_one(beyond ? 1.0f / m : m);
  return detail::copy_sign(beyond ? detail::half_pi - (a - detail::half_pi_low) : a, x);
}
MN_FN float atan2(float y, float x) {
  const float ay = detail::magnitude(y), ax = detail::magnitude(x);
  const bool steep = ay > ax;
  const float small = steep ? ax : ay, large = steep ? ay : ax;
  // 0/0 is angle 0, inf/inf is 45 degrees, as IEEE 754 has them
  float q = small == large ? (large == 0.0f ? 0.0f : 1.0f) : small / large;
  q = (x != x) | (y != y) ? x + y : q;
  float a = detail::atan_below_one(q);
  a = steep ? detail::half_pi - (a - detail::half_pi_low) : a;
  a = bit_cast<uint32_t>(x) >> 31 ? detail::whole_pi - (a - detail::whole_pi_low) : a;
  return detail::copy_sign(a, y);
}

MN_FN double asin(double x) { return ::asin(x); }
MN_FN double acos(double x) { return ::acos(x); }
MN_FN double atan(double x) { return ::atan(x); }
MN_FN double atan2(double y, double x) { return ::atan2(y, x); }

}  // namespace mn
