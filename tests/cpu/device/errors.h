// What the activations are in a wider type, and how far a result is from such a truth.
#pragma once

#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace {

template <class W>
W sigmoid(W x) {
  return 1 / (1 + std::exp(-x));
}
template <class W>
W logsigmoid(W x) {
  const W tail = std::log1p(std::exp(-std::fabs(x)));
  return x < 0 ? x - tail : 0 - tail;
}
template <class W>
W softplus(W x) {
  return x > 20 ? x : std::fmax(x, W(0)) + std::log1p(std::exp(-std::fabs(x)));
}
template <class W>
W gelu(W x) {
  return x * (std::erfc(-x * std::sqrt(W(0.5))) / 2);
}
template <class W>
W gelu_tanh(W x) {
  // in long double: the exponential enlarges the error of its argument
  const long double wide = x, v = 1.59576912160573071175978423973752747L * (wide + 0.044715L * wide * wide * wide);
  return static_cast<W>(wide / (1 + std::exp(-v)));
}
template <class W>
W mish(W x) {
  return x * std::tanh(x > 40 ? x : std::log1p(std::exp(x)));
}

// Distance from the truth in units of the last place of the correctly rounded value; -1 where the kinds of value
// differ.
template <class C, class W>
double ulps(C value, W truth) {
  const C rounded = static_cast<C>(truth);
  if (std::isnan(truth) || std::isnan(value)) return std::isnan(truth) == std::isnan(value) ? 0 : -1;
  if (std::isinf(rounded) || std::isinf(value)) {
    // the largest finite value may stand for an overflow, and the other way round, where the truth lies between them
    const C largest = std::numeric_limits<C>::max();
    if (value == rounded) return 0;
    return !std::isinf(truth) && std::fabs(std::isinf(rounded) ? value : rounded) == largest ? 1 : -1;
  }
  if (value == 0 && truth == 0) return std::signbit(value) == std::signbit(rounded) ? 0 : -1;
  const int digits = std::numeric_limits<C>::digits, lowest = std::numeric_limits<C>::min_exponent - digits;
  const W unit = std::ldexp(W(1), std::max(rounded == 0 ? lowest : std::ilogb(rounded) + 1 - digits, lowest));
  return static_cast<double>(std::fabs(static_cast<W>(value) - truth) / unit);
}

template <class C, class W>
void compare(void (*map)(const C*, C*, int64_t), W (*truth)(W), const std::vector<C>& from, double* worst, C* at,
             int64_t* wrong) {
  std::vector<C> to(from.size());
  map(from.data(), to.data(), static_cast<int64_t>(from.size()));
  for (size_t i = 0; i < from.size(); ++i) {
    const double error = ulps(to[i], truth(static_cast<W>(from[i])));
    if (error < 0) {
      if (++*wrong == 1) *at = from[i];
    } else if (error > *worst) {
      *worst = error;
      if (*wrong == 0) *at = from[i];
    }
  }
}

}  // namespace
