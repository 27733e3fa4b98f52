// Pages of large outputs that nobody has touched yet: page faults would cost more than the stores.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__linux__) && defined(__x86_64__)
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace mn {

constexpr uintptr_t huge_page = uintptr_t(2) << 20;

// The whole huge pages of an output that are to be entered before they are written; none where first == last.
struct fresh_pages {
  uintptr_t first = 0, last = 0;
};

#if defined(__linux__) && defined(__x86_64__)

namespace detail {

// Free bytes in blocks of at least 2 MB. `text`: a line per zone: its name, then the free blocks of 4 KB << 0, 1, ...
inline int64_t free_in_huge_pages(const char* text) {
  int64_t found = 0;
  for (const char* at = strstr(text, "zone"); at != nullptr; at = strstr(at, "zone")) {
    at += 4 + strspn(at + 4, " ");
    at += strcspn(at, " \n");
    for (int order = 0; *(at += strspn(at, " ")) >= '0' && *at <= '9'; ++order) {
      char* end;
      const int64_t blocks = strtoll(at, &end, 10);
      if (order >= 9) found += blocks << (order + 12);
      at = end;
    }
  }
  return found;
}

// What the system could hand out as huge pages at once. Where there are none it would have to move other pages out of
// the way first, which stalls a fault for longer than small pages would take.
inline int64_t free_in_huge_pages() {
  const int file = open("/proc/buddyinfo", O_RDONLY | O_CLOEXEC);
  if (file < 0) return INT64_MAX;  // not for us to see
  char text[8192];
  const ssize_t size = read(file, text, sizeof(text) - 1);
  close(file);
  if (size <= 0) return INT64_MAX;
  text[size] = 0;
  return free_in_huge_pages(text);
}

inline bool touched(uintptr_t page) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(page), 1, &resident) == 0 && (resident & 1) != 0;
}

}  // namespace detail

// Asks for huge pages under a large output, unless it is memory that was used before.
inline fresh_pages ask_huge_pages(void* data, int64_t bytes) {
  if (bytes < static_cast<int64_t>(2 * huge_page)) return {};
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), end = begin + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (begin + huge_page - 1) / huge_page * huge_page, last = end / huge_page * huge_page;
  if (first >= last || (detail::touched(first) && detail::touched(last - huge_page))) return {};
  if (detail::free_in_huge_pages() < bytes) return {};
  if (madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE) != 0) return {};
  return {first, last};
}

#else

inline fresh_pages ask_huge_pages(void*, int64_t) { return {}; }

#endif

// A thread's way through an output: each huge page is entered at its end, just before it is written. The system clears
// a page towards the byte that was touched, and clears it faster forwards than backwards.
class page_walk {
 public:
  void open(fresh_pages pages) { next_ = pages.first, last_ = pages.last; }

  void before(const void* begin, const void* end) {
    if (reinterpret_cast<uintptr_t>(end) > next_ && next_ < last_) {
      enter(reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(end));
    }
  }

 private:
  __attribute__((noinline)) void enter(uintptr_t begin, uintptr_t end) {
    const uintptr_t here = begin / huge_page * huge_page;
    if (here > next_) next_ = here;
    for (; next_ < end && next_ < last_; next_ += huge_page) {
      // another thread may have written there: this changes nothing, but counts as a write
      unsigned char* place = reinterpret_cast<unsigned char*>(next_ + huge_page - 1);
      unsigned char zero = 0;
      __atomic_compare_exchange_n(place, &zero, static_cast<unsigned char>(0), false, __ATOMIC_RELAXED,
                                  __ATOMIC_RELAXED);
    }
  }

  uintptr_t next_ = 0, last_ = 0;
};

}  // namespace mn
