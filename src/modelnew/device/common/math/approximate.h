// Approximations that a GPU has an instruction for, with the bounds that the PTX manual gives. Elsewhere they are the
// exact values moved by an error that tests choose, so that what is built on them is proven without a GPU.
#pragma once

#include <math.h>

#include "common/types.h"

namespace mn {

namespace detail {

#if defined(MN_CUDA)
MN_FN float reciprocal_near(float x) {  // 1 ulp; 0 where that is below 2^-126
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
MN_FN float exp2_near(float x) {  // 2 ulp; 0 below 2^-126
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
#else
inline thread_local int reciprocal_error = 0, exp2_error = 0;  // ulp

MN_FN float moved(float x, int error) {
  const float result = bit_cast<float>(bit_cast<uint32_t>(x) + static_cast<uint32_t>(error));
  return (x > 0x1p-125f) & (x < 0x1p127f) ? result : x < 0x1p-126f ? 0.0f : x;
}
MN_FN float reciprocal_near(float x) { return moved(1.0f / x, reciprocal_error); }
MN_FN float exp2_near(float x) { return moved(::exp2f(x), exp2_error); }
#endif

}  // namespace detail

}  // namespace mn
