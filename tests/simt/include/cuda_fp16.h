// Stands in for CUDA's header: two halves at a time, by the compiler's own conversions, which round to nearest even.
#pragma once

#include "simt/intrinsics.h"

struct __half2 {
  _Float16 x, y;
};
inline __half2 __floats2half2_rn(float a, float b) { return {_Float16(a), _Float16(b)}; }
inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
