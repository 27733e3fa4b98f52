// provides: erf, erfc
#pragma once

#include "common/math/exp.h"

namespace mn {

namespace detail {

// factor e^(high + low) g(t) 2^-n, and n, for -110 <= high + low <= 0 and 0 <= t <= 14.5, where
// g(t) = e^(t^2/2) erfc(t / sqrt(2)) / 2 and t + 1.9921875 = denominator + denominator_low. That is the normal
// distribution's tail where high + low = -t^2/2.
// g is a polynomial in w = (t - a) / (t + a) over t + a, a = 1.9921875: a minimax fit of (t + a) g(t), relative error
// 2^-27.9; a is short, so that denominator - a is exact, and such that the first coefficient is nearly a float. Every
// product carries its rounding error along: in plain float they would add up to 6 ulp.
struct scaled_tail {
  float value;
  uint32_t n;
};
MN_FN scaled_tail normal_tail(float factor, float high, float low, float denominator, float denominator_low) {
  const float r = 1.0f / denominator;
  // of r, relative, and of g(t): d ln g / d ln r is 1.12 + r to 0.08
  const float r_error = fma(-r, denominator_low, fma(-r, denominator, 1.0f)) * (1.12f + r);
  const float w = fma(-3.984375f, r, 1.0f), first = 0x1.57ee3ep-1f;
  const float slope = polynomial(w, -0x1.517620p-2f, 0x1.be30c0p-6f, 0x1.2d94acp-5f, -0x1.e772c0p-14f, -0x1.b717d0p-8f,
                                 -0x1.0ad3acp-9f, 0x1.994ccap-11f, 0x1.b9e7e4p-11f, 0x1.38d5a4p-13f, -0x1.2ff50ep-13f,
                                 -0x1.178ce2p-14f);
  const float h = fma(w, slope, first), h_low = fma(w, slope, first - h);
  const reduced<float> a = reduce_ln2(high);
  const float rest = a.low + low, s = a.high + rest;
  const float e = fma(s * s, exp_tail_short(s), rest) + a.high;  // e^s - 1
  const float part = factor * r, product = part * h;
  const float error = fma(product, r_error, fma(fma(factor, r, -part), h, fma(part, h_low, fma(part, h, -product))));
  return {product + fma(product, e, fma(error, e, error)), a.n};
}

// erfc(x) for x >= 0
MN_FN float erfc_nonnegative(float x) {
  const float t = at_most(x, 10.25f), square = t * t;
  const float denominator = fma(0x1.6a09e6p+0f, t, 1.9921875f);
  const float denominator_low = fma(0x1.6a09e6p+0f, t, 1.9921875f - denominator) + 0x1.9fcef4p-26f * t;
  const scaled_tail q = normal_tail(2.0f, -square, fma(-t, t, square), denominator, denominator_low);
  return scale_down(q.value, q.n);
}

// erf(x) for 0 <= x <= 0.9
MN_FN float erf_near_zero(float x) {
  return fma(x,
             polynomial(x * x, 0x1.06eba8p-3f, -0x1.812742p-2f, 0x1.ce2dfap-4f, -0x1.b80ee8p-6f, 0x1.54d5a2p-8f,
                        -0x1.aafd08p-11f, 0x1.5fff36p-14f),
             x);
}

}  // namespace detail

#if defined(MN_CUDA)
MN_FN float erf(float x) { return ::erff(x); }
#else
MN_FN float erf(float x) {
  const float m = detail::magnitude(x);
  const float far = 1.0f - detail::erfc_nonnegative(m);
  return detail::copy_sign(m < 0.875f ? detail::erf_near_zero(m) : far, x);
}
#endif
MN_FN float erfc(float x) {
  const float y = detail::erfc_nonnegative(detail::magnitude(x));
  return x < 0.0f ? 2.0f - y : y;
}
MN_FN double erf(double x) { return ::erf(x); }
MN_FN double erfc(double x) { return ::erfc(x); }

}  // namespace mn
