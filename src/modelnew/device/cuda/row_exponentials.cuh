// A row's maximum and the sum of its exponentials in one sweep.
#pragma once

#include "common/exponentials.h"
#include "cuda/group.cuh"

namespace mn {

// A sum of e^(value - top), with `top`: the largest value, or one near it. Without any, or where all are -infinity, nothing
// is subtracted.
template <class C, class G>
struct scaled_sum {
  struct type {
    C top, total;
  };
  G exp;
  MN_FN static type identity() { return {bounds<C>::lowest, C(0)}; }
  MN_FN static C shift(C top) { return top == bounds<C>::lowest ? C(0) : top; }
  MN_FN type combine(const type& a, const type& b) const {
    const C top = maximum(a.top, b.top), by = shift(top);
    return {top, a.total * exp(a.top - by) + b.total * exp(b.top - by)};
  }
};

// A thread takes the values that it has at hand together: their maximum, then their exponentials. Its sum goes by a base,
// which follows the largest value only where that has left it far behind: a sum is hardly ever scaled, and no rounding
// errors pile up where values grow steadily.
template <class C, class Row, class G, class F, class... H>
MN_FN exponential_sum_of<C> exponentials_in_one_sweep(Row& row, G exp, F f, const H&... h) {
  constexpr int V = Row::V;
  using partial = typename scaled_sum<C, G>::type;
  const scaled_sum<C, G> op = {exp};
  partial all = op.identity();
  C top = bounds<C>::lowest, base = C(0), most = bounds<C>::lowest, total = C(0);
  int terms = 0;  // in the sum's chain
  const auto so_far = [&] { return partial{most == bounds<C>::lowest ? most : base, total}; };
  row.sweep_lots(
      true,
      [&](auto size, auto whole, const auto& take) {
        constexpr int N = decltype(size)::value, few = V < 16 ? 16 / V : 1;
        constexpr int K = N < few ? N : N % few == 0 ? few : N / 2;
        static_assert(N % K == 0, "vectors at hand are left over");
#pragma unroll
        for (int from = 0; from < N; from += K) {
          C term[K][V], largest = bounds<C>::lowest, sums[V];
#pragma unroll
          for (int u = 0; u < K; ++u)
            take(from + u, [&](auto first, const auto&... item) {
#pragma unroll
              for (int v = 0; v < V; ++v) {
                const C value = static_cast<C>(f(item[v]...));
                term[u][v] = whole || row.has(first + v) ? value : bounds<C>::lowest;
                largest = maximum(largest, term[u][v]);
              }
            });
          top = maximum(top, largest);
          if (largest > most) {
            total = most == bounds<C>::lowest ? C(0) : total * exp(base - largest);
            base = largest;
            most = base + C(16);
          }
#pragma unroll
          for (int v = 0; v < V; ++v) sums[v] = exp(term[0][v] - base);
#pragma unroll
          for (int u = 1; u < K; ++u)
#pragma unroll
            for (int v = 0; v < V; ++v) sums[v] += exp(term[u][v] - base);
          total += combine_values(sum<C>{}, sums);
        }
        terms += N / K;
        if (terms > 256 - 16) {
          all = op.combine(all, so_far());
          total = C(0);
          terms = 0;
        }
      },
      h...);
  all = op.combine(all, so_far());
  const C by = op.shift(top);
  all = row.combine(op, partial{top, all.total * exp(op.shift(all.top) - by)});
  return exponential_sum_of<C>::of(all.top, all.total);
}

}  // namespace mn
