// provides: sinh, cosh, tanh
#pragma once

#include "common/math/exp.h"

namespace mn {

namespace detail {

// e^x / 2 and (e^x - 1) / 2 for 0 <= x: the halves do not overflow before the results do.
MN_FN double half_exp(double x) {
  const reduced<double> a = reduce_ln2(at_most(x, 711.0));
  return scale(exp_near_zero(a.r), a.n - 1);
}
MN_FN double half_expm1(double x) {
  const reduced<double> a = reduce_ln2(at_most(x, 711.0));
  const double power = power_of_two<double>(a.n - 1);
  return fma(power, expm1_near_zero(a.r), power - 0.5);
}

// tanh(x) = t / (t + 2) with t = e^(2x) - 1; 1 from `one` on.
template <class C>
MN_FN C tanh_from_expm1(C x, C one) {
  const reduced<C> a = reduce_ln2(C(2) * at_most(magnitude(x), one));
  const C power = power_of_two<C>(a.n);
  const C t = fma(power, expm1_near_zero(a.r), power - C(1));
  return copy_sign(t / (t + C(2)), x);
}

}  // namespace detail

#if defined(MN_CUDA)
MN_FN float sinh(float x) { return static_cast<float>(::sinh(static_cast<double>(x))); }  // sinhf errs by 3 ulp
MN_FN double sinh(double x) { return ::sinh(x); }
MN_FN float cosh(float x) { return ::coshf(x); }
MN_FN double cosh(double x) { return ::cosh(x); }
MN_FN float tanh(float x) { return ::tanhf(x); }
MN_FN double tanh(double x) { return ::tanh(x); }
#else
MN_FN double sinh(double x) {
  const double g = detail::half_expm1(detail::magnitude(x));
  const double result = g + g / (2.0 * g + 1.0);
  return detail::copy_sign(detail::magnitude(x) < 0x1p-28 ? x : result, x);
}
MN_FN float sinh(float x) { return static_cast<float>(sinh(static_cast<double>(x))); }
MN_FN double cosh(double x) {
  const double h = detail::half_exp(detail::magnitude(x));
  return h + 0.25 / h;
}
MN_FN float cosh(float x) { return static_cast<float>(cosh(static_cast<double>(x))); }
MN_FN float tanh(float x) { return detail::tanh_from_expm1(x, 9.02f); }
MN_FN double tanh(double x) { return detail::tanh_from_expm1(x, 19.1); }
#endif

}  // namespace mn
