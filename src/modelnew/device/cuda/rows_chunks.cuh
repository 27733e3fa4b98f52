// Rows of any size: the row's threads (a block's, a cluster's, or many blocks') sweep over it, vector by vector, and
// keep in shared memory what fits. Each thread meets the same elements in every sweep, so what it keeps is its own.
#pragma once

#include <limits.h>

#include "cuda/group.cuh"
#include "cuda/row_handles.cuh"
#include "cuda/row_program.cuh"

namespace mn {

struct chunk_shape {
  int across;                // neighbouring rows that a block works on side by side
  int blocks;                // blocks per row
  int cluster;               // of which this many form a cluster (1 or all)
  bool keeps_all;            // shared memory holds the computed values too, not only what is loaded
  int64_t kept_bytes;        // shared memory for what is kept, per block
  unsigned char* workspace;  // of rows spread over the grid: counters, then partial results
};

template <class Outs, class Ins, int Width, bool Across>
struct chunk_row : row_program<chunk_row<Outs, Ins, Width, Across>, Outs, Ins, Width> {
  using base = row_program<chunk_row, Outs, Ins, Width>;
  using group = std::conditional_t<Across, side_by_side_group, block_group>;
  static constexpr int V = Width;
  static constexpr bool folds = true;
  static constexpr bool any_rank = true;
  static constexpr int widest = widest_of(Ins{});  // bytes

  const chunk_shape& shape;
  const int along;   // this thread's place along the row, in its block
  const int stride;  // elements between a thread's vectors
  const int steps;   // vectors of a row per thread
  int kept_used = 0;
  int round = 0;

  MN_FN chunk_row(const row_operands<Outs, Ins>& operand, const chunk_shape& s)
      : base(operand),
        shape(s),
        along(Across ? threadIdx.x / s.across : threadIdx.x),
        stride(blockDim.x / s.across * s.blocks * V),
        steps(static_cast<int>((operand.size + (operand.leader < 0 ? 0 : V - 1) + stride - 1) / stride)) {}

  MN_FN int lane() const { return Across ? threadIdx.x % shape.across : 0; }
  MN_FN int block() const { return blockIdx.x % shape.blocks; }
  MN_FN bool leads() const { return along == 0 && block() == 0; }
  MN_FN int64_t first(int step) const {
    return int64_t(step) * stride + (block() * int(blockDim.x / shape.across) + along) * V - this->skew;
  }
  MN_FN void begin(int64_t row) {
    this->enter(row);
    kept_used = 0;
  }

  // Shared memory for one vector per step and thread: where, or nowhere.
  template <class Item>
  MN_FN int place_for(bool wanted) {
    const int64_t bytes = int64_t(steps) * blockDim.x * sizeof(Item);
    if (!wanted || kept_used + bytes > shape.kept_bytes) return nowhere;
    kept_used += static_cast<int>(bytes);
    return group::scratch_bytes + cluster_group::scratch_bytes + kept_used - static_cast<int>(bytes);
  }

  template <size_t I>
  MN_FN auto load() {
    // Rows that are all the same (a weight) stay in the caches by themselves.
    bool varies = this->o.rows == 1;
    for (int i = 0; i < this->o.outer.rank; ++i) varies |= this->o.outer_stride.at[Outs::size + I][i] != 0;
    using handle = loaded<chunk_row, I, type_at<I, Ins>>;
    return handle{place_for<typename handle::item_type>(varies)};
  }
  MN_FN counted<chunk_row> index() const { return {}; }
  template <class F, class... H>
  MN_FN auto keep(F f, const H&... h) {
    using handle = computed<chunk_row, F, H...>;
    return handle{f, values(h...), place_for<typename handle::item_type>(shape.keeps_all)};
  }

  template <class F, class... H>
  MN_FN void sweep(bool aligned, F per_vector, const H&... h) const {
    sweep_with(aligned && (h.vectored(*this) && ...), per_vector, indices_to<sizeof...(H)>{}, h...);
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    if constexpr (Across) {
      value = group::combine(op, value, 0, shape.across);
    } else {
      value = group::combine(op, value, 0, round);
    }
    if (shape.cluster > 1) {
      value = cluster_group::combine(op, value, group::scratch_bytes, round);
    } else if (shape.blocks > 1) {
      value = grid_group{shape.workspace, shape.blocks, shape.across}.combine(op, value, lane(), along == 0, round);
    }
    ++round;
    return value;
  }

 private:
  // Several vectors are on their way from memory at a time; the row's edges, and all of it where operands are not aligned
  // with each other, come one by one.
  template <class F, size_t... K, class... H>
  MN_FN void sweep_with(bool vectored, F per_vector, detail::indices<K...>, const H&... h) const {
    constexpr int bytes = sizeof(pack<typename H::raw...>);
    constexpr int unit = V == 1 ? widest : 16;
    constexpr int most = V == 1 ? ((H::plain && ...) ? 16 : 8) : (H::plain && ...) ? 6 : 3;
    constexpr int flight = bytes <= unit ? most : bytes <= 2 * unit && V <= 4 ? most / 2 : V == 1 ? 2 : 1;
    const int64_t last = vectored ? this->elements - V : -1;  // the last place of a whole vector
#pragma unroll 1
    for (int step = 0; step < steps; step += flight) {
      const int64_t begin = first(step);
      const int room = begin > last ? -1 : last - begin < INT_MAX ? static_cast<int>(last - begin) : INT_MAX;
      const auto is_whole = [&](int u) { return (u > 0 || begin >= 0) && u * stride <= room; };
      pack<typename H::raw...> raw[flight];
#pragma unroll
      for (int u = 0; u < flight; ++u)
        if (is_whole(u)) (h.start(*this, begin + u * stride, get<K>(raw[u])), ...);
#pragma unroll
      for (int u = 0; u < flight; ++u)
        if (is_whole(u))
          per_vector(begin + u * stride, whole_and_aligned{},
                     h.item(*this, step + u, begin + u * stride, get<K>(raw[u]))...);
      if (begin >= 0 && (flight - 1) * stride <= room) continue;
#pragma unroll 1
      for (int u = 0; u < flight; ++u) {
        const int64_t here = begin + u * stride;
        if (is_whole(u) || !this->touched(here)) continue;
        pack<typename H::raw...> edge;
        (h.start_edge(*this, here, get<K>(edge)), ...);
        per_vector(here, this->whole(here), h.item(*this, step + u, here, get<K>(edge))...);
      }
    }
    (h.swept(), ...);
  }
};

// Rows (or, side by side, groups of `across` rows) are dealt to teams of `blocks` blocks.
template <class Body, class Outs, class Ins, int V, bool Across>
__global__ void __launch_bounds__(256, V > 4 ? 1 : 2)
    rows_chunks(const __grid_constant__ row_operands<Outs, Ins> o, const __grid_constant__ chunk_shape shape) {
  chunk_row<Outs, Ins, V, Across> row(o, shape);
  if (shape.cluster > 1) cluster_group::barrier();  // every block's shared memory exists from here on
  const int64_t teams = gridDim.x / shape.blocks;
  for (int64_t team = blockIdx.x / shape.blocks; team * shape.across < o.rows; team += teams) {
    row.begin(team * shape.across + row.lane());
    Body{}(row);
  }
}

}  // namespace mn
