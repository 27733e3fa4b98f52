// Row kind `columns`: a thread owns neighbouring rows and walks them side by side, so that cache lines are used whole
// where the elements of one row lie far apart, and vectors are full where rows are short.
//
// The body is written for one row. It runs once per row and pass: in pass s the sweeps before s return what they found,
// sweep s collects the functors of all rows and, at the last row, runs over the memory of all of them; later sweeps do
// nothing yet.
#pragma once

#include "cpu/lanes.h"
#include "cpu/ports.h"
#include "cpu/row_layout.h"
#include "cpu/row_sweeps.h"

namespace mn {

constexpr int64_t most_lanes = 256;  // rows side by side
constexpr int64_t most_sweeps = 32;

namespace detail {

// Views for rows side by side, indexed by the depth in the tile and the lane.
template <class V>
struct pitched {
  V* data;
  int64_t pitch;
  MN_FN V& at(int64_t depth, int64_t lane) const { return data[depth * pitch + lane]; }
};
struct depth_view {
  int64_t first;
  MN_FN int64_t at(int64_t depth, int64_t) const { return first + depth; }
};

// What is common to the rows of a block: offsets, tiles, results of earlier sweeps.
template <class Outs, class Ins>
struct column_block;
template <class... Outs, class... Ins>
struct column_block<types<Outs...>, types<Ins...>> {
  static constexpr size_t outputs = sizeof...(Outs), operands = outputs + sizeof...(Ins);
  const row_layout& layout;
  scratch& memory;
  int64_t size, inner, lanes = 0;  // elements of a row; of its last dim; rows in this block
  int64_t at[operands], lane_stride[operands];
  int64_t position = 0, depth = 0;  // of the current tile
  int64_t tile_at[operands];
  int64_t pass = 0, sweeps = 0;
  void* found[most_sweeps];
  void* functors = nullptr;
  bool failed = false, puts = false;
  pack<output_port<Outs>...> out;
  pack<input_port<Ins>...> in;

  column_block(const row_layout& of, scratch& own) : layout(of), memory(own), size(of.row_size()) {
    const int64_t rank = of.head.inner_rank;
    inner = rank > 0 ? of.inner_sizes[rank - 1] : 1;
    for (size_t k = 0; k < operands; ++k) lane_stride[k] = of.head.rank > 0 ? of.outer_stride(k, of.head.rank - 1) : 0;
  }

  // f() for every tile: up to head.c elements deep within the last inner dim, all lanes wide
  template <class F>
  void sweep(const F& f) {
    const int64_t rank = layout.head.inner_rank;
    for (int64_t run = 0; run < size / inner; ++run) {
      int64_t start[operands], left = run;
      for (size_t k = 0; k < operands; ++k) start[k] = at[k];
      for (int64_t d = rank - 2; d >= 0; --d) {
        for (size_t k = 0; k < operands; ++k) start[k] += left % layout.inner_sizes[d] * layout.inner_stride(k, d);
        left /= layout.inner_sizes[d];
      }
      for (int64_t first = 0; first < inner; first += layout.head.c) {
        position = run * inner + first;
        depth = inner - first < layout.head.c ? inner - first : layout.head.c;
        for (size_t k = 0; k < operands; ++k)
          tile_at[k] = start[k] + (rank > 0 ? first * layout.inner_stride(k, rank - 1) : 0);
        f();
      }
    }
  }

  block shape(size_t k) const {
    const int64_t rank = layout.head.inner_rank;
    return {depth, lanes, rank > 0 ? layout.inner_stride(k, rank - 1) : 0, lane_stride[k]};
  }

  template <size_t I>
  MN_FN auto view(const loaded<I>&) {
    auto& port = get<I>(in);
    using C = typename std::decay_t<decltype(port)>::C;
    using S = std::decay_t<decltype(*port.base)>;
    const size_t k = outputs + I;
    const block b = shape(k);
    if constexpr (std::is_same<S, C>::value) {
      if (b.column_stride == 1) return pitched<const C>{port.base + tile_at[k], b.row_stride};
    }
    load_block(port.base + tile_at[k], b, port.copy);
    return pitched<const C>{port.copy, lanes};
  }
  MN_FN depth_view view(const positions&) const { return {position}; }
  template <class F, class... H>
  MN_FN auto view(const lazy<F, H...>& handle) {
    return view_of(handle, indices_to<sizeof...(H)>{});
  }
  template <class F, class... H, size_t... K>
  MN_FN auto view_of(const lazy<F, H...>& handle, indices<K...>) {
    return values(view(get<K>(handle.from))...);
  }
};

// The element of lane's functor at (depth, lane): handles name the functors, views hold the memory of all lanes.
template <class H, class View>
MN_FN auto column_element(const H&, const View& view, int64_t depth, int64_t lane) {
  return view.at(depth, lane);
}
template <class F, class... H, class... View>
MN_FN auto column_element(const lazy<F, H...>& handle, const pack<View...>& view, int64_t depth, int64_t lane);
template <class F, class... H, class... View, size_t... K>
MN_FN auto column_element_of(const lazy<F, H...>& handle, const pack<View...>& view, int64_t depth, int64_t lane,
                             indices<K...>) {
  return handle.f(column_element(get<K>(handle.from), get<K>(view), depth, lane)...);
}
template <class F, class... H, class... View>
MN_FN auto column_element(const lazy<F, H...>& handle, const pack<View...>& view, int64_t depth, int64_t lane) {
  return column_element_of(handle, view, depth, lane, indices_to<sizeof...(H)>{});
}

// The moments of rows side by side, and the group of their elements that is being summed.
template <class C>
struct column_spread {
  static constexpr int64_t fan = 16;
  spread<C> all[most_lanes] = {};
  alignas(64) C origin[most_lanes] = {};
  cascade<sum<C>, most_lanes> distances, squares;

  // Origins: the means of so many elements.
  template <class Element>
  MN_FN void begin(int64_t depth, int64_t lanes, const Element& element) {
    for (int64_t d = 0; d < depth; ++d) {
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) origin[l] += element(d, l);
    }
    for (int64_t l = 0; l < lanes; ++l) origin[l] = finite_or_zero(origin[l] / C(depth));
  }
  template <class Element>
  MN_FN void add(int64_t first, int64_t last, int64_t lanes, int64_t padded, const Element& element) {
    accumulators<sum<C>, most_lanes> far, square;
    far.clear(padded);
    square.clear(padded);
    for (int64_t d = first; d < last; ++d) {
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) {
        const C distance = element(d, l) - origin[l];
        far.add(l, distance);
        square.add(l, distance * distance);
      }
    }
    distances.add(far, padded);
    squares.add(square, padded);
  }
  MN_FN void fold(int64_t terms, int64_t lanes, int64_t padded) {
    const auto &far = distances.finish(padded), &square = squares.finish(padded);
    for (int64_t l = 0; l < lanes; ++l) {
      all[l].add(C(terms), origin[l], far.at(l), square.at(l));
      origin[l] = all[l].next_origin();
    }
    distances.begin();
    squares.begin();
  }
};

template <class... Outs, class... Ins, size_t... O, size_t... I>
inline void open_columns(column_block<types<Outs...>, types<Ins...>>& b, const std::array<void*, sizeof...(Outs)>& outs,
                         const std::array<const void*, sizeof...(Ins)>& ins, indices<O...>, indices<I...>) {
  (get<O>(b.out).open(outs[O], fresh_pages{}), ...);
  ((get<I>(b.in).base = static_cast<const Ins*>(ins[I])), ...);
}

}  // namespace detail

template <class Outs, class Ins>
class column_row {
 public:
  using block_t = detail::column_block<Outs, Ins>;
  column_row(block_t& b, int64_t lane) : block_(b), lane_(lane) {}

  MN_FN int64_t size() const { return block_.size; }

  template <size_t I>
  MN_FN loaded<I> load() {
    return {};
  }
  template <size_t I>
  MN_FN auto scalar() {
    const size_t k = Outs::size + I;
    return to_compute(get<I>(block_.in).base[block_.at[k] + lane_ * block_.lane_stride[k]]);
  }
  // Read in the passes whose sweeps come after it; what runs before them has the row in the caches by then.
  template <size_t I>
  MN_FN auto pick(int64_t place) {
    const size_t k = Outs::size + I;
    const auto* const row = get<I>(block_.in).base + block_.at[k] + lane_ * block_.lane_stride[k];
    using C = decltype(to_compute(*row));
    if (block_.pass < sweep_) return C{};
    return to_compute(row[block_.layout.inside(k, place_within(block_.size, place))]);
  }
  MN_FN positions index() { return {}; }
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
  MN_FN typename R::type reduce(R, F f, H... h) {
    return per_row<cascade<R, most_lanes>>(R::identity(), lazy<F, H...>{f, values(h...)},
                                           [&](const auto* all, auto& sums, auto* found) { run_reduce<R>(all, sums, found); });
  }

  template <class C, class F, class... H>
  MN_FN moments_of<C> moments(F f, H... h) {
    return per_row<detail::column_spread<C>>(moments_of<C>{}, lazy<F, H...>{f, values(h...)},
                                             [&](const auto* all, auto& own, auto* found) { run_moments(all, own, found); });
  }

  template <size_t... O, class F, class... H>
  MN_FN void store(F f, H... h) {
    const int64_t sweep = sweep_++;
    if (sweep >= most_sweeps) block_.failed = true;
    if (block_.failed || sweep != block_.pass) return;
    if (const auto* all = collect(lazy<F, H...>{f, values(h...)}))
      run_store(all, detail::indices<O...>{}, indices_to<sizeof...(O)>{});
  }

  // Written in the pass after the last sweep, when every result is known.
  template <size_t O, class V>
  MN_FN void put(V value) {
    block_.puts = true;
    if (block_.pass < block_.sweeps || block_.failed) return;
    auto& port = get<O>(block_.out);
    port.base[block_.at[O] + lane_ * block_.lane_stride[O]] = to_storage<std::decay_t<decltype(*port.base)>>(value);
  }

  int64_t sweeps() const { return sweep_; }

 private:
  // What a sweep finds, one value for each row: run(functors, Space, results) makes all of them. Before, `nothing`.
  template <class Space, class V, class Element, class Run>
  MN_FN V per_row(V nothing, const Element& element, const Run& run) {
    const int64_t sweep = sweep_++;
    if (sweep >= most_sweeps) block_.failed = true;
    if (block_.failed || sweep > block_.pass) return nothing;
    if (sweep == block_.pass) {
      if (const auto* all = collect(element)) {
        V* found = block_.memory.template take<V>(block_.lanes);
        void* space = block_.memory.template take<Space>(1);
        if (found == nullptr || space == nullptr) {
          block_.failed = true;
          return nothing;
        }
        run(all, *new (space) Space, found);
        block_.found[sweep] = found;
      }
      return nothing;
    }
    return static_cast<const V*>(block_.found[sweep])[lane_];
  }

  // The functors of all rows of the block, once the last row has brought its own.
  template <class Element>
  MN_FN const Element* collect(const Element& element) {
    if (lane_ == 0) block_.functors = block_.memory.template take<Element>(block_.lanes);
    if (block_.functors == nullptr) {
      block_.failed = true;
      return nullptr;
    }
    Element* all = static_cast<Element*>(block_.functors);
    new (all + lane_) Element(element);
    return lane_ + 1 == block_.lanes ? all : nullptr;
  }

  template <class R, class Element>
  void run_reduce(const Element* all, cascade<R, most_lanes>& sums, typename R::type* found) {
    const int64_t lanes = block_.lanes, padded = (lanes + fold_width - 1) / fold_width * fold_width;
    accumulators<R, most_lanes> part;
    block_.sweep([&] {
      const auto view = block_.view(all[0]);
      for (int64_t first = 0; first < block_.depth; first += sums.fan) {
        const int64_t last = first + sums.fan < block_.depth ? first + sums.fan : block_.depth;
        part.clear(padded);
        for (int64_t d = first; d < last; ++d) {
#pragma omp simd
          for (int64_t l = 0; l < lanes; ++l) part.add(l, detail::column_element(all[l], view, d, l));
        }
        sums.add(part, padded);
      }
    });
    const auto& total = sums.finish(padded);
    for (int64_t l = 0; l < lanes; ++l) found[l] = total.at(l);
  }

  // Each group is about as long as all before it, and the first, around the mean of a tile, at least that tile's depth.
  template <class Element, class C>
  void run_moments(const Element* all, detail::column_spread<C>& own, moments_of<C>* found) {
    const int64_t lanes = block_.lanes, padded = (lanes + fold_width - 1) / fold_width * fold_width;
    int64_t terms = 0, most = 0;
    block_.sweep([&] {
      const auto view = block_.view(all[0]);
      const auto element = [&](int64_t d, int64_t l) __attribute__((always_inline)) {
        return cast<C>(detail::column_element(all[l], view, d, l));
      };
      if (most == 0) {
        most = block_.depth < own.fan ? own.fan : block_.depth;
        own.begin(block_.depth, lanes, element);
      }
      for (int64_t first = 0; first < block_.depth;) {
        int64_t count = block_.depth - first < own.fan ? block_.depth - first : own.fan;
        if (most - terms < count) count = most - terms;
        own.add(first, first + count, lanes, padded, element);
        first += count;
        terms += count;
        if (terms < most) continue;
        own.fold(terms, lanes, padded);
        most = most * 2;
        terms = 0;
      }
    });
    if (terms > 0) own.fold(terms, lanes, padded);
    for (int64_t l = 0; l < lanes; ++l) found[l] = {own.all[l].mean(), own.all[l].squares};
  }

  template <class Element, size_t... O, size_t... K>
  void run_store(const Element* all, detail::indices<O...>, detail::indices<K...>) {
    const int64_t lanes = block_.lanes;
    block_.sweep([&] {
      const auto view = block_.view(all[0]);
      const block shape[] = {block_.shape(O)...};
      const auto to = values(place<O>(shape[K])...);
      for (int64_t d = 0; d < block_.depth; ++d) {
#pragma omp simd
        for (int64_t l = 0; l < lanes; ++l) {
          const auto results = as_pack(detail::column_element(all[l], view, d, l));
          ((get<K>(to).at(d, l) = cast<std::decay_t<decltype(get<K>(to).at(d, l))>>(get<K>(results))), ...);
        }
      }
      (commit<O>(get<K>(to), shape[K]), ...);
    });
  }
  template <size_t O>
  MN_FN auto place(const block& b) {
    auto& port = get<O>(block_.out);
    using V = typename std::decay_t<decltype(port)>::V;
    if constexpr (std::is_same<std::decay_t<decltype(*port.base)>, V>::value) {
      if (b.column_stride == 1) return detail::pitched<V>{port.base + block_.tile_at[O], b.row_stride};
    }
    return detail::pitched<V>{port.copy, block_.lanes};
  }
  template <size_t O, class V>
  MN_FN void commit(const detail::pitched<V>& tile, const block& b) {
    auto& port = get<O>(block_.out);
    if (tile.data == port.copy) store_block(port.copy, b, false, port.base + block_.tile_at[O]);
  }

  block_t& block_;
  int64_t lane_, sweep_ = 0;
};

template <class Body, class Outs, class Ins>
inline int run_columns(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins,
                       const row_layout& layout, int64_t threads) {
  using block_t = detail::column_block<Outs, Ins>;
  const int64_t neighbours = layout.head.rank > 0 ? layout.outer_sizes[layout.head.rank - 1] : 1;
  const int64_t across = (neighbours + layout.head.b - 1) / layout.head.b, blocks = layout.rows() / neighbours * across;
  const int64_t worth = (blocks + layout.head.a - 1) / layout.head.a;
  std::atomic<int> result{no_error};
  parallel(threads < worth ? threads : worth, blocks, [&](int64_t begin, int64_t end) {
    block_t b(layout, scratch::of_thread());
    detail::open_columns(b, outs, ins, indices_to<Outs::size>{}, indices_to<Ins::size>{});
    for (int64_t index = begin; index < end && !b.failed; ++index) {
      const int64_t first = index % across * layout.head.b;
      b.lanes = neighbours - first < layout.head.b ? neighbours - first : layout.head.b;
      layout.row_at(index / across, layout.head.rank - 1, block_t::operands, b.at);
      for (size_t k = 0; k < block_t::operands; ++k) b.at[k] += first * b.lane_stride[k];
      b.memory.rewind();
      b.puts = false;
      b.sweeps = most_sweeps;
      for (b.pass = 0; b.pass < b.sweeps + (b.puts ? 1 : 0) && !b.failed; ++b.pass) {
        for (int64_t lane = 0; lane < b.lanes; ++lane) {
          column_row<Outs, Ins> row(b, lane);
          Body{}(row);
          if (b.pass == 0) b.sweeps = row.sweeps() > 0 ? row.sweeps() : 1;
        }
      }
    }
    if (b.failed) result = out_of_memory;
  });
  return result;
}

}  // namespace mn
