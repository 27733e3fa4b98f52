// Stores past the cache, put off: what a row's results are is settled, and they are computed and written while the next row
// is reduced. Written at once they would leave a core only as fast as memory takes them, and while the core reduces a row
// memory would have nothing to do.
#pragma once

#include "cpu/row_sweeps.h"

namespace mn {
namespace detail {

// Whether any of the handles that a store reads is of values that were kept: then little is left to compute.
template <class H>
constexpr bool reads_kept = false;
template <class V>
constexpr bool reads_kept<kept<V>> = true;
template <class F, class... H>
constexpr bool reads_kept<lazy<F, H...>> = (reads_kept<H> || ...);

// Views of a whole row, of whose operands those that are read are contiguous, by the offsets at which it begins.
template <class Ports>
struct row_views {
  const Ports& ports;
  const int64_t* row;

  template <size_t I>
  MN_FN auto view(const loaded<I>&) const {
    return get<I>(ports.in).base + row[Ports::outputs + I];
  }
  MN_FN position_view view(const positions&) const { return {0}; }
  template <class V>
  MN_FN const V* view(const kept<V>& handle) const {
    return handle.data;
  }
  template <class F, class... H>
  MN_FN auto view(const lazy<F, H...>& handle) const {
    return view_of(handle, indices_to<sizeof...(H)>{});
  }
  template <class F, class... H, size_t... K>
  MN_FN auto view_of(const lazy<F, H...>& handle, indices<K...>) const {
    return view_with(handle.f, view(get<K>(handle.from))...);
  }
};

// The stores of one row that are still to be made.
template <class Ports>
class late_stores {
 public:
  // Takes over a store of f of the handles; false where it has to be made at once.
  template <class Element, size_t... O>
  MN_FN bool add(Ports& ports, const Element& element, indices<O...>) {
    if constexpr (Ports::stored_as_computed && reads_kept<Element> && sizeof(Element) <= room &&
                  std::is_trivially_copyable<Element>::value) {
      const int64_t size = ports.tiles.layout().row_size();
      const block whole{1, size, 0, 1};
      const bool lanes = (get<O>(ports.out).takes_lanes(ports.row[O], whole) && ...);
      if (count_ == most || !lanes || !(ports.contiguous(O) && ...) || !contiguous(ports, element)) return false;
      (get<O>(ports.out).place(ports.row[O], whole, true), ...);
      entry& e = entries_[count_++];
      memcpy(e.row, ports.row, sizeof(e.row));
      memcpy(e.element, &element, sizeof(Element));
      e.write = &write<Element, O...>;
      left_ = size;
      return true;
    }
    return false;
  }
  // Whether all that a handle reads is contiguous.
  template <class H>
  MN_FN static bool contiguous(const Ports&, const H&) {
    return true;
  }
  template <size_t I>
  MN_FN static bool contiguous(const Ports& ports, const loaded<I>&) {
    return ports.contiguous(Ports::outputs + I);
  }
  template <class F, class... H>
  MN_FN static bool contiguous(const Ports& ports, const lazy<F, H...>& handle) {
    return contiguous_of(ports, handle, indices_to<sizeof...(H)>{});
  }
  template <class F, class... H, size_t... K>
  MN_FN static bool contiguous_of(const Ports& ports, const lazy<F, H...>& handle, indices<K...>) {
    return (contiguous(ports, get<K>(handle.from)) && ...);
  }

  bool empty() const { return count_ == 0; }

  // Makes the next `n` elements of each, a multiple of stream_lanes.
  MN_FN void advance(const Ports& ports, int64_t n) {
    const int64_t size = ports.tiles.layout().row_size(), first = size - left_, last = n < left_ ? first + n : size;
    for (size_t k = 0; k < count_; ++k) entries_[k].write(ports, entries_[k], first, last);
    left_ = size - last;
  }
  void finish(const Ports& ports) {
    if (left_ > 0) advance(ports, left_);
    count_ = 0;
  }

 private:
  static constexpr size_t most = 4, room = 256;
  struct entry {
    int64_t row[Ports::operands];
    void (*write)(const Ports&, const entry&, int64_t, int64_t);
    alignas(64) unsigned char element[room];
  };

  template <class Element, size_t... O>
  __attribute__((noinline)) static void write(const Ports& ports, const entry& e, int64_t first, int64_t last) {
    const auto view = row_views<Ports>{ports, e.row}.view(*reinterpret_cast<const Element*>(e.element));
    const auto to = values((get<O>(ports.out).base + e.row[O])...);
    for (int64_t i = first; i < last; i += stream_lanes) Ports::lanes_out(view, to, i, indices_to<sizeof...(O)>{});
  }

  entry entries_[most];
  size_t count_ = 0;
  int64_t left_ = 0;
};

// What a thread's rows know of each other's stores.
template <class Ports>
struct lateness {
  late_stores<Ports> stores[2];  // of rows that alternate
  int64_t sweep = 0;             // the last one before the stores: the next row's stores are made beside it
  bool possible;

  // Rows that are short are written quickly anyway; of long ones the row before would have left the caches.
  explicit lateness(const row_layout& layout)
      : possible(layout.stream && layout.head.inner_rank == 1 && layout.row_size() >= shortest &&
                 layout.row_size() % stream_lanes == 0 && layout.row_size() <= longest) {}

  static constexpr int64_t shortest = 512, longest = 16384, stretch = 512;
};

}  // namespace detail
}  // namespace mn
