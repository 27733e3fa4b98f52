// The thread model: grid, clusters, blocks, warps, lanes; barriers; what is an error on a GPU is an error here.
//
// Threads run one at a time, each until it waits for another. So a value read without the barrier that orders it is
// reliably stale (or not yet written) in at least one of the orders below: run everything under several.
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "simt/fiber.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread that runs now

namespace simt {

constexpr int warp_size = 32;

enum class collective { none, sync, ballot, shuffle, shuffle_up, shuffle_down, shuffle_xor };

struct block;

struct thread {
  fiber stack;
  dim3 index;
  block* home = nullptr;
  int rank = 0;  // in the block
  int lane = 0;
  bool finished = false;
  const uint64_t* waits_for = nullptr;  // runnable when *waits_for >= until
  uint64_t until = 0;
  // the warp operation this lane has arrived at
  collective op = collective::none;
  uint32_t mask = 0;
  uint64_t payload = 0;
  int argument = 0;
  int width = warp_size;
  uint64_t result = 0;
  uint64_t completed = 0;  // warp operations done by this lane
  std::vector<std::vector<std::function<void()>>> copies = {{}};  // that it has started, in groups; the last is open
};

struct barrier {
  uint64_t generation = 0;
  int arrived = 0;
};

struct block {
  dim3 index;
  int rank_in_cluster = 0;
  std::vector<block*> cluster;
  barrier* cluster_barrier = nullptr;
  barrier local;
  std::map<uint64_t, int> votes;  // by how often all have met before
  std::vector<barrier> named = std::vector<barrier>(16);
  int size = 0;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_bytes = 0;
  std::vector<thread*> threads;
  std::map<void*, std::shared_ptr<void>> arrivals;  // barriers in shared memory that count bytes
};

struct machine {
  std::function<void()> kernel;
  thread* current = nullptr;
  std::string error;
  bool failed = false;
  uint64_t polls = 0;  // __nanosleep calls
  int order = 0;       // 0: blocks and warps in turn, 1: backwards, others: seeds of random orders of single threads
  std::vector<std::unique_ptr<thread>> pool;
};

inline machine gpu;

inline void leave() { switch_fiber(gpu.current->stack, scheduler_fiber); }

// Ends the launch: the error becomes the launch's result, and its text what cudaGetErrorString gives.
[[gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (!gpu.failed) {
    const thread* t = gpu.current;
    char where[160] = "";
    if (t)
      snprintf(where, sizeof where, " [block (%u, %u, %u), thread %d]", t->home->index.x, t->home->index.y,
               t->home->index.z, t->rank);
    gpu.error = std::string(text) + where;
    gpu.failed = true;
  }
  if (gpu.current) leave();
}

inline void wait(const uint64_t& counter, uint64_t until) {
  gpu.current->waits_for = &counter;
  gpu.current->until = until;
  leave();
}

inline void arrive_and_wait(barrier& b, int expected) {
  const uint64_t target = b.generation + 1;
  if (++b.arrived == expected) {
    b.arrived = 0;
    ++b.generation;
  } else {
    wait(b.generation, target);
  }
}

inline void poll() {  // a spinning thread lets the others run
  ++gpu.polls;
  leave();
}

inline thread* peer(int lane) {
  thread* t = gpu.current;
  const size_t rank = static_cast<size_t>(t->rank - t->lane + lane);
  return rank < t->home->threads.size() ? t->home->threads[rank] : nullptr;
}

// Which lane `t` reads from, as the PTX manual defines the four shuffles.
inline int source_lane(const thread& t) {
  const int segment = t.lane & ~(t.width - 1);
  int lane = t.lane;
  switch (t.op) {
    case collective::shuffle:
      lane = segment | (t.argument & (t.width - 1));
      break;
    case collective::shuffle_up:
      lane = t.lane - t.argument >= segment ? t.lane - t.argument : t.lane;
      break;
    case collective::shuffle_down:
      lane = t.lane + t.argument < segment + t.width ? t.lane + t.argument : t.lane;
      break;
    case collective::shuffle_xor: {
      const int other = t.lane ^ t.argument;
      lane = other < segment + t.width ? other : t.lane;
      break;
    }
    default:
      break;
  }
  return lane;
}

inline void complete(uint32_t mask) {
  uint64_t votes = 0;
  for (int lane = 0; lane < warp_size; ++lane)
    if (mask >> lane & 1 && peer(lane)->payload) votes |= uint64_t(1) << lane;
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!(mask >> lane & 1)) continue;
    thread& t = *peer(lane);
    if (t.op == collective::ballot) {
      t.result = votes;
    } else if (t.op != collective::sync) {
      const int source = source_lane(t);
      if (!(mask >> source & 1)) {
        fail("shuffle: lane %d reads lane %d, which is not in the mask %08x", lane, source, mask);
        return;
      }
      t.result = peer(source)->payload;
    }
  }
  for (int lane = 0; lane < warp_size; ++lane)
    if (mask >> lane & 1) {
      peer(lane)->op = collective::none;
      ++peer(lane)->completed;
    }
}

// A warp operation: waits until every lane of the mask has come, with the same mask and operation.
inline uint64_t together(collective op, uint32_t mask, uint64_t payload, int argument = 0, int width = warp_size) {
  thread& t = *gpu.current;
  t.op = op, t.mask = mask, t.payload = payload, t.argument = argument, t.width = width;
  if (!(mask >> t.lane & 1)) fail("warp operation: lane %d is not in its own mask %08x", t.lane, mask);
  bool ready = true;
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const thread* other = peer(lane);
    if (!other || other->finished) fail("warp operation: lane %d is in the mask %08x but has exited", lane, mask);
    if (other->op == collective::none) {
      ready = false;
    } else if (other->mask != mask || other->op != op) {
      fail("warp operation: lanes %d and %d meet with masks %08x and %08x", t.lane, lane, mask, other->mask);
    }
  }
  if (ready) {
    complete(mask);
  } else {
    wait(t.completed, t.completed + 1);
  }
  return t.result;
}

inline void thread_main() {
  gpu.kernel();
  thread& t = *gpu.current;
  t.finished = true;
  block& b = *t.home;
  if (b.local.arrived) fail("a thread exited while others wait at __syncthreads");
  leave();
}

inline std::vector<size_t> order_of(size_t count, std::mt19937& random) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = gpu.order == 1 ? count - 1 - i : i;
  if (gpu.order > 1) std::shuffle(order.begin(), order.end(), random);
  return order;
}

// Until it waits, polls or ends; false: it did not get on.
inline bool run_thread(thread& t, size_t& left) {
  if (gpu.failed || t.finished || (t.waits_for && *t.waits_for < t.until)) return false;
  t.waits_for = nullptr;
  const uint64_t polls = gpu.polls;
  gpu.current = &t;
  threadIdx = t.index;
  blockIdx = t.home->index;
  switch_fiber(scheduler_fiber, t.stack);
  gpu.current = nullptr;
  left -= t.finished;
  return gpu.polls == polls;
}

// A warp runs ahead of the others of its block as far as it can, a block ahead of the other blocks.
inline bool run_warp(const block& b, size_t first, size_t& left) {
  const size_t count = std::min(b.threads.size() - first, size_t(warp_size));
  bool ever = false;
  for (bool moved = true; moved; ever |= moved) {
    moved = false;
    for (size_t i = 0; i < count; ++i)
      moved |= run_thread(*b.threads[first + (gpu.order == 1 ? count - 1 - i : i)], left);
  }
  return ever;
}
inline bool run_block(const block& b, size_t& left) {
  const size_t warps = (b.threads.size() + warp_size - 1) / warp_size;
  bool ever = false;
  for (bool moved = true; moved; ever |= moved) {
    moved = false;
    for (size_t i = 0; i < warps; ++i) moved |= run_warp(b, (gpu.order == 1 ? warps - 1 - i : i) * warp_size, left);
  }
  return ever;
}

// Runs blocks that are resident together (one block; a cluster; the grid of a cooperative launch) to their end.
inline void run_together(std::vector<std::unique_ptr<block>>& blocks) {
  std::vector<thread*> threads;
  size_t next = 0;
  for (auto& b : blocks) {
    for (int rank = 0; rank < b->size; ++rank, ++next) {
      if (next == gpu.pool.size()) gpu.pool.push_back(std::make_unique<thread>());
      thread& t = *gpu.pool[next];
      const fiber kept = t.stack;
      t = thread();
      t.stack = kept;
      if (!t.stack.stack) t.stack.stack = new_stack();
      clean_stack(t.stack);
      t.stack.entry = thread_main;
      prepare_fiber(t.stack);
      const unsigned r = static_cast<unsigned>(rank);
      t.index = dim3(r % blockDim.x, r / blockDim.x % blockDim.y, r / blockDim.x / blockDim.y);
      t.home = b.get();
      t.rank = rank;
      t.lane = rank % warp_size;
      b->threads.push_back(&t);
      threads.push_back(&t);
    }
  }
  size_t left = threads.size();
  std::mt19937 random(static_cast<unsigned>(gpu.order));
  int idle = 0;
  while (left && !gpu.failed) {
    bool moved = false;
    if (gpu.order > 1) {
      for (size_t i : order_of(threads.size(), random)) moved |= run_thread(*threads[i], left);
    } else {
      for (size_t i : order_of(blocks.size(), random)) moved |= run_block(*blocks[i], left);
    }
    idle = moved ? 0 : idle + 1;
    if (!gpu.failed && idle == 2)
      fail("deadlock: every thread waits for another");  // twice: a thread may act, then poll
  }
}

}  // namespace simt
