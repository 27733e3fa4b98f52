// What a thread sees of an operand, tile by tile.
#pragma once

#include <array>

#include "cpu/pages.h"
#include "cpu/tiles.h"

namespace mn {

// One input of the current tile: a pointer into memory where that serves, otherwise into a converted copy.
template <class S>
struct input_port {
  using C = compute_t<S>;
  const S* base;
  bool fixed;  // one value for the whole tensor: the copy is filled once
  alignas(64) C copy[tile_elements];

  void open(const void* data, bool all_strides_zero, int64_t largest_tile) {
    base = static_cast<const S*>(data);
    fixed = all_strides_zero;
    if (fixed) load_block(base, block{1, largest_tile, 0, 0}, copy);
  }
  const C* fetch(int64_t offset, const block& b) {
    if (fixed) return copy;
    if constexpr (std::is_same<S, C>::value) {
      if (b.contiguous()) return base + offset;
    }
    load_block(base + offset, b, copy);
    return copy;
  }
};

template <class S>
struct output_port {
  using V = std::conditional_t<is_16bit_float<S>, float, S>;  // what the tile holds
  S* base;
  page_walk pages;
  alignas(64) V copy[tile_elements];

  void open(void* data, fresh_pages fresh) {
    base = static_cast<S*>(data);
    pages.open(fresh);
  }
  // Whether a loop over lanes may stream this tile as it is computed.
  bool takes_lanes(int64_t offset, const block& b) const {
    return std::is_same<S, V>::value && sizeof(S) >= 4 && b.contiguous() && b.rows * b.columns % stream_lanes == 0 &&
           reinterpret_cast<uintptr_t>(base + offset) % 64 == 0;
  }
  V* place(int64_t offset, const block& b, bool stream) {
    pages.before(base + offset, base + offset + (b.rows - 1) * b.row_stride + b.columns);
    if constexpr (std::is_same<S, V>::value) {
      if (b.contiguous() && !stream) return base + offset;
    }
    return copy;
  }
  void commit(const V* tile, int64_t offset, const block& b, bool stream) {
    if (tile == copy) store_block(copy, b, stream, base + offset);
  }
};

namespace detail {
// Huge pages under the outputs, each of its own number of bytes.
template <class... Outs, size_t... O, class Bytes>
inline std::array<fresh_pages, sizeof...(Outs)> prepare_outputs(const std::array<void*, sizeof...(Outs)>& outs,
                                                                types<Outs...>, indices<O...>, const Bytes& bytes) {
  return {{ask_huge_pages(outs[O], bytes(O, static_cast<int64_t>(sizeof(Outs))))...}};
}
}  // namespace detail

}  // namespace mn
