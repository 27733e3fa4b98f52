// provides: sigmoid, logsigmoid, softplus, gelu, gelu_tanh, silu, mish
#pragma once

#include "common/compare.h"
#include "common/forms.h"
#include "common/math/erf.h"
#include "common/math/exp.h"
#include "common/math/short_forms.h"

namespace mn {

namespace detail {

// e^x = (p + low) 2^n for x <= 0, not yet multiplied: what is multiplied in first is rounded once, subnormal or not.
template <class C>
struct exp_parts {
  C p, low;
  bits_of<C> n;
};
template <class C>
MN_FN exp_parts<C> exp_nonpositive(C x, C extra = C(0)) {
  const reduced<C> a = reduce_ln2(at_least(x, sizeof(C) == 4 ? C(-110) : C(-750)));
  const split_value<C> e = exp_near_zero(a.high, a.low + extra);
  return {e.high, e.low, a.n};
}

// x / (1 + e^-v), v = high + low of the sign of x. `vanished`: the result is 0 (NaN for x = -inf).
// For v < 0 it is x e / (1 + e) with e = e^v; product and sum carry their rounding errors along, and e is scaled last.
template <class C>
MN_FN C times_sigmoid(C x, C high, C low, bool vanished) {
  const bool negative = x < C(0);
  const exp_parts<C> e = exp_nonpositive(negative ? high : -high, negative ? low : -low);
  const C power = scale_down(e.p, e.n), below = C(1) + power, below_low = power - (below - C(1));
  const C quotient = (negative ? C(1) : x) / below;
  const C product = x * e.p, product_low = fma(x, e.p, -product) + x * e.low;
  const C rest = fma(-product * quotient, below_low, product_low);
  const C result = scale_down(fma(product, quotient, rest * quotient), e.n);
  return negative ? (vanished ? x * C(0) : result) : quotient;
}

// log(1 + x) for 0 <= x <= 1
MN_FN float log1p_unit(float x) {
  const float s = x / (2.0f + x), z = s * s, h = 0.5f * x * x;
  const float q = z * polynomial(z, 0x1.555558p-1f, 0x1.9996d8p-2f, 0x1.25051p-2f, 0x1.b72bb8p-3f, 0x1.f08af8p-3f);
  return x - (h - s * (h + q));
}
MN_FN double log1p_unit(double x) {
  // above sqrt(2) - 1 halved first, so that the series' argument stays small; 1 + x is exact enough there
  const bool upper = x > 0x1.a827999fcef32p-2;
  const double f = upper ? 0.5 * (x - 1.0) : x;
  const double s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
  const double q =
      z * polynomial(z, 0x1.5555555555555p-1, 0x1.9999999999eaap-2, 0x1.249249241de9fp-2, 0x1.c71c72689fc64p-3,
                     0x1.745cd958158a1p-3, 0x1.3b217f5a4ae87p-3, 0x1.0f4a36fef552dp-3, 0x1.100b29cab2adep-3);
  const double near = f - (h - s * (h + q));
  return upper ? 0x1.62e42fefa39efp-1 + (near + 0x1.abc9e3b39803fp-56) : near;
}

#if !defined(MN_CUDA)
// c / (c + c e^-x), c = 2^-64, so that e^110 is no infinity yet. e^-x = 2^n (1 + f p); 2^n + c is exact or what it lacks is
// added later, so that only the last sum and the quotient round. NaN goes through f.
MN_FN float sigmoid_scaled(float x) {
  constexpr float c = 0x1p-64f, magic = 0x1.8p23f + 127.0f - 64.0f;
  const float within = at_most(x, 40.0f), shifted = fma(within, -0x1.715476p+0f, magic);
  const int32_t bits = bit_cast<int32_t>(shifted), most = bit_cast<int32_t>(magic + 160.0f);
  const float limited = bit_cast<float>(bits < most ? bits : most), n = limited - magic;
  const float power = bit_cast<float>(bit_cast<uint32_t>(limited) << 23);
  const float f = fma(within, -0x1.4ae0c0p-26f, fma(within, -0x1.715476p+0f, -n));
  const float sum = power + c, lacks = c - (sum - power);
  return c / (sum + fma(power * f, exp2_slope(f), lacks));
}
#endif

}  // namespace detail

// S: what the result will be rounded to. On CUDA a 16-bit type takes fewer instructions.
template <class S = void, class C>
MN_FN C sigmoid(C x) {
#if defined(MN_CUDA)
  if constexpr (detail::is_16_bit<S>) return detail::sigmoid_16(x);
  if constexpr (sizeof(C) == 4) return detail::sigmoid_short(x);
#else
  if constexpr (sizeof(C) == 4) return detail::sigmoid_scaled(x);
#endif
  // g = e / (1 + e) for x < 0 and 1 - g above, as e - e g and 1 - g: there the quotient's roundings weigh less
  const C e = detail::decay(x), g = e / (C(1) + e), whole = x < C(0) ? e : C(1);
  return fma(-g, whole, whole);
}

template <class C>
MN_FN C logsigmoid(C x) {
  return (x < C(0) ? x : C(0)) - detail::log1p_unit(detail::decay(x));
}

// log(1 + e^(beta x)) / beta; x itself where beta x > threshold
template <class C>
MN_FN C softplus(C x, C beta, C threshold) {
  const C z = x * beta;
  const C result = ((z > C(0) ? z : C(0)) + detail::log1p_unit(detail::decay(z))) / beta;
  return z > threshold ? x : result;
}

template <class S = void, class C>
MN_FN C silu(C x) {
#if defined(MN_CUDA)
  if constexpr (detail::is_16_bit<S>) return detail::silu_16(x);
  if constexpr (sizeof(C) == 4) return detail::silu_short(x);
#endif
  return detail::times_sigmoid(x, x, C(0), x < (sizeof(C) == 4 ? C(-110) : C(-750)));
}

namespace detail {

// x times the normal distribution function of x, wherever x is.
MN_SELDOM float gelu_anywhere(float x) {
  const float t = at_most(magnitude(x), 14.5f), square = t * t, denominator = t + 1.9921875f;
  const scaled_tail q = normal_tail(t, -0.5f * square, 0.5f * fma(-t, t, square), denominator,
                                                    t - (denominator - 1.9921875f));
  const float tail = scale_down(q.value, q.n);  // t (1 - Phi(t))
  return (x < 0.0f ? x * 0.0f : x) - tail;
}

}  // namespace detail

// x times the normal distribution function of x
template <class S = void>
MN_FN float gelu(float x) {
#if defined(MN_CUDA)
  if constexpr (detail::is_16_bit<S>) return detail::gelu_16(x);
  float result = detail::gelu_near(x);
  if (detail::magnitude(x) > 3.4f) result = detail::gelu_anywhere(x);  // seldom: then a warp does both
  return result;
#else
  return detail::gelu_anywhere(x);
#endif
}
template <class S = void>
MN_FN float gelu([[maybe_unused]] usual_form& form, float x) {
#if defined(MN_CUDA)
  if constexpr (!detail::is_16_bit<S>) {
    form.strayed |= detail::magnitude(x) > 3.4f;
    return detail::gelu_near(x);
  }
#endif
  return gelu<S>(x);
}
template <class S = void>
MN_FN float gelu(any_form, float x) {
  if constexpr (detail::is_16_bit<S>) return gelu<S>(x);
  return detail::gelu_anywhere(x);
}
template <class S = void>
MN_FN double gelu(double x) { return x * (0.5 * erfc(-0x1.6a09e667f3bcdp-1 * x)); }
template <class S = void, class Form>
MN_FN double gelu(Form&, double x) { return gelu<S>(x); }

// x / (1 + e^-v), v = 2 sqrt(2/pi) (x + 0.044715 x^3): v carries its rounding error, which the exponential would
// enlarge.
template <class S = void>
MN_FN float gelu_tanh(float x) {
#if defined(MN_CUDA)
  return detail::is_16_bit<S> ? detail::gelu_tanh_16(x) : detail::gelu_tanh_short(x);
#endif
  const float t = detail::at_least(detail::at_most(x, 11.0f), -11.0f);
  const float square = t * t, square_low = fma(t, t, -square);
  const float cubic = 0x1.2444f2p-4f * square;
  const float cubic_low =
      fma(0x1.2444f2p-4f, square, -cubic) + fma(0x1.2444f2p-4f, square_low, 0x1.49b16ap-29f * square);
  const float slope = 0x1.988454p+0f + cubic, part = slope - 0x1.988454p+0f;
  const float slope_low = ((0x1.988454p+0f - (slope - part)) + (cubic - part)) + (cubic_low - 0x1.857936p-25f);
  const float v = t * slope;
  return detail::times_sigmoid(x, v, fma(t, slope, -v) + t * slope_low, x < -11.0f);
}
template <class S = void>
MN_FN double gelu_tanh(double x) {
  const double t = detail::at_least(detail::at_most(x, 25.0), -25.0);
  const double v = t * fma(0x1.2444f2a4d8b4bp-4, t * t, 0x1.9884533d43651p+0);
  return detail::times_sigmoid(x, v, 0.0, x < -25.0);
}

// x tanh(softplus(x)) = x n / (n + 2) with n = e^2 + 2e, e = e^x; for x > 0 both are divided by e^2x. Written as
// x (1 - q), and x e (1 - q) below 0, so that the quotient's roundings weigh less.
template <class C>
MN_FN C mish(C x) {
  const bool negative = x < C(0);
  const detail::exp_parts<C> a = detail::exp_nonpositive(-detail::magnitude(x));
  const C e = detail::scale_down(a.p, a.n), above = C(1) + e;
  const C square = e * e, above_low = e - (above - C(1));
  const C q = (negative ? fma(e, e, e) : C(2) * square) /
              fma(above, above, fma(C(2) * above, above_low, negative ? C(1) : square));
  // `low` also moves q, by about 3/4 of its relative size
  const C low = x * a.low, product = x * a.p, product_low = fma(x, a.p, -product) + low;
  const C rest = fma(-product, q, fma(-q, fma(C(0.75), low, product_low), product_low));
  const C below = detail::scale_down(product + rest, a.n);
  const C tail = x < (sizeof(C) == 4 ? C(-110) : C(-750)) ? x * C(0) : below;
  const C result = negative ? tail : fma(-detail::at_most(x, C(750)), q, x);  // q is 0 there, infinity times it NaN
  return detail::copy_sign(result, x);  // mish(-0) is -0
}

}  // namespace mn
