// A kernel's operands: pointers with their storage types, outputs first; and the body applied to vectors of them.
#pragma once

#include "common/forms.h"
#include "cuda/memory.cuh"

namespace mn {

template <class... S>
constexpr int widest_of() {
  int size = 1;
  ((size = larger(size, sizeof(S))), ...);
  return size;
}
template <class... S>
constexpr int widest_of(types<S...>) {
  return widest_of<S...>();
}
template <class... S>
constexpr int narrowest_of() {
  int size = 16;
  ((size = smaller(size, sizeof(S))), ...);
  return size;
}
template <class... S>
constexpr int bytes_of() {
  int size = 0;
  ((size += int(sizeof(S))), ...);
  return size;
}

template <class Outs, class Ins>
struct operands {
  static constexpr int outs = Outs::size, ins = Ins::size;
  void* out[outs];
  const void* in[ins > 0 ? ins : 1];

  template <size_t K>
  MN_FN auto* output() const {
    return static_cast<type_at<K, Outs>*>(out[K]);
  }
  template <size_t K>
  MN_FN auto* input() const {
    return static_cast<const type_at<K, Ins>*>(in[K]);
  }
};

template <class Outs, class Ins>
operands<Outs, Ins> make_operands(const std::array<void*, Outs::size>& outs,
                                  const std::array<const void*, Ins::size>& ins) {
  operands<Outs, Ins> result = {};
  int i = 0;
  for (void* out : outs) result.out[i++] = out;
  i = 0;
  for (const void* in : ins) result.in[i++] = in;
  return result;
}

// One vector of every operand in a list.
namespace detail {
template <class List, int V>
struct vecs_of;
template <class... S, int V>
struct vecs_of<types<S...>, V> {
  using type = pack<vec<S, V>...>;
};
}  // namespace detail
template <class List, int V>
using vecs = typename detail::vecs_of<List, V>::type;

template <class Result, class... Out, size_t... O>
MN_FN void put_results(pack<Out...>& y, int v, const Result& result, detail::indices<O...>) {
  ((get<O>(y).at[v] = to_storage<std::decay_t<decltype(get<O>(y).at[0])>>(get<O>(result))), ...);
}

// A vector of an operand, by element: its compute value.
template <class S, int V>
struct stored_item {
  vec<S, V> x;
  MN_FN compute_t<S> operator[](int v) const { return to_compute(x.at[v]); }
};

// `count` of V elements are computed, each independently of the others.
template <class Body, class Outs, int V, class... In, size_t... I>
MN_FN vecs<Outs, V> apply_body(const pack<vec<In, V>...>& x, int count, detail::indices<I...>) {
  vecs<Outs, V> y = {};
  for_results<V>(
      Body{},
      [&](int v, const auto& result) {
        if (v < count) put_results(y, v, as_pack(result), indices_to<Outs::size>{});
      },
      stored_item<In, V>{get<I>(x)}...);
  return y;
}
template <class Body, class Outs, class Ins, int V>
MN_FN vecs<Outs, V> apply_body(const vecs<Ins, V>& x, int count = V) {
  return apply_body<Body, Outs, V>(x, count, indices_to<Ins::size>{});
}

// Vectors at the same offset in every operand, aligned.
template <int V, class Outs, class Ins, size_t... I>
MN_FN vecs<Ins, V> load_inputs(const operands<Outs, Ins>& o, int64_t offset, detail::indices<I...>) {
  return values(load_aligned<type_at<I, Ins>, V>(o.template input<I>() + offset)...);
}
template <int V, class Outs, class Ins, size_t... O>
MN_FN void store_outputs(const operands<Outs, Ins>& o, int64_t offset, const vecs<Outs, V>& y, detail::indices<O...>) {
  (store_aligned<type_at<O, Outs>, V>(o.template output<O>() + offset, get<O>(y)), ...);
}

}  // namespace mn
