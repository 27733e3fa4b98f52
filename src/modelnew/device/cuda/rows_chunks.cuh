// Rows of any size: the row's threads (a block's, a cluster's, or many blocks') sweep over it, vector by vector, and
// keep in shared memory what fits. Each thread meets the same elements in every sweep, so what it keeps is its own.
#pragma once

#include "cuda/group.cuh"
#include "cuda/row_handles.cuh"
#include "cuda/row_program.cuh"

namespace mn {

struct chunk_shape {
  int across;                // neighbouring rows that a block works on side by side: a power of two
  int across_bits;           // its logarithm
  int blocks;                // blocks per row
  int stride;                // elements between a thread's vectors
  int steps;                 // vectors of a row per thread
  int cluster;               // of which this many form a cluster (1 or all)
  bool keeps_all;            // shared memory holds the computed values too, not only what is loaded
  int64_t kept_bytes;        // shared memory for what is kept, per block
  unsigned char* workspace;  // of rows spread over the grid: counters, then partial results
};

// Runs: a row is one run of elements, and several vectors of it are on their way from memory at a time.
template <class Outs, class Ins, int Width, bool Across, bool Runs>
struct chunk_row : row_program<chunk_row<Outs, Ins, Width, Across, Runs>, Outs, Ins, Width> {
  using base = row_program<chunk_row, Outs, Ins, Width>;
  using step_type = int;
  using group = std::conditional_t<Across, side_by_side_group, block_group>;
  static constexpr int V = Width;
  static constexpr bool any_rank = !Runs, runs = Runs;
  static constexpr int widest = widest_of(Ins{});  // bytes

  const chunk_shape& shape;
  const int block;  // of those that share this row
  const int along;  // this thread's place along the row, in its block
  const int stride, steps;
  int kept_used = 0;
  int round = 0;

  MN_FN chunk_row(const row_operands<Outs, Ins>& operand, const chunk_shape& s, int block_)
      : base(operand),
        shape(s),
        block(block_),
        along(Across ? threadIdx.x >> s.across_bits : threadIdx.x),
        stride(s.stride),
        steps(s.steps) {}

  MN_FN int lane() const { return Across ? threadIdx.x & (shape.across - 1) : 0; }
  MN_FN bool leads() const { return along == 0 && block == 0; }
  MN_FN int64_t first(int step) const {
    return int64_t(step) * stride + (block * int(blockDim.x >> shape.across_bits) + along) * V - this->skew;
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
    using handle = loaded<chunk_row, I, type_at<I, Ins>>;
    return handle{place_for<typename handle::item_type>(this->o.own >> I & 1)};
  }
  MN_FN counted<chunk_row> index() const { return {}; }
  template <class F, class... H>
  MN_FN auto keep(F f, const H&... h) {
    using handle = computed<chunk_row, F, H...>;
    return handle{f, values(h...), place_for<typename handle::item_type>(shape.keeps_all)};
  }

  template <class F, class... H>
  MN_FN auto again(F f, const H&... h) const {
    return computed<chunk_row, F, H...>{f, values(h...), nowhere};
  }

  // Most: vectors of a lot, where nothing is computed on the way.
  template <int Most = Runs ? 8 : 6, class F, class... H>
  MN_FN void sweep_lots(bool aligned, F per_lot, const H&... h) const {
    sweep_with<Most>(aligned && (h.vectored(*this) && ...), per_lot, indices_to<sizeof...(H)>{}, h...);
    (h.swept(), ...);
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
  template <int Most, class F, class Own, class... H>
  MN_FN void sweep_with(bool vectored, F per_lot, Own own, const H&... h) const {
    constexpr int bytes = sizeof(pack<typename H::raw...>);
    constexpr int unit = V == 1 ? widest : 16;
    constexpr int most = V == 1 ? ((H::plain && ...) ? 16 : 8) : (H::plain && ...) ? Most : 4;
    constexpr int flight = bytes <= unit ? most : bytes <= 2 * unit && V <= 4 ? most / 2 : V == 1 ? 2 : 1;
    constexpr int few = flight > 2 ? 2 : 1;
    const int64_t last = vectored ? this->elements - V : -1;  // the last place of a whole vector
#pragma unroll 1
    for (int step = 0; step < steps;) {
      const int64_t begin = first(step);
      int done = 1;
      if (begin >= 0 && begin + (flight - 1) * stride <= last) {
        at_a_time<flight>(step, begin, per_lot, own, h...);
        done = flight;
      } else if (begin >= 0 && begin + (few - 1) * stride <= last) {
        at_a_time<few>(step, begin, per_lot, own, h...);
        done = few;
      } else if (this->touched(begin)) {
        at_an_edge(step, begin, per_lot, own, h...);
      }
      step += done;
    }
  }
  template <int N, class F, size_t... K, class... H>
  MN_FN void at_a_time(int step, int64_t begin, F& per_lot, detail::indices<K...>, const H&... h) const {
    pack<typename H::raw...> raw[N];
#pragma unroll
    for (int u = 0; u < N; ++u) (h.start(*this, run_place{begin, u, stride}, get<K>(raw[u])), ...);
    per_lot(std::integral_constant<int, N>{}, whole_and_aligned{}, [&](int u, const auto& with) {
      with(run_place{begin, u, stride}, h.item(*this, step + u, begin + u * stride, get<K>(raw[u]))...);
    });
  }
  template <class F, size_t... K, class... H>
  MN_FN void at_an_edge(int step, int64_t here, F& per_lot, detail::indices<K...>, const H&... h) const {
    pack<typename H::raw...> raw;
    (h.start_edge(*this, here, get<K>(raw)), ...);
    per_lot(std::integral_constant<int, 1>{}, this->whole(here),
            [&](int, const auto& with) { with(here, h.item(*this, step, here, get<K>(raw))...); });
  }
};

// Rows (or, side by side, groups of `across` rows) are dealt to teams of `blocks` blocks.
template <class Body, class Outs, class Ins, int V, bool Across, bool Runs>
__global__ void __launch_bounds__(256, V > 4 ? 1 : Across && Runs && Ins::size < 3 ? 3 : 2)
    rows_chunks(const __grid_constant__ row_operands<Outs, Ins> o, const __grid_constant__ chunk_shape shape) {
  const int team = shape.blocks == 1 ? blockIdx.x : blockIdx.x / shape.blocks;
  const int teams = shape.blocks == 1 ? gridDim.x : gridDim.x / shape.blocks;
  chunk_row<Outs, Ins, V, Across, Runs> row(o, shape, blockIdx.x - team * shape.blocks);
  if (shape.cluster > 1) cluster_group::barrier();  // every block's shared memory exists from here on
  for (int64_t first = int64_t(team) * shape.across; first < o.rows; first += int64_t(teams) * shape.across) {
    row.begin(first + row.lane());
    Body{}(row);
  }
}

}  // namespace mn
