// Fibers: one call stack per CUDA thread, switched by hand so that a launch needs no operating-system threads.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_unpoison_memory_region(void const volatile* address, size_t size);
#endif

namespace simt {

constexpr size_t stack_bytes = 128 << 10;

struct fiber {
  void* stack = nullptr;
  void (*entry)() = nullptr;
#if defined(__x86_64__)
  void* pointer = nullptr;  // saved stack pointer
#else
  ucontext_t context;
#endif
};

inline fiber scheduler_fiber;  // the launch loop's own stack

#if defined(__x86_64__)
// Saves the callee-saved registers on the old stack, then takes up the new one. 30 times faster than swapcontext, which
// asks the kernel.
extern "C" void simt_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");

inline void switch_fiber(fiber& from, fiber& to) { simt_switch(&from.pointer, to.pointer); }

inline void prepare_fiber(fiber& f) {
  void** top = reinterpret_cast<void**>(static_cast<char*>(f.stack) + stack_bytes);
  *--top = nullptr;  // keeps the entry's stack 16-byte aligned as after a call
  *--top = reinterpret_cast<void*>(f.entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.pointer = top;
}
#else
inline void switch_fiber(fiber& from, fiber& to) { swapcontext(&from.context, &to.context); }

inline void prepare_fiber(fiber& f) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = stack_bytes;
  f.context.uc_link = nullptr;
  makecontext(&f.context, f.entry, 0);
}
#endif

// Stacks are kept between launches; a page below each is unmapped so that an overflow stops at once.
inline void* new_stack() {
  constexpr size_t page = 4096;
  void* memory =
      mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  mprotect(memory, page, PROT_NONE);
  return static_cast<char*>(memory) + page;
}

inline void clean_stack(fiber& f) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(f.stack,
                                stack_bytes);  // a fiber that was abandoned leaves its variables' red zones behind
#endif
  (void)f;
}

}  // namespace simt
