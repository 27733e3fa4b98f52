// Family 3: products with what follows them, by Ampere's instructions. product_launch.cuh has the plan.
#pragma once

#include <atomic>

#include "cuda/product_launch.cuh"
#include "cuda/product_sm80.cuh"

namespace mn {

namespace detail {

struct ampere {
  static constexpr int cluster = 1, threads = product_workers, short_blocks = 1, split_blocks = 3;
  static constexpr bool early = false;
  static bool runs_on(int major, int) { return major >= 8; }
  static int split_parts(int) { return 1; }

  template <class Body, class Reduce, class Finish, int Columns, class Outs, class Ins>
  struct kernel {
    using layout = copied_layout<Columns>;
    static constexpr auto function = product_copied<Body, Reduce, Finish, Columns, Outs, Ins>;
  };
  // Blocks that run at a time, a question to the driver that is asked once.
  template <auto Kernel>
  static int64_t clusters_at_a_time(const launch_shape& shape, int64_t device, int64_t sms) {
    constexpr int devices = 64;
    static std::array<std::atomic<int>, devices> known = {};
    std::atomic<int>& here = known[device % devices];
    if (here == 0) {
      int count = 0;
      const bool asked = allow(Kernel, shape) == cudaSuccess &&
                         taken(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, Kernel, shape.threads,
                                                                            shape.shared_bytes)) == 0;
      here = asked && count > 0 ? count : 1;
    }
    return here * sms;
  }
  struct weight {  // is read as it is
    bool found(const product_factor<float>&, const product_shape&) { return true; }
    template <class Kernel, class Operands>
    int launch(Kernel kernel, const launch_shape& where, queue stream, const product_shape& s, const Operands& o) const {
      return mn::launch(kernel, where, stream, s, o);
    }
  };
};

}  // namespace detail

template <class Body, class Outs, class Ins>
int product(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
            const int64_t* plan, queue stream) {
  return detail::product_on<detail::ampere, Body, no_reduction, no_reduction, Outs, Ins>(outs, ins, hints, plan, stream);
}

template <class Body, class Reduce, class Finish, class Outs, class Ins>
int product_rows(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, void* hints,
                 const int64_t* plan, queue stream) {
  return detail::product_on<detail::ampere, Body, Reduce, Finish, Outs, Ins>(outs, ins, hints, plan, stream);
}

}  // namespace mn
