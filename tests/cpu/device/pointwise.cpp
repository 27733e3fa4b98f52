// Pointwise kernels for the tests. MN_T: storage type of most operands.
#include "cpu/pointwise.h"

#include "common/math/activations.h"

using T = MN_T;
using C = mn::compute_t<T>;

struct is_zero_body {
  MN_FN auto operator()(C x) const { return mn::values(mn::cast<C>(x == C(0) ? C(1) : C(0))); }
};
MN_EXPORT int is_zero(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<is_zero_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}

// three inputs, two outputs of different types
struct between_body {
  MN_FN auto operator()(C x, C low, C high) const {
    return mn::values(mn::minimum(mn::maximum(x, low), high), mn::lt(x, low) | mn::gt(x, high));
  }
};
MN_EXPORT int between(void* y, void* outside, const void* x, const void* low, const void* high, const int64_t* plan,
                      mn::queue queue) {
  return mn::pointwise<between_body, mn::types<T, bool>, mn::types<T, T, T>>({y, outside}, {x, low, high}, plan, queue);
}

// no input; a mask and integers beside floating point
struct one_body {
  MN_FN auto operator()() const { return mn::values(C(1)); }
};
MN_EXPORT int one(void* y, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<one_body, mn::types<T>, mn::types<>>({y}, {}, plan, queue);
}
struct pick_body {
  MN_FN auto operator()(bool mask, C x, int64_t n) const {
    return mn::values(mn::where(mask, x, mn::cast<C>(n)), n + 1);
  }
};
MN_EXPORT int pick(void* y, void* next, const void* mask, const void* x, const void* n, const int64_t* plan,
                   mn::queue queue) {
  return mn::pointwise<pick_body, mn::types<T, int64_t>, mn::types<bool, T, int64_t>>({y, next}, {mask, x, n}, plan,
                                                                                      queue);
}

#if defined(__linux__) && defined(__x86_64__)
MN_EXPORT int64_t free_in_huge_pages(const char* text) { return mn::detail::free_in_huge_pages(text); }
#endif
