// Reductions over a tile: many independent accumulators, so that the loop vectorises and its order is fixed.
#pragma once

#include "common/core.h"

namespace mn {

// Accumulators of one reduction; a pack of reductions has one array for each.
template <class R, int64_t Count>
struct accumulators {
  typename R::type lane[Count];

  MN_FN void clear(int64_t count) {
    for (int64_t l = 0; l < count; ++l) lane[l] = R::identity();
  }
  template <class V>
  MN_FN void add(int64_t l, V value) {
    lane[l] = R::combine(lane[l], cast<typename R::type>(value));
  }
  MN_FN void merge(const accumulators& other, int64_t count) {
    for (int64_t l = 0; l < count; ++l) lane[l] = R::combine(lane[l], other.lane[l]);
  }
  MN_FN typename R::type at(int64_t l) const { return lane[l]; }

  // Folds the upper half onto the lower until one is left: Count is a power of two.
  MN_FN typename R::type total() {
    for (int64_t half = Count / 2; half > 0; half /= 2)
      for (int64_t l = 0; l < half; ++l) lane[l] = R::combine(lane[l], lane[l + half]);
    return lane[0];
  }
};

template <class... R, int64_t Count>
struct accumulators<together_of<R...>, Count> {
  pack<accumulators<R, Count>...> part;
  using indices = indices_to<sizeof...(R)>;

  MN_FN void clear(int64_t count) { clear_at(count, indices{}); }
  template <class V>
  MN_FN void add(int64_t l, const V& value) {
    add_at(l, value, indices{});
  }
  MN_FN void merge(const accumulators& other, int64_t count) { merge_at(other, count, indices{}); }
  MN_FN pack<typename R::type...> at(int64_t l) const { return at_of(l, indices{}); }
  MN_FN pack<typename R::type...> total() { return total_of(indices{}); }

 private:
  template <size_t... I>
  MN_FN void clear_at(int64_t count, detail::indices<I...>) {
    (get<I>(part).clear(count), ...);
  }
  template <class V, size_t... I>
  MN_FN void add_at(int64_t l, const V& value, detail::indices<I...>) {
    (get<I>(part).add(l, get<I>(value)), ...);
  }
  template <size_t... I>
  MN_FN void merge_at(const accumulators& other, int64_t count, detail::indices<I...>) {
    (get<I>(part).merge(get<I>(other.part), count), ...);
  }
  template <size_t... I>
  MN_FN pack<typename R::type...> at_of(int64_t l, detail::indices<I...>) const {
    return values(get<I>(part).at(l)...);
  }
  template <size_t... I>
  MN_FN pack<typename R::type...> total_of(detail::indices<I...>) {
    return values(get<I>(part).total()...);
  }
};

constexpr int64_t lane_count = 64;        // four full vectors of floats in flight
constexpr int64_t longest_chain = 128;    // terms that one accumulator adds up before it is folded into the second level

// A reduction in progress: `add` a tile, then `total`.
template <class R>
struct reduction {
  accumulators<R, lane_count> now, before;
  int64_t chain = 0;
  bool folded = false;

  MN_FN reduction() { now.clear(lane_count); }

  template <class Element>
  MN_FN void add(int64_t n, const Element& element) {
    int64_t i = 0;
    for (; i + lane_count <= n; i += lane_count) {
#pragma omp simd
      for (int64_t l = 0; l < lane_count; ++l) now.add(l, element(i + l));
    }
#pragma omp simd
    for (int64_t l = 0; l < n - i; ++l) now.add(l, element(i + l));
    chain += (n + lane_count - 1) / lane_count;
    if (chain >= longest_chain) fold();
  }
  MN_FN typename R::type total() {
    if (folded) fold();
    return folded ? before.total() : now.total();
  }

 private:
  MN_FN void fold() {
    if (!folded) before.clear(lane_count);
    before.merge(now, lane_count);
    now.clear(lane_count);
    chain = 0;
    folded = true;
  }
};

}  // namespace mn
