#include "daemon/sources/ghost_tasks.h"

#include <sstream>
#include <vector>

#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"

namespace gestalt {
namespace {

std::vector<pid_t> children_of(const std::string& proc, pid_t pid) {
  std::vector<pid_t> children;
  auto text = read_file(formatted("{}/{}/task/{}/children", proc, pid, pid), 64U << 20);
  if (!text) return children;
  std::istringstream numbers(*text);
  for (pid_t child = 0; numbers >> child;) children.push_back(child);
  return children;
}

}  // namespace

bool is_ghost_keeper(const std::string& proc, pid_t pid) {
  auto stat = read_stat(proc, pid);
  if (!stat || stat->comm != kGhostKeeperName) return false;
  auto owner = read_ids(proc, pid);
  return owner && owner->real_uid == 0;
}

// Their keeper is a child of the cluster's init.
GhostTasks ghost_tasks(const std::string& proc) {
  for (pid_t child : children_of(proc, 1)) {
    if (!is_ghost_keeper(proc, child)) continue;
    auto ghosts = children_of(proc, child);
    return {.keeper = child, .pids = {ghosts.begin(), ghosts.end()}};
  }
  return {};
}

}  // namespace gestalt
