// A row's mean, and the sum of its elements' squared distances from it.
#pragma once

#include "common/reduce.h"

namespace mn {

// What `moments` gives.
template <class C>
struct moments_of {
  C mean, squares;
};

// For rows that are at hand: a sweep for the mean, another for the distances from it.
template <class C, class Row, class F, class... H>
MN_FN moments_of<C> moments_in_two_sweeps(Row& row, F f, const H&... h) {
  const C mean = row.reduce(sum<C>{}, f, h...) / C(row.size());
  const auto square = [=](auto... x) {
    const C far = f(x...) - mean;
    return far * far;
  };
  return {mean, row.reduce(sum<C>{}, square, h...)};
}

// For others there is one sweep. Its elements are added in groups, by their distances from an origin that is near them or
// near what came before them: what such distances are rounded by is small beside the squared distances that are looked
// for, however large the elements are. An origin is finite, so that infinities and NaN reach the mean as they do in a sum.

MN_FN float finite_or_zero(float x) { return isfinite(x) ? x : 0.0f; }
MN_FN double finite_or_zero(double x) { return isfinite(x) ? x : 0.0; }

// Some of a row's elements.
template <class C>
struct spread {
  C origin, count;
  C sum;      // of their distances from the origin
  C squares;  // of their distances from their own mean

  MN_FN C from_origin() const { return count > C(0) ? sum / count : C(0); }  // to the mean
  MN_FN C mean() const { return origin + from_origin(); }
  MN_FN C next_origin() const { return finite_or_zero(mean()); }

  // A group of `n`, by the sums of their distances from `from` and of the squares of those.
  MN_FN void add(C n, C from, C distances, C squared) {
    if (count == C(0)) origin = from;
    const C mean = distances / n, shift = from - origin;
    const C apart = count > C(0) ? shift + mean - from_origin() : C(0);
    squares += maximum(C(0), squared - distances * mean) + apart * apart * (count * (n / (count + n)));
    sum += distances + n * shift;
    count += n;
  }
};

// The mean of several spreads together, roughly; exactly where theirs is one and the same.
template <class C>
struct mean_of_spreads {
  struct type {
    C count, mean;
  };
  MN_FN static type identity() { return {C(0), C(0)}; }
  MN_FN static type of(const spread<C>& part) { return {part.count, part.mean()}; }
  MN_FN static type combine(const type& a, const type& b) {
    const C count = a.count + b.count, mean = (a.count * a.mean + b.count * b.mean) / count;
    return {count, b.count == C(0) || a.mean == b.mean ? a.mean : a.count == C(0) ? b.mean : mean};
  }
};

// The distances of all of them from that mean, and of the squares of those.
template <class C>
struct sums_of_spreads : together_of<sum<C>, sum<C>> {
  MN_FN static pack<C, C> of(const spread<C>& part, C mean) {
    const C far = part.origin - mean + part.from_origin();
    return values(part.count * far, part.squares + part.count * far * far);
  }
  MN_FN static moments_of<C> moments(C mean, C size, const pack<C, C>& sums) {
    const C rest = isfinite(mean) ? get<0>(sums) / size : C(0);
    return {mean + rest, maximum(C(0), get<1>(sums) - get<0>(sums) * rest)};
  }
};

}  // namespace mn
