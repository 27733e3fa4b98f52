// Family 1: the same function at every element of a domain. The plan is made by runtime/plan_cuda.py:
//   [kind, device, elements, rank, 0, threads, dim, 0]  sizes  strides
// kind 0: every operand is contiguous; 1: strides of any kind; 2: through shared-memory tiles, along `dim`
// (transpose.cuh); 3: strides of any kind, but a block stays in one row of the innermost dim.
#pragma once

#include "cuda/domain.cuh"
#include "cuda/operands.cuh"
#include "cuda/transpose.cuh"

namespace mn {

// Elements per access: the widest type takes 16 bytes, unless the narrowest would then take less than 4.
template <class... S>
constexpr int elements_per_access() {
  int count = 16 / widest_of<S...>();
  while (count * narrowest_of<S...>() < 4) count *= 2;
  return count;
}

// Whether a body says of itself that it computes much.
template <class Body, class = void>
struct is_heavy : std::false_type {};
template <class Body>
struct is_heavy<Body, std::enable_if_t<Body::heavy>> : std::true_type {};

// Vectors per thread. Blocks that read little, write it and make room for the next keep memory busiest; where there is
// much to compute between its loads, a thread starts two.
template <class Body, class... In>
constexpr int vectors_per_thread() {
  return is_heavy<Body>::value || bytes_of<In...>() == 1 ? 2 : 1;
}

// Operands begin at the first output's first aligned vector, `head` elements after the tensor's start. A tile is
// U * blockDim.x vectors: the first `tiles` blocks have one each, without a bound to look at; one more block, if there
// is anything left, has the vectors after the last whole tile and what is no whole vector at either end.
template <class Body, int V, int U, class Outs, class Ins>
__global__ void __launch_bounds__(256)
    pointwise_contiguous(const __grid_constant__ operands<Outs, Ins> o, const unsigned tiles, const unsigned vectors,
                         const int64_t head, const int64_t elements) {
  constexpr indices_to<Outs::size> outs;
  constexpr indices_to<Ins::size> ins;
  const unsigned first = blockIdx.x * (U * blockDim.x) + threadIdx.x;
  if (blockIdx.x < tiles) {
    vecs<Ins, V> x[U];
#pragma unroll
    for (int u = 0; u < U; ++u) x[u] = load_inputs<V>(o, int64_t(first + u * blockDim.x) * V, ins);
#pragma unroll
    for (int u = 0; u < U; ++u)
      store_outputs<V>(o, int64_t(first + u * blockDim.x) * V, apply_body<Body, Outs, Ins, V>(x[u]), outs);
    return;
  }
#pragma unroll 1
  for (unsigned i = first; i < vectors; i += blockDim.x)
    store_outputs<V>(o, int64_t(i) * V, apply_body<Body, Outs, Ins, V>(load_inputs<V>(o, int64_t(i) * V, ins)), outs);
  const int64_t loose = elements - int64_t(vectors) * V;
  if (threadIdx.x < loose) {
    const int64_t i = (threadIdx.x < head ? 0 : int64_t(vectors) * V) + threadIdx.x - head;
    store_outputs<1>(o, i, apply_body<Body, Outs, Ins, 1>(load_inputs<1>(o, i, ins)), outs);
  }
}

// Of a strided launch: operands are the outputs, then the inputs.
template <class Outs, class Ins>
struct strided_operands {
  static constexpr int count = Outs::size + Ins::size;
  operands<Outs, Ins> at;
  domain dims;
  strides<count> stride;
  extent readable[count];

  template <size_t I, int V>
  MN_FN auto load(const int64_t (&offset)[count], int n) const {
    constexpr int k = Outs::size + I;
    return load_along<type_at<I, Ins>, V>(at.template input<I>() + offset[k], stride.at[k][dims.rank - 1], n,
                                                 readable[k]);
  }
  template <size_t O, int V>
  MN_FN void store(const int64_t (&offset)[count], int n, const vec<type_at<O, Outs>, V>& y) const {
    store_along<type_at<O, Outs>, V>(at.template output<O>() + offset[O], stride.at[O][dims.rank - 1], n, y);
  }
  template <int V, size_t... I>
  MN_FN vecs<Ins, V> load_all(const int64_t (&offset)[count], int n, detail::indices<I...>) const {
    return values(load<I, V>(offset, n)...);
  }
  template <int V, size_t... O>
  MN_FN void store_all(const int64_t (&offset)[count], int n, const vecs<Outs, V>& y, detail::indices<O...>) const {
    (store<O, V>(offset, n, get<O>(y)), ...);
  }
};

// Element i of the domain, in the order of the first output: a thread takes V of them in a row. Most often they lie in
// one row of the innermost dim, so one place is worked out for all; where they cross into the next, one for each.
template <class Body, int V, int U, class Outs, class Ins>
__global__ void __launch_bounds__(256) pointwise_strided(const __grid_constant__ strided_operands<Outs, Ins> o,
                                                         const int64_t head, const int64_t elements) {
  constexpr indices_to<Outs::size> outs;
  constexpr indices_to<Ins::size> ins;
  constexpr int count = strided_operands<Outs, Ins>::count;
  const int64_t first = (int64_t(blockIdx.x) * (U * blockDim.x) + threadIdx.x) * V + head;
  int64_t offset[U][count] = {};
  unsigned whole = 0;  // bit u: the vector lies in one row
  vecs<Ins, V> x[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const int64_t i = first + int64_t(u) * blockDim.x * V;
    if (i + V <= elements && locate<0, count>(o.dims, o.stride, i, offset[u]) + V <= o.dims.innermost()) {
      whole |= 1u << u;
      x[u] = o.template load_all<V>(offset[u], V, ins);
    }
  }
#pragma unroll
  for (int u = 0; u < U; ++u)
    if (whole >> u & 1) o.template store_all<V>(offset[u], V, apply_body<Body, Outs, Ins, V>(x[u]), outs);
  const auto one = [&](int64_t i) {
    int64_t place[count] = {};
    locate<0, count>(o.dims, o.stride, i, place);
    o.template store_all<1>(place, 1, apply_body<Body, Outs, Ins, 1>(o.template load_all<1>(place, 1, ins)), outs);
  };
#pragma unroll 1
  for (int u = 0; u < U; ++u) {
    const int64_t i = first + int64_t(u) * blockDim.x * V;
    if (!(whole >> u & 1))
#pragma unroll 1
      for (int v = 0; v < V && i + v < elements; ++v) one(i + v);
  }
  if (blockIdx.x == 0 && threadIdx.x < head) one(threadIdx.x);
}

// Rows of the innermost dim, `pieces` blocks each. Vectors begin where the first output's row is aligned, so that all
// threads of a block find an operand aligned or none do; what is no whole vector at either end of a row is done one by
// one.
inline constexpr int row_steps = 4;  // tiles of U * blockDim.x vectors per block: finding the row takes as long as one

template <class Body, int V, int U, class Outs, class Ins>
__global__ void __launch_bounds__(256)
    pointwise_rows(const __grid_constant__ strided_operands<Outs, Ins> o, const __grid_constant__ divider pieces) {
  constexpr indices_to<Outs::size> outs;
  constexpr indices_to<Ins::size> ins;
  constexpr int count = strided_operands<Outs, Ins>::count;
  const int last = o.dims.rank - 1, tile = U * blockDim.x * V, piece = row_steps * tile;
  const int64_t size = o.dims.innermost(), row = pieces.divide_wide(blockIdx.x);
  int64_t base[count] = {};
  locate<0, count>(o.dims, o.stride, row * size, base);
  const auto* start = o.at.template output<0>() + base[0];
  const int before = static_cast<int>(reinterpret_cast<uintptr_t>(start) / sizeof(*start) % V);
  const int64_t first = (blockIdx.x - row * pieces.size) * piece - before;
#pragma unroll
  for (int k = 0; k < count; ++k) base[k] += first * o.stride.at[k][last];
  // of this piece: where the row begins and ends, and where its last whole vector ends
  const int from = first < 0 ? V : 0, to = static_cast<int>(size - first < piece ? size - first : piece), whole = to / V * V;
#pragma unroll 1
  for (int step = 0; step < whole; step += tile) {
    int64_t offset[U][count];
    vecs<Ins, V> x[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int i = step + (u * blockDim.x + threadIdx.x) * V;
#pragma unroll
      for (int k = 0; k < count; ++k) offset[u][k] = base[k] + i * o.stride.at[k][last];
      if (i >= from && i < whole) x[u] = o.template load_all<V>(offset[u], V, ins);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int i = step + (u * blockDim.x + threadIdx.x) * V;
      if (i >= from && i < whole) o.template store_all<V>(offset[u], V, apply_body<Body, Outs, Ins, V>(x[u]), outs);
    }
  }
  const auto one = [&](int i) {
    int64_t place[count];
#pragma unroll
    for (int k = 0; k < count; ++k) place[k] = base[k] + i * o.stride.at[k][last];
    o.template store_all<1>(place, 1, apply_body<Body, Outs, Ins, 1>(o.template load_all<1>(place, 1, ins)), outs);
  };
  const int i = threadIdx.x;
  if (i < from && i + first >= 0) one(i);
  if (i < to - whole) one(whole + i);
}

namespace detail {

// Elements before the first output's first 16-byte boundary.
template <int V, class S>
int64_t head_of(const void* p, int64_t elements) {
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(p) % (sizeof(S) * V);
  const int64_t head = misaligned ? static_cast<int64_t>((sizeof(S) * V - misaligned) / sizeof(S)) : 0;
  return head < elements ? head : elements;
}

template <int V, class... S>
bool aligned_after(int64_t head, const void* const* p, types<S...>) {
  int i = 0;
  return (((reinterpret_cast<uintptr_t>(p[i++]) + head * sizeof(S)) % vec<S, V>::access == 0) && ...);
}

template <class Outs, class Ins>
void read_strided(strided_operands<Outs, Ins>& o, const int64_t* plan, const int* item_bytes) {
  const int64_t rank = plan[3];
  read_sizes(o.dims, plan + 8, rank);
  for (int k = 0; k < o.count; ++k) {
    for (int i = 0; i < o.dims.rank; ++i) o.stride.at[k][i] = rank > 0 ? plan[8 + rank + k * rank + i] : 1;
    const void* p = k < o.at.outs ? o.at.out[k] : o.at.in[k - o.at.outs];
    o.readable[k].begin = reinterpret_cast<uintptr_t>(p);
    o.readable[k].end = o.readable[k].begin + span_of(o.dims, o.stride.at[k], item_bytes[k]);
  }
}

// The operands from element `head` on.
template <class Outs, class Ins>
operands<Outs, Ins> beginning_at(int64_t head, operands<Outs, Ins> o, const int* item_bytes) {
  for (auto& out : o.out) out = static_cast<char*>(out) + head * *item_bytes++;
  for (int k = 0; k < o.ins; ++k) o.in[k] = static_cast<const char*>(o.in[k]) + head * *item_bytes++;
  return o;
}

template <class Body, class... Out, class... In>
int pointwise_on(const operands<types<Out...>, types<In...>>& o, const int64_t* plan, queue stream) {
  using Outs = types<Out...>;
  using Ins = types<In...>;
  constexpr int V = elements_per_access<Out..., In...>();
  constexpr int U = vectors_per_thread<Body, In...>();
  const int64_t elements = plan[2];
  const int threads = static_cast<int>(plan[5]);
  const int64_t head = head_of<V, type_at<0, Outs>>(o.out[0], elements);
  const int item_bytes[] = {int(sizeof(Out))..., int(sizeof(In))...};
  const int64_t vectors = (elements - head) / V, tile = int64_t(U) * threads, tiles = vectors / tile;
  if (plan[0] == 0 && vectors <= most_blocks && aligned_after<V>(head, o.out, Outs{}) &&
      aligned_after<V>(head, o.in, Ins{})) {
    const launch_shape shape = {tiles + (tiles * tile * V < elements), threads};
    return launch(pointwise_contiguous<Body, V, U, Outs, Ins>, shape, stream, beginning_at(head, o, item_bytes),
                  static_cast<unsigned>(tiles), static_cast<unsigned>(vectors), head, elements);
  }
  strided_operands<Outs, Ins> s = {o, {}, {}, {}};
  read_strided(s, plan, item_bytes);
  if (plan[0] == 2)
    return transposed<Body>(o, s.dims, s.stride, s.readable, static_cast<int>(plan[6]), item_bytes, stream);
  constexpr int few = V * bytes_of<In...>() > 32 ? 1 : 2;
  if (plan[0] == 3) {
    const int64_t size = s.dims.dim[s.dims.rank - 1].size, pieces = ceil_div(size + V - 1, int64_t(row_steps) * few * threads * V);
    const launch_shape shape = {elements / size * pieces, threads};
    if (shape.blocks <= most_blocks)
      return launch(pointwise_rows<Body, V, few, Outs, Ins>, shape, stream, s, divide_by(pieces));
  }
  const int64_t blocks = ceil_div(ceil_div(elements - head, V), int64_t(few) * threads);
  const launch_shape shape = {blocks > 0 ? blocks : 1, threads};
  return launch(pointwise_strided<Body, V, few, Outs, Ins>, shape, stream, s, head, elements);
}

}  // namespace detail

template <class Body, class Outs, class Ins>
int pointwise(const std::array<void*, Outs::size>& outs, const std::array<const void*, Ins::size>& ins,
              const int64_t* plan, queue stream) {
  if (plan[3] > max_rank) return cudaErrorInvalidValue;
  const device_scope device(plan[1]);
  if (device.error() != cudaSuccess) return taken(device.error());
  return detail::pointwise_on<Body>(make_operands<Outs, Ins>(outs, ins), plan, stream);
}

}  // namespace mn
