// Pointwise kernels: a body over every element of strided operands.
#pragma once

#include "common/forms.h"
#include "cpu/launch.h"
#include "cpu/ports.h"

namespace mn {

// The kinds, and what a, b, c are. The dims come in the order in which they are walked.
//   flat     rank 0 or 1, every stride 1 or 0        a: elements that are worth a thread
//   blocks   the last two dims are cut into blocks   a: as above   b, c: rows, columns of a block, b * c <= 1024
// stream_bit is added to either: stores go past the cache.
namespace pointwise_kind {
constexpr int64_t flat = 0, blocks = 1, stream_bit = 256;
}

namespace detail {

template <class Body, class Outs, class Ins>
struct pointwise_launch;

template <class Body, class... Outs, class... Ins>
struct pointwise_launch<Body, types<Outs...>, types<Ins...>> {
  static constexpr size_t outputs = sizeof...(Outs), operands = outputs + sizeof...(Ins);
  using out_indices = indices_to<outputs>;
  using in_indices = indices_to<sizeof...(Ins)>;

  std::array<void*, outputs> outs;
  std::array<const void*, sizeof...(Ins)> ins;
  plan_head plan;
  const int64_t* sizes;
  const int64_t* strides;
  bool stream;
  std::array<fresh_pages, outputs> fresh;

  // A thread's tiles: a few KB per operand, on its stack.
  struct ports {
    pack<output_port<Outs>...> out;
    pack<input_port<Ins>...> in;
  };

  int64_t stride(size_t operand, int64_t dim) const { return strides[static_cast<int64_t>(operand) * plan.rank + dim]; }
  bool fixed(size_t operand) const {
    for (int64_t d = 0; d < plan.rank; ++d)
      if (stride(operand, d) != 0) return false;
    return true;
  }

  template <size_t... O, size_t... I>
  void open(ports& p, [[maybe_unused]] int64_t largest_tile, detail::indices<O...>, detail::indices<I...>) const {
    (get<O>(p.out).open(outs[O], fresh[O]), ...);
    (get<I>(p.in).open(ins[I], fixed(outputs + I), largest_tile), ...);
  }

  // The loop that the compiler vectorises: nothing but contiguous arrays of compute values.
  template <size_t... O, size_t... I, class... To, class... From>
  MN_FN static void compute(int64_t n, detail::indices<O...>, pack<To*...> to, [[maybe_unused]] pack<From*...> from,
                            detail::indices<I...>) {
    const auto body = in_any_form<From...>(Body{});
    int64_t first = 0;
    for (; first + stream_lanes <= n; first += stream_lanes) {
      side_by_side<stream_lanes, To...>([&](int64_t l) __attribute__((always_inline)) {
        const auto results = as_pack(body(get<I>(from)[first + l]...));
        ((get<O>(to)[first + l] = cast<To>(get<O>(results))), ...);
      });
    }
#pragma omp simd
    for (int64_t i = first; i < n; ++i) {
      const auto results = as_pack(body(get<I>(from)[i]...));
      ((get<O>(to)[i] = cast<To>(get<O>(results))), ...);
    }
  }

  // The same with stores past the cache, n a multiple of stream_lanes.
  template <size_t... O, size_t... I, class... To, class... From>
  MN_FN static void compute_lanes(int64_t n, detail::indices<O...>, pack<To*...> to,
                                  [[maybe_unused]] pack<From*...> from, detail::indices<I...>) {
    const auto body = in_any_form<From...>(Body{});
    for (int64_t i = 0; i < n; i += stream_lanes) {
      pack<lanes_of<To>...> computed;
      side_by_side<stream_lanes, To...>([&](int64_t l) __attribute__((always_inline)) {
        const auto results = as_pack(body(get<I>(from)[i + l]...));
        ((get<O>(computed).value[l] = cast<To>(get<O>(results))), ...);
      });
      (stream_lanes_out(get<O>(computed), get<O>(to) + i), ...);
    }
  }

  // One tile: `at` is the offset of its first element and `shape` its extent and strides, per operand.
  template <size_t... O, size_t... I>
  void tile(ports& p, const int64_t* at, const block* shape, detail::indices<O...>, detail::indices<I...>) const {
    const bool lanes = stream && (get<O>(p.out).takes_lanes(at[O], shape[O]) && ...), later = stream && !lanes;
    const auto to = values(get<O>(p.out).place(at[O], shape[O], later)...);
    const auto from = values(get<I>(p.in).fetch(at[outputs + I], shape[outputs + I])...);
    const int64_t n = shape[0].rows * shape[0].columns;
    if (lanes) {
      compute_lanes(n, out_indices{}, to, from, in_indices{});
    } else {
      compute(n, out_indices{}, to, from, in_indices{});
      (get<O>(p.out).commit(get<O>(to), at[O], shape[O], later), ...);
    }
  }

  void flat_part(int64_t begin, int64_t end) const {
    ports p;
    open(p, tile_elements, out_indices{}, in_indices{});
    int64_t at[operands];
    block shape[operands];
    for (int64_t first = begin; first < end; first += tile_elements) {
      const int64_t n = end - first < tile_elements ? end - first : tile_elements;
      for (size_t k = 0; k < operands; ++k) {
        const int64_t s = plan.rank == 0 ? 0 : stride(k, 0);
        at[k] = first * s;
        shape[k] = block{1, n, 0, k < outputs ? 1 : s};
      }
      tile(p, at, shape, out_indices{}, in_indices{});
    }
  }

  // Blocks are numbered along the columns first, then the rows, then the outer dims, innermost first.
  void blocks_part(int64_t begin, int64_t end) const {
    ports p;
    open(p, plan.b * plan.c, out_indices{}, in_indices{});
    const int64_t outer = plan.rank - 2, rows = sizes[outer], columns = sizes[outer + 1];
    const int64_t down = (rows + plan.b - 1) / plan.b, across = (columns + plan.c - 1) / plan.c;
    int64_t at[operands];
    block shape[operands];
    for (int64_t index = begin; index < end; ++index) {
      const int64_t column = index % across * plan.c, row = index / across % down * plan.b;
      const int64_t height = rows - row < plan.b ? rows - row : plan.b,
                    width = columns - column < plan.c ? columns - column : plan.c;
      for (size_t k = 0; k < operands; ++k) {
        at[k] = row * stride(k, outer) + column * stride(k, outer + 1);
        shape[k] = block{height, width, stride(k, outer), stride(k, outer + 1)};
      }
      int64_t left = index / across / down;
      for (int64_t d = outer - 1; d >= 0; --d) {
        const int64_t coordinate = left % sizes[d];
        left /= sizes[d];
        for (size_t k = 0; k < operands; ++k) at[k] += coordinate * stride(k, d);
      }
      tile(p, at, shape, out_indices{}, in_indices{});
    }
  }

  int run(int64_t threads) const {
    const int64_t worth = (plan.elements + plan.a - 1) / plan.a;
    const int64_t most = threads < worth ? threads : worth;
    switch (plan.kind & ~pointwise_kind::stream_bit) {
      case pointwise_kind::flat:
        // parts are cut at whole tiles, so that no two threads share a cache line of the outputs
        parallel(most, (plan.elements + tile_elements - 1) / tile_elements, [&](int64_t begin, int64_t end) {
          const int64_t last = end * tile_elements;
          flat_part(begin * tile_elements, last < plan.elements ? last : plan.elements);
          if (stream) stream_done();
        });
        return no_error;
      case pointwise_kind::blocks: {
        int64_t count = 1;
        for (int64_t d = 0; d < plan.rank - 2; ++d) count *= sizes[d];
        count *= (sizes[plan.rank - 2] + plan.b - 1) / plan.b * ((sizes[plan.rank - 1] + plan.c - 1) / plan.c);
        parallel(most, count, [&](int64_t begin, int64_t end) {
          blocks_part(begin, end);
          if (stream) stream_done();
        });
        return no_error;
      }
      default:
        return unknown_kind;
    }
  }
};

}  // namespace detail

template <class Body, class Outs, class Ins>
inline int pointwise(std::array<void*, Outs::size> outs, std::array<const void*, Ins::size> ins, const int64_t* plan,
                     queue q) {
  plan_head head;
  memcpy(&head, plan, sizeof(head));
  const int64_t* sizes = plan + 8;
  const bool stream = (head.kind & pointwise_kind::stream_bit) != 0;
  const auto fresh = detail::prepare_outputs(outs, Outs{}, indices_to<Outs::size>{},
                                             [&](size_t, int64_t item) { return head.elements * item; });
  return detail::pointwise_launch<Body, Outs, Ins>{outs, ins, head, sizes, sizes + head.rank, stream, fresh}.run(
      q.threads);
}

}  // namespace mn
