// clone3(2) for children that share the caller's memory. The C library has no wrapper with
// a chosen thread id, and a plain syscall(2) would return in the child on a stack that has
// no frames.
#pragma once

#include <linux/sched.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include <cstdint>

namespace gestalt {

// The child calls function(argument), on the stack that `arguments` gives, and must not
// return from it: it ends by exit_thread(). With CLONE_VM it has the caller's thread-local
// storage: no errno, no locks, no C library there. Returns the pid, or -errno.
inline long clone_and_call(const clone_args& arguments, void (*function)(void*), void* argument) {
#if defined(__x86_64__)
  long result = SYS_clone3;
  register void (*child_function)(void*) asm("r8") = function;
  register void* child_argument asm("r9") = argument;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r9, %%rdi\n\t"
      "call *%%r8\n\t"
      "hlt\n"
      "1:"
      : "+a"(result)
      : "D"(&arguments), "S"(sizeof arguments), "r"(child_function), "r"(child_argument)
      : "rcx", "r11", "memory");
  return result;
#else
#error "clone_and_call is written for x86-64"
#endif
}

// System calls for where there is no C library. Always inlined: a copy that the linker picks
// from another object may be instrumented, which must not happen on such a stack.
[[gnu::always_inline]] inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0,
                                               long d = 0, long e = 0) {
  long result = number;
  register long fourth asm("r10") = d;
  register long fifth asm("r8") = e;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
               : "rcx", "r11", "memory");
  return result;
}

[[noreturn, gnu::always_inline]] inline void exit_thread(int status) {
  while (true) raw_syscall(SYS_exit, status);
}

}  // namespace gestalt
