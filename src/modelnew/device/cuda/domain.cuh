// From an element's number to its place in every operand, without a division.
#pragma once

#include "cuda/launch.cuh"

namespace mn {

inline constexpr int max_rank = 8;  // after collapsing; more are not covered by kernels

// Division by a size that the launcher knows: multiply by ceil(2^(bits + shift) / size), shift right.
// With 2^(shift - 1) < size <= 2^shift the error stays below one for every number under 2^bits.
struct divider {
  int64_t size;
  uint64_t wide;    // bits = 62
  uint32_t narrow;  // bits = 31
  uint32_t shift;

  MN_FN int64_t divide_wide(int64_t n) const {
    return static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(n) << 2, wide) >> shift);
  }
  MN_FN uint32_t divide_narrow(uint32_t n) const { return __umulhi(n << 1, narrow) >> shift; }
};

inline divider divide_by(int64_t size) {
  divider d = {size, 0, 0, 0};
  while ((int64_t(1) << d.shift) < size) ++d.shift;
  const auto wide = static_cast<unsigned __int128>(1) << (62 + d.shift);
  d.wide = static_cast<uint64_t>((wide + static_cast<uint64_t>(size) - 1) / static_cast<uint64_t>(size));
  if (size <= 0x7fffffff)
    d.narrow = static_cast<uint32_t>(((uint64_t(1) << (31 + d.shift)) + static_cast<uint64_t>(size) - 1) /
                                     static_cast<uint64_t>(size));
  return d;
}

// Dims, outermost first; at least one.
struct domain {
  int rank = 1;
  bool small = true;  // every element's number fits 31 bits
  divider dim[max_rank];

  MN_FN int64_t innermost() const { return dim[rank - 1].size; }
};

template <int Operands>
struct strides {
  int64_t at[Operands > 0 ? Operands : 1][max_rank];
};

// Adds element `n`'s offset in operands First to Last - 1. Returns its position along the innermost dim.
template <int First, int Last, int Operands>
MN_FN int64_t locate(const domain& d, const strides<Operands>& s, int64_t n, int64_t* offset) {
  int64_t position = 0;
#pragma unroll 1
  for (int i = d.rank - 1; i > 0; --i) {
    const int64_t quotient = d.small ? int64_t(d.dim[i].divide_narrow(uint32_t(n))) : d.dim[i].divide_wide(n);
    const int64_t along = n - quotient * d.dim[i].size;
    if (i == d.rank - 1) position = along;
#pragma unroll
    for (int o = First; o < Last; ++o) offset[o - First] += along * s.at[o][i];
    n = quotient;
  }
#pragma unroll
  for (int o = First; o < Last; ++o) offset[o - First] += n * s.at[o][0];
  return d.rank == 1 ? n : position;
}

// Reads `rank` sizes from a plan; no dims at all are one dim of size 1.
inline void read_sizes(domain& d, const int64_t* sizes, int64_t rank) {
  int64_t elements = 1;
  d.rank = rank > 0 ? static_cast<int>(rank) : 1;
  for (int i = 0; i < d.rank; ++i) {
    d.dim[i] = divide_by(rank > 0 ? sizes[i] : 1);
    elements *= d.dim[i].size;
  }
  d.small = elements <= 0x7fffffff;
}

// Bytes that an operand spans: from its first element to its last. Strides are not negative.
inline int64_t span_of(const domain& d, const int64_t* stride, int64_t item_bytes) {
  int64_t last = 0;
  for (int i = 0; i < d.rank; ++i) last += (d.dim[i].size - 1) * stride[i];
  return (last + 1) * item_bytes;
}

}  // namespace mn
