// Row kind `whole`: a thread owns a row.
#pragma once

#include "cpu/row_sweeps.h"

namespace mn {

template <class Outs, class Ins>
class whole_row {
 public:
  whole_row(detail::row_ports<Outs, Ins>& ports, scratch& memory, int64_t size, int64_t tiles)
      : ports_(ports), memory_(memory), size_(size), tiles_(tiles) {}

  MN_FN int64_t size() const { return size_; }
  bool failed() const { return failed_; }

  template <size_t I>
  MN_FN loaded<I> load() {
    return {};
  }
  template <size_t I>
  MN_FN auto scalar() {
    return ports_.template scalar<I>();
  }
  template <size_t I>
  MN_FN auto pick(int64_t place) {
    return ports_.template pick<I>(place_within(size_, place));
  }
  MN_FN positions index() { return {}; }

  template <class F, class... H>
  MN_FN auto keep(F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    using V = std::decay_t<decltype(ports_.view(element)[0])>;
    V* data = memory_.take<V>(size_);
    if (data == nullptr) failed_ = true;
    sweep([&] {
      const auto view = ports_.view(element);
      V* to = data + ports_.tiles.position();
      ports_.by_lanes([&](int64_t first, int64_t count) __attribute__((always_inline)) {
#pragma omp simd
        for (int64_t i = first; i < first + count; ++i) to[i] = view[i];
      });
    });
    return kept<V>{data};
  }

  template <class R, class F, class... H>
  MN_FN auto reduce(R, F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    reduction<R> result(size_);
    sweep([&] {
      const auto view = ports_.view(element);
      result.add(ports_.tiles.size(), [&](int64_t i) { return view[i]; });
    });
    return result.total();
  }

  template <class C, class F, class... H>
  MN_FN moments_of<C> moments(F f, H... h) {
    if (tiles_ == 1) return moments_in_two_sweeps<C>(*this, f, h...);
    const lazy<F, H...> element{f, values(h...)};
    spreading<C> result(size_);
    sweep([&] {
      const auto view = ports_.view(element);
      result.add(ports_.tiles.size(), [&](int64_t i) { return view[i]; });
    });
    return {result.all.origin + result.all.from_origin(), result.all.squares};
  }

  template <size_t... O, class F, class... H>
  MN_FN void store(F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    sweep([&] { ports_.write(ports_.view(element), detail::indices<O...>{}, indices_to<sizeof...(O)>{}); });
  }
  template <size_t O, class V>
  MN_FN void put(V value) {
    ports_.template put<O>(value);
  }

 private:
  template <class F>
  MN_FN void sweep(const F& f) {
    if (!failed_) ports_.sweep(0, tiles_, f);
  }

  detail::row_ports<Outs, Ins>& ports_;
  scratch& memory_;
  int64_t size_, tiles_;
  bool failed_ = false;
};

template <class Body, class Outs, class Ins>
inline int run_whole(const std::array<void*, Outs::size>& outs, const std::array<fresh_pages, Outs::size>& fresh,
                     const std::array<const void*, Ins::size>& ins, const row_layout& layout, int64_t threads) {
  using ports_t = detail::row_ports<Outs, Ins>;
  const int64_t size = layout.row_size();
  const int64_t worth = (layout.rows() + layout.head.a - 1) / layout.head.a;
  std::atomic<int> result{no_error};
  parallel(threads < worth ? threads : worth, layout.rows(), [&](int64_t begin, int64_t end) {
    ports_t ports(outs, fresh, ins, layout);
    scratch& memory = scratch::of_thread();
    const int64_t tiles = ports.tiles.count();
    row_cursor<ports_t::operands> cursor(layout, begin);
    for (int64_t r = begin; r < end; ++r, cursor.next()) {
      for (size_t k = 0; k < ports_t::operands; ++k) ports.row[k] = cursor.at(k), ports.ahead[k] = cursor.ahead(k);
      memory.rewind();
      whole_row<Outs, Ins> row(ports, memory, size, tiles);
      Body{}(row);
      if (row.failed()) {
        result = out_of_memory;
        break;
      }
    }
    if (layout.stream) stream_done();
  });
  return result;
}

}  // namespace mn
