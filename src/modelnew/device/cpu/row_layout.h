// The numbers of a row plan: where a row begins, where its tiles lie.
#pragma once

#include "cpu/launch.h"
#include "cpu/tiles.h"

namespace mn {

// The kinds, and what a, b, c are.
//   whole     a thread owns a row; what the body keeps stays in its memory   a: rows worth a thread   b, c: rows, columns of a tile
//   split     all threads share a row, sweep by sweep                        a: tiles worth a thread   b, c: as above
//   columns   a thread owns neighbours along the last outer dim              a: blocks worth a thread  b: neighbours  c: tile depth
// A tile cuts the last two inner dims: b > 1 only where c is the whole of the last one, so that positions are consecutive.
// stream_bit is added to any: stores go past the cache.
namespace row_kind {
constexpr int64_t whole = 0, split = 1, columns = 2, stream_bit = 256;
}

struct row_layout {
  plan_head head;
  const int64_t* outer_sizes;
  const int64_t* inner_sizes;
  const int64_t* strides;  // per operand: outer, then inner
  bool stream;

  explicit row_layout(const int64_t* plan) {
    memcpy(&head, plan, sizeof(head));
    outer_sizes = plan + 8;
    inner_sizes = outer_sizes + head.rank;
    strides = inner_sizes + head.inner_rank;
    stream = (head.kind & row_kind::stream_bit) != 0;
  }

  int64_t rows() const { return head.elements; }
  int64_t row_size() const {
    int64_t size = 1;
    for (int64_t d = 0; d < head.inner_rank; ++d) size *= inner_sizes[d];
    return size;
  }
  int64_t outer_stride(size_t k, int64_t dim) const {
    return strides[static_cast<int64_t>(k) * (head.rank + head.inner_rank) + dim];
  }
  int64_t inner_stride(size_t k, int64_t dim) const { return outer_stride(k, head.rank + dim); }

  // Offsets of the operands at a row, counted over the first `dims` outer dims, last one fastest.
  void row_at(int64_t row, int64_t dims, size_t operands, int64_t* at) const {
    for (size_t k = 0; k < operands; ++k) at[k] = 0;
    for (int64_t d = dims - 1; d >= 0; --d) {
      const int64_t coordinate = d == 0 ? row : row % outer_sizes[d];
      if (d > 0) row /= outer_sizes[d];
      for (size_t k = 0; k < operands; ++k) at[k] += coordinate * outer_stride(k, d);
    }
  }
};

// The tiles of a row, in order of position.
struct row_tiles {
  const row_layout& layout;
  int64_t rank, rows, columns, down, across;

  explicit row_tiles(const row_layout& of) : layout(of), rank(of.head.inner_rank) {
    rows = rank > 1 ? of.inner_sizes[rank - 2] : 1;
    columns = rank > 0 ? of.inner_sizes[rank - 1] : 1;
    down = (rows + of.head.b - 1) / of.head.b;
    across = (columns + of.head.c - 1) / of.head.c;
  }
  int64_t count() const {
    int64_t tiles = down * across;
    for (int64_t d = 0; d < rank - 2; ++d) tiles *= layout.inner_sizes[d];
    return tiles;
  }

  struct tile {
    int64_t position;  // of the first element
    int64_t height, width;
    int64_t row, column, outer;  // coordinates; the dims before the last two counted as one
    int64_t size() const { return height * width; }
  };
  tile at(int64_t index) const {
    const int64_t column = index % across * layout.head.c, above = index / across;
    const int64_t row = above % down * layout.head.b, outer = above / down;
    return {(outer * rows + row) * columns + column, rows - row < layout.head.b ? rows - row : layout.head.b,
            columns - column < layout.head.c ? columns - column : layout.head.c, row, column, outer};
  }
  block shape(size_t k, const tile& t) const {
    return {t.height, t.width, rank > 1 ? layout.inner_stride(k, rank - 2) : 0, rank > 0 ? layout.inner_stride(k, rank - 1) : 0};
  }
  int64_t offset(size_t k, const tile& t) const {
    int64_t at = 0, left = t.outer;
    for (int64_t d = rank - 3; d >= 0; --d) {
      at += left % layout.inner_sizes[d] * layout.inner_stride(k, d);
      left /= layout.inner_sizes[d];
    }
    if (rank > 1) at += t.row * layout.inner_stride(k, rank - 2);
    if (rank > 0) at += t.column * layout.inner_stride(k, rank - 1);
    return at;
  }
};

}  // namespace mn
