// What a migrated process leaves where it came from: its deputy, a small program in the very same
// process, so that pid, parent, process group, session and standard streams stay as they are.
//
// The process, whose whole control group is frozen, is stopped by ptrace(2) with all its threads,
// taken into a group that is not frozen, and made to call execve(2). Signals that it has not
// handled stay pending: the new program begins with all of them blocked. Where its memory is still
// needed, a task that shares the address space keeps it: the memory keeper, which stays frozen.
#pragma once

#include <sys/types.h>

#include <functional>

#include "common/result.h"
#include "migrate/injected_program.h"

namespace gestalt {

// A deputy's program, as /proc/PID/exe names it.
inline constexpr char kDeputyProgram[] = "/usr/lib/gestalt/gestalt-deputy";

struct DeputyPlan {
  InjectedProgram program;
  // Directories of cgroup2 groups: the deputy's, which runs, and the one where the process is
  // frozen. -1: it is in no frozen group, and stays where it is.
  int group = -1;
  int frozen_group = -1;
  // Called with the memory keeper's pid, before the process loses its memory. Null: no keeper.
  std::function<void(pid_t)> on_keeper;
};

// Blocks until the deputy runs, some 10 ms. Of its descriptors the process keeps 0 to 2. The
// deputy is to reap the keeper and whatever children the process had. kGone: the process has
// ended. After any error it is what it was, and frozen again.
[[nodiscard]] Result<void> deputize(pid_t pid, const DeputyPlan& plan);

}  // namespace gestalt
