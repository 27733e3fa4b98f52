// Comparisons, selection, and the larger or smaller of two values.
#pragma once

#include "common/types.h"

namespace mn {

template <class C>
MN_FN bool lt(C a, C b) {
  return a < b;
}
template <class C>
MN_FN bool le(C a, C b) {
  return a <= b;
}
template <class C>
MN_FN bool gt(C a, C b) {
  return a > b;
}
template <class C>
MN_FN bool ge(C a, C b) {
  return a >= b;
}
template <class C>
MN_FN bool eq(C a, C b) {
  return a == b;
}
template <class C>
MN_FN bool ne(C a, C b) {
  return a != b;
}

template <class C>
MN_FN C where(bool condition, C a, C b) {
  return condition ? a : b;
}

// NaN wins, whichever side it is on. Of two equal zeros the second is returned, as PyTorch's vector code does.
template <class C>
MN_FN C maximum(C a, C b) {
#if defined(MN_CUDA) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same<C, float>::value) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
  }
#endif
  if constexpr (std::is_floating_point<C>::value) {
    const C larger = a > b ? a : b;  // b where either is NaN: with a bound for a, that is all
    return a != a ? a : larger;
  } else {
    return a > b ? a : b;
  }
}

template <class C>
MN_FN C minimum(C a, C b) {
#if defined(MN_CUDA) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same<C, float>::value) {
    float result;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
  }
#endif
  if constexpr (std::is_floating_point<C>::value) {
    const C smaller = a < b ? a : b;
    return a != a ? a : smaller;
  } else {
    return a < b ? a : b;
  }
}

}  // namespace mn
