// Row kind `split`: rows too large to keep, or too few for the threads. Each sweep is a loop over the row's chunks,
// which threads may share.
#pragma once

#include "cpu/row_sweeps.h"

namespace mn {

// Tiles whose results are combined before any other: the cut does not depend on the number of threads, so neither does
// the result.
constexpr int64_t tiles_per_chunk = 64;

template <class Outs, class Ins>
class split_row {
 public:
  using ports_t = detail::row_ports<Outs, Ins>;
  using outs_t = std::array<void*, Outs::size>;
  using ins_t = std::array<const void*, Ins::size>;
  using fresh_t = std::array<fresh_pages, Outs::size>;

  split_row(const outs_t& outs, const fresh_t& fresh, const ins_t& ins, const row_layout& layout, int64_t row,
            int64_t threads)
      : outs_(outs), fresh_(fresh), ins_(ins), layout_(layout), threads_(threads), own_(outs, fresh, ins, layout) {
    tiles_ = own_.tiles.count();
    chunks_ = (tiles_ + tiles_per_chunk - 1) / tiles_per_chunk;
    layout.row_at(row, layout.head.rank, ports_t::operands, own_.row);
  }

  MN_FN int64_t size() const { return layout_.row_size(); }
  bool failed() const { return failed_; }

  template <size_t I>
  MN_FN loaded<I> load() {
    return {};
  }
  template <size_t I>
  MN_FN auto scalar() {
    return own_.template scalar<I>();
  }
  template <size_t I>
  MN_FN auto pick(int64_t place) {
    return own_.template pick<I>(place_within(size(), place));
  }
  MN_FN positions index() { return {}; }

  // Too large to keep: computed again at each use.
  template <class F, class... H>
  MN_FN lazy<F, H...> keep(F f, H... h) {
    return {f, values(h...)};
  }
  template <class R, class F, class... H>
  MN_FN auto keep_reduced(R how, F f, H... h) {
    const auto handle = keep(f, h...);
    return values(handle, reduce(how, [](typename R::type x) { return x; }, handle));
  }

  template <class R, class F, class... H>
  auto reduce(R, F f, H... h) {
    using V = typename R::type;
    const lazy<F, H...> element{f, values(h...)};
    V* partial = chunk_results<V>();
    sweep([&](ports_t& ports, int64_t chunk, int64_t first, int64_t count) {
      reduction<R> result(size());
      ports.sweep(first, count, [&] {
        const auto view = ports.view(element);
        result.add(ports.tiles.size(), [&](int64_t i) { return view[i]; });
      });
      partial[chunk] = result.total();
    });
    return in_pairs<R>(partial);
  }

  template <class C, class F, class... H>
  moments_of<C> moments(F f, H... h) {
    using means = mean_of_spreads<C>;
    using sums = sums_of_spreads<C>;
    const lazy<F, H...> element{f, values(h...)};
    spread<C>* part = chunk_results<spread<C>>();
    auto* mean = chunk_results<typename means::type>();
    auto* far = chunk_results<typename sums::type>();
    sweep([&](ports_t& ports, int64_t chunk, int64_t first, int64_t count) {
      spreading<C> result(size());
      ports.sweep(first, count, [&] {
        const auto view = ports.view(element);
        result.add(ports.tiles.size(), [&](int64_t i) { return view[i]; });
      });
      part[chunk] = result.all;
      mean[chunk] = means::of(result.all);
    });
    const C centre = in_pairs<means>(mean).mean;
    for (int64_t c = 0; c < chunks_ && !failed_; ++c) far[c] = sums::of(part[c], centre);
    return sums::moments(centre, C(size()), in_pairs<sums>(far));
  }

  template <size_t... O, class F, class... H>
  void store(F f, H... h) {
    const lazy<F, H...> element{f, values(h...)};
    sweep([&](ports_t& ports, int64_t, int64_t first, int64_t count) {
      ports.sweep(first, count,
                  [&] { ports.write(ports.view(element), detail::indices<O...>{}, indices_to<sizeof...(O)>{}); });
    });
  }
  template <size_t O, class V>
  MN_FN void put(V value) {
    own_.template put<O>(value);
  }

 private:
  template <class V>
  V* chunk_results() {
    V* results = scratch::of_thread().template take<V>(chunks_);
    if (results == nullptr) failed_ = true;
    return results;
  }
  // All chunks' results: neighbours first.
  template <class R>
  auto in_pairs(typename R::type* partial) const {
    if (failed_) return R::identity();
    for (int64_t step = 1; step < chunks_; step *= 2)
      for (int64_t c = 0; c + step < chunks_; c += 2 * step) partial[c] = R::combine(partial[c], partial[c + step]);
    return partial[0];
  }

  // f(ports, chunk, first tile, number of tiles) for every chunk, in parallel
  template <class F>
  void sweep(const F& f) {
    if (failed_) return;
    const int64_t worth = (tiles_ + layout_.head.a - 1) / layout_.head.a;
    parallel(threads_ < worth ? threads_ : worth, chunks_, [&](int64_t begin, int64_t end) {
      ports_t ports(outs_, fresh_, ins_, layout_);
      for (size_t k = 0; k < ports_t::operands; ++k) ports.row[k] = ports.ahead[k] = own_.row[k];
      for (int64_t c = begin; c < end; ++c) {
        const int64_t first = c * tiles_per_chunk;
        f(ports, c, first, tiles_ - first < tiles_per_chunk ? tiles_ - first : tiles_per_chunk);
      }
      if (layout_.stream) stream_done();
    });
  }

  const outs_t& outs_;
  const fresh_t& fresh_;
  const ins_t& ins_;
  const row_layout& layout_;
  int64_t threads_, tiles_, chunks_;
  ports_t own_;
  bool failed_ = false;
};

template <class Body, class Outs, class Ins>
inline int run_split(const std::array<void*, Outs::size>& outs, const std::array<fresh_pages, Outs::size>& fresh,
                     const std::array<const void*, Ins::size>& ins, const row_layout& layout, int64_t threads) {
  std::atomic<int> result{no_error};
  const auto run = [&](int64_t r, int64_t sharing) {
    scratch::of_thread().rewind();
    split_row<Outs, Ins> row(outs, fresh, ins, layout, r, sharing);
    Body{}(row);
    if (row.failed()) result = out_of_memory;
  };
  // Where there are rows enough for all threads, each walks its own: threads that share a row wait for the slowest
  // after every sweep. The cut into chunks is the same, and so are the results.
  const bool alone = layout.rows() >= 2 * threads;
  parallel(alone ? threads : 1, layout.rows(), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end && result == no_error; ++r) run(r, alone ? 1 : threads);
  });
  return result;
}

}  // namespace mn
