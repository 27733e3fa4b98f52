// The numbers of a row plan: where a row begins, where its tiles lie.
#pragma once

#include "cpu/launch.h"
#include "cpu/tiles.h"

namespace mn {

// The kinds, and what a, b, c are.
//   whole     a thread owns a row; what the body keeps stays in its memory
//             a: rows worth a thread    b, c: rows, columns of a tile
//   split     a row is walked in chunks of tiles, which threads share where rows are few
//             a: tiles worth a thread   b, c: as above
//   columns   a thread owns neighbours along the last outer dim
//             a: blocks worth a thread  b: neighbours  c: tile depth
// A tile cuts the last two inner dims: b > 1 only where c is the whole of the last one, so that positions are
// consecutive. stream_bit is added to any: stores go past the cache.
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

  // Offset within a row of its element at `place`.
  int64_t inside(size_t k, int64_t place) const {
    int64_t offset = 0;
    for (int64_t d = head.inner_rank - 1; d >= 0; --d) {
      const int64_t coordinate = d == 0 ? place : place % inner_sizes[d];
      if (d > 0) place /= inner_sizes[d];
      offset += coordinate * inner_stride(k, d);
    }
    return offset;
  }

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

// Row after row: the last outer dim is walked by adding, the others are found anew when it ends.
template <size_t Operands>
class row_cursor {
 public:
  row_cursor(const row_layout& of, int64_t row) : layout_(of), row_(row) {
    last_ = of.head.rank > 0 ? of.outer_sizes[of.head.rank - 1] : 1;
    seek();
  }
  int64_t at(size_t k) const { return at_[k]; }
  // Where the next row begins, as far as adding tells; otherwise where this one does.
  int64_t ahead(size_t k) const { return left_ > 1 ? at_[k] + step_[k] : at_[k]; }
  void next() {
    ++row_;
    if (--left_ == 0) {
      if (row_ < layout_.rows()) seek();
      return;
    }
    for (size_t k = 0; k < Operands; ++k) at_[k] += step_[k];
  }

 private:
  void seek() {
    const int64_t rank = layout_.head.rank;
    layout_.row_at(row_, rank, Operands, at_);
    left_ = last_ - row_ % last_;
    for (size_t k = 0; k < Operands; ++k) step_[k] = rank > 0 ? layout_.outer_stride(k, rank - 1) : 0;
  }

  const row_layout& layout_;
  int64_t row_, last_, left_;
  int64_t at_[Operands], step_[Operands];
};

// The tiles of a row, in order of position. No division on the way from one to the next.
template <size_t Operands>
class row_tiles {
 public:
  explicit row_tiles(const row_layout& of) : layout_(of), rank_(of.head.inner_rank) {
    rows_ = rank_ > 1 ? of.inner_sizes[rank_ - 2] : 1;
    columns_ = rank_ > 0 ? of.inner_sizes[rank_ - 1] : 1;
    for (size_t k = 0; k < Operands; ++k) {
      row_stride_[k] = rank_ > 1 ? of.inner_stride(k, rank_ - 2) : 0;
      column_stride_[k] = rank_ > 0 ? of.inner_stride(k, rank_ - 1) : 0;
    }
    const int64_t down = (rows_ + of.head.b - 1) / of.head.b, across = (columns_ + of.head.c - 1) / of.head.c;
    per_plane_ = down * across;
    across_ = across;
    count_ = per_plane_;
    for (int64_t d = 0; d < rank_ - 2; ++d) count_ *= of.inner_sizes[d];
  }
  int64_t count() const { return count_; }

  // Go to tile `index`.
  void seek(int64_t index) {
    plane_ = index == 0 ? 0 : index / per_plane_;
    row_ = index == 0 ? 0 : index % per_plane_ / across_ * layout_.head.b;
    column_ = index == 0 ? 0 : index % across_ * layout_.head.c;
    enter_plane();
  }
  void next() {
    column_ += layout_.head.c;
    if (column_ < columns_) return;
    column_ = 0;
    row_ += layout_.head.b;
    if (row_ < rows_) return;
    row_ = 0;
    ++plane_;
    enter_plane();
  }

  int64_t position() const { return (plane_ * rows_ + row_) * columns_ + column_; }  // of the first element
  int64_t height() const { return rows_ - row_ < layout_.head.b ? rows_ - row_ : layout_.head.b; }
  int64_t width() const { return columns_ - column_ < layout_.head.c ? columns_ - column_ : layout_.head.c; }
  int64_t size() const { return height() * width(); }
  block shape(size_t k) const { return {height(), width(), row_stride_[k], column_stride_[k]}; }
  int64_t offset(size_t k) const { return plane_at_[k] + row_ * row_stride_[k] + column_ * column_stride_[k]; }
  const row_layout& layout() const { return layout_; }

 private:
  // The dims before the last two, counted as one.
  void enter_plane() {
    if (rank_ <= 2) {
      for (size_t k = 0; k < Operands; ++k) plane_at_[k] = 0;
      return;
    }
    int64_t left = plane_;
    for (size_t k = 0; k < Operands; ++k) plane_at_[k] = 0;
    for (int64_t d = rank_ - 3; d >= 0; --d) {
      const int64_t coordinate = left % layout_.inner_sizes[d];
      left /= layout_.inner_sizes[d];
      for (size_t k = 0; k < Operands; ++k) plane_at_[k] += coordinate * layout_.inner_stride(k, d);
    }
  }

  const row_layout& layout_;
  int64_t rank_, rows_, columns_, per_plane_, across_, count_;
  int64_t row_stride_[Operands], column_stride_[Operands], plane_at_[Operands];
  int64_t plane_ = 0, row_ = 0, column_ = 0;
};

}  // namespace mn
