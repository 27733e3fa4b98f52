// provides: exp, exp2, expm1, exp_below
#pragma once

#include "common/math/base.h"

namespace mn {

namespace detail {

// x = n ln2 + high + low with |high + low| <= ln2 / 2. The first part of ln2 is short: n times it is exact, and so is
// `high`.
template <class C>
struct reduced {
  C high, low;
  bits_of<C> n;  // low bits of the shifted integer
};
MN_FN reduced<float> reduce_ln2(float x) {
  const rounded<float> n = round_near(x * 0x1.715476p+0f);
  return {fma(n.value, -0x1.62e400p-1f, x), n.value * -0x1.7f7d1cp-20f, n.shifted};
}
MN_FN reduced<double> reduce_ln2(double x) {
  const rounded<double> n = round_near(x * 0x1.71547652b82fep+0);
  return {fma(n.value, -0x1.62e42feep-1, x), n.value * -0x1.a39ef35793c76p-33, n.shifted};
}

// (e^r - 1 - r) / r^2 for |r| <= ln2 / 2
MN_FN float exp_tail(float r) {
  return polynomial(r, 0x1p-1f, 0x1.555554p-3f, 0x1.5554f6p-5f, 0x1.1112fcp-7f, 0x1.6d3c7cp-10f, 0x1.9e21c2p-13f);
}
MN_FN double exp_tail(double r) {
  return polynomial(r, 0x1.0000000000000p-1, 0x1.5555555555559p-3, 0x1.555555555553fp-5, 0x1.111111110f6d6p-7,
                    0x1.6c16c16c1f0b1p-10, 0x1.a01a01afd5238p-13, 0x1.a01a017bb5e19p-16, 0x1.71ddf87bda427p-19,
                    0x1.27e5364e1e89ap-22, 0x1.af5e79a4607a1p-26, 0x1.1ee85523420a3p-29);
}

// (2^f - 1) / f for |f| <= 1/2
MN_FN float exp2_slope(float f) {
  return polynomial(f, 0x1.62e430p-1f, 0x1.ebfbdcp-3f, 0x1.c6af7ap-5f, 0x1.3b2dd4p-7f, 0x1.5f094ap-10f,
                    0x1.417852p-13f);
}

// e^(high + low) as a sum whose second part is below the rounding of the first
template <class C>
struct split_value {
  C high, low;
};
MN_FN float exp_tail_short(float r) {  // enough next to 1, not next to r
  return polynomial(r, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558aep-5f, 0x1.12397cp-7f, 0x1.6a4ef0p-10f);
}
MN_FN double exp_tail_short(double r) { return exp_tail(r); }
template <class C>
MN_FN split_value<C> exp_near_zero(C high, C low) {
  const C r = high + low, start = C(1) + high, rest = (high - (start - C(1))) + low;
  const C tail = fma(r * r, exp_tail_short(r), rest), sum = start + tail;
  return {sum, (start - sum) + tail};
}

// A limit that the compiler does not know: from one that it knows gcc makes a comparison and a blend where there is one
// instruction for both.
#if defined(MN_CUDA)
template <class C>
MN_FN C unknown(C limit) {
  return limit;
}
#else
inline int32_t nothing = 0;
template <class C>
MN_FN C unknown(C limit) {
  return limit + static_cast<C>(nothing);
}
#endif

// Clamps that let NaN through: outside them the result is 0, infinity or -1 whatever the argument.
template <class C>
MN_FN C at_most(C x, C limit) {
  const C most = unknown(limit);
  return x > most ? most : x;
}
template <class C>
MN_FN C at_least(C x, C limit) {
  const C least = unknown(limit);
  return x < least ? least : x;
}
template <class C>
MN_FN C within(C x, C limit) {  // -limit to limit: cheaper than both of the above
  return copy_sign(at_most(magnitude(x), limit), x);
}

// e^x, x clamped already. The low bits of the shifted integer are the exponent field of 2^(n + shift), and `back` is
// 2^-shift: where the result is subnormal it is rounded once, and 2^128 (2^1024) does not overflow early.
MN_FN float exp_shifted(float x, float shift, float back) {
  const float magic = 0x1.8p23f + 127.0f + shift, shifted = fma(x, 0x1.715476p+0f, magic), n = shifted - magic;
  const float power = bit_cast<float>(bit_cast<uint32_t>(shifted) << 23);
  const float r = fma(n, -0x1.7f7d1cp-20f, fma(n, -0x1.62e400p-1f, x));
  return fma(power, fma(r * r, exp_tail_short(r), r), power) * back;
}
MN_FN double exp_shifted(double x, double shift, double back) {
  const double magic = 0x1.8p52 + 1023.0 + shift, shifted = fma(x, 0x1.71547652b82fep+0, magic), n = shifted - magic;
  const double power = bit_cast<double>(bit_cast<uint64_t>(shifted) << 52);
  const double r = fma(n, -0x1.a39ef35793c76p-33, fma(n, -0x1.62e42feep-1, x));
  return fma(power, fma(r * r, exp_tail(r), r), power) * back;
}

// e^-|x|
MN_FN float decay(float x) { return exp_shifted(at_least(negative(x), -110.0f), 40.0f, 0x1p-40f); }
MN_FN double decay(double x) { return exp_shifted(at_least(negative(x), -750.0), 100.0, 0x1p-100); }

// e^x for results of 16 bits, up to 2^96. The power is moved by 2^32: a bf16 may be below the normal floats.
MN_FN float exp_16(float x) { return exp2_near(fma(x, 0x1.715476p+0f, 32.0f)) * 0x1p-32f; }

// e^x - 1 for x <= 89 (709.8): half of 2^n is used, so that n = 128 (1024) does not overflow early.
template <class C>
MN_FN C expm1_within(C x) {
  const reduced<C> a = reduce_ln2(x);
  const C r = a.high + a.low, half_power = power_of_two<C>(a.n - 1);
  const C result = C(2) * fma(half_power, fma(r * r, exp_tail(r), a.low), fma(half_power, a.high, half_power - C(0.5)));
  return magnitude(x) < (sizeof(C) == 4 ? C(0x1p-26) : C(0x1p-55)) ? x : result;
}

}  // namespace detail

MN_FN float exp2(float x) {
  const float within = detail::at_least(detail::at_most(x, 129.0f), -151.0f);
  const detail::rounded<float> n = detail::round_near(within);
  const float r = within - n.value, p = detail::exp2_slope(r);
  return detail::scale(fma(r, p, 1.0f), n.shifted);
}
// e^x for x that are not above 0, or little (16): at less cost for some types, and as good as what is stored as S needs.
template <class S, class C>
MN_FN C exp_below(C x);

#if defined(MN_CUDA)
MN_FN float exp(float x) { return ::expf(x); }
MN_FN double exp(double x) { return ::exp(x); }
MN_FN double exp2(double x) { return ::exp2(x); }
MN_FN float exp_below(float x) { return ::expf(x); }
MN_FN double exp_below(double x) { return ::exp(x); }
MN_FN float expm1(float x) { return ::expm1f(x); }
MN_FN double expm1(double x) { return ::expm1(x); }
#else
MN_FN float exp(float x) {
  const bool large = x > 0.0f;
  return detail::exp_shifted(detail::within(x, 104.0f), large ? -40.0f : 40.0f, large ? 0x1p40f : 0x1p-40f);
}
MN_FN double exp(double x) {
  const bool large = x > 0.0;
  return detail::exp_shifted(detail::within(x, 746.0), large ? -100.0 : 100.0, large ? 0x1p100 : 0x1p-100);
}
MN_FN float exp_below(float x) { return detail::exp_shifted(detail::at_least(x, -104.0f), 40.0f, 0x1p-40f); }
MN_FN double exp_below(double x) { return detail::exp_shifted(detail::at_least(x, -746.0), 100.0, 0x1p-100); }

MN_FN double exp2(double x) {
  const double within = detail::at_least(detail::at_most(x, 1025.0), -1076.0);
  const detail::rounded<double> n = detail::round_near(within);
  const double r = within - n.value;
  const double p =
      detail::polynomial(r, 0x1.62e42fefa39efp-1, 0x1.ebfbdff82c5a4p-3, 0x1.c6b08d7049fe8p-5, 0x1.3b2ab6fba0114p-7,
                         0x1.5d87fe78cd715p-10, 0x1.4309130ed9f9ep-13, 0x1.ffcbfba9700bbp-17, 0x1.62bfc79a6054bp-20,
                         0x1.b5267cfbcdb31p-24, 0x1.e61b54a3f2633p-28, 0x1.e79b969b58a4fp-32);
  return detail::scale(fma(r, p, 1.0), n.shifted);
}

MN_FN float expm1(float x) { return detail::expm1_within(detail::at_least(detail::at_most(x, 89.0f), -18.0f)); }
MN_FN double expm1(double x) { return detail::expm1_within(detail::at_least(detail::at_most(x, 710.0), -40.0)); }
#endif

template <class S, class C>
MN_FN C exp_below(C x) {
#if defined(MN_CUDA) || defined(MN_SIMT)
  if constexpr (sizeof(S) == 2) return detail::exp_16(x);
#endif
  return exp_below(x);
}

}  // namespace mn
