// What every kind of row has in common: operands, and the calls of docs/device-library.md over a row that can be swept.
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
  extent readable[count];

  // Offset of element `first` of a row from the row's beginning, in operand K.
  template <int K>
  MN_FN int64_t inside(int64_t first) const {
    if (inner.rank == 1) return first * inner_stride.at[K][0];
    int64_t offset = 0;
    locate<K, K + 1>(inner, inner_stride, first, &offset);
    return offset;
  }
  template <int K>
  MN_FN int64_t step() const {
    return inner_stride.at[K][inner.rank - 1];
  }
};

// An element of a handle: `item[v]` is the compute value of element v of one vector.
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
  int64_t first;
  MN_FN int64_t operator[](int v) const { return first + v; }
};

// `Self` gives: V; folds; sweep(per_vector, handles...), which calls per_vector(first, n, items...) for each vector of
// this thread, n of its V elements being in the row; combine(op, value) over the row's threads; leads().
template <class Self, class Outs, class Ins>
struct row_program {
  static constexpr int count = Outs::size + Ins::size;
  const row_operands<Outs, Ins>& o;
  int64_t row = 0;
  bool active = false;         // false: a place beyond the last row, which computes nothing but takes part in barriers
  int64_t offset[count] = {};  // of the row in each operand

  MN_FN explicit row_program(const row_operands<Outs, Ins>& operand) : o(operand) {}

  MN_FN void enter(int64_t r) {
    active = r < o.rows;
    row = active ? r : o.rows - 1;
#pragma unroll
    for (int k = 0; k < count; ++k) offset[k] = 0;
    locate<0, count>(o.outer, o.outer_stride, row, offset);
  }

  MN_FN int64_t size() const { return o.size; }

  template <size_t I>
  MN_FN compute_t<type_at<I, Ins>> scalar() const {
    return to_compute(load_one<reuse::expected>(o.at.template input<I>() + offset[Outs::size + I]));
  }

  template <size_t O, class Value>
  MN_FN void put(Value value) const {
    if (active && self().leads())
      store_one(o.at.template output<O>() + offset[O], to_storage<type_at<O, Outs>>(value));
  }

  // Terms are added in chains of at most 256; then the chains' sums are.
  template <class Op, class F, class... H>
  MN_FN auto reduce(Op op, F f, const H&... h) {
    using A = std::decay_t<decltype(op.identity())>;
    constexpr int V = Self::V;
    A chain[V];
    A total = op.identity();
    int terms = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) chain[v] = op.identity();
    const auto fold = [&] {
#pragma unroll
      for (int distance = V / 2; distance > 0; distance /= 2)
#pragma unroll
        for (int v = 0; v < distance; ++v) chain[v] = op.combine(chain[v], chain[v + distance]);
      total = op.combine(total, chain[0]);
#pragma unroll
      for (int v = 0; v < V; ++v) chain[v] = op.identity();
      terms = 0;
    };
    self().sweep(
        [&](int64_t, int n, const auto&... item) {
#pragma unroll
          for (int v = 0; v < V; ++v)
            if (v < n) chain[v] = op.combine(chain[v], static_cast<A>(f(item[v]...)));
          if (Self::folds && ++terms == 256) fold();
        },
        h...);
    fold();
    return self().combine(op, total);
  }

  template <size_t... O, class F, class... H>
  MN_FN void store(F f, const H&... h) {
    constexpr int V = Self::V;
    self().sweep(
        [&](int64_t first, int n, const auto&... item) {
          pack<vec<type_at<O, Outs>, V>...> y = {};
#pragma unroll
          for (int v = 0; v < V; ++v)
            if (v < n) put_results(y, v, as_pack(f(item[v]...)), indices_to<sizeof...(O)>{});
          store_each<O...>(first, n, y, indices_to<sizeof...(O)>{});
        },
        h...);
  }

 protected:
  MN_FN Self& self() { return static_cast<Self&>(*this); }
  MN_FN const Self& self() const { return static_cast<const Self&>(*this); }

  template <size_t I>
  MN_FN auto load_vector(int64_t first, int n) const {
    constexpr int K = Outs::size + I;
    return load_along<reuse::expected, type_at<I, Ins>, Self::V>(
        o.at.template input<I>() + offset[K] + o.template inside<K>(first), o.template step<K>(), n, o.readable[K]);
  }

 private:
  template <size_t... O, class Y, size_t... K>
  MN_FN void store_each(int64_t first, int n, const Y& y, detail::indices<K...>) const {
    (store_along<type_at<O, Outs>, Self::V>(o.at.template output<O>() + offset[O] + o.template inside<O>(first),
                                            o.template step<O>(), n, get<K>(y)),
     ...);
  }
};

}  // namespace mn
