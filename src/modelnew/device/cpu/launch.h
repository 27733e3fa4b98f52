// What every launch on the CPU does: the queue, error codes, threads, scratch memory.
#pragma once

#include <omp.h>

#include <array>
#include <atomic>
#include <memory>
#include <new>

#include "common/call.h"
#include "common/core.h"

namespace mn {

struct queue {
  int64_t threads;
};

enum error : int { no_error = 0, out_of_memory = 1, unknown_kind = 2 };

MN_EXPORT __attribute__((weak, used)) const char* mn_error(int code) {
  switch (code) {
    case no_error:
      return "no error";
    case out_of_memory:
      return "out of memory for the kernel's scratch buffers";
    case unknown_kind:
      return "the launch plan has a kind that this kernel was not built with";
    default:
      return "unknown error";
  }
}

// Every plan begins with these eight numbers; b and c belong to the kind.
struct plan_head {
  int64_t kind, device, elements, rank, inner_rank, a, b, c;
};

// Part `index` of `parts` equal parts of [0, count).
struct range {
  int64_t begin, end;
};
MN_FN range part_of(int64_t count, int64_t index, int64_t parts) {
  return {static_cast<int64_t>(static_cast<__int128>(count) * index / parts),
          static_cast<int64_t>(static_cast<__int128>(count) * (index + 1) / parts)};
}

// f(begin, end) on up to `threads` threads, each given one contiguous part; the calling thread alone where there is one
// part.
template <class F>
inline void parallel(int64_t threads, int64_t count, const F& f) {
  const int64_t parts = threads < count ? threads : count;
  if (parts <= 1) {
    f(int64_t(0), count);
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(parts))
  {
    // OpenMP may give fewer threads than asked for
    const range mine = part_of(count, omp_get_thread_num(), omp_get_num_threads());
    f(mine.begin, mine.end);
  }
}

// Memory that a thread keeps from launch to launch, so that its pages are touched once: a stack that is only rewound.
class scratch {
 public:
  // Two, so that what one row has kept may still be read while the next is computed.
  static scratch& of_thread(int64_t which = 0) {
    static thread_local scratch mine[2];
    return mine[which & 1];
  }
  void rewind() { current_ = 0, used_ = 0; }

  // 64-byte aligned; nullptr when there is no memory left
  template <class V>
  V* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(V) + 63) / 64 * 64;
    while (current_ < chunks && chunk_[current_].size - used_ < bytes) {
      if (!chunk_[current_].data || used_ == 0) {
        chunk_[current_].allocate(bytes > smallest ? bytes : smallest);
        if (!chunk_[current_].data) return nullptr;
      } else {
        ++current_, used_ = 0;
      }
    }
    if (current_ == chunks) return nullptr;
    char* place = chunk_[current_].data.get() + used_;
    used_ += bytes;
    return reinterpret_cast<V*>(place);
  }

 private:
  static constexpr size_t chunks = 64, smallest = size_t(1) << 18;
  struct free_aligned {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  struct chunk {
    std::unique_ptr<char, free_aligned> data;
    size_t size = 0;
    void allocate(size_t bytes) {
      data.reset();
      data.reset(static_cast<char*>(::operator new(bytes, std::align_val_t(64), std::nothrow)));
      size = data ? bytes : 0;
    }
  };
  chunk chunk_[chunks];
  size_t current_ = 0, used_ = 0;
};

}  // namespace mn
