// provides: sinh, cosh, tanh
#pragma once

#include "common/math/exp.h"
#include "common/math/short_forms.h"

namespace mn {

namespace detail {

// e^x / 2 and (e^x - 1) / 2 for 0 <= x <= 710.6: the halves do not overflow before the results do.
MN_FN double half_exp(double x) {
  const reduced<double> a = reduce_ln2(x);
  return scale(exp_near_zero(a.high, a.low).high, a.n - 1);
}
MN_FN double half_expm1(double x) {
  const reduced<double> a = reduce_ln2(x);
  const double r = a.high + a.low, power = power_of_two<double>(a.n - 2);
  return 2.0 * fma(power, fma(r * r, exp_tail(r), r), power - 0.25);
}

// tanh(x) = t / (t + 2), t = e^(2x) - 1, which is h / (1 + h) = h - h^2 / (1 + h) with h = t / 2; 1 from `one` on.
template <class C>
MN_FN C tanh_from_expm1(C x, C one) {
  const reduced<C> a = reduce_ln2(C(2) * at_most(magnitude(x), one));
  const C r = a.high + a.low, power = power_of_two<C>(a.n - 1);
  const C h = fma(power, fma(r * r, exp_tail(r), a.low), fma(power, a.high, power - C(0.5)));
  const bool small = h < C(0.6);
  return copy_sign((small ? h : C(0)) + (small ? -h * h : h) / (C(1) + h), x);
}

}  // namespace detail

#if defined(MN_CUDA)
MN_FN float sinh(float x) { return static_cast<float>(::sinh(static_cast<double>(x))); }  // sinhf errs by 3 ulp
MN_FN double sinh(double x) { return ::sinh(x); }
MN_FN float cosh(float x) { return static_cast<float>(::cosh(static_cast<double>(x))); }  // coshf as well
MN_FN double cosh(double x) { return ::cosh(x); }
template <class S = void>
MN_FN float tanh(float x) {
  return detail::is_16_bit<S> ? detail::tanh_16(x) : ::tanhf(x);
}
template <class S = void>
MN_FN double tanh(double x) { return ::tanh(x); }
#else
MN_FN double sinh(double x) {
  const double m = detail::magnitude(x), g = detail::half_expm1(detail::at_most(m, 710.5));
  const double result = g > 0x1p60 ? g : g + g / (2.0 * g + 1.0);
  return detail::copy_sign(m < 0x1p-28 ? x : result, x);
}
MN_FN float sinh(float x) { return static_cast<float>(sinh(static_cast<double>(x))); }
MN_FN double cosh(double x) {
  const double h = detail::half_exp(detail::at_most(detail::magnitude(x), 711.0));
  return h + 0.25 / h;
}
MN_FN float cosh(float x) { return static_cast<float>(cosh(static_cast<double>(x))); }
template <class S = void>
MN_FN float tanh(float x) { return detail::tanh_from_expm1(x, 9.02f); }
template <class S = void>
MN_FN double tanh(double x) { return detail::tanh_from_expm1(x, 19.1); }
#endif

}  // namespace mn
