// provides: log, log2, log10, log1p
#pragma once

#include "common/math/base.h"

namespace mn {

namespace detail {

// x = 2^e * (1 + f) with f between sqrt(1/2) - 1 and sqrt(2) - 1; x positive and finite, subnormals included.
template <class C>
struct split {
  C f, e;
};
MN_FN split<float> split_log(float x) {
  const bool tiny = x < 0x1p-126f;
  const int32_t bits = bit_cast<int32_t>(tiny ? x * 0x1p23f : x);
  const int32_t e = (bits - 0x3f3504f3) >> 23;
  return {bit_cast<float>(bits - e * (1 << 23)) - 1.0f, static_cast<float>(e - (tiny ? 23 : 0))};
}
MN_FN split<double> split_log(double x) {
  const bool tiny = x < 0x1p-1022;
  const int64_t bits = bit_cast<int64_t>(tiny ? x * 0x1p52 : x);
  const int64_t e = (bits - 0x3fe6a09e667f3bcdll) >> 52;
  return {bit_cast<double>(bits - static_cast<int64_t>(static_cast<uint64_t>(e) << 52)) - 1.0,
          static_cast<double>(static_cast<int32_t>(e) - (tiny ? 52 : 0))};
}

// log(1 + f) - f for f as above
MN_FN float log1p_tail(float f) {
  const float p = polynomial(f, 0x1.555548p-2f, -0x1.000008p-2f, 0x1.99a47ap-3f, -0x1.555b8ap-3f, 0x1.233ab8p-3f,
                             -0x1.fc3e5ap-4f, 0x1.e6e18ep-4f, -0x1.dd9a24p-4f, 0x1.13b472p-4f);
  return f * f * fma(f, p, -0.5f);
}
MN_FN double log1p_tail(double f) {
  // with s = f / (2 + f): log(1 + f) = 2 atanh(s) = f - f^2/2 + s (f^2/2 + s^2 q(s^2))
  const double s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
  const double q =
      z * polynomial(z, 0x1.5555555555555p-1, 0x1.9999999999eaap-2, 0x1.249249241de9fp-2, 0x1.c71c72689fc64p-3,
                     0x1.745cd958158a1p-3, 0x1.3b217f5a4ae87p-3, 0x1.0f4a36fef552dp-3, 0x1.100b29cab2adep-3);
  return fma(s, h + q, -h);
}

// e ln2 + f + tail + extra, smallest first
MN_FN float join_log(float e, float f, float tail, float extra) {
  return fma(e, 0x1.62e400p-1f, f + (tail + fma(e, 0x1.7f7d1cp-20f, extra)));
}
MN_FN double join_log(double e, double f, double tail, double extra) {
  return fma(e, 0x1.62e42feep-1, f + (tail + fma(e, 0x1.a39ef35793c76p-33, extra)));
}

// The values at 0, below 0, at infinity and NaN.
template <class C>
MN_FN C log_edges(C x, C result) {
  constexpr C infinity = bounds<C>::highest;
  result = x == infinity ? infinity : result;
  result = x == C(0) ? -infinity : result;
  return x >= C(0) ? result : bounds<C>::nan;
}

}  // namespace detail

MN_FN float log10(float x) {
  const detail::split<float> a = detail::split_log(x);
  const float tail = detail::log1p_tail(a.f);
  const float low = fma(a.e, 0x1.3509f8p-18f, fma(tail, 0x1.bcb7b2p-2f, a.f * -0x1.5b235ep-27f));
  return detail::log_edges(x, fma(a.e, 0x1.344000p-2f, fma(a.f, 0x1.bcb7b2p-2f, low)));
}
#if defined(MN_CUDA)
MN_FN float log(float x) { return ::logf(x); }
MN_FN double log(double x) { return ::log(x); }
MN_FN float log2(float x) { return ::log2f(x); }
MN_FN double log2(double x) { return ::log2(x); }
MN_FN double log10(double x) { return ::log10(x); }
MN_FN float log1p(float x) { return ::log1pf(x); }
MN_FN double log1p(double x) { return ::log1p(x); }
#else

template <class C>
MN_FN C log(C x) {
  const detail::split<C> a = detail::split_log(x);
  return detail::log_edges(x, detail::join_log(a.e, a.f, detail::log1p_tail(a.f), C(0)));
}

// log(1 + f) times the constant in two parts, so that the product is rounded once.
MN_FN float log2(float x) {
  const detail::split<float> a = detail::split_log(x);
  const float tail = detail::log1p_tail(a.f);
  const float low = fma(tail, 0x1.715476p+0f, a.f * 0x1.4ae0c0p-26f);
  return detail::log_edges(x, a.e + fma(a.f, 0x1.715476p+0f, low));
}
MN_FN double log2(double x) {
  const detail::split<double> a = detail::split_log(x);
  const double tail = detail::log1p_tail(a.f);
  const double low = fma(tail, 0x1.71547652b82fep+0, a.f * 0x1.777d0ffda0d24p-56);
  return detail::log_edges(x, a.e + fma(a.f, 0x1.71547652b82fep+0, low));
}
MN_FN double log10(double x) {
  const detail::split<double> a = detail::split_log(x);
  const double tail = detail::log1p_tail(a.f);
  const double low = fma(a.e, -0x1.80433b83b532ap-44, fma(tail, 0x1.bcb7b1526e50ep-2, a.f * 0x1.95355baaafad3p-57));
  return detail::log_edges(x, fma(a.e, 0x1.34413509f8p-2, fma(a.f, 0x1.bcb7b1526e50ep-2, low)));
}

// log(1 + x) with the rounding error of 1 + x carried along.
template <class C>
MN_FN C log1p(C x) {
  const C u = C(1) + x, rest = u - C(1);
  const C error = (C(1) - (u - rest)) + (x - rest);
  const detail::split<C> a = detail::split_log(u);
  const C result = detail::join_log(a.e, a.f, detail::log1p_tail(a.f), error / u);
  const C edges = detail::log_edges(u, result);
  return detail::magnitude(x) < (sizeof(C) == 4 ? C(0x1p-25) : C(0x1p-54)) ? x : edges;
}
#endif

}  // namespace mn
