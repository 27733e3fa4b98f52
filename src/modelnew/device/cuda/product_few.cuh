// Products of few rows of x with what follows them (product_few_launch.cuh says how they are launched). The code is compiled
// for one number of rows, MN_BATCH_TILE, and for weights that lie across with MN_WEIGHT_ACROSS.
#pragma once

#include "cuda/product_few_launch.cuh"

namespace mn {

#if defined(MN_WEIGHT_ACROSS)
inline constexpr bool few_weight_across = true;  // contiguous along n
#else
inline constexpr bool few_weight_across = false;  // along k
#endif

template <class Body, class Outs, class Ins>
int product(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void*,
            const int64_t* plan, queue stream) {
  constexpr int rows = MN_BATCH_TILE;
  return product_few<Body, no_reduction, no_reduction, few_weight_across, rows, Outs, Ins>(outs, ins, plan, stream);
}

template <class Body, class Reduce, class Finish, class Outs, class Ins>
int product_rows(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void*,
                 const int64_t* plan, queue stream) {
  constexpr int rows = MN_BATCH_TILE;
  return product_few<Body, Reduce, Finish, few_weight_across, rows, Outs, Ins>(outs, ins, plan, stream);
}

}  // namespace mn
