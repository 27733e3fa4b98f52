// What every kind of row has in common: operands, and the calls of docs/device-library.md over a row that can be swept.
//
// A row is cut into vectors of V elements where memory is aligned, so its first vector may begin before it: elements -skew
// to -skew + V - 1. Edge vectors hold copies of the row's outermost elements beyond it, so functors never meet anything
// but the row's own values; what they give there is left out of reductions and stores.
#pragma once

#include "cuda/domain.cuh"
#include "cuda/operands.cuh"

namespace mn {

template <class Outs, class Ins>
struct row_operands {
  static constexpr int count = Outs::size + Ins::size;
  operands<Outs, Ins> at;
  int64_t rows;
  int64_t size;  // of a row
  domain outer, inner;
  strides<count> outer_stride, inner_stride;
  int leader;           // the input whose alignment decides where vectors begin; -1: they begin at element 0
  bool simple;          // a row is one run of elements, or runs of equal length at equal distances
  int64_t step[count];  // between the elements of a run
  int64_t jump[count];  // between the last element of a run and the first of the next, less `step`

  // Number of the run that element `first` lies in. For rows that are simple.
  MN_FN int64_t run(int64_t first) const {
    return inner.rank == 1 ? 0 : inner.dim[1].divide_narrow(static_cast<uint32_t>(first));
  }
  // Offset of element `first` of a row from the row's beginning, in operand K.
  template <int K>
  MN_FN int64_t inside(int64_t first, int64_t its_run) const {
    return first * step[K] + its_run * jump[K];
  }
  template <int K>
  MN_FN int64_t inside(int64_t first) const {
    if (inner.rank == 1) return first * step[K];
    int64_t offset = 0;
    locate<K, K + 1>(inner, inner_stride, first, &offset);
    return offset;
  }
};

// A vector of a handle: `item[v]` is the compute value of its element v.
template <class S, int V>
struct stored_item {
  vec<S, V> x;
  MN_FN compute_t<S> operator[](int v) const { return to_compute(x.at[v]); }
};
template <class R, int V>
struct computed_item {
  R x[V];
  MN_FN R operator[](int v) const { return x[v]; }
};
struct index_item {
  int64_t first, last;
  MN_FN int64_t operator[](int v) const {
    const int64_t i = first + v;
    return i < 0 ? 0 : i > last ? last : i;
  }
};

// In place of a bool that is true.
struct surely {
  MN_FN operator bool() const { return true; }
};

// `Self` gives: folds; any_rank: rows need not be simple; sweep(per_vector, handles...), which calls
// per_vector(first, whole, items...) for each vector of this thread, whole: all of it is in the row (a bool, or
// `surely` where the row is known to be simple too); combine(op, value)
// over the row's threads; leads().
template <class Self, class Outs, class Ins, int Width>
struct row_program {
  static constexpr int V = Width;
  static constexpr int count = Outs::size + Ins::size;
  const row_operands<Outs, Ins>& o;
  int64_t row = 0;
  int64_t elements = 0;        // 0 in a place beyond the last row, which computes nothing but takes part in barriers
  int64_t offset[count] = {};  // of the row in each operand
  int skew = 0;
  unsigned vectored = 0;  // bit I: input I's vectors are aligned and contiguous

  MN_FN explicit row_program(const row_operands<Outs, Ins>& operand) : o(operand) {}

  MN_FN void enter(int64_t r) {
    elements = r < o.rows ? o.size : 0;
    row = r < o.rows ? r : o.rows - 1;
#pragma unroll
    for (int k = 0; k < count; ++k) offset[k] = 0;
    locate<0, count>(o.outer, o.outer_stride, row, offset);
    align(indices_to<Ins::size>{});
  }

  MN_FN int64_t size() const { return o.size; }

  template <size_t I>
  MN_FN compute_t<type_at<I, Ins>> scalar() const {
    return to_compute(load_one<reuse::expected>(o.at.template input<I>() + offset[Outs::size + I]));
  }

  template <size_t O, class Value>
  MN_FN void put(Value value) const {
    if (elements > 0 && self().leads())
      store_one(o.at.template output<O>() + offset[O], to_storage<type_at<O, Outs>>(value));
  }

  // Terms are added in chains of at most 256; then the chains' sums are.
  template <class Op, class F, class... H>
  MN_FN auto reduce(Op op, F f, const H&... h) {
    using A = std::decay_t<decltype(op.identity())>;
    A chain[V];
#pragma unroll
    for (int v = 0; v < V; ++v) chain[v] = op.identity();
    A total = op.identity();
    int terms = 0;
    const auto fold = [&] {
#pragma unroll
      for (int distance = V / 2; distance > 0; distance /= 2)
#pragma unroll
        for (int v = 0; v < distance; ++v) chain[v] = op.combine(chain[v], chain[v + distance]);
      total = op.combine(total, chain[0]);
    };
    self().sweep(
        [&](auto first, auto whole, const auto&... item) {
          A term[V];
#pragma unroll
          for (int v = 0; v < V; ++v) term[v] = static_cast<A>(f(item[v]...));
#pragma unroll
          for (int v = 0; v < V; ++v)
            if (whole || has(first + v)) chain[v] = op.combine(chain[v], term[v]);
          if (Self::folds && ++terms == 256) {
            fold();
#pragma unroll
            for (int v = 0; v < V; ++v) chain[v] = op.identity();
            terms = 0;
          }
        },
        h...);
    fold();
    return self().combine(op, total);
  }

  template <size_t... O, class F, class... H>
  MN_FN void store(F f, const H&... h) {
    self().sweep(
        [&](auto first, auto whole, const auto&... item) {
          pack<vec<type_at<O, Outs>, V>...> y;
#pragma unroll
          for (int v = 0; v < V; ++v) put_results(y, v, as_pack(f(item[v]...)), indices_to<sizeof...(O)>{});
          store_each<O...>(first, whole, y, indices_to<sizeof...(O)>{});
        },
        h...);
  }

 private:
  MN_FN Self& self() { return static_cast<Self&>(*this); }
  MN_FN const Self& self() const { return static_cast<const Self&>(*this); }

 public:
  // `first`: int for rows that are held in registers, int64_t for others.
  template <class N>
  MN_FN bool has(N element) const {
    return std::make_unsigned_t<N>(element) < std::make_unsigned_t<N>(elements);
  }
  template <class N>
  MN_FN bool whole(N first) const {
    return first >= 0 && first <= N(elements) - V;
  }
  template <class N>
  MN_FN bool touched(N first) const {
    return first < N(elements) && first > -V;
  }

  // Vector of input I, `vectored`, at a place that is `whole`.
  template <size_t I>
  MN_FN auto load_whole(int64_t place) const {
    return load_aligned<reuse::expected, type_at<I, Ins>, V>(o.at.template input<I>() + offset[Outs::size + I] + place);
  }
  // Any vector that the row touches, element by element.
  template <size_t I, class N>
  MN_FN auto load_edge(N first, int64_t place) const {
    const auto* p = o.at.template input<I>() + offset[Outs::size + I] + place;
    const int64_t step = o.step[Outs::size + I];
    const int low = first < 0 ? static_cast<int>(-first) : 0;
    const int high = first > N(elements) - V ? static_cast<int>(N(elements) - first) - 1 : V - 1;
    vec<type_at<I, Ins>, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) result.at[v] = load_one<reuse::expected>(p + (v < low ? low : v > high ? high : v) * step);
    return result;
  }

 private:

  template <size_t... I>
  MN_FN void align(detail::indices<I...>) {
    vectored = 0;
    skew = 0;
    if (!o.simple) return;
    if constexpr (V > 1) {
      ((skew = int(I) == o.leader ? misalignment<I>() : skew), ...);
      ((vectored |= is_vectored<I>() ? 1u << I : 0), ...);
    } else {
      vectored = ~0u;
    }
  }
  // Elements from the aligned address before the row's beginning.
  template <size_t I>
  MN_FN int misalignment() const {
    using S = type_at<I, Ins>;
    const uintptr_t p = reinterpret_cast<uintptr_t>(o.at.template input<I>() + offset[Outs::size + I]);
    return static_cast<int>(p & (vec<S, V>::access - 1)) / int(sizeof(S));
  }
  template <size_t I>
  MN_FN bool is_vectored() const {
    return o.step[Outs::size + I] == 1 &&
           is_aligned<type_at<I, Ins>, V>(o.at.template input<I>() + offset[Outs::size + I] - skew);
  }

  template <size_t... O, class N, class Whole, class Y, size_t... K>
  MN_FN void store_each(N first, Whole whole, const Y& y, detail::indices<K...>) const {
    if constexpr (Self::any_rank && std::is_same<Whole, bool>::value) {
      (store_vector<O>(first, whole, o.template inside<O>(first), get<K>(y)), ...);
    } else {
      const int64_t run = o.run(first);
      (store_vector<O>(first, whole, o.template inside<O>(first, run), get<K>(y)), ...);
    }
  }
  template <size_t O, class N>
  MN_FN void store_vector(N first, bool whole, int64_t place, const vec<type_at<O, Outs>, V>& y) const {
    auto* p = o.at.template output<O>() + offset[O] + place;
    const int64_t step = o.step[O];
    if (V > 1 && whole && step == 1 && is_aligned<type_at<O, Outs>, V>(p)) {
      store_aligned<type_at<O, Outs>, V>(p, y);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (has(first + v)) store_one(p + v * step, y.at[v]);
    }
  }
};

}  // namespace mn
