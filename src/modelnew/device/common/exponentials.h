// A row's maximum, and the sum of its exponentials.
#pragma once

#include "common/reduce.h"

namespace mn {

// What `exponential_sum` gives: `sum` is that of e^(value - max), which is NaN where the maximum is infinite; `shift` is 0
// there, and else the maximum, and `shifted_sum` is that of e^(value - shift).
template <class C>
struct exponential_sum_of {
  C max, sum, shift, shifted_sum;

  MN_FN static C shift_of(C max) { return max == bounds<C>::highest || max == bounds<C>::lowest ? C(0) : max; }
  // Total: of e^(value - shift), unless the maximum is infinity.
  MN_FN static exponential_sum_of of(C max, C total) {
    return {max, total + (max - max), shift_of(max), max == bounds<C>::highest ? max : total};
  }
};

// For rows that are at hand: a sweep for the maximum, another for the sum.
template <class C, class Row, class G, class F, class... H>
MN_FN exponential_sum_of<C> exponentials_in_two_sweeps(Row& row, G exp, F f, const H&... h) {
  const C top = row.reduce(max<C>{}, f, h...), by = exponential_sum_of<C>::shift_of(top);
  return exponential_sum_of<C>::of(top, row.reduce(sum<C>{}, [=](auto... x) { return exp(f(x...) - by); }, h...));
}

// What `exponentials` gives: a row's maximum, the handle of e^(value - maximum), and the sum of those.
template <class C, class E>
struct softened {
  C max;
  E exp;
  C sum;
};

}  // namespace mn
