// provides: erf, erfc
#pragma once

#include "common/math/exp.h"

namespace mn {

namespace detail {

// erfc(x) for x >= 0: exp(-x^2) times a rational function; x^2 carries its rounding error along.
MN_FN float erfc_positive(float x) {
  const float t = at_most(x, 10.5f);
  const float square = t * t, error = fma(t, t, -square);
  const reduced<float> a = reduce_ln2(-square);
  const float p = exp_near_zero(a.r - error);
  const float top = polynomial(t, 0x1p+0f, 0x1.3d43c2p+0f, 0x1.7710e2p-1f, 0x1.d65cf2p-3f, 0x1.0d711ep-5f);
  const float bottom = polynomial(t, 0x1p+0f, 0x1.2f10a0p+1f, 0x1.33bccap+1f, 0x1.53bf22p+0f, 0x1.a0e000p-2f, 0x1.dd9152p-5f);
  return scale(p * (top / bottom), a.n);
}

// erf(x) for 0 <= x <= 7/8
MN_FN float erf_near_zero(float x) {
  const float z = x * x;
  return x * polynomial(z, 0x1.20dd76p+0f, -0x1.8127440p-2f, 0x1.ce2e860p-4f, -0x1.b819d20p-6f, 0x1.553c280p-8f,
                        -0x1.ae8b700p-11f, 0x1.6c053a0p-14f);
}

}  // namespace detail

#if defined(MN_CUDA)
MN_FN float erf(float x) { return ::erff(x); }
#else
MN_FN float erf(float x) {
  const float m = detail::magnitude(x);
  const float near = detail::erf_near_zero(m), far = 1.0f - detail::erfc_positive(m);
  return detail::copy_sign(m < 0.875f ? near : far, x);
}
#endif
MN_FN float erfc(float x) {
  const float y = detail::erfc_positive(detail::magnitude(x));
  return x < 0.0f ? 2.0f - y : y;
}
MN_FN double erf(double x) { return ::erf(x); }
MN_FN double erfc(double x) { return ::erfc(x); }

}  // namespace mn
