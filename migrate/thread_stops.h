// All threads of a process but the main one, stopped by ptrace(2) for as long as the task that has
// stopped them lives. Only within run_apart() (migrate/injector.h).
#pragma once

#include <sys/types.h>

#include <set>

#include "common/result.h"

namespace gestalt {

class ThreadStops {
 public:
  explicit ThreadStops(pid_t pid) : pid_(pid) {}

  // Stops those that are not yet; returns when none is new. kGone: the process has ended. kBusy:
  // one of them cannot be stopped now.
  [[nodiscard]] Result<void> stop_all();
  // Collects those that have ended.
  void reap();

 private:
  [[nodiscard]] Result<void> stop(pid_t thread);

  pid_t pid_;
  std::set<pid_t> stopped_;
};

}  // namespace gestalt
