// Family 2: row programs. The plan is made by runtime/plan_cuda.py:
//   [kind, device, rows, outer rank, inner rank, a, b, c]  outer sizes, inner sizes, per operand: outer, inner strides
//   kind 0  rows in registers:    a = threads per row, b = threads per block
//   kind 1  a block per row:      a = threads, b = kept, c = 1
//   kind 2  a cluster per row:    a = threads, b = kept, c = blocks per row
//   kind 3  many blocks per row:  a = threads, b = kept, c = blocks per row, teams
//   kind 4  rows side by side:    a = rows per block, b = kept, c = blocks per row, teams
//   kind 5  rows that wait:       a = sweeps, b = places per block, c = blocks per row, a cluster; teams: 1 where rows
//                                 are taken as they come
// kept: bytes of shared memory for what is kept on chip, + 1 if that holds computed values too. c: blocks per row +
// 65536 * teams; teams: how many rows (kind 4: groups of a rows) a cooperative grid works on at a time. Where there are
// teams, the address of device memory follows the strides: for partial results, or to count the rows that are taken.
#pragma once

#include "cuda/rows_chunks.cuh"
#include "cuda/rows_registers.cuh"
#include "cuda/rows_staged.cuh"

namespace mn {

namespace detail {

inline constexpr int held_bytes = 64;  // of each row that a thread holds, as computed
inline constexpr int64_t most_staged = int64_t(1) << 30;
inline constexpr int64_t most_elements = int64_t(1) << 62;

template <class Outs, class Ins>
void read_rows(row_operands<Outs, Ins>& o, const int64_t* plan) {
  const int64_t outer = plan[3], inner = plan[4];
  o.rows = plan[2];
  read_sizes(o.outer, plan + 8, outer);
  read_sizes(o.inner, plan + 8 + outer, inner);
  o.size = 1;
  for (int i = 0; i < o.inner.rank; ++i) o.size *= o.inner.dim[i].size;
  const int64_t* stride = plan + 8 + outer + inner;
  for (int k = 0; k < o.count; ++k, stride += outer + inner) {
    for (int i = 0; i < o.outer.rank; ++i) o.outer_stride.at[k][i] = outer > 0 ? stride[i] : 0;
    for (int i = 0; i < o.inner.rank; ++i) o.inner_stride.at[k][i] = inner > 0 ? stride[outer + i] : 1;
    bool own = o.rows == 1;
    for (int i = 0; i < o.outer.rank; ++i) own |= o.outer_stride.at[k][i] != 0;
    if (k >= o.at.outs) o.own |= unsigned(own) << (k - o.at.outs);
    o.step[k] = o.inner_stride.at[k][o.inner.rank - 1];
    o.jump[k] = o.inner_stride.at[k][0] - o.inner.dim[1].size * o.step[k];  // read where there are two dims
  }
  o.simple = o.inner.rank == 1 || (o.inner.rank == 2 && o.inner.small);
}

// Vectors begin where the first contiguous input is aligned; `room` for the elements before that there must be.
template <int V, class... Out, class... In>
void choose_leader(row_operands<types<Out...>, types<In...>>& o, int64_t room) {
  o.leader = -1;
  if constexpr (V == 1) return;
  if (o.inner.rank > 1 || o.size + V - 1 > room) return;
  for (size_t i = sizeof...(In); i > 0; --i)
    if (o.inner_stride.at[sizeof...(Out) + i - 1][0] == 1) o.leader = static_cast<int>(i - 1);
}

template <class Body, int V, bool Across, class Outs, class Ins>
int launch_chunks(row_operands<Outs, Ins>& o, const int64_t* plan, queue stream) {
  choose_leader<V>(o, most_elements);
  chunk_shape shape = {};
  shape.across = Across ? static_cast<int>(plan[5]) : 1;
  shape.blocks = static_cast<int>(plan[7] % 65536);
  shape.cluster = plan[0] == 2 ? shape.blocks : 1;
  shape.kept_bytes = plan[6] / 16 * 16;
  shape.keeps_all = plan[6] % 16 != 0;
  const bool cooperative = shape.blocks > shape.cluster;
  const int threads = Across ? side_by_side_group::threads : static_cast<int>(plan[5]);
  const int64_t groups = ceil_div(o.rows, shape.across);
  const int64_t most = cooperative ? plan[7] / 65536 : most_blocks / shape.blocks;
  const int64_t teams = groups < most ? groups : most;
  const int64_t counters = grid_group::counter_bytes(teams);
  if (cooperative) {
    shape.workspace = reinterpret_cast<unsigned char*>(plan[8 + (1 + o.count) * (plan[3] + plan[4])]);
    const cudaError_t error = cudaMemsetAsync(shape.workspace, 0, static_cast<size_t>(counters), stream);
    if (error != cudaSuccess) return taken(error);
  }
  launch_shape where = {teams * shape.blocks, threads};
  where.shared_bytes = static_cast<size_t>(shape.kept_bytes) + cluster_group::scratch_bytes +
                       (Across ? side_by_side_group::scratch_bytes : block_group::scratch_bytes);
  where.cluster = shape.cluster;
  where.cooperative = cooperative;
  while ((1 << shape.across_bits) < shape.across) ++shape.across_bits;
  shape.stride = threads / shape.across * shape.blocks * V;
  shape.steps = static_cast<int>(ceil_div(o.size + (o.leader < 0 ? 0 : V - 1), shape.stride));
  for (int k = 0; k < o.count; ++k) o.advance[k] = o.step[k] * shape.stride;
  if (o.inner.rank > 1) return launch(rows_chunks<Body, Outs, Ins, V, Across, false>, where, stream, o, shape);
  return launch(rows_chunks<Body, Outs, Ins, V, Across, true>, where, stream, o, shape);
}

// Rows are even: whole vectors long, and begin where vectors do in every operand, all of which are contiguous along
// them; but outputs may have one value for all of a row.
template <int V, class... Out, class... In>
bool even(const row_operands<types<Out...>, types<In...>>& o) {
  if (o.size % V != 0) return false;
  const int item[] = {int(sizeof(Out))..., int(sizeof(In))...};
  for (int k = 0; k < o.count; ++k) {
    if (k < o.at.outs && o.step[k] == 0) continue;
    if (o.step[k] != 1) return false;
    const int access = item[k] * V < 16 ? item[k] * V : 16;
    const void* p = k < o.at.outs ? o.at.out[k] : o.at.in[k - o.at.outs];
    if (reinterpret_cast<uintptr_t>(p) % access != 0) return false;
    for (int i = 0; i < o.outer.rank; ++i)
      if (o.outer_stride.at[k][i] * item[k] % access != 0) return false;
  }
  return true;
}

// A row that is twice as long as its 32 threads hold is held by them nevertheless where it is even, and by 64 elsewhere.
template <class Body, int V, int U, class Outs, class Ins>
int launch_registers(row_operands<Outs, Ins>& o, const int64_t* plan, queue stream) {
  if (!o.simple) return cudaErrorInvalidValue;
  launch_shape where;
  int threads = static_cast<int>(plan[5]);
  where.threads = static_cast<int>(plan[6]);
  const bool is_even = o.inner.rank <= 1 && even<V>(o), is_long = threads == 32 && o.size > 32 * V * U;
  if (is_long && !is_even) where.threads = threads = 64;
  choose_leader<V>(o, int64_t(threads) * V * U);
  const int64_t blocks = ceil_div(o.rows, where.threads / threads);
  where.blocks = blocks < most_blocks ? blocks : most_blocks;
  where.shared_bytes = block_group::scratch_bytes;
  if (o.inner.rank > 1)
    return launch(rows_registers<Body, Outs, Ins, V, U, false, false, 0>, where, stream, o, threads);
  if (!is_even) return launch(rows_registers<Body, Outs, Ins, V, U, true, false, 0>, where, stream, o, threads);
  if (is_long) return launch(rows_registers<Body, Outs, Ins, V, 2 * U, true, true, 32>, where, stream, o, threads);
  if (threads == 32) return launch(rows_registers<Body, Outs, Ins, V, U, true, true, 32>, where, stream, o, threads);
  return launch(rows_registers<Body, Outs, Ins, V, U, true, true, 0>, where, stream, o, threads);
}

template <int V, class... In, size_t... I>
unsigned of_16_bytes(types<In...>, indices<I...>) {
  return ((unsigned(sizeof(In) * V == 16) << I) | ... | 0u);
}

// Some row begins between vectors of the input that decides where they begin.
template <int V, class... Out, class... In>
bool is_skewed(const row_operands<types<Out...>, types<In...>>& o) {
  const int item[] = {1, int(sizeof(In))...};
  if (o.leader < 0) return false;
  const int k = o.at.outs + o.leader;
  bool skewed = reinterpret_cast<uintptr_t>(o.at.in[o.leader]) % smaller(16, item[o.leader + 1] * V) != 0;
  for (int i = 0; i < o.outer.rank; ++i) skewed |= o.outer_stride.at[k][i] % V != 0;
  return skewed;
}

template <class Body, int V, class Outs, class Ins>
int launch_staged(row_operands<Outs, Ins>& o, const int64_t* plan, queue stream) {
  if (o.inner.rank > 1 || o.size > most_staged) return cudaErrorInvalidValue;
  choose_leader<V>(o, most_elements);
  stage_shape shape = {};
  shape.sweeps = static_cast<int>(plan[5]);
  shape.stages = static_cast<int>(plan[6]);
  shape.blocks = static_cast<int>(plan[7] % 65536);
  shape.staged = o.own & of_16_bytes<V>(Ins{}, indices_to<Ins::size>{});
  for (int k = o.at.outs; k < o.count; ++k)
    if (o.step[k] != 1) shape.staged &= ~(1u << (k - o.at.outs));  // one value per row takes no places
  const int64_t chunk = int64_t(stage_shape::threads) * stage_shape::vectors * V;
  const int64_t chunks = ceil_div(o.size + (is_skewed<V>(o) ? V - 1 : 0), chunk);
  shape.chunks = static_cast<int>(ceil_div(chunks, shape.blocks));
  if (shape.chunks > shape.stages || shape.stages > stage_shape::most_stages) return cudaErrorInvalidValue;
  launch_shape where = {0, stage_shape::in_block};
  where.shared_bytes = stage_shape::places_at + static_cast<size_t>(__builtin_popcount(shape.staged)) * shape.stages *
                                                    stage_shape::chunk_bytes;
  where.cluster = shape.blocks;
  const auto kernel = rows_staged<Body, Outs, Ins, V>;
  int64_t teams = 0;
  const int error = resident_clusters(kernel, where, teams);
  if (error != cudaSuccess) return error;
  where.blocks = (o.rows < teams ? o.rows : teams) * shape.blocks;
  if (plan[7] >= 65536) {
    shape.taken = reinterpret_cast<unsigned*>(plan[8 + (1 + o.count) * (plan[3] + plan[4])]);
    const cudaError_t error = cudaMemsetAsync(shape.taken, 0, sizeof(unsigned), stream);
    if (error != cudaSuccess) return taken(error);
  }
  return launch(kernel, where, stream, o, shape);
}

template <class Body, int Widest, class Outs, class Ins>
int rows_on(const operands<Outs, Ins>& at, const int64_t* plan, queue stream) {
  constexpr int V = 16 / Widest;
  row_operands<Outs, Ins> o = {};
  o.at = at;
  read_rows(o, plan);
  switch (plan[0]) {
    case 0:
      return launch_registers<Body, V, held_bytes / larger(4, Widest) / V>(o, plan, stream);
    case 4:
      return launch_chunks<Body, 1, true>(o, plan, stream);
    case 5:
      return launch_staged<Body, V>(o, plan, stream);
    default:
      return launch_chunks<Body, V, false>(o, plan, stream);
  }
}

}  // namespace detail

template <size_t I, class Row>
MN_FN auto share(Row& row) {
  return row.template share<I>();
}
template <class Row, class F, class... H>
MN_FN auto replace(Row& row, F f, const H&... h) {
  return row.replace(f, h...);
}

template <size_t... O, class Row, class F, class... H>
MN_FN void store(Row& row, F f, const H&... h) {
  row.template store<O...>(f, h...);
}

template <class C, class Row, class G, class F, class... H>
MN_FN auto exponential_sum(Row& row, G exp, F f, const H&... h) {
  return row.template exponential_sum<C>(exp, f, h...);
}
template <class C, class Row, class G, class F, class... H>
MN_FN auto exponentials(Row& row, G exp, F f, const H&... h) {
  return row.template exponentials<C>(exp, f, h...);
}

// Along: the types of those inputs that vary along the row; vectors are 16 bytes of the widest.
template <class Body, class Outs, class Ins, class Along = Ins>
int rows(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins, const int64_t* plan,
         queue stream) {
  if (plan[3] > max_rank || plan[4] > max_rank) return cudaErrorInvalidValue;
  const device_scope device(plan[1]);
  if (device.error() != cudaSuccess) return taken(device.error());
  return detail::rows_on<Body, widest_of(Along{})>(make_operands<Outs, Ins>(outs, ins), plan, stream);
}

}  // namespace mn
