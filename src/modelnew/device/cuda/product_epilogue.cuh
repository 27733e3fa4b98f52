// What happens to the sums on their way out: the body, then a store, or a reduction over n with a finish.
#pragma once

#include "cuda/group.cuh"
#include "cuda/operands.cuh"

namespace mn {

// Which of several products, in two dims.
struct product_batch {
  int outer, inner;
};

// Operands are the outputs, then the inputs: x, w, and those of the body, addressed by (m, n) in their batch.
template <class Outs, class Ins>
struct product_operands {
  static constexpr int count = Outs::size + Ins::size;
  operands<Outs, Ins> at;
  int64_t stride[count][2];
  int64_t apart[count][2];  // of batches, outer and inner

  template <int K>
  MN_FN int64_t offset(const product_batch& b, int64_t m, int64_t n) const {
    return b.outer * apart[K][0] + b.inner * apart[K][1] + m * stride[K][0] + n * stride[K][1];
  }
  template <size_t I>
  MN_FN auto input(const product_batch& b, int64_t m, int64_t n) const {
    return to_compute(load_one(at.template input<I>() + offset<Outs::size + I>(b, m, n)));
  }
  // Whether all of the body's inputs are the same for all m. Asked once: the answer is compiled in.
  MN_FN bool same_along_m() const {
    bool same = true;
#pragma unroll
    for (int k = Outs::size + 2; k < count; ++k) same = same && stride[k][0] == 0;
    return same;
  }
  // Those that are are what they were at another one.
  template <bool AllSame, size_t I, class V>
  MN_FN V input_or(const product_batch& b, int64_t m, int64_t n, V same) const {
    if constexpr (AllSame) {
      return same;
    } else {
      return stride[Outs::size + I][0] == 0 ? same : input<I>(b, m, n);
    }
  }
  template <size_t... I>
  MN_FN auto inputs(const product_batch& b, int64_t m, int64_t n, detail::indices<0, 1, I...>) const {
    return values(input<I>(b, m, n)...);
  }
  MN_FN auto inputs(const product_batch& b, int64_t m, int64_t n) const {
    return inputs(b, m, n, indices_to<Ins::size>{});
  }
  template <class Result, size_t... O>
  MN_FN void put(const product_batch& b, int64_t m, int64_t n, const Result& result, detail::indices<O...>) const {
    (store_one(at.template output<O>() + offset<O>(b, m, n), to_storage<type_at<O, Outs>>(get<O>(result))), ...);
  }
  template <class Body, bool AllSame, class Same, size_t... I>
  MN_FN auto body(float p, const product_batch& b, int64_t m, int64_t n, const Same& same,
                  detail::indices<0, 1, I...>) const {
    return Body{}(p, input_or<AllSame, I>(b, m, n, get<I - 2>(same))...);
  }
  template <class Body, bool AllSame, class Same>
  MN_FN auto body(float p, const product_batch& b, int64_t m, int64_t n, const Same& same) const {
    return body<Body, AllSame>(p, b, m, n, same, indices_to<Ins::size>{});
  }
};

// An index that the compiler knows nothing of: what depends on it is computed in its place, not for all places before.
MN_FN int hidden(int index) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(index));
#endif
  return index;
}
MN_FN unsigned char* hidden(unsigned char* place) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(place));
#endif
  return place;
}

// A place in all outputs, which is found once and then moved along m.
template <class Outs, class Ins>
struct product_place {
  unsigned char* at[Outs::size];

  MN_FN product_place(const product_operands<Outs, Ins>& o, const product_batch& b, int64_t m, int64_t n) {
    begin(o, b, m, n, indices_to<Outs::size>{});
  }
  template <class Result>
  MN_FN void put(const Result& result) const {
    put(result, indices_to<Outs::size>{});
  }
  MN_FN void move(const product_operands<Outs, Ins>& o, int64_t columns) { move(o, columns, indices_to<Outs::size>{}); }

 private:
  template <size_t... O>
  MN_FN void begin(const product_operands<Outs, Ins>& o, const product_batch& b, int64_t m, int64_t n,
                   detail::indices<O...>) {
    ((at[O] = reinterpret_cast<unsigned char*>(o.at.template output<O>() + o.template offset<O>(b, m, n))), ...);
  }
  template <class Result, size_t... O>
  MN_FN void put(const Result& result, detail::indices<O...>) const {
    (store_one(reinterpret_cast<type_at<O, Outs>*>(at[O]), to_storage<type_at<O, Outs>>(get<O>(result))), ...);
  }
  template <size_t... O>
  MN_FN void move(const product_operands<Outs, Ins>& o, int64_t columns, detail::indices<O...>) {
    ((at[O] = hidden(at[O] + columns * o.stride[O][0] * int64_t(sizeof(type_at<O, Outs>)))), ...);
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
  product_batch batch;
};
MN_FN constexpr int held_column(int i) { return i / 2 * 8 + i % 2; }
MN_FN constexpr int held_place(int i) { return i / 2 * 4 + i % 2; }

template <class Body, bool AllSame, class Outs, class Ins, int N>
MN_FN void store_sums(const product_operands<Outs, Ins>& o, const held_sums<N>& s) {
  if (s.column >= s.columns || s.row >= s.rows) return;
  const bool both = s.row + 8 < s.rows;
  const int other = both ? s.row + 8 : s.row, last = s.columns - 1;
  const auto same = o.inputs(s.batch, s.column, s.row), same8 = o.inputs(s.batch, s.column, other);
  product_place<Outs, Ins> to(o, s.batch, s.column, s.row), to8(o, s.batch, s.column, other);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int column = hidden(s.column + held_column(i)), m = column < last ? column : last;
    const auto value = as_pack(o.template body<Body, AllSame>(s.at[held_place(i)], s.batch, m, s.row, same));
    const auto value8 = as_pack(o.template body<Body, AllSame>(s.at[held_place(i) + 2], s.batch, m, other, same8));
    if (column <= last) to.put(value);
    if (column <= last && both) to8.put(value8);
    to.move(o, held_column(i + 1) - held_column(i)), to8.move(o, held_column(i + 1) - held_column(i));
  }
}

// A choice of values, not of places: an array of structures stays in registers.
template <class A>
MN_FN A one_of(bool first, const A& a, const A& b) {
  constexpr int words = (sizeof(A) + 3) / 4;
  uint32_t x[words] = {}, y[words] = {};
  __builtin_memcpy(x, &a, sizeof(A));
  __builtin_memcpy(y, &b, sizeof(A));
#pragma unroll
  for (int i = 0; i < words; ++i) x[i] = first ? x[i] : y[i];
  A result;
  __builtin_memcpy(&result, x, sizeof(A));
  return result;
}

// One value per column for the warp's 16 rows, to scratch[column in the tile]; scratch belongs to the warp.
template <class Body, class Reduce, bool AllSame, class Outs, class Ins, int N>
MN_FN void reduce_sums(const product_operands<Outs, Ins>& o, const held_sums<N>& s, typename Reduce::type* scratch) {
  // Places outside are computed as the last one inside, and left out: without branches, values are computed side by side.
  const int lane = threadIdx.x % 32, last = s.columns - 1, m0 = s.column < last ? s.column : last;
  const bool there = s.row < s.rows, there8 = s.row + 8 < s.rows;
  const int n = there ? s.row : s.rows - 1, n8 = there8 ? s.row + 8 : s.rows - 1;
  const auto same = o.inputs(s.batch, m0, n), same8 = o.inputs(s.batch, m0, n8);
  // Eight lanes have rows of the same columns. Of `together` values each gives half away and gets the other half of the
  // values it keeps, until one is left that all eight have added to: fewer shuffles than one value after the other.
  constexpr int together = N < 8 ? N : 8;
#pragma unroll
  for (int first = 0; first < N; first += together) {
    typename Reduce::type value[together];
#pragma unroll
    for (int j = 0; j < together; ++j) {
      using A = typename Reduce::type;
      const int i = first + j, column = hidden(s.column + held_column(i)), m = column < last ? column : last;
      const A one = o.template body<Body, AllSame>(s.at[held_place(i)], s.batch, m, n, same);
      const A other = o.template body<Body, AllSame>(s.at[held_place(i) + 2], s.batch, m, n8, same8);
      const A both = Reduce::combine(one, other);
      value[j] = one_of(column > last || !there, Reduce::identity(), one_of(there8, both, one));
    }
    int kept = first;
#pragma unroll
    for (int step = 0; step < 3; ++step) {
      const int distance = 16 >> step, half = together >> (step + 1);
      const bool upper = (lane & distance) != 0;
      if (half == 0) value[0] = Reduce::combine(value[0], shuffle_xor(value[0], distance));
#pragma unroll
      for (int j = 0; j < together / 2; ++j) {
        if (j >= half) continue;
        const auto sent = one_of(upper, value[j], value[j + half]);
        value[j] = Reduce::combine(one_of(upper, value[j + half], value[j]), shuffle_xor(sent, distance));
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

// Whether this block is the last of `count` to come here, with its first threads: it may read what the others wrote before.
template <int Threads>
MN_FN bool comes_last(uint32_t* counter, int count, uint32_t* flag) {
  block_barrier<Threads>();
  if (threadIdx.x == 0) {
    __threadfence();
    *flag = atomicAdd(counter, 1u);
    __threadfence();
  }
  block_barrier<Threads>();
  return *flag + 1 == static_cast<uint32_t>(count);
}

// Columns of the result: the partial results of all tiles of n, by one warp, `partial` apart by the tiles.
template <class Reduce, class Finish, int Columns, class Outs, class Ins>
MN_FN void finish_columns(const product_operands<Outs, Ins>& o, const partial_words<typename Reduce::type>* partial,
                          int tiles, const product_batch& b, int64_t m, int64_t columns, int64_t count) {
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
        o.put(b, m + c + i, 0, as_pack(Finish{}(value[i], count)), indices_to<Outs::size>{});
    }
  }
}

}  // namespace mn
