// Rows held in registers: each of a row's threads has U vectors of it. Several rows per warp, or a block per row.
#pragma once

#include "cuda/group.cuh"
#include "cuda/row_program.cuh"

namespace mn {

// Threads: of this row; 0: known at run time. Even: rows begin where vectors do and are whole vectors long, so that a
// vector lies in its row or beyond it.
template <class Outs, class Ins, int Width, int U, bool Runs, bool Even, int Threads>
struct register_row : row_program<register_row<Outs, Ins, Width, U, Runs, Even, Threads>, Outs, Ins, Width> {
  using base = row_program<register_row, Outs, Ins, Width>;
  static constexpr int V = Width;
  static constexpr bool any_rank = false, runs = Runs;

  const int threads, rank;  // of this row; this thread's
  int round = 0;

  MN_FN register_row(const row_operands<Outs, Ins>& operand, int threads_)
      : base(operand), threads(Threads > 0 ? Threads : threads_), rank(threadIdx.x & (threads - 1)) {}

  MN_FN bool leads() const { return rank == 0; }
  MN_FN int first(int u) const { return (u * threads + rank) * V - (Even ? 0 : this->skew); }
  MN_FN bool touched(int u) const {
    return Even ? first(u) < static_cast<int>(this->elements) : base::touched(first(u));
  }

  template <class Item>
  struct held {
    Item at[U];
    MN_FN const Item& item(const register_row&, int u) const { return at[u]; }
  };
  struct counted {
    MN_FN index_item item(const register_row& row, int u) const { return {row.first(u), row.size() - 1}; }
  };
  // What all rows share is read at each use: it is in the first-level cache, and registers are for the rows' own.
  template <size_t I>
  struct at_hand {
    MN_FN auto item(const register_row& row, int u) const { return row.template read<I>(u); }
  };

  template <size_t I>
  MN_FN auto read(int u) const {
    constexpr int k = Outs::size + I;
    stored_item<type_at<I, Ins>, V> result;
    if (Even || (this->vectored >> k & 1 && this->whole(first(u)))) {
      result.x = this->template load_whole<I>(first(u));
    } else {
      result.x = this->template load_edge<I>(first(u));
    }
    return result;
  }
  template <size_t I>
  MN_FN auto load() const {
    held<stored_item<type_at<I, Ins>, V>> result;
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (touched(u)) result.at[u] = read<I>(u);
    return result;
  }
  template <size_t I>
  MN_FN auto share() const {
    return at_hand<I>{};
  }

  MN_FN counted index() const { return {}; }

  template <class F, class... H>
  MN_FN auto keep(F f, const H&... h) const {
    held<computed_item<std::decay_t<decltype(f(h.item(*this, 0)[0]...))>, V>> result;
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (touched(u)) {
#pragma unroll
        for (int v = 0; v < V; ++v) result.at[u].x[v] = f(h.item(*this, u)[v]...);
      }
    return result;
  }

  template <class F, class G, class... H>
  MN_FN void sweep(bool, F per_vector, G, const H&... h) const {  // a chain has at most U terms
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (!touched(u)) continue;
      if constexpr (Even) {
        per_vector(first(u), whole_and_aligned{}, h.item(*this, u)...);
      } else {
        per_vector(first(u), this->whole(first(u)), h.item(*this, u)...);
      }
    }
  }

  template <class C, class G, class F, class... H>
  MN_FN exponential_sum_of<C> exponential_sum(G exp, F f, const H&... h) {
    return exponentials_in_two_sweeps<C>(*this, exp, f, h...);
  }
  template <class C, class G, class F, class... H>
  MN_FN auto exponentials(G exp, F f, const H&... h) {
    const C top = this->reduce(max<C>{}, f, h...);
    auto e = keep([=](auto... x) { return exp(f(x...) - top); }, h...);
    const C total = this->reduce(sum<C>{}, [](C x) { return x; }, e);
    return softened<C, decltype(e)>{top, e, total};
  }
  template <class C, class F, class... H>
  MN_FN moments_of<C> moments(F f, const H&... h) {
    return moments_in_two_sweeps<C>(*this, f, h...);
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    if constexpr (Threads == 32) return combine_warp(op, value);
    return threads > 32 ? block_group::combine(op, value, 0, round++) : combine_lanes(op, value, threads);
  }
};

// `threads` per row: a power of two up to 512. Up to 32, a warp has several rows; beyond, a row has the whole block.
template <class Body, class Outs, class Ins, int V, int U, bool Runs, bool Even, int Threads>
__global__ void __launch_bounds__(512, 1)
    rows_registers(const __grid_constant__ row_operands<Outs, Ins> o, const int threads) {
  register_row<Outs, Ins, V, U, Runs, Even, Threads> row(o, threads);
  const int per_block = blockDim.x / row.threads;
  for (int64_t first = int64_t(blockIdx.x) * per_block; first < o.rows; first += int64_t(gridDim.x) * per_block) {
    row.template enter<!Even>(first + threadIdx.x / row.threads);
    Body{}(row);
  }
}

}  // namespace mn
