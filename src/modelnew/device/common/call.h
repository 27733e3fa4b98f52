// Launchers as Python calls them without a converter between: it hands over tensors, not addresses.
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/values.h"

// Of the interpreter that loads this library; null in any other program. Declared by hand: its headers may not be there.
extern "C" {
char* PyBytes_AsString(void*) __attribute__((weak));
void* PyLong_AsVoidPtr(void*) __attribute__((weak));
void* PyLong_FromLong(long) __attribute__((weak));
void* PyEval_SaveThread() __attribute__((weak));
void PyEval_RestoreThread(void*) __attribute__((weak));
}

namespace mn {

// What a call brings along besides its tensors. data_of: a tensor's address, from PyTorch. lets_go: other threads of
// Python may run meanwhile, which takes longer than a small launch.
struct prepared {
  void* (*data_of)(void*);
  int64_t lets_go;
  int64_t numbers[1];  // of the plan: as many as its kind has
};

namespace detail {
template <class Queue, class... A, size_t... I>
inline int call_with(int (*launcher)(A...), const prepared& p, void* const* given, indices<I...>) {
  static_assert(sizeof(Queue) == sizeof(void*), "a queue is a number or a pointer");
  constexpr size_t tensors = sizeof...(I);
  void* const data[] = {p.data_of(given[I])...};
  void* const number = PyLong_AsVoidPtr(given[tensors]);
  Queue queue;
  memcpy(&queue, &number, sizeof(queue));
  if (!p.lets_go) return launcher(data[I]..., p.numbers, queue);
  void* const thread = PyEval_SaveThread();
  const int code = launcher(data[I]..., p.numbers, queue);
  PyEval_RestoreThread(thread);
  return code;
}
}  // namespace detail

// The body of a function of Python's: `self` is a `prepared` as bytes, `given` the tensors, then the queue.
template <class Queue, class... A>
inline void* call(int (*launcher)(A...), void* self, void* const* given) {
  const prepared& p = *reinterpret_cast<const prepared*>(PyBytes_AsString(self));
  return PyLong_FromLong(detail::call_with<Queue>(launcher, p, given, indices_to<sizeof...(A) - 2>{}));
}

}  // namespace mn
