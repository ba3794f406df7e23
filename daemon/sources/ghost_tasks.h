// The tasks of gestalt-ghosts, which only hold the pids of processes on other nodes, and so are
// no processes of this one.
#pragma once

#include <sys/types.h>

#include <string>
#include <unordered_set>

namespace gestalt {

inline constexpr const char* kGhostKeeperName = "gestalt-ghosts";

struct GhostTasks {
  pid_t keeper = 0;  // 0: none
  std::unordered_set<pid_t> pids;

  [[nodiscard]] bool contains(pid_t pid) const { return pids.contains(pid); }
  // One that has been made since.
  [[nodiscard]] bool is_new(pid_t parent) const { return keeper != 0 && parent == keeper; }
};

// `proc`: a procfs of the cluster pid namespace.
[[nodiscard]] bool is_ghost_keeper(const std::string& proc, pid_t pid);
// All of them at once: there may be many more of them than there are processes here.
[[nodiscard]] GhostTasks ghost_tasks(const std::string& proc);

}  // namespace gestalt
