// Reductions over a tile: many independent accumulators, so that the loop vectorises and its order is fixed.
#pragma once

#include "common/core.h"

namespace mn {

constexpr int64_t fold_width = 16;

// Accumulators of one reduction; a pack of reductions has one array for each.
template <class R, int64_t Count>
struct accumulators {
  alignas(64) typename R::type lane[Count];

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

  // All of `count` accumulators, a multiple of fold_width: vector by vector, then the halves of one vector.
  MN_FN typename R::type total(int64_t count) const {
    typename R::type v[fold_width];
    for (int64_t l = 0; l < fold_width; ++l) v[l] = lane[l];
    for (int64_t first = fold_width; first < count; first += fold_width) {
#pragma omp simd
      for (int64_t l = 0; l < fold_width; ++l) v[l] = R::combine(v[l], lane[first + l]);
    }
    return halves<fold_width / 2>(v);
  }

 private:
  template <int64_t Half>
  MN_FN static typename R::type halves(typename R::type* v) {
    if constexpr (Half == 0) {
      return v[0];
    } else {
      for (int64_t l = 0; l < Half; ++l) v[l] = R::combine(v[l], v[l + Half]);
      return halves<Half / 2>(v);
    }
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
  MN_FN pack<typename R::type...> total(int64_t count) const { return total_of(count, indices{}); }

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
  MN_FN pack<typename R::type...> total_of(int64_t count, detail::indices<I...>) const {
    return values(get<I>(part).total(count)...);
  }
};

// So many that the additions of one accumulator, each waiting for the last, do not hold up the loads.
constexpr int64_t lane_count = 256;

// Accumulators in levels: after `fan` terms a level is added to the next and begins again, so that no sum is a long chain.
template <class R, int64_t Count>
struct cascade {
  static constexpr int64_t fan = 16, most_levels = 8;
  accumulators<R, Count> level[most_levels];
  int64_t terms[most_levels];
  int64_t levels;

  MN_FN void start(int64_t count) {
    levels = 1;
    terms[0] = 0;
    level[0].clear(count);
  }
  // `more` terms have been added to each accumulator of level[0]
  MN_FN void added(int64_t more, int64_t count) {
    terms[0] += more;
    for (int64_t l = 0; l + 1 < most_levels && terms[l] >= fan; ++l) {
      if (l + 1 == levels) {
        level[l + 1].clear(count);
        terms[l + 1] = 0;
        ++levels;
      }
      level[l + 1].merge(level[l], count);
      terms[l + 1] += 1;
      level[l].clear(count);
      terms[l] = 0;
    }
  }
  MN_FN accumulators<R, Count>& finish(int64_t count) {
    for (int64_t l = 0; l + 1 < levels; ++l) level[l + 1].merge(level[l], count);
    return level[levels - 1];
  }
};

// A reduction in progress: `add` tiles, then `total`. A row shorter than all lanes uses as many as it has elements.
template <class R>
struct reduction {
  cascade<R, lane_count> sums;
  int64_t lanes;

  MN_FN explicit reduction(int64_t elements) {
    lanes = elements < lane_count ? (elements + fold_width - 1) / fold_width * fold_width : lane_count;
    sums.start(lanes);
  }

  template <class Element>
  MN_FN void add(int64_t n, const Element& element) {
    for (int64_t i = 0; i < n; i += lanes) {
      const int64_t count = n - i < lanes ? n - i : lanes;
#pragma omp simd
      for (int64_t l = 0; l < count; ++l) sums.level[0].add(l, element(i + l));
      sums.added(1, lanes);
    }
  }
  MN_FN typename R::type total() { return sums.finish(lanes).total(lanes); }
};

}  // namespace mn
