// One row, tile by tile: what the row kinds `whole` and `split` have in common.
#pragma once

#include "cpu/lanes.h"
#include "cpu/ports.h"
#include "cpu/row_layout.h"

namespace mn {

// Handles: what a body holds instead of the elements of a row.
template <size_t I>
struct loaded {};     // an input
struct positions {};  // 0, 1, 2, ...
template <class V>
struct kept {  // values in the thread's memory
  const V* data;
};
template <class F, class... H>
struct lazy {  // values computed where they are used
  F f;
  pack<H...> from;
};

namespace detail {

// Views: what a handle is inside one tile, indexed by the element.
struct position_view {
  int64_t first;
  MN_FN int64_t operator[](int64_t i) const { return first + i; }
};
template <class F, class... View>
struct lazy_view {
  F f;
  pack<View...> from;
  MN_FN auto operator[](int64_t i) const { return at(i, indices_to<sizeof...(View)>{}); }
  template <size_t... K>
  MN_FN auto at(int64_t i, indices<K...>) const {
    return f(get<K>(from)[i]...);
  }
};
template <class F, class... View>
MN_FN lazy_view<F, View...> view_with(const F& f, View... views) {
  return {f, values(views...)};
}

// A thread's tiles of all operands at one row.
template <class Outs, class Ins>
struct row_ports;
template <class... Outs, class... Ins>
struct row_ports<types<Outs...>, types<Ins...>> {
  static constexpr size_t outputs = sizeof...(Outs), operands = outputs + sizeof...(Ins);
  static constexpr bool stored_as_computed =
      (std::is_same<Ins, compute_t<Ins>>::value && ...) && !(is_16bit_float<Outs> || ...);
  row_tiles<operands> tiles;
  bool stream;
  int64_t row[operands];             // offsets of the current row
  int64_t ahead[operands];           // and of the one that comes next
  bool fetched[sizeof...(Ins) + 1];  // inputs that the current tile already has
  const void* from[sizeof...(Ins) + 1];
  pack<output_port<Outs>...> out;
  pack<input_port<Ins>...> in;

  row_ports(const std::array<void*, outputs>& outs, const std::array<fresh_pages, outputs>& fresh,
            const std::array<const void*, sizeof...(Ins)>& ins, const row_layout& layout)
      : tiles(layout), stream(layout.stream) {
    open(outs, fresh, ins, indices_to<outputs>{}, indices_to<sizeof...(Ins)>{});
  }
  template <size_t... O, size_t... I>
  void open(const std::array<void*, outputs>& outs, const std::array<fresh_pages, outputs>& fresh,
            const std::array<const void*, sizeof...(Ins)>& ins, indices<O...>, indices<I...>) {
    (get<O>(out).open(outs[O], fresh[O]), ...);
    (get<I>(in).open(ins[I], false, 0), ...);
  }

  // f() for `count` tiles from tile `first` on
  template <class F>
  MN_FN void sweep(int64_t first, int64_t count, const F& f) {
    tiles.seek(first);
    for (int64_t t = 0; t < count; ++t) {
      for (bool& done : fetched) done = false;
      f();
      if (t + 1 < count) tiles.next();
    }
  }

  template <size_t I>
  MN_FN auto view(const loaded<I>&) {
    using C = typename std::decay_t<decltype(get<I>(in))>::C;
    if (!fetched[I]) {
      from[I] = get<I>(in).fetch(row[outputs + I] + tiles.offset(outputs + I), tiles.shape(outputs + I));
      fetched[I] = true;
    }
    return static_cast<const C*>(from[I]);
  }
  MN_FN position_view view(const positions&) const { return {tiles.position()}; }
  template <class V>
  MN_FN const V* view(const kept<V>& handle) const {
    return handle.data + tiles.position();
  }
  template <class F, class... H>
  MN_FN auto view(const lazy<F, H...>& handle) {
    return view_of(handle, indices_to<sizeof...(H)>{});
  }
  template <class F, class... H, size_t... K>
  MN_FN auto view_of(const lazy<F, H...>& handle, indices<K...>) {
    return view_with(handle.f, view(get<K>(handle.from))...);
  }

  // Writes f of the handles to outputs O... for the current tile.
  template <class View, size_t... O, size_t... K>
  MN_FN void write(const View& element, indices<O...>, indices<K...>) {
    const int64_t at[] = {row[O] + tiles.offset(O)...};
    const block shape[] = {tiles.shape(O)...};
    const bool lanes = stream && (get<O>(out).takes_lanes(at[K], shape[K]) && ...), later = stream && !lanes;
    const auto to = values(get<O>(out).place(at[K], shape[K], later)...);
    if (lanes) {
      fill_lanes(element, to, indices<K...>{});
    } else {
      fill(element, to, indices<K...>{});
      (get<O>(out).commit(get<K>(to), at[K], shape[K], later), ...);
    }
  }
  template <class View, class... To, size_t... K>
  MN_FN void fill(const View& element, pack<To*...> to, indices<K...>) {
    const int64_t n = tiles.size();
    int64_t first = 0;
    for (; first + stream_lanes <= n; first += stream_lanes) {
      side_by_side<stream_lanes, To...>([&](int64_t l) __attribute__((always_inline)) {
        const auto results = as_pack(element[first + l]);
        ((get<K>(to)[first + l] = cast<To>(get<K>(results))), ...);
      });
    }
#pragma omp simd
    for (int64_t i = first; i < n; ++i) {
      const auto results = as_pack(element[i]);
      ((get<K>(to)[i] = cast<To>(get<K>(results))), ...);
    }
  }

  // Whether operand k is contiguous along a row that has one dim.
  MN_FN bool contiguous(size_t k) const { return tiles.layout().inner_stride(k, 0) == 1; }

  // Where the next row has the current tile, so that its first sweep need not wait for memory; where that is not known
  // or far beyond what the caches hold, a place that costs nothing.
  template <class S>
  struct ahead_at {
    const S* from;
    int64_t step;
  };
  template <class S>
  ahead_at<S> counterpart(const S* base, size_t k) const {
    constexpr int64_t most = (int64_t(64) << 10) / static_cast<int64_t>(sizeof(S));
    if (!tiles.shape(k).contiguous() || ahead[k] == row[k] || tiles.position() >= most) return {base + row[k], 0};
    return {base + ahead[k] + tiles.offset(k), 1};
  }

  // The cache lines of `n` elements.
  template <class S>
  MN_FN static void fetch_ahead(const S* from, int64_t n) {
    for (int64_t line = 0; line < n; line += 64 / static_cast<int64_t>(sizeof(S)))
      __builtin_prefetch(from + line, 0, 2);
  }

  // Asks for what the next row has in the place of `n` elements of the current tile.
  MN_FN void fetch_next(int64_t first, int64_t n) const { fetch_next_of(first, n, indices_to<sizeof...(Ins)>{}); }
  template <size_t... I>
  MN_FN void fetch_next_of(int64_t first, int64_t n, indices<I...>) const {
    [[maybe_unused]] const auto next = values(counterpart(get<I>(in).base, outputs + I)...);
    ((get<I>(next).step != 0 ? fetch_ahead(get<I>(next).from + first, n) : void()), ...);
  }

  // f(first element, how many) for stream_lanes elements of the current tile at a time, then for the rest of it; asks
  // for the next row on the way.
  template <class F>
  MN_FN void by_lanes(const F& f) const {
    by_lanes_of(f, indices_to<sizeof...(Ins)>{});
  }
  template <class F, size_t... I>
  MN_FN void by_lanes_of(const F& f, indices<I...>) const {
    const int64_t n = tiles.size();
    [[maybe_unused]] const auto next = values(counterpart(get<I>(in).base, outputs + I)...);
    int64_t i = 0;
    for (; i + stream_lanes <= n; i += stream_lanes) {
      (fetch_ahead(get<I>(next).from + i * get<I>(next).step, stream_lanes), ...);
      f(i, stream_lanes);
    }
    if (i < n) f(i, n - i);
  }

  // The same with stores past the cache, for a multiple of stream_lanes elements.
  template <class View, class... To, size_t... K>
  MN_FN void fill_lanes(const View& element, pack<To*...> to, indices<K...>) {
    by_lanes([&](int64_t first, int64_t) __attribute__((always_inline)) {
      lanes_out(element, to, first, indices<K...>{});
    });
  }
  template <class View, class... To, size_t... K>
  MN_FN static void lanes_out(const View& element, const pack<To*...>& to, int64_t first, indices<K...>) {
    pack<lanes_of<To>...> computed;
    side_by_side<stream_lanes, To...>([&](int64_t l) __attribute__((always_inline)) {
      const auto results = as_pack(element[first + l]);
      ((get<K>(computed).value[l] = cast<To>(get<K>(results))), ...);
    });
    (stream_lanes_out(get<K>(computed), get<K>(to) + first), ...);
  }

  template <size_t I>
  MN_FN auto scalar() const {
    return to_compute(get<I>(in).base[row[outputs + I]]);
  }
  template <size_t I>
  MN_FN auto pick(int64_t place) const {
    return to_compute(get<I>(in).base[row[outputs + I] + tiles.layout().inside(outputs + I, place)]);
  }
  template <size_t O, class V>
  MN_FN void put(V value) {
    auto& port = get<O>(out);
    port.base[row[O]] = to_storage<std::decay_t<decltype(*port.base)>>(value);
  }
};

}  // namespace detail
}  // namespace mn
