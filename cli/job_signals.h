// Signals to the command that are meant for the job, and dying or stopping as it did.
#pragma once

#include <sys/signalfd.h>

#include <functional>

#include "common/event_loop.h"
#include "common/fd.h"

namespace gestalt::cli {

// From its construction on, signals come to the handler on the loop instead of doing
// what they do. Those that the caller ignores (nohup) stay ignored.
class JobSignals {
 public:
  using Handler = std::function<void(const signalfd_siginfo& info)>;
  // `all`: for a deputy, which is nothing for itself. Then none stays ignored, and all that can be
  // passed on come, but those about this process's own children and terminal.
  JobSignals(EventLoop& loop, Handler handler, bool all = false);
  ~JobSignals();
  JobSignals(const JobSignals&) = delete;
  JobSignals& operator=(const JobSignals&) = delete;

 private:
  EventLoop& loop_;
  Fd fd_;
};

// Stops this process as `signal` would (the shell sees a stopped job), and with
// `whole_group` its process group, as the terminal would have done. Returns when
// continued; at once where the kernel stops nothing (a group without a shell).
void stop_as(int signal, bool whole_group);
// Dies of `signal`, without a core; exits with 128+signal where that does not kill.
[[noreturn]] void die_as(int signal);

}  // namespace gestalt::cli
