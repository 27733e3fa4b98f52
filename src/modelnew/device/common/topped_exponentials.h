// A reduction whose result is the largest of some values, with the sum of e^(value - largest).
#pragma once

#include "common/math/exp.h"
#include "common/reduce.h"

namespace mn {

template <class C>
struct topped {
  C top, total;
};

// Without a value yet, or where all are -infinity, nothing is subtracted.
template <class C>
struct topped_exponentials {
  using type = topped<C>;

  // Of one value. Infinities count as if nothing were subtracted.
  MN_FN static type of(C value) {
    const C finite_or_not = value < bounds<C>::highest ? C(1) : value;  // NaN too
    return {value, value == bounds<C>::lowest ? C(0) : finite_or_not};
  }
  MN_FN static type identity() { return {bounds<C>::lowest, C(0)}; }
  MN_FN static type combine(const type& a, const type& b) {
    const C top = maximum(a.top, b.top), lower = a.top < b.top ? a.top : b.top;
    const C below = exp_below(lower - (top == bounds<C>::lowest ? C(0) : top));
    const C scale = lower == top ? C(1) : below;  // NaN goes on
    const C large = a.top < b.top ? b.total : a.total, small = a.top < b.top ? a.total : b.total;
    return {top, large + small * scale};
  }
  // The sum where the largest is subtracted from itself even if it is infinite.
  MN_FN static C below_top(const type& sum) {
    return sum.top == bounds<C>::highest || sum.top == bounds<C>::lowest ? bounds<C>::nan : sum.total;
  }
};

}  // namespace mn
