// The sums of products of few rows of x, in plain fp32, by blocks that each have a slice of x along k on chip.
#pragma once

#include "cuda/product_epilogue.cuh"

namespace mn {

inline constexpr int few_threads = 384, few_warps = few_threads / 32;
inline constexpr int few_slice_multiple = 256;  // of k: whole rounds of a warp's vectors, whatever the type

template <class W>
inline constexpr int few_vector = 16 / int(sizeof(W));

// How a warp goes through the weight, for M rows of x: `rows` of it at a time, so that what it reads of x on chip serves
// several, and `deep` vectors of each, all of them on their way. `apart`: partial sums of a lane for one element.
template <class W, int M>
struct few_steps {
  static constexpr int rows = M == 1 ? 1 : sizeof(W) == 4 ? (M <= 2 ? 1 : 2) : (M <= 4 ? 2 : 4);
  static constexpr int deep = 8 / rows;
  static constexpr int step = 32 * few_vector<W> * deep;  // along k
  static constexpr int apart = M <= 2 ? 4 : M <= 4 ? 2 : 1;
};

struct few_shape {
  int64_t m, n, k;
  int64_t slice, slices, units;  // elements of k, at most; how many; pieces of work in each
  int64_t length;                // of a slice on chip, with zeros up to where warps read
  int64_t tiles;                 // of n, in the second kernel
  float* sums;                   // [slices][m][n]; null where they go out at once
  uint32_t* counters;            // set to 0
  int64_t counted;
  void* partials;  // [m][tiles]
};

// Where element k of a slice lies on chip: for each lane the four floats that belong to a quarter of a vector of 16, an
// eighth of one of 32 bytes, are neighbours, and no two lanes meet in a bank.
template <int V>
MN_FN int few_place(int k) {
  return k / (32 * V) * (32 * V) + k % V / 4 * 128 + k % (32 * V) / V * 4 + k % 4;
}

// A vector of the weight as it comes from memory: 16-bit elements take half a register each only as words.
using few_words = vec<unsigned, 4>;
template <class W>
MN_FN float few_element(const few_words& words, int e) {
  if constexpr (sizeof(W) == 4) {
    return bit_cast<float>(words.at[e]);
  } else {
    return to_compute(W{static_cast<uint16_t>(e % 2 ? words.at[e / 2] >> 16 : words.at[e / 2])});
  }
}
// `count` elements, and zeros; `Parts`: it may be less than a vector, otherwise such are zeros.
template <class W, bool Parts = false>
MN_FN few_words few_load(const W* w, int64_t count) {
  constexpr int V = few_vector<W>;
  few_words words = {};
  if (count >= V) {
    words = load_aligned<unsigned, 4>(reinterpret_cast<const unsigned*>(w));
  } else if constexpr (Parts) {
#pragma unroll
    for (int e = 0; e < V - 1; ++e)
      if (e < count) words.at[e * 4 / V] |= unsigned(bit_cast<word<sizeof(W)>>(load_one(w + e))) << e * 128 / V % 32;
  }
  return words;
}

// V elements of x as floats, zeros beyond `count`.
template <int V, class X>
MN_FN vec<float, V> few_load_x(const X* x, int64_t stride, int64_t count) {
  vec<float, V> v = {};
  if (stride == 1 && V <= count && is_aligned<X, V>(x)) {
    const vec<X, V> stored = load_aligned<X, V>(x);
#pragma unroll
    for (int e = 0; e < V; ++e) v.at[e] = to_compute(stored.at[e]);
    return v;
  }
#pragma unroll
  for (int e = 0; e < V; ++e)
    if (e < count) v.at[e] = to_compute(load_one(x + e * stride));
  return v;
}

// Four floats on chip, by one instruction: nvcc takes such a store apart.
MN_FN void few_keep(float* place, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__)
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(place));
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#else
  *reinterpret_cast<float4*>(place) = make_float4(a, b, c, d);
#endif
}

// A slice of x as floats; zeros beyond its rows and beyond k.
template <int M, bool Across, class Outs, class Ins>
MN_FN void few_bring_x(const product_operands<Outs, Ins>& o, const few_shape& s, int64_t begin, float* to) {
  using X = type_at<0, Ins>;
  constexpr int V = few_vector<X>, batch = 32 / V;
  const int64_t pitch = o.stride[Outs::size][0], stride = o.stride[Outs::size][1];
  const X* x = o.at.template input<0>() + begin * stride;
  const int length = static_cast<int>(s.length), vectors = length / V;
#pragma unroll 1
  for (int first = threadIdx.x; first < M * vectors; first += batch * few_threads) {
    vec<float, V> v[batch];
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int i = first + b * few_threads, m = i / vectors, k = i % vectors * V;
      v[b] = few_load_x<V>(x + m * pitch + k * stride, stride, m < s.m && m < M ? (s.k - begin < s.slice ? s.k - begin : s.slice) - k : 0);
    }
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int i = first + b * few_threads, m = i / vectors, k = i % vectors * V;
#pragma unroll
      for (int q = 0; q < V / 4; ++q) {
        float* place = to + m * length + (Across ? k + 4 * q : few_place<V>(k + 4 * q));
        if (m < M) few_keep(place, v[b].at[4 * q], v[b].at[4 * q + 1], v[b].at[4 * q + 2], v[b].at[4 * q + 3]);
      }
    }
  }
}

// A sum, on its way out or to the second kernel.
template <class Body, bool Stores, class Outs, class Ins>
MN_FN void few_put(const product_operands<Outs, Ins>& o, const few_shape& s, int64_t slice, int m, int64_t n, float sum) {
  if (m >= s.m || n >= s.n) return;
  if (!Stores || s.sums) {
    store_one(s.sums + (slice * s.m + m) * s.n + n, sum);
  } else if constexpr (Stores) {
    const product_batch only = {};
    o.put(only, m, n, as_pack(o.template body<Body, true>(sum, only, m, n, o.inputs(only, m, n))), indices_to<Outs::size>{});
  }
}

// Of N values in each lane, their sums over the lanes: as long as a lane has several, it gives half of them away and gets
// the other lane's part of those that it keeps. The first N / 32 (one, where N is less) are then the lane's; returned is
// which they are. Lanes that differ in bits below `Distance`, where N is 1, have the same.
template <int N, int Distance = 16, int Values>
MN_FN int few_over_lanes(float (&value)[Values]) {
  if constexpr (Distance == 0) {
    return 0;
  } else if constexpr (N == 1) {
    value[0] += __shfl_xor_sync(0xffffffffu, value[0], Distance);
    return few_over_lanes<1, Distance / 2>(value);
  } else {
    const bool upper = (threadIdx.x & Distance) != 0;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float sent = upper ? value[i] : value[i + N / 2], kept = upper ? value[i + N / 2] : value[i];
      value[i] = kept + __shfl_xor_sync(0xffffffffu, sent, Distance);
    }
    return (upper ? N / 2 : 0) + few_over_lanes<N / 2, Distance / 2>(value);
  }
}

// The weight is contiguous along k: a warp has some rows of it, and a lane every 32nd vector of them.
template <class Body, bool Stores, int M, class Outs, class Ins>
MN_FN void few_along(const product_operands<Outs, Ins>& o, const few_shape& s, int64_t slice, int64_t first, int64_t last,
                     float* x) {
  using W = type_at<1, Ins>;
  using steps = few_steps<W, M>;
  constexpr int V = few_vector<W>, R = steps::rows, U = steps::deep, A = steps::apart, round = 32 * V;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t begin = slice * s.slice, pitch = o.stride[Outs::size + 1][0];
  const int length = static_cast<int>(s.length);
  const int size = static_cast<int>(s.k - begin < s.slice ? s.k - begin : s.slice), whole = size / V * V;
  const W* w = o.at.template input<1>() + begin;
  const auto row_of = [&](int64_t group, int r) { return w + (group * R + r < s.n ? group * R + r : s.n - 1) * pitch; };
  few_words held[U][R];  // on their way: each is loaded again as soon as it has been used
  int64_t group = first + warp;
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int u = 0; u < U; ++u)
      held[u][r] = few_load(row_of(group, r) + lane * V + u * round, group < last ? whole - lane * V - u * round : 0);
  few_bring_x<M, false>(o, s, begin, x);
  __syncthreads();
  for (; group < last; group += few_warps) {
    float sums[M * R][A] = {};
#pragma unroll 1
    for (int k = 0; k < whole; k += U * round) {
      const bool goes_on = k + U * round < whole;
      const int64_t next = goes_on ? group : group + few_warps;
      const int next_k = (goes_on ? k + U * round : 0) + lane * V, left = next < last ? whole - next_k : 0;
      const W* from[R];
#pragma unroll
      for (int r = 0; r < R; ++r) from[r] = row_of(next, r) + next_k;
#pragma unroll
      for (int u = 0; u < U; ++u) {
#pragma unroll
        for (int q = 0; q < V / 4; ++q) {
          float factor[R][4];
#pragma unroll
          for (int r = 0; r < R; ++r)
#pragma unroll
            for (int e = 0; e < 4; ++e) factor[r][e] = few_element<W>(held[u][r], 4 * q + e);
#pragma unroll
          for (int m = 0; m < M; ++m) {
            const auto v = load_aligned<float, 4>(x + m * length + k + u * round + q * 128 + lane * 4);
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
              for (int e = 0; e < 4; ++e)
                sums[m * R + r][e % A] = fmaf(factor[r][e], v.at[e], sums[m * R + r][e % A]);
          }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) held[u][r] = few_load(from[r] + u * round, left - u * round);
      }
    }
    const int k = whole + lane;  // what is left of k, less than a vector
    if (k < size) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float factor = to_compute(load_one(row_of(group, r) + k));
#pragma unroll
        for (int m = 0; m < M; ++m)
          sums[m * R + r][0] = fmaf(factor, x[m * length + few_place<V>(k)], sums[m * R + r][0]);
      }
    }
    float total[M * R];
#pragma unroll
    for (int i = 0; i < M * R; ++i) total[i] = combine_values(sum<float>{}, sums[i]);
    constexpr int each = M * R > 32 ? M * R / 32 : 1, alike = M * R > 32 ? 1 : 32 / (M * R);
    const int mine = few_over_lanes<M * R>(total);
    if (lane % alike != 0) continue;
#pragma unroll
    for (int i = 0; i < each; ++i)
      few_put<Body, Stores>(o, s, slice, (mine + i) / R, group * R + (mine + i) % R, total[i]);
  }
}

inline constexpr int few_chunk = 16;  // sums of a lane that go through the scratch at a time
inline constexpr int few_scratch_bytes = few_threads * few_chunk * 4;

// The weight is contiguous along n: a lane has one vector of columns, and each warp every 16th group of four rows of k.
template <class Body, bool Stores, int M, class Outs, class Ins>
MN_FN void few_across(const product_operands<Outs, Ins>& o, const few_shape& s, int64_t slice, int64_t first,
                      int64_t last, float* x) {
  using W = type_at<1, Ins>;
  constexpr int V = few_vector<W>, U = 8, step = U * few_warps, together = 16 / V;
  constexpr int A = M * V <= 8 ? 4 : M * V <= 16 ? 2 : 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t begin = slice * s.slice, pitch = o.stride[Outs::size + 1][1];
  const int size = static_cast<int>(s.k - begin < s.slice ? s.k - begin : s.slice);
  const W* w = o.at.template input<1>() + begin * pitch;
  float* scratch = x + M * s.length;
  few_words held[U];  // as above
  const auto load = [&](int64_t strip, int k) {
    const int64_t n = strip * 32 * V + lane * V;
    return few_load<W, true>(w + k * pitch + n, k < size && strip < last ? s.n - n : 0);
  };
#pragma unroll
  for (int u = 0; u < U; ++u) held[u] = load(first, warp * U + u);
  few_bring_x<M, true>(o, s, begin, x);
  __syncthreads();
  for (int64_t strip = first; strip < last; ++strip) {
    float sums[M * V][A] = {};
#pragma unroll 1
    for (int k = warp * U; k < size; k += step) {
      const bool goes_on = k + step < size;
      const int64_t next = goes_on ? strip : strip + 1;
      const int next_k = goes_on ? k + step : warp * U;
#pragma unroll
      for (int u = 0; u < U; u += together) {
        float factor[together][V];
#pragma unroll
        for (int i = 0; i < together; ++i)
#pragma unroll
          for (int e = 0; e < V; ++e) factor[i][e] = few_element<W>(held[u + i], e);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const auto v = load_aligned<float, together>(x + m * s.length + k + u);
#pragma unroll
          for (int i = 0; i < together; ++i)
#pragma unroll
            for (int e = 0; e < V; ++e) {
              float& sum = sums[m * V + e][(u + i) % A];
              sum = fmaf(factor[i][e], v.at[i], sum);
            }
        }
#pragma unroll
        for (int i = 0; i < together; ++i) held[u + i] = load(next, next_k + u + i);
      }
    }
    constexpr int chunk = M * V < few_chunk ? M * V : few_chunk;
#pragma unroll
    for (int c = 0; c < M * V; c += chunk) {
#pragma unroll
      for (int i = 0; i < chunk; ++i)
        scratch[(warp * chunk + i) * 32 + lane] = combine_values(sum<float>{}, sums[c + i]);
      __syncthreads();
      for (int i = warp; i < chunk; i += few_warps) {
        float total = 0.0f;
#pragma unroll
        for (int part = 0; part < few_warps; ++part) total += scratch[(part * chunk + i) * 32 + lane];
        few_put<Body, Stores>(o, s, slice, (c + i) / V, strip * 32 * V + lane * V + (c + i) % V, total);
      }
      __syncthreads();
    }
  }
}

}  // namespace mn
