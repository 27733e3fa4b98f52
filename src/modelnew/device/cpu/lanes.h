// Reductions over a tile: many independent accumulators, so that the loop vectorises and its order is fixed.
#pragma once

#include "common/moments.h"
#include "cpu/tiles.h"

namespace mn {

constexpr int64_t fold_width = 16;

// What a functor returned, in the type (or types) that the reduction works in.
template <class R, class V>
MN_FN typename R::type reduced_value(V v) {
  if constexpr (std::is_arithmetic<V>::value) {
    return cast<typename R::type>(v);
  } else {
    return v;
  }
}

// Accumulators of one reduction; a pack of reductions has one array for each.
template <class R, int64_t Count>
struct accumulators {
  alignas(64) typename R::type lane[Count];

  // `count`: a multiple of fold_width, up to Count rounded up to one
  MN_FN void clear(int64_t count) {
    for (int64_t first = 0; first < count; first += fold_width) {
      for (int64_t l = 0; l < fold_width; ++l) lane[first + l] = R::identity();
      asm volatile("" ::: "memory");  // or GCC makes one call of memset of it, which costs more than all the stores
    }
  }
  template <class V>
  MN_FN void add(int64_t l, V value) {
    lane[l] = R::combine(lane[l], cast<typename R::type>(value));
  }
  MN_FN void copy(const accumulators& other, int64_t count) {
    for (int64_t l = 0; l < count; ++l) lane[l] = other.lane[l];
  }
  MN_FN void merge(const accumulators& other, int64_t count) {
    for (int64_t l = 0; l < count; ++l) lane[l] = R::combine(lane[l], other.lane[l]);
  }
  MN_FN typename R::type at(int64_t l) const { return lane[l]; }

  // All of `count` accumulators, a multiple of fold_width: the upper half of the vectors onto the lower, then within
  // one vector.
  MN_FN typename R::type total(int64_t count) {
    while (count > fold_width) {
      const int64_t half = (count / fold_width + 1) / 2 * fold_width;
#pragma omp simd
      for (int64_t l = 0; l < count - half; ++l) lane[l] = R::combine(lane[l], lane[l + half]);
      count = half;
    }
    typename R::type v[fold_width];
    for (int64_t l = 0; l < fold_width; ++l) v[l] = lane[l];
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
  MN_FN void copy(const accumulators& other, int64_t count) { copy_at(other, count, indices{}); }
  MN_FN void merge(const accumulators& other, int64_t count) { merge_at(other, count, indices{}); }
  MN_FN pack<typename R::type...> at(int64_t l) const { return at_of(l, indices{}); }
  MN_FN pack<typename R::type...> total(int64_t count) { return total_of(count, indices{}); }

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
  MN_FN void copy_at(const accumulators& other, int64_t count, detail::indices<I...>) {
    (get<I>(part).copy(get<I>(other.part), count), ...);
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
  MN_FN pack<typename R::type...> total_of(int64_t count, detail::indices<I...>) {
    return values(get<I>(part).total(count)...);
  }
};

// Accumulators in levels: after `fan` terms a level is added to the next and begins again, so that no sum is a long
// chain.
template <class R, int64_t Count>
struct cascade {
  static constexpr int64_t fan = 16, most_levels = 8;
  accumulators<R, Count> level[most_levels];
  int64_t terms[most_levels] = {};

  MN_FN void begin() {
    for (int64_t& count : terms) count = 0;
  }
  // One more term for each of `count` accumulators; a term is itself the sum of at most `fan` values.
  MN_FN void add(const accumulators<R, Count>& term, int64_t count) {
    put(0, term, count);
    for (int64_t l = 0; l + 1 < most_levels && terms[l] == fan; ++l) {
      put(l + 1, level[l], count);
      terms[l] = 0;
    }
  }
  MN_FN accumulators<R, Count>& finish(int64_t count) {
    int64_t top = most_levels - 1;
    while (terms[top] == 0) --top;
    for (int64_t l = 0; l < top; ++l) {
      if (terms[l] != 0) put(l + 1, level[l], count);
    }
    return level[top];
  }

 private:
  MN_FN void put(int64_t l, const accumulators<R, Count>& term, int64_t count) {
    if (terms[l]++ == 0) {
      level[l].copy(term, count);
    } else {
      level[l].merge(term, count);
    }
  }
};

// So many that the additions of one accumulator, each waiting for the last, do not hold up the loads, and so few that
// all stay in registers.
constexpr int64_t lane_count = 64;

// f(lane, element) for the `n` elements of a tile, so many lanes at a time.
template <int64_t Lanes, class F>
MN_FN void in_lanes(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + Lanes <= n; i += Lanes) {
#pragma omp simd
    for (int64_t l = 0; l < Lanes; ++l) f(l, i + l);
  }
  const int64_t rest = n - i;
#pragma omp simd
  for (int64_t l = 0; l < rest; ++l) f(l, i + l);
}

// A row shorter than all lanes uses as many as it has elements.
template <int64_t Lanes>
MN_FN int64_t lanes_for(int64_t elements) {
  return elements < Lanes ? (elements + fold_width - 1) / fold_width * fold_width : Lanes;
}

// A reduction in progress: `add` tiles, then `total`.
template <class R>
struct reduction {
  cascade<R, lane_count> sums;
  int64_t lanes;

  MN_FN explicit reduction(int64_t elements) : lanes(lanes_for<lane_count>(elements)) {}

  template <class Element>
  MN_FN void add(int64_t n, const Element& element) {
    add(n, element, n, [](int64_t, int64_t) {});
  }
  // After every `stretch` elements, a multiple of lane_count, goes beside(first, how many). Long: an element takes a long
  // chain of dependent instructions.
  template <bool Long = false, class Element, class Beside>
  MN_FN void add(int64_t n, const Element& element, int64_t stretch, const Beside& beside) {
    accumulators<R, lane_count> tile;
    tile.clear(lanes);
    [[maybe_unused]] std::conditional_t<Long, lanes_beside<lane_count, decltype(element(0))>, bool> wide;
    int64_t i = 0;
    while (i + lane_count <= n) {
      const int64_t first = i;
      for (; i + lane_count <= n && i - first < stretch; i += lane_count) {
        const auto one = [&](int64_t l) __attribute__((always_inline)) {
          tile.add(l, reduced_value<R>(element(i + l)));
        };
        if constexpr (Long) {
          wide.run(one);
        } else {
#pragma omp simd
          for (int64_t l = 0; l < lane_count; ++l) one(l);
        }
      }
      beside(first, i - first);
    }
    const int64_t rest = n - i;
#pragma omp simd
    for (int64_t l = 0; l < rest; ++l) tile.add(l, reduced_value<R>(element(i + l)));
    sums.add(tile, lanes);
  }
  MN_FN typename R::type total() { return sums.finish(lanes).total(lanes); }
};

// The same of moments: the first tile's distances are taken from its own mean, others' from that of the tiles before.
template <class C>
struct spreading {
  static constexpr int64_t half = lane_count / 2;  // there are two sums for each lane
  spread<C> all = {};
  C origin = C(0);
  int64_t elements;  // of the row

  MN_FN explicit spreading(int64_t size) : elements(size) {}

  template <class Element>
  MN_FN void add(int64_t n, const Element& element) {
    if (all.count == C(0)) origin = finite_or_zero(sum_of(n, element) / C(n));
    const C from = origin;
    const int64_t used = lanes_for<half>(elements);
    accumulators<sum<C>, half> distances, squares;
    distances.clear(used);
    squares.clear(used);
    in_lanes<half>(n, [&](int64_t l, int64_t i) __attribute__((always_inline)) {
      const C far = cast<C>(element(i)) - from;
      distances.add(l, far);
      squares.add(l, far * far);
    });
    all.add(C(n), from, distances.total(used), squares.total(used));
    origin = all.next_origin();
  }

 private:
  template <class Element>
  MN_FN C sum_of(int64_t n, const Element& element) const {
    const int64_t used = lanes_for<lane_count>(elements);
    accumulators<sum<C>, lane_count> total;
    total.clear(used);
    in_lanes<lane_count>(n, [&](int64_t l, int64_t i) __attribute__((always_inline)) { total.add(l, element(i)); });
    return total.total(used);
  }
};

}  // namespace mn
