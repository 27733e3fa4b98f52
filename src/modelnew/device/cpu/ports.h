// What a thread sees of an operand, tile by tile.
#pragma once

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
  alignas(64) V copy[tile_elements];

  V* place(int64_t offset, const block& b, bool stream) {
    if constexpr (std::is_same<S, V>::value) {
      if (b.contiguous() && !stream) return base + offset;
    }
    return copy;
  }
  void commit(const V* tile, int64_t offset, const block& b, bool stream) {
    if (tile == copy) store_block(copy, b, stream, base + offset);
  }
};

}  // namespace mn
