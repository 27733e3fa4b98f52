// Stands in for CUDA's header: two halves at a time, by the library's own conversions.
#pragma once

#include "common/types.h"

struct __half2 {
  mn::half x, y;
};
inline __half2 __floats2half2_rn(float a, float b) { return {mn::float_to_half(a), mn::float_to_half(b)}; }
inline float2 __half22float2(__half2 v) { return {mn::half_to_float(v.x), mn::half_to_float(v.y)}; }
