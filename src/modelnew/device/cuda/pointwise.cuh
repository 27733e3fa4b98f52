// Family 1: the same function at every element of a domain. The plan is made by runtime/plan_cuda.py:
//   [kind, device, elements, rank, 0, threads, dim, 0]  sizes  strides
// kind 0: every operand is contiguous; 1: strides of any kind; 2: through shared-memory tiles, along `dim`
// (transpose.cuh).
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

// Vectors per thread. Blocks that read little, write it and make room for the next keep memory busiest; 16-bit elements
// leave a thread with more to compute between its loads, so it starts two.
template <int V, class... In>
constexpr int vectors_per_thread() {
  return bytes_of<In...>() == 2 || bytes_of<In...>() == 1 ? 2 : 1;
}

// A tile is U * blockDim.x vectors. `head` elements come before the first aligned vector.
template <class Body, int V, int U, class Outs, class Ins>
__global__ void __launch_bounds__(256)
    pointwise_contiguous(const __grid_constant__ operands<Outs, Ins> o, const int64_t head, const int64_t elements) {
  constexpr indices_to<Outs::size> outs;
  constexpr indices_to<Ins::size> ins;
  const int64_t vectors = (elements - head) / V;
  const int64_t first = int64_t(blockIdx.x) * (U * blockDim.x) + threadIdx.x;
  vecs<Ins, V> x[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const int64_t i = first + u * blockDim.x;
    if (i < vectors) x[u] = load_inputs<V>(o, head + i * V, ins);
  }
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const int64_t i = first + u * blockDim.x;
    if (i < vectors) store_outputs<V>(o, head + i * V, apply_body<Body, Outs, Ins, V>(x[u]), outs);
  }
  // What the vectors leave: the elements before the first aligned one, and those after the last whole vector.
  const int64_t loose = elements - vectors * V;
  if (blockIdx.x == 0 && threadIdx.x < loose) {
    const int64_t i = threadIdx.x < head ? threadIdx.x : vectors * V + threadIdx.x;
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

template <class Body, class... Out, class... In>
int pointwise_on(const operands<types<Out...>, types<In...>>& o, const int64_t* plan, queue stream) {
  using Outs = types<Out...>;
  using Ins = types<In...>;
  constexpr int V = elements_per_access<Out..., In...>();
  constexpr int U = vectors_per_thread<V, In...>();
  const int64_t elements = plan[2];
  const int threads = static_cast<int>(plan[5]);
  const int64_t head = head_of<V, type_at<0, Outs>>(o.out[0], elements);
  const auto shape = [&](int u) {
    const int64_t vectors = (elements - head + V - 1) / V;
    const int64_t blocks = ceil_div(vectors, int64_t(u) * threads);
    return launch_shape{blocks > 0 ? blocks : 1, threads};
  };
  if (plan[0] == 0 && aligned_after<V>(head, o.out, Outs{}) && aligned_after<V>(head, o.in, Ins{}))
    return launch(pointwise_contiguous<Body, V, U, Outs, Ins>, shape(U), stream, o, head, elements);
  const int item_bytes[] = {int(sizeof(Out))..., int(sizeof(In))...};
  strided_operands<Outs, Ins> s = {o, {}, {}, {}};
  read_strided(s, plan, item_bytes);
  if (plan[0] == 2)
    return transposed<Body>(o, s.dims, s.stride, s.readable, static_cast<int>(plan[6]), item_bytes, stream);
  constexpr int few = V * bytes_of<In...>() > 32 ? 1 : 2;
  return launch(pointwise_strided<Body, V, few, Outs, Ins>, shape(few), stream, s, head, elements);
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
