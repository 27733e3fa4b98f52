// What every kind of row has in common: operands, and the calls of docs/device-library.md over a row that can be swept.
//
// A row is cut into vectors of V elements where memory is aligned, so its first vector may begin before it: elements
// -skew to -skew + V - 1. Edge vectors hold copies of the row's outermost elements beyond it, so functors never meet
// anything but the row's own values; what they give there is left out of reductions and stores.
#pragma once

#include "common/forms.h"
#include "cuda/domain.cuh"
#include "cuda/operands.cuh"
#include "cuda/row_exponentials.cuh"
#include "cuda/row_moments.cuh"

namespace mn {

// A place along a row that is one run of elements: `count` strides from `begin`, which several places share, so that
// their addresses are one sum apart.
struct run_place {
  int64_t begin;
  int count, stride;
  MN_FN operator int64_t() const { return begin + count * stride; }
};

template <class Outs, class Ins>
struct row_operands {
  static constexpr int count = Outs::size + Ins::size;
  operands<Outs, Ins> at;
  int64_t rows;
  int64_t size;  // of a row
  domain outer, inner;
  strides<count> outer_stride, inner_stride;
  unsigned own;         // bit I: input I differs from row to row; others (weights) stay in the caches by themselves
  int leader;           // the input whose alignment decides where vectors begin; -1: they begin at element 0
  bool simple;          // a row is one run of elements, or runs of equal length at equal distances
  int64_t step[count];  // between the elements of a run
  int64_t jump[count];  // between the last element of a run and the first of the next, less `step`
  int64_t advance[count];  // between a thread's vectors; here, so that no address is multiplied out again

  // Offset of element `first` of a row from the row's beginning, in operand K; for rows that are simple. Vectors of
  // more than one element are only asked for where `step` is 1.
  template <int K, int V>
  MN_FN int64_t inside_simple(int64_t first) const {
    const int64_t place = V > 1 ? first : first * step[K];
    return inner.rank == 1 ? place : place + inner.dim[1].divide_narrow(static_cast<uint32_t>(first)) * jump[K];
  }
  // The same for any row.
  template <int K>
  MN_FN int64_t inside(int64_t first) const {
    int64_t offset = 0;
#pragma unroll 1
    for (int i = inner.rank - 1; i > 0; --i) {
      const int64_t quotient = inner.dim[i].divide_wide(first);
      offset += (first - quotient * inner.dim[i].size) * inner_stride.at[K][i];
      first = quotient;
    }
    return offset + first * inner_stride.at[K][0];
  }
};

// A vector of a handle, beside those that are stored: `item[v]` is the compute value of its element v.
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

// What is known of a vector when the code is compiled: it lies in the row, and where it is stored is aligned.
struct whole_and_aligned {
  MN_FN operator bool() const { return true; }
};

// `Self` gives: any_rank: rows need not be simple; runs: they are one run of elements; sweep_lots(aligned, per_lot,
// handles...), which calls per_lot(n, whole, take) for the vectors that this thread has at hand together, n <= 16 (an
// integral_constant), `whole`: all of them are in the row (a bool; or whole_and_aligned, if `aligned`), and take(u, g)
// calls g(first, items...) for vector u < n; or sweep itself; combine(op, value) over the row's threads; leads(): whether
// this one speaks for them. `first` is an int for rows that are held in registers, an int64_t for others.
template <class Self, class Outs, class Ins, int Width>
struct row_program {
  static constexpr int V = Width;
  static constexpr int outputs = Outs::size;
  static constexpr int count = Outs::size + Ins::size;
  const row_operands<Outs, Ins>& o;
  int64_t elements = 0;        // 0 in a place beyond the last row, which computes nothing but takes part in barriers
  uintptr_t base[count] = {};  // where the row begins in each operand
  int skew = 0;
  unsigned vectored = 0;  // bit k: operand k's vectors are aligned and contiguous

  MN_FN explicit row_program(const row_operands<Outs, Ins>& operand) : o(operand) {}

  // Uneven: rows may begin or end within a vector.
  template <bool Uneven = true>
  MN_FN void enter(int64_t row) {
    elements = row < o.rows ? o.size : 0;
    int64_t offset[count] = {};
    locate<0, count>(o.outer, o.outer_stride, row < o.rows ? row : o.rows - 1, offset);
    begin_operands(offset, indices_to<Outs::size>{}, indices_to<Ins::size>{});
    if constexpr (Uneven) {
      find_alignment(indices_to<Outs::size>{}, indices_to<Ins::size>{});
    } else {
#pragma unroll
      for (int k = 0; k < count; ++k) settled(base[k]);
    }
  }

  MN_FN int64_t size() const { return o.size; }

  template <size_t I>
  MN_FN auto scalar() const {
    return to_compute(load_one(input<I>()));
  }

  template <size_t I>
  MN_FN auto pick(int64_t element) const {
    return to_compute(load_one(input<I>() + place<Outs::size + I>(place_within(o.size, element))));
  }

  // Handles as `load` and `keep` give them; kinds of rows that make a difference have their own.
  template <size_t I>
  MN_FN auto share() {
    return self().template load<I>();
  }
  template <class F, class... H>
  MN_FN auto replace(F f, const H&... h) {
    return self().keep(f, h...);
  }

  // Calls per_vector(first, whole, items...) for each vector of this thread, and now_and_then(n) after n <= 16 of them.
  template <class F, class G, class... H>
  MN_FN void sweep(bool aligned, F per_vector, G now_and_then, const H&... h) const {
    self().sweep_lots(
        aligned,
        [&](auto size, auto whole, const auto& take) {
#pragma unroll
          for (int u = 0; u < decltype(size)::value; ++u)
            take(u, [&](auto first, const auto&... item) { per_vector(first, whole, item...); });
          now_and_then(decltype(size)::value);
        },
        h...);
  }

  template <class C, class G, class F, class... H>
  MN_FN exponential_sum_of<C> exponential_sum(G exp, F f, const H&... h) {
    return exponentials_in_one_sweep<C>(self(), exp, f, h...);
  }
  // Exponentials are computed again where they are used: they would take as much room as what they are made of.
  template <class C, class G, class F, class... H>
  MN_FN auto exponentials(G exp, F f, const H&... h) {
    const auto found = self().template exponential_sum<C>(exp, f, h...);
    const C top = found.max;
    auto e = self().again([=](auto... x) { return exp(f(x...) - top); }, h...);
    return softened<C, decltype(e)>{top, e, found.sum};
  }

  template <class C, class F, class... H>
  MN_FN moments_of<C> moments(F f, const H&... h) {
    return moments_in_one_sweep<C>(self(), f, h...);
  }

  template <size_t O, class Value>
  MN_FN void put(Value value) const {
    if (elements > 0 && self().leads()) store_one(output<O>(), to_storage<type_at<O, Outs>>(value));
  }

  // Terms are added in chains of at most 256; then the chains' sums are.
  template <class Op, class F, class... H>
  MN_FN auto reduce(Op op, F f, const H&... h) {
    using A = std::decay_t<decltype(op.identity())>;
    A chain[V];
#pragma unroll
    for (int v = 0; v < V; ++v) chain[v] = op.identity();
    A total = op.identity();
    int terms = 0;  // in the longest chain
    const auto fold = [&] { total = op.combine(total, combine_values(op, chain)); };
    self().sweep(
        true,
        [&](auto first, auto whole, const auto&... item) {
          A term[V];
#pragma unroll
          for (int v = 0; v < V; ++v) term[v] = static_cast<A>(f(item[v]...));
#pragma unroll
          for (int v = 0; v < V; ++v)
            if (whole || has(first + v)) chain[v] = op.combine(chain[v], term[v]);
        },
        [&](int added) {
          terms += added;
          if (terms <= 256 - 16) return;
          fold();
#pragma unroll
          for (int v = 0; v < V; ++v) chain[v] = op.identity();
          terms = 0;
        },
        h...);
    fold();
    return self().combine(op, total);
  }

  template <size_t... O, class F, class... H>
  MN_FN void store(F f, const H&... h) {
    self().sweep(((vectored >> O & 1) && ...),
                 [&](auto first, auto whole, const auto&... item) {
                   pack<vec<type_at<O, Outs>, V>...> y;
                   for_results<V>(
                       f, [&](int v, const auto& result) { put_results(y, v, as_pack(result), indices_to<sizeof...(O)>{}); },
                       item...);
                   store_each<O...>(first, whole, y, indices_to<sizeof...(O)>{});
                 },
                 [](int) {}, h...);
  }

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
  template <size_t I, class N>
  MN_FN auto load_whole(N first) const {
    constexpr int k = Outs::size + I;
    return load_aligned<type_at<I, Ins>, V>(input<I>() + inside<k, V>(first));
  }
  // Any vector that the row touches, element by element.
  template <size_t I, class N>
  MN_FN auto load_edge(N first) const {
    const N begin = first < 0 ? 0 : first, last = N(elements) - 1;
    const auto* p = input<I>() + place<Outs::size + I>(begin);
    vec<type_at<I, Ins>, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      result.at[v] = load_one(p);
      if (first + v >= begin && first + v < last) p += o.step[Outs::size + I];
    }
    return result;
  }

  // Where element `first` of input I is, which is contiguous.
  template <size_t I>
  MN_FN const void* at(int first) const {
    return input<I>() + first;
  }

 private:
  MN_FN Self& self() { return static_cast<Self&>(*this); }
  MN_FN const Self& self() const { return static_cast<const Self&>(*this); }

  template <size_t I>
  MN_FN auto* input() const {
    return reinterpret_cast<const type_at<I, Ins>*>(base[Outs::size + I]);
  }
  template <size_t O>
  MN_FN auto* output() const {
    return reinterpret_cast<type_at<O, Outs>*>(base[O]);
  }

  // Offset of element `first`, whatever the operand's stride.
  template <int K, class N>
  MN_FN int64_t place(N first) const {
    if constexpr (Self::any_rank) {
      return o.template inside<K>(first);
    } else {
      return inside<K, 1>(first);
    }
  }
  template <int K, int Elements, class N>
  MN_FN int64_t inside(const N& first) const {
    if constexpr (!Self::runs) {
      return o.template inside_simple<K, Elements>(first);
    } else if constexpr (std::is_same<N, run_place>::value) {
      return first.begin * o.step[K] + first.count * o.advance[K];
    } else {
      return Elements > 1 ? first : first * o.step[K];
    }
  }

  template <size_t... O, size_t... I>
  MN_FN void begin_operands(const int64_t (&offset)[count], detail::indices<O...>, detail::indices<I...>) {
    ((base[O] = reinterpret_cast<uintptr_t>(o.at.template output<O>() + offset[O])), ...);
    ((base[Outs::size + I] = reinterpret_cast<uintptr_t>(o.at.template input<I>() + offset[Outs::size + I])), ...);
  }
  template <size_t... O, size_t... I>
  MN_FN void find_alignment(detail::indices<O...>, detail::indices<I...>) {
    skew = 0;
    if constexpr (V > 1)
      ((skew = int(I) == o.leader ? misalignment<type_at<I, Ins>>(base[Outs::size + I]) : skew), ...);
    vectored = 0;
    ((vectored |= unsigned(is_vectored<type_at<O, Outs>, O>()) << O), ...);
    ((vectored |= unsigned(is_vectored<type_at<I, Ins>, Outs::size + I>()) << (Outs::size + I)), ...);
  }
  // Elements from the aligned address before `p` to it.
  template <class S>
  MN_FN static int misalignment(uintptr_t p) {
    return static_cast<int>(p & (vec<S, V>::access - 1)) / int(sizeof(S));
  }
  template <class S, int K>
  MN_FN bool is_vectored() const {
    constexpr int per_access = vec<S, V>::access / int(sizeof(S));
    return o.simple && (V == 1 || (o.step[K] == 1 && misalignment<S>(base[K]) == skew % per_access));
  }

  template <size_t... O, class N, class Whole, class Y, size_t... K>
  MN_FN void store_each(N first, Whole whole, const Y& y, detail::indices<K...>) const {
    (store_vector<O>(first, whole, get<K>(y)), ...);
  }
  template <size_t O, class N, class Whole>
  MN_FN void store_vector(N first, Whole whole, const vec<type_at<O, Outs>, V>& y) const {
    constexpr bool sure = std::is_same<Whole, whole_and_aligned>::value;
    if (sure || (V > 1 && whole && (vectored >> O & 1))) {
      store_aligned<type_at<O, Outs>, V>(output<O>() + inside<O, V>(first), y);
    } else if constexpr (!sure) {
      auto* p = output<O>() + place<O>(first < 0 ? 0 : first);
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (has(first + v)) {
          store_one(p, y.at[v]);
          p += o.step[O];
        }
    }
  }
};

}  // namespace mn
