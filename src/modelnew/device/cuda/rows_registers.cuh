// Rows held in registers: each of a row's threads has U vectors of it. Several rows per warp, or a block per row.
#pragma once

#include "cuda/group.cuh"
#include "cuda/row_program.cuh"

namespace mn {

template <class Outs, class Ins, int Width, int U, bool Runs>
struct register_row : row_program<register_row<Outs, Ins, Width, U, Runs>, Outs, Ins, Width> {
  using base = row_program<register_row, Outs, Ins, Width>;
  static constexpr int V = Width;
  static constexpr bool any_rank = false, runs = Runs;

  const int threads, rank;  // of this row; this thread's
  int round = 0;

  MN_FN register_row(const row_operands<Outs, Ins>& operand, int threads_)
      : base(operand), threads(threads_), rank(threadIdx.x & (threads_ - 1)) {}

  MN_FN bool leads() const { return rank == 0; }
  MN_FN int first(int u) const { return (u * threads + rank) * V - this->skew; }

  template <class Item>
  struct held {
    Item at[U];
    MN_FN const Item& item(const register_row&, int u) const { return at[u]; }
  };
  struct counted {
    MN_FN index_item item(const register_row& row, int u) const { return {row.first(u), row.size() - 1}; }
  };

  template <size_t I>
  MN_FN auto load() const {
    held<stored_item<type_at<I, Ins>, V>> result;
    const bool vectored = this->vectored >> (Outs::size + I) & 1;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (vectored && this->whole(first(u))) {
        result.at[u].x = this->template load_whole<I>(first(u));
      } else if (this->touched(first(u))) {
        result.at[u].x = this->template load_edge<I>(first(u));
      }
    }
    return result;
  }

  MN_FN counted index() const { return {}; }

  template <class F, class... H>
  MN_FN auto keep(F f, const H&... h) const {
    held<computed_item<std::decay_t<decltype(f(h.item(*this, 0)[0]...))>, V>> result;
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (this->touched(first(u))) {
#pragma unroll
        for (int v = 0; v < V; ++v) result.at[u].x[v] = f(h.item(*this, u)[v]...);
      }
    return result;
  }

  template <class F, class G, class... H>
  MN_FN void sweep(bool, F per_vector, G, const H&... h) const {  // a chain has at most U terms
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (this->touched(first(u))) per_vector(first(u), this->whole(first(u)), h.item(*this, u)...);
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    return threads > 32 ? block_group::combine(op, value, 0, round++) : combine_lanes(op, value, threads);
  }
};

// `threads` per row: a power of two up to 512. Up to 32, a warp has several rows; beyond, a row has the whole block.
template <class Body, class Outs, class Ins, int V, int U, bool Runs>
__global__ void __launch_bounds__(512, 1)
    rows_registers(const __grid_constant__ row_operands<Outs, Ins> o, const int threads) {
  register_row<Outs, Ins, V, U, Runs> row(o, threads);
  const int per_block = blockDim.x / threads;
  for (int64_t first = int64_t(blockIdx.x) * per_block; first < o.rows; first += int64_t(gridDim.x) * per_block) {
    row.enter(first + threadIdx.x / threads);
    Body{}(row);
  }
}

}  // namespace mn
