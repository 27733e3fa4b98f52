// Errors of the scalar functions against the standard library's in a wider type: float against double, double against
// long double.
#include "common/core.h"
#include "common/math/activations.h"
#include "common/math/hyperbolic.h"
#include "common/math/inverse_trig.h"
#include "common/math/log.h"
#include "common/math/pow.h"
#include "common/math/trig.h"
#include "errors.h"

namespace {

template <class C>
MN_FN C softplus_of(C x) {
  return mn::softplus(x, C(1), C(20));
}

struct function {
  const char* name;
  void (*as_float)(const float*, float*, int64_t);
  double (*truth_of_float)(double);
  void (*as_double)(const double*, double*, int64_t);
  long double (*truth_of_double)(long double);
};

#define MAP(C, call)                                      \
  [](const C* from, C* to, int64_t n) {                   \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) { \
      const C x = from[i];                                \
      to[i] = call;                                       \
    }                                                     \
  }
#define FUNCTION(name, call, truth)                                                     \
  {name, MAP(float, call), [](double x) -> double { return truth; }, MAP(double, call), \
   [](long double x) -> long double { return truth; }}
#define STANDARD(f) FUNCTION(#f, mn::f(x), std::f(x))

const function functions[] = {
    STANDARD(exp),
    FUNCTION("exp_below", mn::exp_below(mn::detail::negative(x)), std::exp(-std::fabs(x))),
    STANDARD(exp2),
    STANDARD(expm1),
    STANDARD(log),
    STANDARD(log2),
    STANDARD(log10),
    STANDARD(log1p),
    STANDARD(sin),
    STANDARD(cos),
    STANDARD(tan),
    STANDARD(sinh),
    STANDARD(cosh),
    STANDARD(tanh),
    STANDARD(asin),
    STANDARD(acos),
    STANDARD(atan),
    STANDARD(erf),
    STANDARD(erfc),
    STANDARD(sqrt),
    STANDARD(floor),
    STANDARD(ceil),
    STANDARD(trunc),
    FUNCTION("round", mn::round(x), std::nearbyint(x)),
    FUNCTION("rsqrt", mn::rsqrt(x), 1 / std::sqrt(x)),
    FUNCTION("sigmoid", mn::sigmoid(x), sigmoid(x)),
    FUNCTION("logsigmoid", mn::logsigmoid(x), logsigmoid(x)),
    FUNCTION("softplus", softplus_of(x), softplus(x)),
    FUNCTION("gelu", mn::gelu(x), gelu(x)),
    FUNCTION("gelu_tanh", mn::gelu_tanh(x), gelu_tanh(x)),
    FUNCTION("silu", mn::silu(x), x* sigmoid(x)),
    FUNCTION("mish", mn::mish(x), mish(x)),
};

}  // namespace

MN_EXPORT int64_t function_count() { return sizeof(functions) / sizeof(functions[0]); }
MN_EXPORT const char* function_name(int64_t f) { return functions[f].name; }

// Every `step`-th bit pattern of float from `first` up to `last`: the worst error in ulp, where it is, and how many
// values are of another kind (NaN, infinity, sign of zero) than the truth; then `at` is the first of those.
MN_EXPORT void measure_float(int64_t f, uint64_t first, uint64_t last, uint64_t step, double* worst, float* at,
                             int64_t* wrong) {
  constexpr uint64_t piece = 1 << 14;
  const int64_t pieces = static_cast<int64_t>((last - first + step * piece - 1) / (step * piece));
  *worst = 0, *at = 0, *wrong = 0;
#pragma omp parallel for schedule(dynamic)
  for (int64_t p = 0; p < pieces; ++p) {
    std::vector<float> from;
    const uint64_t begin = first + static_cast<uint64_t>(p) * step * piece;
    for (uint64_t b = begin; b < std::min(last, begin + step * piece); b += step)
      from.push_back(mn::bit_cast<float>(static_cast<uint32_t>(b)));
    double mine = 0;
    float mine_at = 0;
    int64_t mine_wrong = 0;
    compare(functions[f].as_float, functions[f].truth_of_float, from, &mine, &mine_at, &mine_wrong);
#pragma omp critical
    {
      if ((mine_wrong && !*wrong) || (!*wrong && mine > *worst)) *at = mine_at;
      *worst = std::max(*worst, mine);
      *wrong += mine_wrong;
    }
  }
}

// The same for the `count` doubles at `values`.
MN_EXPORT void measure_double(int64_t f, const double* values, int64_t count, double* worst, double* at,
                              int64_t* wrong) {
  *worst = 0, *at = 0, *wrong = 0;
  compare(functions[f].as_double, functions[f].truth_of_double, std::vector<double>(values, values + count), worst, at,
          wrong);
}

MN_EXPORT void evaluate_float(int64_t f, const float* from, float* to, int64_t n) {
  functions[f].as_float(from, to, n);
}
MN_EXPORT void evaluate_double(int64_t f, const double* from, double* to, int64_t n) {
  functions[f].as_double(from, to, n);
}
MN_EXPORT double truth_of_float(int64_t f, float x) { return functions[f].truth_of_float(x); }

// Functions of two arguments, for the tests that compare them with PyTorch.
#define BINARY(name, C, call)                                     \
  MN_EXPORT void name(const C* a, const C* b, C* to, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) {                             \
      const C x = a[i], y = b[i];                                 \
      to[i] = call;                                               \
    }                                                             \
  }
#define BINARIES(C, suffix)                          \
  BINARY(pow_##suffix, C, mn::pow(x, y))             \
  BINARY(remainder_##suffix, C, mn::remainder(x, y)) \
  BINARY(maximum_##suffix, C, mn::maximum(x, y))     \
  BINARY(minimum_##suffix, C, mn::minimum(x, y))     \
  BINARY(sign_##suffix, C, (void(y), mn::sign(x)))   \
  BINARY(abs_##suffix, C, (void(y), mn::abs(x)))
BINARIES(float, float)
BINARIES(double, double)
BINARIES(int8_t, int8)
BINARIES(uint8_t, uint8)
BINARIES(int32_t, int32)
BINARIES(int64_t, int64)
BINARY(atan2_float, float, mn::atan2(x, y))
BINARY(fmod_float, float, mn::fmod(x, y))

// Storage conversions, one by one and as tiles.
MN_EXPORT void to_half(const float* from, mn::half* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = mn::to_storage<mn::half>(from[i]);
}
MN_EXPORT void from_half(const mn::half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = mn::to_compute(from[i]);
}
MN_EXPORT void to_bf16(const float* from, mn::bf16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = mn::to_storage<mn::bf16>(from[i]);
}
MN_EXPORT void from_bf16(const mn::bf16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = mn::to_compute(from[i]);
}
