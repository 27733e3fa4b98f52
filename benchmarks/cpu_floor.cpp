// What a case cannot do without on this machine: reading its input, and writing a result of fresh pages.
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include <atomic>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t line = 64, page = 4096, huge_page = int64_t(2) << 20;
std::atomic<uint64_t> seen;  // what was read is used

struct part {
  int64_t begin, end;
};
part mine(int64_t count) {
  const int64_t index = omp_get_thread_num(), parts = omp_get_num_threads();
  return {count * index / parts, count * (index + 1) / parts};
}

void copy_past_cache(char* to, const char* from, int64_t bytes) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < bytes; i += line)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  _mm_sfence();
#elif defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  _mm_sfence();
#else
  memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

}  // namespace

// `from` is read once. Four pages at a time: what fetches ahead stops at the end of a page.
extern "C" void floor_read(const char* from, int64_t bytes, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const part blocks = mine(bytes / (4 * page));
    uint64_t sums[32] = {};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      for (int64_t at = 0; at < page; at += line) {
        for (int64_t k = 0; k < 4; ++k) {
          uint64_t words[8];
          memcpy(words, from + (4 * b + k) * page + at, sizeof(words));
          for (int w = 0; w < 8; ++w) sums[8 * k + w] ^= words[w];
        }
      }
    }
    uint64_t all = 0;
    for (const uint64_t sum : sums) all ^= sum;
    seen.fetch_xor(all);
  }
}

// `from` is copied to memory that nobody has touched. Both 64-byte aligned, bytes a multiple of 64. Huge pages where the
// system has them, each entered at its end, just before it is written.
extern "C" void floor_copy(char* to, const char* from, int64_t bytes, int threads) {
  const int64_t begin = static_cast<int64_t>(reinterpret_cast<intptr_t>(to));
  const int64_t first = (begin + huge_page - 1) / huge_page * huge_page, last = (begin + bytes) / huge_page * huge_page;
#if defined(MADV_HUGEPAGE)
  if (first < last) madvise(reinterpret_cast<void*>(first), static_cast<size_t>(last - first), MADV_HUGEPAGE);
#endif
#pragma omp parallel num_threads(threads)
  {
    const part lines = mine(bytes / line);
    int64_t at = lines.begin * line;
    while (at < lines.end * line) {
      const int64_t here = (begin + at) / huge_page * huge_page;
      if (here >= first && here < last) {
        auto* end = reinterpret_cast<std::atomic<unsigned char>*>(here + huge_page - 1);
        end->fetch_or(0, std::memory_order_relaxed);
      }
      const int64_t next = here + huge_page - begin < lines.end * line ? here + huge_page - begin : lines.end * line;
      copy_past_cache(to + at, from + at, next - at);
      at = next;
    }
  }
}
