// Starting programs, with the things that posix_spawn cannot do: a chosen pid, a
// control group, an arranged set of descriptors. Safe in programs with threads.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/result.h"

namespace gestalt {

struct SpawnOptions {
  std::vector<std::string> argv;
  std::vector<std::string> programs;     // paths to try in turn; empty: argv[0]
  std::vector<std::string> environment;  // all of it
  // {ours, theirs}: duplicated so; every other descriptor above 2 is closed. Descriptors 0 to 2
  // that are not named become /dev/null.
  std::vector<std::pair<int, int>> descriptors;
  pid_t pid = 0;       // the pid to have in the caller's namespace (CAP_SYS_ADMIN); 0: any
  int cgroup_fd = -1;  // a cgroup2 directory to start in
  bool new_session = false;
};

// Forks by clone3(2). In the child `setup` runs (async-signal-safe code only; a
// non-zero return is the errno that is reported), then the program. Waits until the
// program runs, so that what prevents it is the caller's error. The child has default
// signal dispositions and an empty mask.
[[nodiscard]] Result<pid_t> spawn(const SpawnOptions& options,
                                  const std::function<int()>& setup = nullptr);

// waitpid(2) by a deadline; the wait status. kTimeout leaves the child as it is.
[[nodiscard]] Result<int> wait_child(pid_t pid, Deadline deadline);

}  // namespace gestalt
