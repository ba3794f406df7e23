// The migration unit: a process with its threads and all its descendants, and what
// speaks against moving it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/cgroup.h"
#include "common/result.h"

namespace gestalt {

struct ProcessTree {
  std::vector<pid_t> pids;    // the root first
  std::uint32_t threads = 0;  // of all processes
};

// `proc`: a procfs of the pid namespace that the pids are of.
[[nodiscard]] Result<ProcessTree> read_tree(const std::string& proc, pid_t root);

// Those of `pids` that live and do not descend from a process of the tree. What was born or
// ended since the tree was read is none of them. Exact where nothing runs (a frozen group).
[[nodiscard]] std::vector<pid_t> find_strays(const std::string& proc, const ProcessTree& tree,
                                             const std::vector<pid_t>& pids);

// One reason against migrating, with what the user can do about it.
struct Blocker {
  pid_t pid = 0;
  std::string what;
  std::string remedy;
};

// Looks at all processes of the unit without stopping them. Members of the control
// group that do not descend from the root are blockers too.
[[nodiscard]] Result<std::vector<Blocker>> find_blockers(const std::string& proc,
                                                         const ProcessTree& tree,
                                                         const Cgroup& group);

// The one about a member of the group that is not of the tree.
[[nodiscard]] Blocker stray_blocker(pid_t pid);

// All blockers as one kBlocked error; nothing when there is none.
[[nodiscard]] Result<void> refuse_blockers(const std::vector<Blocker>& blockers);

}  // namespace gestalt
