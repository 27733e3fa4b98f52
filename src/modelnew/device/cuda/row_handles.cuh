// Handles of rows that are swept vector by vector: `start` asks memory for what a vector needs, `item` gives the
// vector, so that a sweep can start several. What has a place in shared memory is written there in the first sweep.
// `plain`: there is nothing to compute, so registers are left for more vectors at a time.
#pragma once

#include "cuda/row_program.cuh"

namespace mn {

inline constexpr int nowhere = -1;

// This thread's item of a step; `place`: where in shared memory the handle's items are.
template <class Item>
MN_FN Item& kept_item(int place, int step) {
  return reinterpret_cast<Item*>(shared_memory() + place)[step * blockDim.x + threadIdx.x];
}

template <class Row, size_t I, class S>
struct loaded {
  using item_type = stored_item<S, Row::V>;
  using raw = item_type;
  static constexpr bool plain = true;
  int place;
  mutable bool seen = false;

  MN_FN bool kept() const { return place != nowhere && seen; }
  MN_FN bool vectored(const Row& row) const { return kept() || (row.vectored >> (Row::outputs + I) & 1); }
  template <class N>
  MN_FN void start(const Row& row, const N& first, raw& r) const {
    if (!kept()) r.x = row.template load_whole<I>(first);
  }
  MN_FN void start_edge(const Row& row, int64_t first, raw& r) const {
    if (!kept()) r.x = row.template load_edge<I>(first);
  }
  MN_FN item_type item(const Row&, int step, int64_t, const raw& r) const {
    if (kept()) return kept_item<item_type>(place, step);
    if (place != nowhere) kept_item<item_type>(place, step) = r;
    return r;
  }
  MN_FN void swept() const { seen = true; }
};

template <class Row>
struct counted {
  struct raw {};
  static constexpr bool plain = true;
  MN_FN bool vectored(const Row&) const { return true; }
  template <class N>
  MN_FN void start(const Row&, const N&, raw&) const {}
  template <class N>
  MN_FN void start_edge(const Row&, const N&, raw&) const {}
  template <class Step>
  MN_FN index_item item(const Row& row, const Step&, int64_t first, const raw&) const { return {first, row.size() - 1}; }
  MN_FN void swept() const {}
};

template <class Row, class F, class... H>
struct computed {
  using step_type = typename Row::step_type;
  using value = std::decay_t<decltype(std::declval<const F&>()(
      std::declval<const H&>().item(std::declval<const Row&>(), std::declval<const step_type&>(), 0, std::declval<const typename H::raw&>())[0]...))>;
  using item_type = computed_item<value, Row::V>;
  using raw = pack<typename H::raw...>;
  static constexpr bool plain = false;
  F f;
  pack<H...> from;
  int place;
  mutable bool seen = false;

  MN_FN bool kept() const { return place != nowhere && seen; }
  MN_FN bool vectored(const Row& row) const { return kept() || all_vectored(row, own{}); }
  template <class N>
  MN_FN void start(const Row& row, const N& first, raw& r) const {
    if (!kept()) start_all(row, first, r, own{});
  }
  template <class N>
  MN_FN void start_edge(const Row& row, const N& first, raw& r) const {
    if (!kept()) start_edges(row, first, r, own{});
  }
  template <class Step>
  MN_FN item_type item(const Row& row, const Step& step, int64_t first, const raw& r) const {
    if constexpr (std::is_same<Step, int>::value) {
      if (kept()) return kept_item<item_type>(place, step);
    }
    const item_type result = compute(row, step, first, r, own{});
    if constexpr (std::is_same<Step, int>::value) {
      if (place != nowhere) kept_item<item_type>(place, step) = result;
    }
    return result;
  }
  MN_FN void swept() const {
    if (!kept()) all_swept(own{});
    seen = true;
  }

 private:
  using own = indices_to<sizeof...(H)>;

  template <size_t... K>
  MN_FN bool all_vectored(const Row& row, detail::indices<K...>) const {
    return (get<K>(from).vectored(row) && ...);
  }
  template <class N, size_t... K>
  MN_FN void start_all(const Row& row, const N& first, raw& r, detail::indices<K...>) const {
    (get<K>(from).start(row, first, get<K>(r)), ...);
  }
  template <class N, size_t... K>
  MN_FN void start_edges(const Row& row, const N& first, raw& r, detail::indices<K...>) const {
    (get<K>(from).start_edge(row, first, get<K>(r)), ...);
  }
  template <class Step, size_t... K>
  MN_FN item_type compute(const Row& row, const Step& step, int64_t first, const raw& r, detail::indices<K...>) const {
    const auto items = values(get<K>(from).item(row, step, first, get<K>(r))...);
    item_type result;
#pragma unroll
    for (int v = 0; v < Row::V; ++v) result.x[v] = f(get<K>(items)[v]...);
    return result;
  }
  template <size_t... K>
  MN_FN void all_swept(detail::indices<K...>) const {
    (get<K>(from).swept(), ...);
  }
};

}  // namespace mn
