// Running system calls in another process, on one of its threads that is stopped for it by
// ptrace(2): some tens of microseconds. The thread's registers, signal mask and pending
// signals are as before when it goes on, and what it waited for is waited for again.
#pragma once

#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "migrate/patience.h"

namespace gestalt {

// Runs `work` in a task that shares everything with this process but is another one to
// wait(2) and ptrace(2): nobody who waits for children here can take its tracees' stops,
// and whatever it traces is let go of when it ends. This thread waits meanwhile.
[[nodiscard]] Result<void> run_apart(const std::function<Result<void>()>& work);

// Only within run_apart().
class Injector {
 public:
  // Stops a thread of the process. kGone: it has ended or is ending. kBlocked: it is traced by
  // somebody else, or is a 32-bit program. kBusy: none of its threads stops in time, which
  // is so while it waits for a disk or a vfork.
  [[nodiscard]] static Result<Injector> attach(pid_t pid);
  // The same, but its main thread, which may be frozen.
  [[nodiscard]] static Result<Injector> attach_main(pid_t pid);
  Injector(Injector&& other) noexcept;
  Injector& operator=(Injector&&) = delete;
  ~Injector() { detach(); }

  // The kernel's result: negative errno values too. kBusy: it did not run in time (the process is
  // frozen); then the process is let go of.
  using Arguments = std::array<std::uint64_t, 6>;
  [[nodiscard]] Result<std::int64_t> call(long number, const Arguments& arguments);
  // A child of the process that shares its memory, has copies of its descriptors, and runs only
  // what is injected, until it is let go of.
  [[nodiscard]] Result<Injector> clone_with_memory();
  // A task that shares the process's memory and descriptors, and can only do what is injected: it
  // is never let go of but killed, by detach() and when the tracing task ends. Should it run by
  // itself all the same, it faults at once: it has no stack. The process hears of its end by no
  // signal, and has to wait for it with __WALL.
  [[nodiscard]] Result<Injector> clone_keeper();
  // A child of the process's parent, with copies of all that the process has; likewise.
  [[nodiscard]] Result<Injector> clone_as_sibling();
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Writes machine code, also where the process itself may not write.
  [[nodiscard]] Result<void> put_code(std::uint64_t address, std::span<const std::uint8_t> code);
  // Runs machine code that ends with an int3, with the arguments in the registers of a system
  // call. kTimeout: it was stopped before its end, between two instructions; calls go on.
  [[nodiscard]] Result<void> run_code(std::uint64_t address, const Arguments& arguments,
                                      Deadline deadline);
  // execve(2) on the main thread, whose signal mask stays what it is now: nearly full. All other
  // threads have to be traced by this task, too; `meanwhile` has to reap them. On success the
  // new program begins when it is let go of.
  [[nodiscard]] Result<void> execute(std::uint64_t path, std::uint64_t arguments,
                                     std::uint64_t environment,
                                     const std::function<void()>& meanwhile);
  void detach();

 private:
  explicit Injector(pid_t pid, pid_t thread) : pid_(pid), thread_(thread) {}
  [[nodiscard]] static Result<Injector> attach_thread(pid_t pid, pid_t thread,
                                                      bool has_seccomp_filter);
  [[nodiscard]] Result<Injector> clone(std::uint64_t flags, const user_regs_struct& registers);
  [[nodiscard]] Result<std::int64_t> call_from(const user_regs_struct& registers, long number,
                                               const Arguments& arguments);
  [[nodiscard]] bool trap_is_pending();
  void kill_keeper();
  [[nodiscard]] Result<void> stop();
  [[nodiscard]] Result<void> take_state();
  [[nodiscard]] Result<void> make_resumable();
  [[nodiscard]] Result<void> enter(user_regs_struct registers, long number,
                                   std::uint64_t instruction, const Arguments& arguments);
  [[nodiscard]] Result<int> wait_stop(Patience& patience,
                                      const std::function<void()>& meanwhile = nullptr);
  [[nodiscard]] Result<void> run_to_syscall_stop(Patience& patience,
                                                 const std::function<void()>& meanwhile = nullptr);
  [[nodiscard]] Result<void> keep_signal(int signal);
  [[nodiscard]] Result<void> trace(__ptrace_request request, std::uint64_t address, void* data);

  pid_t pid_ = 0;
  pid_t thread_ = 0;
  bool attached_ = false;   // and stopped
  bool has_state_ = false;  // saved_ and mask_ are what it had
  bool is_keeper_ = false;  // to be killed, not let go of
  long options_ = 0;
  std::uint64_t instruction_ = 0;
  user_regs_struct saved_{};
  std::uint64_t mask_ = 0;
  std::vector<siginfo_t> kept_;  // signals that no mask holds back: sent again afterwards
};

// A userfaultfd of another process's address space. The process itself does not keep it.
[[nodiscard]] Result<Fd> open_userfaultfd_of(pid_t pid);

}  // namespace gestalt
