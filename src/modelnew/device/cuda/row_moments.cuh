// A row's mean and squared distances in one sweep.
#pragma once

#include "common/moments.h"
#include "cuda/group.cuh"

namespace mn {

// Each thread begins with the mean of its first vector for an origin, and takes that of all it has met after 4 terms of
// a chain, 8 more, 16 more, and so on; a chain has at most 256. (A first vector unlike all others, an outlier, costs digits
// by as many terms as come before the first change.)
template <class C, class Row, class F, class... H>
MN_FN moments_of<C> moments_in_one_sweep(Row& row, F f, const H&... h) {
  constexpr int V = Row::V;
  spread<C> own = {};
  C origin = C(0), sums[V] = {}, squares[V] = {};
  int count = 0, terms = 0, most = 4;
  bool begun = false;
  const auto fold = [&] {
    const C distances = combine_values(sum<C>{}, sums), squared = combine_values(sum<C>{}, squares);
    if (count > 0) own.add(C(count), origin, distances, squared);
  };
  row.sweep(
      true,
      [&](auto first, auto whole, const auto&... item) {
        C term[V];
#pragma unroll
        for (int v = 0; v < V; ++v) term[v] = static_cast<C>(f(item[v]...));
        if (!begun) {
          C total[V];
#pragma unroll
          for (int v = 0; v < V; ++v) total[v] = term[v];
          origin = finite_or_zero(combine_values(sum<C>{}, total) / C(V));
          begun = true;
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const C far = term[v] - origin;
          if (whole || row.has(first + v)) sums[v] += far, squares[v] += far * far, ++count;
        }
      },
      [&](int added) {
        terms += added;
        if (terms < most) return;
        fold();
        origin = own.next_origin();
#pragma unroll
        for (int v = 0; v < V; ++v) sums[v] = squares[v] = C(0);
        count = terms = 0;
        most = most < 128 ? 2 * most : 256 - 16;
      },
      h...);
  fold();
  const C mean = row.combine(mean_of_spreads<C>{}, mean_of_spreads<C>::of(own)).mean;
  const auto both = row.combine(sums_of_spreads<C>{}, sums_of_spreads<C>::of(own, mean));
  return sums_of_spreads<C>::moments(mean, C(row.size()), both);
}

}  // namespace mn
