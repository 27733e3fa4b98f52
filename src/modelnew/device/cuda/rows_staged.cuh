// Rows that wait in shared memory: a row's blocks (one, or a cluster) hold it there, chunk by chunk, while the body
// sweeps over it. As soon as the last sweep is done with a chunk, bulk copies fill its place with what comes next of the
// following rows, so that memory is read all the while. A warp of its own sends for them: those that compute would be
// held up by that at every chunk. Where there are many rows, who is done takes the next one: multiprocessors are not
// equally far from memory, and with equal shares all wait for the slowest (4 % of the time of a copy on an H200).
#pragma once

#include "cuda/bulk.cuh"
#include "cuda/group.cuh"
#include "cuda/row_handles.cuh"
#include "cuda/row_program.cuh"

namespace mn {

struct stage_shape {
  static constexpr int threads = 384;  // that compute; many vectors per thread: few instructions go to finding a chunk
  static constexpr int warps = threads / 32;
  static constexpr int in_block = threads + 32;
  static constexpr int vectors = 4;    // of a chunk per thread
  static constexpr int step_bytes = threads * 16;  // between a thread's vectors
  static constexpr int chunk_bytes = vectors * step_bytes;
  static constexpr int most_stages = 64;  // so that a chain of additions has at most 256 terms
  static constexpr int most_told = 8;      // rows that a cluster's first block is ahead of another's, and more
  // Shared memory: a block's partial results, a cluster's, its two barriers; per place two barriers and the row whose
  // first chunk it has; what the cluster's first block tells of rows.
  static constexpr int cluster_at = block_group::scratch_bytes;
  static constexpr int meet_at = cluster_at + cluster_group::scratch_bytes;
  static constexpr int full_at = meet_at + 16;
  static constexpr int free_at = full_at + 8 * most_stages;
  static constexpr int rows_at = free_at + 8 * most_stages;
  static constexpr int told_at = rows_at + 8 * most_stages;
  static constexpr int told_rows_at = told_at + 8 * most_told;
  static constexpr int places_at = (told_rows_at + 4 * most_told + 127) / 128 * 128;

  int blocks;       // per row, a cluster
  int stages;       // places for chunks, in each block
  int sweeps;       // that the body makes; the last one frees places
  unsigned staged;  // bit I: input I differs from row to row, and its vectors are 16 bytes
  int chunks;       // of a row, per block: not more than there are places
  unsigned* taken;  // how many rows have been besides each team's first; null: teams have equal shares
};

// A vector of a chunk that is in shared memory.
struct staged_place {
  int first;  // element of the row
  int at;     // its place among those of the first input
  MN_FN operator int() const { return first; }
};

// An input that is read vector by vector. `Self` gives: vectored(row); start(row, place, r), for what is whole and vectored.
template <class Self, class Row, size_t I, class S>
struct read_at_places {
  using item_type = stored_item<S, Row::V>;
  using raw = item_type;
  static constexpr bool plain = true;

  MN_FN void start_edge(const Row& row, const staged_place& place, raw& r) const {
    const Self& self = static_cast<const Self&>(*this);
    if (self.vectored(row) && row.whole(place.first)) {
      self.start(row, place, r);
    } else {
      r.x = row.template load_edge<I>(place.first);
    }
  }
  MN_FN item_type item(const Row&, const staged_place&, int64_t, const raw& r) const { return r; }
  MN_FN void swept() const {}
};

template <class Row, size_t I, class S>
struct staged : read_at_places<staged<Row, I, S>, Row, I, S> {
  using item_type = stored_item<S, Row::V>;
  using kept_type = S;
  static constexpr size_t input = I;

  MN_FN bool vectored(const Row& row) const { return row.in_places >> I & 1; }
  MN_FN void start(const Row& row, const staged_place& place, item_type& r) const {
    r = *row.template place_of<item_type, I>(place.at);
  }
};

// What all rows share is read from memory, that is, from the caches.
template <class Row, size_t I, class S>
struct shared_by_rows : read_at_places<shared_by_rows<Row, I, S>, Row, I, S> {
  MN_FN bool vectored(const Row& row) const { return row.vectored >> (Row::outputs + I) & 1; }
  MN_FN void start(const Row& row, const staged_place& place, stored_item<S, Row::V>& r) const {
    r.x = row.template load_whole<I>(place.first);
  }
};

// Values that take the place of the input that they are made of, where that is in shared memory.
template <class Row, class F, class H, class... More>
struct replacing {
  using fresh = computed<Row, F, H, More...>;
  using item_type = typename fresh::item_type;
  using raw = typename fresh::raw;
  static constexpr bool plain = false;
  fresh from;
  mutable bool seen = false;

  MN_FN bool vectored(const Row& row) const { return from.vectored(row); }
  MN_FN void start(const Row& row, const staged_place& place, raw& r) const {
    if (seen) {
      reinterpret_cast<item_type&>(get<0>(r)) = *row.template place_of<item_type, H::input>(place.at);
    } else {
      from.start(row, place, r);
    }
  }
  MN_FN void start_edge(const Row& row, const staged_place& place, raw& r) const {
    if (seen && in_place(row, place)) {
      start(row, place, r);
    } else {
      from.start_edge(row, place, r);
    }
  }
  MN_FN item_type item(const Row& row, const staged_place& place, int64_t first, const raw& r) const {
    const bool here = in_place(row, place);
    if (seen && here) return reinterpret_cast<const item_type&>(get<0>(r));
    const item_type result = from.item(row, place, first, r);
    if (here) *row.template place_of<item_type, H::input>(place.at) = result;
    return result;
  }
  MN_FN void swept() const { seen = true; }

 private:
  MN_FN static bool in_place(const Row& row, const staged_place& place) {
    return row.in_places >> H::input & 1 && row.whole(place.first);
  }
};

template <class Outs, class Ins, int Width>
struct staged_row : row_program<staged_row<Outs, Ins, Width>, Outs, Ins, Width> {
  using base = row_program<staged_row, Outs, Ins, Width>;
  using step_type = staged_place;
  static constexpr int V = Width;
  static constexpr bool any_rank = false, runs = true;
  static constexpr int U = stage_shape::vectors, step = stage_shape::threads * V, chunk = U * step;  // elements

  const stage_shape& shape;
  const int block;            // of those that share this row
  const int64_t teams;
  unsigned in_places = 0;     // bit I: input I's whole vectors come by way of shared memory
  int stage = 0, parity = 0;  // of the row's first chunk
  int round = 0;
  mutable int sweeps = 0;

  MN_FN staged_row(const row_operands<Outs, Ins>& operand, const stage_shape& s, int block_, int64_t teams_)
      : base(operand), shape(s), block(block_), teams(teams_) {}

  template <class Item, size_t I>
  MN_FN Item* place_of(int at) const {
    const int before = I == 0 ? 0 : __popc(shape.staged & ((1u << I) - 1)) * shape.stages * stage_shape::chunk_bytes;
    return reinterpret_cast<Item*>(shared_memory() + stage_shape::places_at + before + at);
  }
  MN_FN bool leads() const { return threadIdx.x == 0 && block == 0; }

  MN_FN void open() const {
    if (threadIdx.x == 0) {
      meeting(0)->init();
      meeting(1)->init();
      for (int i = 0; i < shape.stages; ++i) {
        full(i)->init();
        free(i)->init(stage_shape::warps);
      }
      for (int i = 0; i < stage_shape::most_told; ++i) told(i)->init();
      arrival::inits_visible();
    }
    __syncthreads();
    if (shape.blocks > 1) cluster_group::barrier();  // every block's barriers exist from here on
  }
  // One thread sends for all that this block will need, each chunk as soon as there is a place for it.
  MN_FN void send_for_rows(int64_t first_row) const {
    int number = 0, parity = 1;
    base ahead(this->o);
    int64_t target = first_row;
#pragma unroll 1
    for (int turn = 0; target < this->o.rows; ++turn) {
      // asked for now, needed when this row's chunks have been sent for
      const unsigned others = shape.taken != nullptr && block == 0 ? atomicAdd(shape.taken, 1u) : 0;
      ahead.enter(target);
      const unsigned sent = shape.staged & (ahead.vectored >> Outs::size);
      int begin = block * chunk - ahead.skew;
#pragma unroll 1
      for (int k = 0; k < shape.chunks; ++k) {
        free(number)->wait(parity);
        if (k == 0) *row_at(number) = target;
        send_for(ahead, sent, begin, number);
        begin += shape.blocks * chunk;
        if (++number == shape.stages) number = 0, parity ^= 1;
      }
      target = shape.taken != nullptr ? agree(turn, static_cast<unsigned>(teams) + others) : target + teams;
    }
    free(number)->wait(parity);
    *row_at(number) = -1;
    full(number)->expect(0);
  }
  // The next row, as soon as its first chunk is there; -1 after the last.
  MN_FN int64_t next() const {
    full(stage)->wait(parity);
    return *row_at(stage);
  }
  MN_FN void begin(int64_t number) {
    this->enter(number);
    in_places = shape.staged & (this->vectored >> Outs::size);
    sweeps = 0;
  }
  MN_FN void end() {
    stage += shape.chunks;
    if (stage >= shape.stages) {
      stage -= shape.stages;
      parity ^= 1;
    }
  }

  template <size_t I>
  MN_FN auto load() const {
    if constexpr (sizeof(type_at<I, Ins>) * V == 16) {
      return staged<staged_row, I, type_at<I, Ins>>{};
    } else {
      return share<I>();
    }
  }
  template <size_t I>
  MN_FN auto share() const {
    return shared_by_rows<staged_row, I, type_at<I, Ins>>{};
  }
  MN_FN counted<staged_row> index() const { return {}; }
  template <class F, class... H>
  MN_FN auto keep(F f, const H&... h) const {
    return computed<staged_row, F, H...>{f, values(h...), nowhere};
  }
  template <class F, size_t I, class S, class... H>
  MN_FN auto replace(F f, const staged<staged_row, I, S>& x, const H&... h) const {
    using fresh = computed<staged_row, F, staged<staged_row, I, S>, H...>;
    fresh from{f, values(x, h...), nowhere};
    if constexpr (sizeof(typename fresh::value) == sizeof(S)) {
      return replacing<staged_row, F, staged<staged_row, I, S>, H...>{from};
    } else {
      return from;
    }
  }
  template <class F, class... H>
  MN_FN auto replace(F f, const H&... h) const {
    return keep(f, h...);
  }

  template <class F, class... H>
  MN_FN auto again(F f, const H&... h) const {
    return keep(f, h...);
  }

  template <int = 0, class F, class... H>
  MN_FN void sweep_lots(bool aligned, F per_lot, const H&... h) const {
    const bool vectored = aligned && (h.vectored(*this) && ...);
    const int elements = static_cast<int>(this->elements);
    const unsigned wholes = vectored && elements >= chunk ? elements - chunk + 1 : 0;  // whole chunks begin below
    const bool first = sweeps == 0, last = ++sweeps == shape.sweeps;
    const int along = shape.blocks * chunk;
    int number = stage, phase = parity, begin = block * chunk - this->skew;
#pragma unroll 1
    for (int k = 0; k < shape.chunks; ++k) {
      if (first) full(number)->wait(phase);
      const staged_place here = {begin + int(threadIdx.x) * V,
                                 number * stage_shape::chunk_bytes + int(threadIdx.x) * 16};
      if (static_cast<unsigned>(begin) < wholes) {
        all_at_once(here, per_lot, indices_to<sizeof...(H)>{}, h...);
      } else {
#pragma unroll 1
        for (int u = 0; u < U; ++u) {
          const staged_place one = {here.first + u * step, here.at + u * stage_shape::step_bytes};
          if (this->touched(one.first)) at_an_edge(one, per_lot, indices_to<sizeof...(H)>{}, h...);
        }
      }
      if (last) release(number);
      begin += along;
      if (++number == shape.stages) number = 0, phase ^= 1;
    }
    (h.swept(), ...);
  }

  template <class Op, class A>
  MN_FN A combine(Op op, A value) {
    value = block_group::combine<stage_shape::threads>(op, value, 0, round);
    if (shape.blocks > 1) value = across_cluster(op, value);
    ++round;
    return value;
  }

 private:
  MN_FN arrival* meeting(int number) const {
    return reinterpret_cast<arrival*>(shared_memory() + stage_shape::meet_at) + number;
  }
  MN_FN arrival* full(int number) const {
    return reinterpret_cast<arrival*>(shared_memory() + stage_shape::full_at) + number;
  }
  MN_FN int64_t* row_at(int number) const {
    return reinterpret_cast<int64_t*>(shared_memory() + stage_shape::rows_at) + number;
  }
  MN_FN arrival* told(int number) const {
    return reinterpret_cast<arrival*>(shared_memory() + stage_shape::told_at) + number;
  }
  // What the cluster's first block says, in all its blocks. It is never far ahead: rows are combined all over the cluster.
  MN_FN unsigned agree(int turn, unsigned row) const {
    const int slot = turn % stage_shape::most_told;
    unsigned* said = reinterpret_cast<unsigned*>(shared_memory() + stage_shape::told_rows_at) + slot;
    if (block == 0) {
#pragma unroll 1
      for (int r = 1; r < shape.blocks; ++r) told(slot)->send(r, said, row);
      return row;
    }
    told(slot)->expect(4);
    told(slot)->wait(turn / stage_shape::most_told & 1);
    return *said;
  }
  MN_FN arrival* free(int number) const {
    return reinterpret_cast<arrival*>(shared_memory() + stage_shape::free_at) + number;
  }

  // Every block sends its value to all, and all combine them in the order of the blocks. Nobody waits for what has been
  // stored meanwhile, as at a cluster's own barrier. A set of values is used again two rounds later: whoever sends then
  // has had a value from each block since, and those were sent after the set had been read.
  template <class Op, class A>
  MN_FN A across_cluster(Op op, A value) {
    constexpr int words = (sizeof(A) + 3) / 4;
    const int set = round & 1;
    unsigned* mine = reinterpret_cast<unsigned*>(shared_memory() + stage_shape::cluster_at) +
                     set * (cluster_group::scratch_bytes / 8);
    if (threadIdx.x == 0) meeting(set)->expect(shape.blocks * words * 4);
    if (int(threadIdx.x) < shape.blocks) {
      unsigned w[words] = {};
      __builtin_memcpy(w, &value, sizeof(A));
#pragma unroll
      for (int i = 0; i < words; ++i) meeting(set)->send(threadIdx.x, mine + block * words + i, w[i]);
    }
    meeting(set)->wait(round >> 1 & 1);
    A all = op.identity();
#pragma unroll 8
    for (int r = 0; r < shape.blocks; ++r) {
      __builtin_memcpy(&value, mine + r * words, sizeof(A));
      all = op.combine(all, value);
    }
    return all;
  }

  template <class F, size_t... K, class... H>
  MN_FN void all_at_once(const staged_place& here, F& per_lot, detail::indices<K...>, const H&... h) const {
    pack<typename H::raw...> raw[U];
#pragma unroll
    for (int u = 0; u < U; ++u)
      (h.start(*this, staged_place{here.first + u * step, here.at + u * stage_shape::step_bytes}, get<K>(raw[u])), ...);
    per_lot(std::integral_constant<int, U>{}, whole_and_aligned{}, [&](int u, const auto& with) {
      const staged_place place = {here.first + u * step, here.at + u * stage_shape::step_bytes};
      with(place.first, h.item(*this, place, place.first, get<K>(raw[u]))...);
    });
  }
  template <class F, size_t... K, class... H>
  MN_FN void at_an_edge(const staged_place& here, F& per_lot, detail::indices<K...>, const H&... h) const {
    pack<typename H::raw...> raw;
    (h.start_edge(*this, here, get<K>(raw)), ...);
    per_lot(std::integral_constant<int, 1>{}, this->whole(here.first),
            [&](int, const auto& with) { with(here.first, h.item(*this, here, here.first, get<K>(raw))...); });
  }

  MN_FN void release(int number) const {
    arrival::order_writes();
    __syncwarp();
    if (threadIdx.x % 32 == 0) free(number)->arrive();
  }

  // The chunk from element `begin` of a row on: into place `number`.
  MN_FN void send_for(const base& ahead, unsigned sent, int begin, int number) const {
    const int first = begin >= 0 ? begin : begin + V;  // the first whole vector, and where the last one ends
    const int wholes = (static_cast<int>(this->o.size) + ahead.skew) / V * V - ahead.skew;
    const int last = begin + chunk < wholes ? begin + chunk : wholes;
    const int bytes = first < last ? (last - first) / V * 16 : 0;
    full(number)->expect(bytes * __popc(sent));
    if (bytes > 0)
      copy_all(ahead, sent, first, bytes, number * stage_shape::chunk_bytes + (first - begin) / V * 16, number,
               indices_to<Ins::size>{});
  }
  template <size_t... I>
  MN_FN void copy_all(const base& ahead, unsigned sent, int first, int bytes, int at, int number,
                      detail::indices<I...>) const {
    ((sent >> I & 1 ? full(number)->copy(place_of<char, I>(at), ahead.template at<I>(first), bytes) : void()), ...);
  }
};

template <class Body, class Outs, class Ins, int V>
__global__ void __launch_bounds__(stage_shape::in_block, 1)
    rows_staged(const __grid_constant__ row_operands<Outs, Ins> o, const __grid_constant__ stage_shape shape) {
  const int team = blockIdx.x / shape.blocks, teams = gridDim.x / shape.blocks;
  staged_row<Outs, Ins, V> row(o, shape, blockIdx.x - team * shape.blocks, teams);
  row.open();
  if (threadIdx.x >= stage_shape::threads) {
    if (threadIdx.x == stage_shape::threads) row.send_for_rows(team);
    return;
  }
  for (int64_t number = row.next(); number >= 0; number = row.next()) {
    row.begin(number);
    Body{}(row);
    row.end();
  }
}

}  // namespace mn
