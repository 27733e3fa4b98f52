// provides: erf, erfc
#pragma once

#include "common/math/exp.h"

namespace mn {

namespace detail {

// erfc(x) for x >= 0: exp(-x^2) times a rational function, in double: in float the many roundings would add up to 5
// ulp.
MN_FN double erfc_for_float(double x) {
  const double t = at_most(x, 10.5);
  const double top = polynomial(t, 0x1.0000001962dafp+0, 0x1.3d45b457c1dc3p+0, 0x1.7715a1dc2b509p-1,
                                0x1.d6672328e33edp-3, 0x1.0d7b9bd9b66a7p-5);
  const double bottom = polynomial(t, 1.0, 0x1.2f1199a80b5b1p+1, 0x1.33bf11f90838ap+1, 0x1.53c3a1eddb388p+0,
                                   0x1.a0e908b6bba8bp-2, 0x1.dda3eb416a5a7p-5);
  return exp_for_float(-t * t) * top * reciprocal_for_float(bottom);
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
  const float far = static_cast<float>(1.0 - detail::erfc_for_float(m));
  return detail::copy_sign(m < 0.875f ? detail::erf_near_zero(m) : far, x);
}
#endif
MN_FN float erfc(float x) {
  const double y = detail::erfc_for_float(detail::magnitude(x));
  return static_cast<float>(x < 0.0f ? 2.0 - y : y);
}
MN_FN double erf(double x) { return ::erf(x); }
MN_FN double erfc(double x) { return ::erfc(x); }

}  // namespace mn
