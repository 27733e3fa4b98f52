// Reductions: an identity and an associative, commutative `combine`. The order is the caller's, and fixed.
#pragma once

#include "common/compare.h"
#include "common/divisor.h"
#include "common/values.h"

namespace mn {

template <class C>
struct sum {
  using type = C;
  MN_FN static C identity() { return C(0); }
  MN_FN static C combine(C a, C b) {
    if constexpr (std::is_floating_point<C>::value) {
      return a + b;
    } else {  // integers wrap; unsigned arithmetic keeps that defined
      return static_cast<C>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    }
  }
};

template <class C>
struct prod {
  using type = C;
  MN_FN static C identity() { return C(1); }
  MN_FN static C combine(C a, C b) {
    if constexpr (std::is_floating_point<C>::value) {
      return a * b;
    } else {
      return static_cast<C>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    }
  }
};

// NaN if any element is NaN.
template <class C>
struct max {
  using type = C;
  MN_FN static C identity() { return bounds<C>::lowest; }
  MN_FN static C combine(C a, C b) { return maximum(a, b); }
};

template <class C>
struct min {
  using type = C;
  MN_FN static C identity() { return bounds<C>::highest; }
  MN_FN static C combine(C a, C b) { return minimum(a, b); }
};

struct any {
  using type = bool;
  MN_FN static bool identity() { return false; }
  MN_FN static bool combine(bool a, bool b) { return a | b; }
};

struct all {
  using type = bool;
  MN_FN static bool identity() { return true; }
  MN_FN static bool combine(bool a, bool b) { return a & b; }
};

// Several reductions in one sweep; element and result are packs.
template <class... R>
struct together_of {
  using type = pack<typename R::type...>;
  MN_FN static type identity() { return values(R::identity()...); }
  MN_FN static type combine(const type& a, const type& b) { return combine_at(a, b, indices_to<sizeof...(R)>{}); }

 private:
  template <size_t... I>
  MN_FN static type combine_at(const type& a, const type& b, detail::indices<I...>) {
    return values(R::combine(get<I>(a), get<I>(b))...);
  }
};

template <class... R>
MN_FN together_of<R...> together(R...) {
  return {};
}

}  // namespace mn
