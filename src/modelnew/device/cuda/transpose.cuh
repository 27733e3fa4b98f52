// Pointwise where some inputs are contiguous along another dim than the output: their tiles go through shared memory,
// so that both sides are read and written in whole cache lines.
#pragma once

#include "cuda/domain.cuh"
#include "cuda/operands.cuh"

namespace mn {

inline constexpr int tile_size = 64;   // elements, either way
inline constexpr int tile_pitch = 65;  // of a tile's rows in shared memory: columns then lie in different banks
inline constexpr int tile_threads = 256;

// Elements per access: 8 where all types are narrow, so that those too are read and written 16 bytes at a time.
template <class Outs, class Ins>
struct tile_vector;
template <class... Out, class... In>
struct tile_vector<types<Out...>, types<In...>> {
  static constexpr int value = widest_of<Out..., In...>() <= 2 ? 8 : 4;
};
template <int V>
constexpr int tile_steps = tile_size * tile_size / V / tile_threads;

template <class Outs, class Ins>
struct tiled_operands {
  static constexpr int count = Outs::size + Ins::size;
  operands<Outs, Ins> at;
  domain outer;  // the dims other than the two of a tile
  strides<count> outer_stride;
  int64_t height, width;  // of the whole: the dim that turned inputs are contiguous along, and the innermost
  divider tiles_across, tiles_down;
  int64_t down[count], across[count];  // strides along the two
  extent readable[count];
  unsigned turned;           // bit I: input I goes through shared memory
  int shared_offset[count];  // bytes, per input
};

// Vector q of a tile: for a turned input V elements down at some column, for others V elements across at some row.
template <int V>
struct tile_place {
  int line, first;
  MN_FN tile_place(int step) {
    const int q = step * tile_threads + threadIdx.x;
    line = q / (tile_size / V);
    first = q % (tile_size / V) * V;
  }
};

template <int V>
MN_FN int elements_left(int64_t left) {
  return left < 0 ? 0 : left < V ? int(left) : V;
}

template <size_t I, int V, class Outs, class Ins>
MN_FN auto load_tile(const tiled_operands<Outs, Ins>& o, const int64_t (&base)[tiled_operands<Outs, Ins>::count],
                     int64_t height, int64_t width, int step) {
  constexpr int k = Outs::size + I;
  const tile_place<V> at(step);
  const bool turned = o.turned >> I & 1;
  const int n = at.line < (turned ? width : height) ? elements_left<V>((turned ? height : width) - at.first) : 0;
  const int64_t place = at.line * (turned ? o.across[k] : o.down[k]) + at.first * (turned ? o.down[k] : o.across[k]);
  return load_along<type_at<I, Ins>, V>(o.at.template input<I>() + base[k] + place, turned ? 1 : o.across[k], n,
                                        o.readable[k]);
}

template <size_t I, int V, class Outs, class Ins>
MN_FN void put_tile(const tiled_operands<Outs, Ins>& o, const vecs<Ins, V> (&x)[tile_steps<V>]) {
  if (!(o.turned >> I & 1)) return;
  auto* tile = reinterpret_cast<type_at<I, Ins>*>(shared_memory() + o.shared_offset[I]);
#pragma unroll
  for (int step = 0; step < tile_steps<V>; ++step) {
    const tile_place<V> at(step);
#pragma unroll
    for (int v = 0; v < V; ++v) tile[(at.first + v) * tile_pitch + at.line] = get<I>(x[step]).at[v];
  }
}

template <size_t I, int V, class Outs, class Ins>
MN_FN void take_tile(const tiled_operands<Outs, Ins>& o, vecs<Ins, V> (&x)[tile_steps<V>]) {
  if (!(o.turned >> I & 1)) return;
  const auto* tile = reinterpret_cast<const type_at<I, Ins>*>(shared_memory() + o.shared_offset[I]);
#pragma unroll
  for (int step = 0; step < tile_steps<V>; ++step) {
    const tile_place<V> at(step);
#pragma unroll
    for (int v = 0; v < V; ++v) get<I>(x[step]).at[v] = tile[at.line * tile_pitch + at.first + v];
  }
}

template <class Body, class Outs, class Ins, size_t... O, size_t... I>
MN_FN void one_tile(const tiled_operands<Outs, Ins>& o, detail::indices<O...>, detail::indices<I...>) {
  constexpr int count = tiled_operands<Outs, Ins>::count;
  const int64_t row_of_tiles = o.tiles_across.divide_wide(blockIdx.x);
  const int64_t left = (blockIdx.x - row_of_tiles * o.tiles_across.size) * tile_size;
  const int64_t outer = o.tiles_down.divide_wide(row_of_tiles);
  const int64_t top = (row_of_tiles - outer * o.tiles_down.size) * tile_size;
  int64_t base[count] = {};
  locate<0, count>(o.outer, o.outer_stride, outer, base);
#pragma unroll
  for (int k = 0; k < count; ++k) base[k] += top * o.down[k] + left * o.across[k];
  const int64_t height = o.height - top, width = o.width - left;

  constexpr int V = tile_vector<Outs, Ins>::value;
  vecs<Ins, V> x[tile_steps<V>];
#pragma unroll
  for (int step = 0; step < tile_steps<V>; ++step) x[step] = values(load_tile<I, V>(o, base, height, width, step)...);
  (put_tile<I, V>(o, x), ...);
  __syncthreads();
  (take_tile<I, V>(o, x), ...);
#pragma unroll
  for (int step = 0; step < tile_steps<V>; ++step) {
    const tile_place<V> at(step);
    const int n = at.line < height ? elements_left<V>(width - at.first) : 0;
    const auto y = apply_body<Body, Outs, Ins, V>(x[step], n);
    (store_along<type_at<O, Outs>, V>(
         o.at.template output<O>() + base[O] + at.line * o.down[O] + at.first * o.across[O], o.across[O], n, get<O>(y)),
     ...);
  }
}

template <class Body, class Outs, class Ins>
__global__ void __launch_bounds__(tile_threads)
    pointwise_transposed(const __grid_constant__ tiled_operands<Outs, Ins> o) {
  one_tile<Body>(o, indices_to<Outs::size>{}, indices_to<Ins::size>{});
}

namespace detail {

// `turned`: the dim that inputs with stride 1 along it, but not along the innermost, are turned from.
template <class Body, class Outs, class Ins>
int transposed(const operands<Outs, Ins>& at, const domain& dims, const strides<Outs::size + Ins::size>& stride,
               const extent* readable, int turned, const int* item_bytes, queue stream) {
  const int last = dims.rank - 1;
  tiled_operands<Outs, Ins> o = {};
  o.at = at;
  o.height = dims.dim[turned].size;
  o.width = dims.dim[last].size;
  o.tiles_across = divide_by(ceil_div(o.width, tile_size));
  o.tiles_down = divide_by(ceil_div(o.height, tile_size));
  int64_t outer = 1;
  int rank = 0;
  for (int i = 0; i < last; ++i) {
    if (i == turned) continue;
    o.outer.dim[rank] = dims.dim[i];
    for (int k = 0; k < o.count; ++k) o.outer_stride.at[k][rank] = stride.at[k][i];
    outer *= dims.dim[i].size;
    ++rank;
  }
  if (rank == 0) o.outer.dim[0] = divide_by(1);
  o.outer.rank = rank > 0 ? rank : 1;
  o.outer.small = outer <= 0x7fffffff;
  size_t shared_bytes = 0;
  for (int k = 0; k < o.count; ++k) {
    o.down[k] = stride.at[k][turned];
    o.across[k] = stride.at[k][last];
    o.readable[k] = readable[k];
    const int input = k - int(Outs::size);
    if (input < 0 || o.down[k] != 1 || o.across[k] <= 1) continue;
    o.turned |= 1u << input;
    o.shared_offset[input] = static_cast<int>(shared_bytes);
    shared_bytes += (size_t(item_bytes[k]) * tile_size * tile_pitch + 15) / 16 * 16;
  }
  const launch_shape shape = {outer * o.tiles_down.size * o.tiles_across.size, tile_threads, shared_bytes};
  return launch(pointwise_transposed<Body, Outs, Ins>, shape, stream, o);
}

}  // namespace detail

}  // namespace mn
