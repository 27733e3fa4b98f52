// Several values at once: what a body with several results returns, and the lists of storage types of a kernel.
#pragma once

#include "common/types.h"

namespace mn {

namespace detail {

template <size_t... I>
struct indices {};
template <size_t N, size_t... I>
struct make_indices : make_indices<N - 1, N - 1, I...> {};
template <size_t... I>
struct make_indices<0, I...> {
  using type = indices<I...>;
};

// One member of a pack; the index makes equal types distinct bases.
template <size_t I, class V>
struct slot {
  V value;
};

template <class Indices, class... V>
struct slots;
template <size_t... I, class... V>
struct slots<indices<I...>, V...> : slot<I, V>... {};

template <size_t K, class V>
MN_FN const V& slot_value(const slot<K, V>& s) {
  return s.value;
}
template <size_t K, class V>
MN_FN V& slot_value(slot<K, V>& s) {
  return s.value;
}

}  // namespace detail

template <size_t N>
using indices_to = typename detail::make_indices<N>::type;

// An aggregate of values; made by `values`, read by `get`.
template <class... V>
struct pack : detail::slots<indices_to<sizeof...(V)>, V...> {
  static constexpr size_t size = sizeof...(V);
};

template <class... V>
MN_FN pack<V...> values(V... v) {
  return pack<V...>{{{v}...}};
}

template <size_t K, class... V>
MN_FN const auto& get(const pack<V...>& p) {
  return detail::slot_value<K>(p);
}
template <size_t K, class... V>
MN_FN auto& get(pack<V...>& p) {
  return detail::slot_value<K>(p);
}

// A functor may return one value or several: `as_pack` makes both a pack.
template <class V>
MN_FN pack<V> as_pack(V v) {
  return values(v);
}
template <class... V>
MN_FN pack<V...> as_pack(pack<V...> p) {
  return p;
}

// The storage types of a kernel's outputs or inputs.
template <class... S>
struct types {
  static constexpr size_t size = sizeof...(S);
};

// Of a row's places 0 to size - 1 the one nearest to `place`.
MN_FN int64_t place_within(int64_t size, int64_t place) { return place < 0 ? 0 : place < size ? place : size - 1; }

namespace detail {
template <size_t K, class List>
struct type_at;
template <size_t K, class First, class... Rest>
struct type_at<K, types<First, Rest...>> : type_at<K - 1, types<Rest...>> {};
template <class First, class... Rest>
struct type_at<0, types<First, Rest...>> {
  using type = First;
};
}  // namespace detail

template <size_t K, class List>
using type_at = typename detail::type_at<K, List>::type;

}  // namespace mn
