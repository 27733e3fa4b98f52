// Row kind `whole`: a thread owns a row.
#pragma once

#include "cpu/row_late.h"

namespace mn {

template <class Outs, class Ins>
class whole_row {
 public:
  using ports_t = detail::row_ports<Outs, Ins>;
  whole_row(ports_t& ports, scratch& memory, int64_t size, int64_t tiles, detail::lateness<ports_t>& late,
            int64_t number)
      : ports_(ports),
        memory_(memory),
        size_(size),
        tiles_(tiles),
        late_(late),
        own_(late.stores[number & 1]),
        before_(late.stores[~number & 1]) {}

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
    auto* const data = room_for(element);
    sweep([&] {
      const auto view = ports_.view(element);
      auto* const to = data + ports_.tiles.position();
      ports_.by_lanes([&](int64_t first, int64_t count) __attribute__((always_inline)) {
#pragma omp simd
        for (int64_t i = first; i < first + count; ++i) to[i] = view[i];
      });
    });
    return kept<std::decay_t<decltype(*data)>>{data};
  }

  // keep, and what reduce makes of the values that are kept, in one sweep.
  template <class R, class F, class... H>
  MN_FN auto keep_reduced(R, F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    auto* const data = room_for(element);
    using V = std::decay_t<decltype(*data)>;
    reduction<R> result(size_);
    sweep_beside(true, [&](int64_t stretch, const auto& beside) {
      const auto view = ports_.view(element);
      auto* const to = data + ports_.tiles.position();
      const auto one = [=](int64_t i) __attribute__((always_inline)) {
        const V value = view[i];
        to[i] = value;
        return value;
      };
      result.template add<true>(ports_.tiles.size(), one, stretch, beside);
    });
    return values(kept<V>{data}, result.total());
  }

  template <class R, class F, class... H>
  MN_FN auto reduce(R, F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    reduction<R> result(size_);
    sweep_beside(false, [&](int64_t stretch, const auto& beside) {
      const auto view = ports_.view(element);
      result.add(ports_.tiles.size(), [&](int64_t i) { return view[i]; }, stretch, beside);
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
    return {result.all.mean(), result.all.squares};
  }

  template <size_t... O, class F, class... H>
  MN_FN void store(F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    if (late_.possible && sweeps_ > 0 && !failed_ && own_.add(ports_, element, detail::indices<O...>{})) {
      late_.sweep = sweeps_ - 1;
      return;
    }
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

  // Memory for the values of a handle.
  template <class Element>
  MN_FN auto* room_for(const Element& element) {
    auto* const data = memory_.take<std::decay_t<decltype(ports_.view(element)[0])>>(size_);
    if (data == nullptr) failed_ = true;
    return data;
  }

  // f(stretch, beside) for every tile: after every `stretch` elements it is to call beside(first, how many), which makes as
  // many stores of the row before where this is the sweep that goes with them. Then or where the sweep keeps what it computes
  // it asks for as much of the next row.
  template <class F>
  MN_FN void sweep_beside(bool keeps, const F& f) {
    const bool writes = late_.sweep == sweeps_++ && !before_.empty();
    const bool fetches = writes || (keeps && !late_.possible);
    sweep([&] {
      f(fetches ? late_.stretch : tile_elements, [&](int64_t first, int64_t count) {
        if (fetches) ports_.fetch_next(first, count);
        if (writes) before_.advance(ports_, count);
      });
    });
  }

  ports_t& ports_;
  scratch& memory_;
  int64_t size_, tiles_, sweeps_ = 0;
  detail::lateness<ports_t>& late_;
  detail::late_stores<ports_t>&own_, &before_;
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
    detail::lateness<ports_t> late(layout);
    const int64_t tiles = ports.tiles.count();
    row_cursor<ports_t::operands> cursor(layout, begin);
    for (int64_t r = begin; r < end; ++r, cursor.next()) {
      for (size_t k = 0; k < ports_t::operands; ++k) ports.row[k] = cursor.at(k), ports.ahead[k] = cursor.ahead(k);
      scratch& memory = scratch::of_thread(late.possible ? r : 0);
      memory.rewind();
      whole_row<Outs, Ins> row(ports, memory, size, tiles, late, r);
      Body{}(row);
      late.stores[~r & 1].finish(ports);
      if (row.failed()) {
        result = out_of_memory;
        break;
      }
    }
    for (auto& left : late.stores) left.finish(ports);
    if (layout.stream) stream_done();
  });
  return result;
}

}  // namespace mn
