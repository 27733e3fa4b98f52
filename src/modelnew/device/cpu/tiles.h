// Moving tiles between memory and L1: conversions of the 16-bit types, strides, stores past the cache.
#pragma once

#include <string.h>

#include "common/core.h"

#if defined(__AVX512F__) || defined(__F16C__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mn {

template <class S>
constexpr bool is_16bit_float = std::is_same<S, half>::value || std::is_same<S, bf16>::value;

// n contiguous stored values -> compute values
template <class S>
inline void convert_in(const S* from, int64_t n, compute_t<S>* to) {
  int64_t i = 0;
  if constexpr (std::is_same<S, half>::value) {
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i))));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
  }
#pragma omp simd
  for (int64_t j = i; j < n; ++j) to[j] = to_compute(from[j]);
}

// n values -> contiguous stored values
template <class S, class V>
inline void convert_out(const V* from, int64_t n, S* to) {
  int64_t i = 0;
  if constexpr (std::is_same<S, half>::value) {
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                          _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
  }
#pragma omp simd
  for (int64_t j = i; j < n; ++j) to[j] = to_storage<S>(from[j]);
}

// Writes past the cache: the lines of a large output are not read first and do not push out what is needed again.
inline void stream_out(const void* from, int64_t bytes, void* to) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
#if defined(__SSE2__)
  const int64_t head = (64 - reinterpret_cast<intptr_t>(target) % 64) % 64;
  if (bytes >= head + 64) {
    memcpy(target, source, static_cast<size_t>(head));
    source += head, target += head, bytes -= head;
    for (; bytes >= 64; bytes -= 64, source += 64, target += 64) {
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
#else
      for (int part = 0; part < 64; part += 16)
        _mm_stream_si128(reinterpret_cast<__m128i*>(target + part),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + part)));
#endif
    }
  }
#endif
  memcpy(target, source, static_cast<size_t>(bytes));
}

// f(l) for l < Lanes, where values of type V are computed, the widest of them. The compiler takes as many lanes at a time
// as a vector has of the narrowest type in the loop. An array of a type half as wide as V beside it thus makes that two
// vectors of V, whose instructions alternate: in the long chains of dependent instructions that functions are, each then
// waits half as long. It takes the registers of AVX-512.
// In a loop one object serves all steps: what is put beside is looked at when it goes, so that the loop need not write it.
template <int64_t Lanes, class... V>
class lanes_beside {
 public:
  template <class F>
  MN_FN void run(const F& f) {
#if defined(__AVX512F__)
    if constexpr (((sizeof(V) >= 4) && ...)) {
#pragma omp simd
      for (int64_t l = 0; l < Lanes; ++l) {
        f(l);
        beside_[l] = 0;
      }
      return;
    }
#endif
#pragma omp simd
    for (int64_t l = 0; l < Lanes; ++l) f(l);
  }
#if defined(__AVX512F__)
  MN_FN ~lanes_beside() { asm volatile("" : : "m"(beside_)); }

 private:
  alignas(64) std::conditional_t<((sizeof(V) == 8) || ...), uint32_t, uint16_t> beside_[Lanes];
#endif
};
template <int64_t Lanes, class... V, class F>
MN_FN void side_by_side(const F& f) {
  lanes_beside<Lanes, V...>{}.run(f);
}

// The same for lanes that a loop has just computed: they need not pass through memory on the way.
constexpr int64_t stream_lanes = 32;
template <class S>
struct alignas(64) lanes_of {
  S value[stream_lanes];
};
template <class S>
MN_FN void stream_lanes_out(const lanes_of<S>& from, S* to) {
#if defined(__AVX512F__)
  // not by the intrinsic: as far as the compiler knows that may write anywhere, and what loops keep in registers is lost
  struct line {
    S value[64 / sizeof(S)];
  };
  for (int64_t i = 0; i < stream_lanes; i += 64 / static_cast<int64_t>(sizeof(S)))
    asm volatile("vmovntdq %1, %0"
                 : "=m"(*reinterpret_cast<line*>(to + i))
                 : "v"(_mm512_load_si512(from.value + i)));
#elif defined(__AVX__)
  for (int64_t i = 0; i < stream_lanes; i += 32 / static_cast<int64_t>(sizeof(S)))
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_load_si256(reinterpret_cast<const __m256i*>(from.value + i)));
#else
  stream_out(from.value, sizeof(from.value), to);
#endif
}

// Makes streamed stores visible to the threads that wait for this one.
inline void stream_done() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// A block of rows x columns elements in memory.
struct block {
  int64_t rows, columns, row_stride, column_stride;
  bool contiguous() const { return column_stride == 1 && (rows == 1 || row_stride == columns); }
  bool constant() const { return (column_stride == 0 || columns == 1) && (row_stride == 0 || rows == 1); }
};

// Element by element, in the order in which memory is contiguous; the copy is dense, row after row.
template <class S>
inline void gather(const S* from, const block& b, S* to) {
  if (b.column_stride == 1) {
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t c = 0; c < b.columns; ++c) to[r * b.columns + c] = from[r * b.row_stride + c];
  } else if (b.row_stride == 1 && b.rows > 1) {
    constexpr int64_t strip = 64 / sizeof(S);
    for (int64_t first = 0; first < b.rows; first += strip) {
      const int64_t last = first + strip < b.rows ? first + strip : b.rows;
      for (int64_t c = 0; c < b.columns; ++c)
        for (int64_t r = first; r < last; ++r) to[r * b.columns + c] = from[r + c * b.column_stride];
    }
  } else {
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t c = 0; c < b.columns; ++c) to[r * b.columns + c] = from[r * b.row_stride + c * b.column_stride];
  }
}

// The inverse of gather.
template <class S>
inline void scatter(const S* from, const block& b, S* to) {
  if (b.column_stride == 1) {
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t c = 0; c < b.columns; ++c) to[r * b.row_stride + c] = from[r * b.columns + c];
  } else {
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t c = 0; c < b.columns; ++c) to[r * b.row_stride + c * b.column_stride] = from[r * b.columns + c];
  }
}

constexpr int64_t tile_elements = 1024;  // a tile of every operand together stays in L1

template <class S>
inline void load_block(const S* from, const block& b, compute_t<S>* to) {
  const int64_t n = b.rows * b.columns;
  if (b.constant()) {
    const compute_t<S> value = to_compute(*from);
    for (int64_t i = 0; i < n; ++i) to[i] = value;
  } else if (b.contiguous()) {
    convert_in(from, n, to);
  } else if constexpr (is_16bit_float<S>) {
    alignas(64) S dense[tile_elements];
    gather(from, b, dense);
    convert_in(dense, n, to);
  } else {
    gather(from, b, to);
  }
}

template <class S, class V>
inline void store_block(const V* from, const block& b, bool stream, S* to) {
  const int64_t n = b.rows * b.columns;
  if constexpr (std::is_same<S, V>::value) {
    if (!b.contiguous()) {
      scatter(from, b, to);
    } else if (stream) {
      stream_out(from, n * static_cast<int64_t>(sizeof(S)), to);
    } else {
      memcpy(to, from, static_cast<size_t>(n) * sizeof(S));
    }
  } else {
    if (b.contiguous() && !stream) {
      convert_out(from, n, to);
    } else {
      alignas(64) S dense[tile_elements];
      convert_out(from, n, dense);
      store_block(dense, b, stream, to);
    }
  }
}

}  // namespace mn
