// Errors of the activations' forms for CUDA, with the approximate instructions' results moved by chosen errors.
#include "common/core.h"
#include "common/math/short_forms.h"
#include "errors.h"

namespace {

struct form {
  const char* name;
  void (*map)(const float*, float*, int64_t);
  double (*truth)(double);
};

#define FORM(form, truth)                                              \
  {#form,                                                              \
   [](const float* from, float* to, int64_t n) {                       \
     for (int64_t i = 0; i < n; ++i) to[i] = mn::detail::form(from[i]); \
   },                                                                  \
   [](double x) -> double { return truth; }}

const form forms[] = {
    FORM(sigmoid_short, sigmoid(x)),
    FORM(silu_short, x* sigmoid(x)),
    FORM(gelu_tanh_short, gelu_tanh(x)),
    FORM(gelu_near, gelu(x)),
    FORM(sigmoid_16, sigmoid(x)),
    FORM(silu_16, x* sigmoid(x)),
    FORM(gelu_tanh_16, gelu_tanh(x)),
    FORM(gelu_16, gelu(x)),
    FORM(tanh_16, std::tanh(x)),
    FORM(exp_16, x > 96 * 0.6931471805599453 ? INFINITY : std::exp(x)),
};

void with_errors(int64_t f, int64_t reciprocal, int64_t exp2, const float* from, float* to, int64_t n) {
  mn::detail::reciprocal_error = static_cast<int>(reciprocal);
  mn::detail::exp2_error = static_cast<int>(exp2);
  forms[f].map(from, to, n);
}

}  // namespace

MN_EXPORT int64_t form_count() { return sizeof(forms) / sizeof(forms[0]); }
MN_EXPORT const char* form_name(int64_t f) { return forms[f].name; }
MN_EXPORT double truth_at(int64_t f, float x) { return forms[f].truth(x); }
MN_EXPORT void evaluate(int64_t f, int64_t reciprocal, int64_t exp2, const float* from, float* to, int64_t n) {
  with_errors(f, reciprocal, exp2, from, to, n);
}

// The worst error in ulp at every `step`-th float from bit pattern `first` up to `last`, and where; `wrong`: results of
// another kind (NaN, infinity, sign of zero) than the truth.
MN_EXPORT void measure(int64_t f, int64_t reciprocal, uint64_t first, uint64_t last, uint64_t step, double* worst,
                       float* at, int64_t* wrong) {
  std::vector<float> from, to;
  for (uint64_t b = first; b < last; b += step) from.push_back(mn::bit_cast<float>(static_cast<uint32_t>(b)));
  to.resize(from.size());
  with_errors(f, reciprocal, 0, from.data(), to.data(), static_cast<int64_t>(from.size()));
  *worst = 0, *at = 0, *wrong = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const double error = ulps(to[i], forms[f].truth(from[i]));
    *wrong += error < 0;
    if ((error < 0 && *wrong == 1) || (error > *worst && *wrong == 0)) *at = from[i];
    *worst = std::max(*worst, error);
  }
}
