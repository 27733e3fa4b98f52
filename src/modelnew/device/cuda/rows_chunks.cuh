// Rows of any size: the row's threads (a block's, a cluster's, or many blocks') sweep over it, vector by vector, and
// keep in shared memory what fits. Each thread meets the same elements in every sweep, so what it keeps is its own.
#pragma once

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

template <class Outs, class Ins, int Width, int Flight, bool Across>
struct chunk_row : row_program<chunk_row<Outs, Ins, Width, Flight, Across>, Outs, Ins, Width> {
  using base = row_program<chunk_row, Outs, Ins, Width>;
  static constexpr int V = Width;
  static constexpr bool folds = true;
  static constexpr bool any_rank = true;
  static constexpr int outputs = Outs::size;

  const chunk_shape& shape;
  const int lane, along, block;  // place among the rows side by side; along the row in this block; the block's in the row
  const int stride;              // elements between a thread's vectors
  const int64_t steps;           // vectors of a row per thread
  local_group<Across> local;
  cluster_group cluster;
  grid_group<Across> grid;
  unsigned char* const kept;
  int64_t kept_used = 0;

  MN_FN chunk_row(const row_operands<Outs, Ins>& operand, const chunk_shape& s, unsigned char* shared)
      : base(operand),
        shape(s),
        lane(Across ? threadIdx.x % s.across : 0),
        along(Across ? threadIdx.x / s.across : threadIdx.x),
        block(blockIdx.x % s.blocks),
        stride(blockDim.x / s.across * s.blocks * V),
        steps((operand.size + (operand.leader < 0 ? 0 : V - 1) + stride - 1) / stride),
        local(shared, lane, along, s.across),
        cluster{shared + local.scratch_bytes()},
        grid(s.workspace, s.blocks, block, lane, s.across, s.cluster == 1 && s.blocks > 1),
        kept(shared + local.scratch_bytes() + (s.cluster > 1 ? cluster.bytes : 0)) {}

  MN_FN bool leads() const { return along == 0 && block == 0; }
  MN_FN int64_t first(int64_t step) const {
    return step * stride + (block * int(blockDim.x / shape.across) + along) * V - this->skew;
  }
  MN_FN void begin(int64_t row) {
    this->enter(row);
    kept_used = 0;
  }

  // Shared memory for one vector per step and thread, or null.
  template <class Item>
  MN_FN Item* place_for(bool wanted) {
    const int64_t bytes = steps * blockDim.x * sizeof(Item);
    if (!wanted || kept_used + bytes > shape.kept_bytes) return nullptr;
    Item* place = reinterpret_cast<Item*>(kept + kept_used);
    kept_used += bytes;
    return place;
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
  MN_FN void sweep(F per_vector, const H&... h) const {
    sweep_with(per_vector, indices_to<sizeof...(H)>{}, h...);
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    value = local.combine(op, value);
    if (shape.cluster > 1) return cluster.combine(op, value, threadIdx.x == 0);
    if (shape.blocks > 1) return grid.combine(op, value, along == 0);
    return value;
  }

 private:
  // Several vectors are on their way from memory at a time; at the row's edges, and where operands are not aligned with
  // each other, one.
  template <class F, size_t... K, class... H>
  MN_FN void sweep_with(F per_vector, detail::indices<K...>, const H&... h) const {
    const bool vectored = (h.vectored(*this) && ...);
#pragma unroll 1
    for (int64_t step = 0; step < steps; step += Flight) {
      const int64_t begin = first(step);
      if (vectored && begin >= 0 && begin + (Flight - 1) * stride + V <= this->elements) {
        pack<typename H::raw...> raw[Flight];
#pragma unroll
        for (int u = 0; u < Flight; ++u) {
          const int64_t run = this->o.run(begin + u * stride);
          (h.start(*this, begin + u * stride, run, get<K>(raw[u])), ...);
        }
#pragma unroll
        for (int u = 0; u < Flight; ++u)
          per_vector(begin + u * stride, surely{}, h.item(*this, step + u, begin + u * stride, get<K>(raw[u]))...);
      } else {
#pragma unroll 1
        for (int u = 0; u < Flight; ++u) {
          const int64_t here = begin + u * stride;
          if (!this->touched(here)) continue;
          pack<typename H::raw...> raw;
          (h.start_edge(*this, here, get<K>(raw)), ...);
          per_vector(here, this->whole(here), h.item(*this, step + u, here, get<K>(raw))...);
        }
      }
    }
    (h.swept(), ...);
  }
};

// Rows (or, side by side, groups of `across` rows) are dealt to teams of `blocks` blocks.
template <class Body, class Outs, class Ins, int V, int Flight, bool Across>
__global__ void __launch_bounds__(Across ? 256 : 768)
    rows_chunks(const __grid_constant__ row_operands<Outs, Ins> o, const __grid_constant__ chunk_shape shape) {
  chunk_row<Outs, Ins, V, Flight, Across> row(o, shape, shared_memory());
  if (shape.cluster > 1) cluster_group::barrier();  // every block's shared memory exists from here on
  const int64_t teams = gridDim.x / shape.blocks;
  for (int64_t team = blockIdx.x / shape.blocks; team * shape.across < o.rows; team += teams) {
    row.begin(team * shape.across + row.lane);
    Body{}(row);
  }
}

}  // namespace mn
