// Rows of any size: the row's threads (a block's, a cluster's, or many blocks') sweep over it, vector by vector, and
// keep in shared memory what fits. Each thread meets the same elements in every sweep, so what it keeps is its own.
#pragma once

#include "cuda/group.cuh"
#include "cuda/row_program.cuh"

namespace mn {

struct chunk_shape {
  int across;         // neighbouring rows that a block works on side by side
  int blocks;         // blocks per row
  int cluster;        // of which this many form a cluster (1 or all)
  int64_t kept_bytes;  // shared memory for what is kept, per block
  bool keeps_all;     // it holds the computed values too, not only what is loaded
  unsigned char* workspace;  // of a row spread over the grid: counters, then partial results
};

template <class Outs, class Ins, int Width, int Flight, bool Across>
struct chunk_row : row_program<chunk_row<Outs, Ins, Width, Flight, Across>, Outs, Ins> {
  using base = row_program<chunk_row, Outs, Ins>;
  static constexpr int V = Width;
  static constexpr bool folds = true;

  const chunk_shape& shape;
  int lane, along, block;  // place among the rows side by side; along the row in this block; block's place in the row
  int64_t steps = 0;       // vectors of a row per thread
  local_group<Across> local;
  cluster_group cluster;
  grid_group<Across> grid;
  unsigned char* kept;
  int64_t kept_used = 0;

  MN_FN chunk_row(const row_operands<Outs, Ins>& operand, const chunk_shape& s, unsigned char* shared)
      : base(operand),
        shape(s),
        lane(Across ? threadIdx.x % s.across : 0),
        along(Across ? threadIdx.x / s.across : threadIdx.x),
        block(blockIdx.x % s.blocks),
        local(shared, lane, along, s.across),
        cluster{shared + local.scratch_bytes()},
        grid(s.workspace, s.blocks, block, lane, s.across, s.cluster == 1 && s.blocks > 1),
        kept(shared + local.scratch_bytes() + (s.cluster > 1 ? cluster.bytes : 0)) {
    const int64_t per_step = int64_t(blockDim.x / s.across) * s.blocks * V;
    steps = (operand.size + per_step - 1) / per_step;
  }

  MN_FN bool leads() const { return along == 0 && block == 0; }
  MN_FN int64_t first(int64_t step) const {
    return ((step * shape.blocks + block) * (blockDim.x / shape.across) + along) * V;
  }
  MN_FN int elements(int64_t step) const {
    const int64_t left = this->o.size - first(step);
    return this->active && step < steps ? static_cast<int>(left < V ? left : V) : 0;
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
  template <class Item>
  MN_FN Item& mine(Item* place, int64_t step) const {
    return place[step * blockDim.x + threadIdx.x];
  }

  // A handle's `start` issues what must come from memory, `item` gives the vector; so a sweep can start several.
  template <size_t I>
  struct loaded {
    using item_type = stored_item<type_at<I, Ins>, V>;
    item_type* place;
    mutable bool seen = false;
    using raw = item_type;
    MN_FN void start(const chunk_row& row, int64_t step, int n, raw& r) const {
      if (!(place && seen)) r.x = row.template load_vector<I>(row.first(step), n);
    }
    MN_FN item_type item(const chunk_row& row, int64_t step, int, const raw& r) const {
      if (place && seen) return row.mine(place, step);
      if (place) row.mine(place, step) = r;
      return r;
    }
    MN_FN void swept() const { seen = true; }
  };

  template <size_t I>
  MN_FN auto load() {
    // Rows that are all the same (a weight) stay in the caches by themselves.
    bool varies = false;
    for (int i = 0; i < this->o.outer.rank; ++i) varies |= this->o.outer_stride.at[Outs::size + I][i] != 0;
    return loaded<I>{place_for<typename loaded<I>::item_type>(varies)};
  }

  struct counted {
    struct raw {};
    MN_FN void start(const chunk_row&, int64_t, int, raw&) const {}
    MN_FN index_item item(const chunk_row& row, int64_t step, int, const raw&) const { return {row.first(step)}; }
    MN_FN void swept() const {}
  };
  MN_FN counted index() const { return {}; }

  template <class F, class... H>
  struct computed {
    using value = std::decay_t<decltype(std::declval<F>()(
        std::declval<H>().item(std::declval<const chunk_row&>(), 0, 0, std::declval<typename H::raw>())[0]...))>;
    using item_type = computed_item<value, V>;
    using raw = pack<typename H::raw...>;
    F f;
    pack<H...> from;
    item_type* place;
    mutable bool seen = false;

    MN_FN void start(const chunk_row& row, int64_t step, int n, raw& r) const {
      if (!(place && seen)) start_each(row, step, n, r, indices_to<sizeof...(H)>{});
    }
    MN_FN item_type item(const chunk_row& row, int64_t step, int n, const raw& r) const {
      if (place && seen) return row.mine(place, step);
      const item_type result = compute(row, step, n, r, indices_to<sizeof...(H)>{});
      if (place) row.mine(place, step) = result;
      return result;
    }
    MN_FN void swept() const {
      if (!(place && seen)) swept_each(indices_to<sizeof...(H)>{});
      seen = true;
    }

   private:
    template <size_t... K>
    MN_FN void start_each(const chunk_row& row, int64_t step, int n, raw& r, detail::indices<K...>) const {
      (get<K>(from).start(row, step, n, get<K>(r)), ...);
    }
    template <size_t... K>
    MN_FN item_type compute(const chunk_row& row, int64_t step, int n, const raw& r, detail::indices<K...>) const {
      const auto items = values(get<K>(from).item(row, step, n, get<K>(r))...);
      item_type result = {};
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (v < n) result.x[v] = f(get<K>(items)[v]...);
      return result;
    }
    template <size_t... K>
    MN_FN void swept_each(detail::indices<K...>) const {
      (get<K>(from).swept(), ...);
    }
  };

  template <class F, class... H>
  MN_FN auto keep(F f, const H&... h) {
    using handle = computed<F, H...>;
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
  template <class F, size_t... K, class... H>
  MN_FN void sweep_with(F per_vector, detail::indices<K...>, const H&... h) const {
#pragma unroll 1
    for (int64_t step = 0; step < steps; step += Flight) {
      pack<typename H::raw...> raw[Flight];
#pragma unroll
      for (int u = 0; u < Flight; ++u)
        if (const int n = elements(step + u); n > 0) (h.start(*this, step + u, n, get<K>(raw[u])), ...);
#pragma unroll
      for (int u = 0; u < Flight; ++u)
        if (const int n = elements(step + u); n > 0)
          per_vector(first(step + u), n, h.item(*this, step + u, n, get<K>(raw[u]))...);
    }
    (h.swept(), ...);
  }
};

// Rows (or, side by side, groups of `across` rows) are dealt to teams of `blocks` blocks.
template <class Body, class Outs, class Ins, int V, int Flight, bool Across>
__global__ void __launch_bounds__(Across ? 256 : 1024)
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
