// The forms of some activations that CUDA takes: few instructions, and the reciprocal that GPUs have, corrected where its
// error would count. Tests run them on the CPU too.
#pragma once

#include "common/compare.h"
#include "common/math/exp.h"

namespace mn {

namespace detail {

template <class S>
constexpr bool is_16_bit = std::is_same<S, half>::value || std::is_same<S, bf16>::value;

// The sum 1 + 2^n (1 + q) and its reciprocal, both scaled so that neither leaves the normal floats for
// -60 <= n <= 180; |q| < 1/2. In `shifted`'s low bits is n + 63.
struct logistic {
  static constexpr float magic = 0x1.8p23f + 63.0f, unit = 0x1p-64f;
  float sum, inverse;
  bool lost;  // the sum is without its 1, which counts where n = 24: one rounding less for all others

  // q is factor times slope.
  MN_FN logistic(float shifted, float factor, float slope) {
    const float power = bit_cast<float>(bit_cast<uint32_t>(shifted) << 23);
    sum = fma(power * factor, slope, power + unit);
    inverse = reciprocal_near(sum);
    lost = shifted >= magic + 24.0f;
  }
  // x over the sum; |x| < 2^63. An error of the reciprocal is squared.
  MN_FN float divide(float x) const {
    const float quotient = x * inverse;
    float excess = fma(sum, quotient, -x);
    if (lost) excess = fma(unit, quotient, excess);
    return fma(-excess, inverse, quotient) * unit;  // -0 / 1 is -0
  }
};

// of e^-x, -110 <= x <= 40
MN_FN logistic logistic_of(float x) {
  const float shifted = fma(x, -0x1.715476p+0f, logistic::magic), n = shifted - logistic::magic;
  const float r = fma(n, -0x1.7f7d1cp-20f, fma(n, -0x1.62e400p-1f, -x));
  return {shifted, 1.0f, fma(r * r, exp_tail_short(r), r)};
}
MN_FN float sigmoid_short(float x) {
  return logistic_of(minimum(maximum(x, -105.0f), 40.0f)).divide(1.0f);  // NaN passes
}

// x where that is large, 0 where it is far below 0, NaN for -infinity
MN_FN float times_step(float x) { return x * (x > 0.0f ? 1.0f : 0.0f); }

MN_FN float silu_short(float x) {
  const float near = logistic_of(minimum(x, 40.0f)).divide(x);
  return magnitude(x) > 109.0f ? times_step(x) : near;
}

// x over 1 + 2^-y, y = x (a + b x^2) with a = 2 sqrt(2/pi) log2(e), b = 0.044715 a. The factor of x carries its rounding
// error, which the exponential would enlarge; the first part of `a` is short, so that a - w is exact.
MN_FN float gelu_tanh_short(float x) {
  const float t = minimum(x, 6.0f), square = t * t, square_low = fma(t, t, -square);
  const float a = 0x1.26aecp+1f, a_low = 0x1.0de73ap-22f, b = 0x1.a5a7dp-4f, b_low = -0x1.151aaep-29f;
  const float w = fma(b, square, a);
  const float w_low = fma(b, square, a - w) + fma(b, square_low, fma(b_low, square, a_low));
  const float shifted = fma(-t, w, logistic::magic), n = shifted - logistic::magic;
  const float f = fma(-t, w_low, fma(-t, w, -n));
  const float near = logistic(shifted, f, exp2_slope(f)).divide(x);
  return magnitude(x) > 11.0f ? times_step(x) : near;
}

// x Phi(x) for |x| <= 3.4. With t = |x|, t (1 - Phi(t)) is t 2^(l - b t^2 - 1), where l is a polynomial in t - a. b was
// chosen such that l stays small, and a such that the first coefficients are nearly floats.
MN_FN float gelu_near(float x) {
  const float t = magnitude(x), square = t * t, square_low = fma(t, t, -square), b = 0x1.d6p-1f;
  const float l = polynomial(t - 0x1.2f8p+0f, -0x1.969870p-1f, -0x1.ed5908p-3f, 0x1.4d5922p-2f, -0x1.960a2ep-6f,
                             0x1.150cb6p-8f, -0x1.246fc4p-11f, 0x1.15615ep-15f, 0x1.380e74p-17f, -0x1.05f708p-18f,
                             0x1.87399cp-21f, -0x1.01eb94p-24f);
  constexpr float magic = 0x1.8p23f + 126.0f + 256.0f;  // sign and exponent of -2^(n - 1) come to lie in the low bits
  const float shifted = fma(square, -b, l) + magic, n = shifted - magic;
  const float f = fma(square_low, -b, fma(square, -b, -n) + l);
  const float tail = fma(t * f, exp2_slope(f), t);
  return fma(tail, bit_cast<float>(bit_cast<uint32_t>(shifted) << 23), maximum(-0.0f, x));
}

// For results of 16 bits. Powers of 2 are moved by 2^-32 where a bf16 may be below the normal floats, or squared.
MN_FN float sigmoid_16(float x) {
  return reciprocal_near(exp2_near(fma(x, -0x1.715476p+0f, -32.0f)) + 0x1p-32f) * 0x1p-32f;
}
MN_FN float silu_16(float x) { return x * sigmoid_16(x); }
MN_FN float gelu_tanh_16(float x) {
  const float slope = fma(x * x, -0x1.a5a7fcp-4f, -0x1.26af0ep+1f);
  return x * (reciprocal_near(exp2_near(fma(x, slope, -32.0f)) + 0x1p-32f) * 0x1p-32f);
}
MN_FN float tanh_16(float x) {
  const float far = fma(reciprocal_near(exp2_near(x * 0x1.715476p+1f) + 1.0f), -2.0f, 1.0f);
  return magnitude(x) < 0x1p-6f ? x : far;
}
// x Phi(x); 1 - Phi(t) is r P(r) e^(-t^2/2), r = 1 / (1 + t/4), to 2^-14.
MN_FN float gelu_16(float x) {
  const float t = magnitude(minimum(x, 16.0f)), r = reciprocal_near(fma(t, 0.25f, 1.0f));
  const float p = polynomial(r, 0x1.9e8f44p-4f, 0x1.4e59dep-4f, 0x1.6b0f28p-3f, -0x1.9a9050p-4f, 0x1.ebb5f4p-3f);
  const float root = exp2_near(t * (t * -0x1.715476p-2f));  // of e^(-t^2/2)
  return fma(-(t * r) * p * root, root, maximum(-0.0f, x));
}

}  // namespace detail

}  // namespace mn
