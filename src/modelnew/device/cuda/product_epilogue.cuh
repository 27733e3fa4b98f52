// What happens to the sums on their way out: the body, then a store, or a reduction over n with a finish.
#pragma once

#include "cuda/group.cuh"
#include "cuda/operands.cuh"

namespace mn {

// Operands are the outputs, then the inputs: x, w, and those of the body, addressed by (m, n).
template <class Outs, class Ins>
struct product_operands {
  static constexpr int count = Outs::size + Ins::size;
  operands<Outs, Ins> at;
  int64_t stride[count][2];

  template <size_t I>
  MN_FN auto input(int64_t m, int64_t n) const {
    constexpr int k = Outs::size + I;
    return to_compute(load_one(at.template input<I>() + m * stride[k][0] + n * stride[k][1]));
  }
  // Of the body's inputs, those that are the same for all m are what they were at another one.
  template <size_t I, class V>
  MN_FN V input_or(int64_t m, int64_t n, V same) const {
    return stride[Outs::size + I][0] == 0 ? same : input<I>(m, n);
  }
  template <size_t... I>
  MN_FN auto inputs(int64_t m, int64_t n, detail::indices<0, 1, I...>) const {
    return values(input<I>(m, n)...);
  }
  MN_FN auto inputs(int64_t m, int64_t n) const { return inputs(m, n, indices_to<Ins::size>{}); }
  template <class Result, size_t... O>
  MN_FN void put(int64_t m, int64_t n, const Result& result, detail::indices<O...>) const {
    (store_one(at.template output<O>() + m * stride[O][0] + n * stride[O][1],
               to_storage<type_at<O, Outs>>(get<O>(result))),
     ...);
  }
  template <class Body, class Same, size_t... I>
  MN_FN auto body(float p, int64_t m, int64_t n, const Same& same, detail::indices<0, 1, I...>) const {
    return Body{}(p, input_or<I>(m, n, get<I - 2>(same))...);
  }
  template <class Body, class Same>
  MN_FN auto body(float p, int64_t m, int64_t n, const Same& same) const {
    return body<Body>(p, m, n, same, indices_to<Ins::size>{});
  }
};

// Nothing is reduced: every element is stored.
struct no_reduction {};

inline constexpr int product_warps = 8;  // that hold sums, 16 rows of the weight each

// A thread's sums: rows n of the weight `row` and `row + 8`, and for i in [0, N) column m = 8 * (i / 2) + i % 2 from
// `column` on.
template <int N>
struct held_sums {
  float (&at)[2 * N];  // of i: at[4 * (i / 2) + i % 2], and 2 further on for row + 8
  int row, column, rows, columns;
};
// An index that the compiler knows nothing of: what depends on it is computed in its place, not for all places before.
MN_FN int hidden(int index) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(index));
#endif
  return index;
}
MN_FN constexpr int held_column(int i) { return i / 2 * 8 + i % 2; }
MN_FN constexpr int held_place(int i) { return i / 2 * 4 + i % 2; }

template <class Body, class Outs, class Ins, int N>
MN_FN void store_sums(const product_operands<Outs, Ins>& o, const held_sums<N>& s) {
  if (s.column >= s.columns) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int n = s.row + 8 * r;
    if (n >= s.rows) continue;
    const auto same = o.inputs(s.column, n);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int m = hidden(s.column + held_column(i));
      if (m < s.columns)
        o.put(m, n, as_pack(o.template body<Body>(s.at[held_place(i) + 2 * r], m, n, same)), indices_to<Outs::size>{});
    }
  }
}

// One value per column for the warp's 16 rows, to scratch[column in the tile]; scratch belongs to the warp.
template <class Body, class Reduce, class Outs, class Ins, int N>
MN_FN void reduce_sums(const product_operands<Outs, Ins>& o, const held_sums<N>& s, typename Reduce::type* scratch) {
  const int lane = threadIdx.x % 32;
  const int m0 = s.column < s.columns ? s.column : 0, last = s.rows - 1;
  const auto same = o.inputs(m0, s.row < s.rows ? s.row : last);
  const auto same8 = o.inputs(m0, s.row + 8 < s.rows ? s.row + 8 : last);
  // Eight lanes have rows of the same columns. Of `together` values each gives half away and gets the other half of the
  // values it keeps, until one is left that all eight have added to: fewer shuffles than one value after the other.
  constexpr int together = N < 8 ? N : 8;
#pragma unroll
  for (int first = 0; first < N; first += together) {
    typename Reduce::type value[together];
#pragma unroll
    for (int j = 0; j < together; ++j) {
      const int i = first + j, m = hidden(s.column + held_column(i));
      value[j] = Reduce::identity();
      if (m >= s.columns) continue;
      if (s.row < s.rows) value[j] = o.template body<Body>(s.at[held_place(i)], m, s.row, same);
      if (s.row + 8 < s.rows)
        value[j] = Reduce::combine(value[j], o.template body<Body>(s.at[held_place(i) + 2], m, s.row + 8, same8));
    }
    int kept = first;
#pragma unroll
    for (int distance = 16, half = together / 2; distance >= 4; distance /= 2, half /= 2) {
      if (half == 0) {
        value[0] = Reduce::combine(value[0], shuffle_xor(value[0], distance));
        continue;
      }
      const bool upper = (lane & distance) != 0;
#pragma unroll
      for (int j = 0; j < half; ++j) {
        const auto sent = upper ? value[j] : value[j + half];
        value[j] = Reduce::combine(upper ? value[j + half] : value[j], shuffle_xor(sent, distance));
      }
      kept += upper ? half : 0;
    }
    if (together == 8 || (lane & 4) == 0) scratch[held_column(kept) + 2 * (lane % 4)] = value[0];
  }
}

// In memory, a partial result takes whole words; they are read past L1, where other blocks' writes do not arrive.
template <class A>
struct partial_words {
  static constexpr int words = (sizeof(A) + 3) / 4;
  uint32_t at[words];

  MN_FN void set(const A& value) { __builtin_memcpy(at, &value, sizeof(A)); }
  MN_FN A fresh() const {
    uint32_t w[words];
#pragma unroll
    for (int i = 0; i < words; ++i) w[i] = __ldcg(at + i);
    A value;
    __builtin_memcpy(&value, w, sizeof(A));
    return value;
  }
};

// Columns of the result: the partial results of all tiles of n, by one warp, `partial` apart by the tiles.
template <class Reduce, class Finish, int Columns, class Outs, class Ins>
MN_FN void finish_columns(const product_operands<Outs, Ins>& o, const partial_words<typename Reduce::type>* partial,
                          int tiles, int64_t m, int64_t columns, int64_t count) {
  using value_type = typename Reduce::type;
  constexpr int held = sizeof(value_type) <= 4 ? 16 : sizeof(value_type) <= 8 ? 8 : 4;
  constexpr int together = held < Columns ? held : Columns;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int c = 0; c < Columns && m + c < columns; c += together) {
    value_type value[together];
#pragma unroll
    for (int i = 0; i < together; ++i) value[i] = Reduce::identity();
#pragma unroll 1
    for (int t = lane; t < tiles; t += 32) {
#pragma unroll
      for (int i = 0; i < together; ++i)
        if (m + c + i < columns) value[i] = Reduce::combine(value[i], partial[int64_t(c + i) * tiles + t].fresh());
    }
#pragma unroll
    for (int i = 0; i < together; ++i) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2)
        value[i] = Reduce::combine(value[i], shuffle_xor(value[i], distance));
      if (lane == 0 && m + c + i < columns)
        o.put(m + c + i, 0, as_pack(Finish{}(value[i], count)), indices_to<Outs::size>{});
    }
  }
}

}  // namespace mn
