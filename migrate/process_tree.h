// The migration unit: a process with its threads and all its descendants.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

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

}  // namespace gestalt
