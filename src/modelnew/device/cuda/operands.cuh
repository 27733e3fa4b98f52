// A kernel's operands: pointers with their storage types, outputs first; and the body applied to vectors of them.
#pragma once

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

// The body at element `v` of a vector; with several vectors at once the calls are independent of each other.
template <class Body, class... In, int V, size_t... I, class... Vec>
MN_FN auto body_at(const pack<Vec...>& x, int v, detail::indices<I...>, types<In...>, std::integral_constant<int, V>) {
  return as_pack(Body{}(to_compute(get<I>(x).at[v])...));
}

template <class Result, class... Out, size_t... O>
MN_FN void put_results(pack<Out...>& y, int v, const Result& result, detail::indices<O...>) {
  ((get<O>(y).at[v] = to_storage<std::decay_t<decltype(get<O>(y).at[0])>>(get<O>(result))), ...);
}

// `count` of V elements are computed.
template <class Body, class Outs, class Ins, int V>
MN_FN vecs<Outs, V> apply_body(const vecs<Ins, V>& x, int count = V) {
  vecs<Outs, V> y = {};
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (v < count)
      put_results(y, v, body_at<Body>(x, v, indices_to<Ins::size>{}, Ins{}, std::integral_constant<int, V>{}),
                  indices_to<Outs::size>{});
  return y;
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
