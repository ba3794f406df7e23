// What speaks against moving a unit, found without stopping or changing anything.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/cgroup.h"
#include "common/proto/migration.pb.h"
#include "common/result.h"
#include "migrate/process_tree.h"
#include "migrate/unit_network.h"

namespace gestalt {

// One reason, with what the user can do about it.
struct Blocker {
  pid_t pid = 0;
  std::string what;  // names the descriptor or the mapping
  std::string remedy;
};

// What a unit has to do with the node where it is.
struct UnitTies {
  const UnitNetwork* network = nullptr;  // its own, in which internet sockets move along
  int mounts = -1;                       // a session's mount namespace: what moves leaves it
  bool deputy = false;                   // the root's parent stays, and a deputy for it
};

// Members of the control group that do not descend from the root are blockers too. Linear in
// descriptors, mappings and the node's sockets.
[[nodiscard]] Result<std::vector<Blocker>> find_blockers(const std::string& proc,
                                                         const ProcessTree& tree,
                                                         const Cgroup& group,
                                                         const UnitTies& ties = {});
// Without what concerns the group.
[[nodiscard]] std::vector<Blocker> find_blockers(const std::string& proc, const ProcessTree& tree,
                                                 const UnitTies& ties = {});

// What speaks against that destination. `any_cpu`: not its CPUs.
[[nodiscard]] std::vector<Blocker> destination_blockers(
    const std::string& proc, const ProcessTree& tree, const wire::MigrationDestination& destination,
    bool any_cpu);

// Private anonymous memory of the unit, in RAM or swapped out.
[[nodiscard]] std::uint64_t anonymous_bytes(const std::string& proc, const ProcessTree& tree);

// The one about a member of the group that is not of the tree.
[[nodiscard]] Blocker stray_blocker(pid_t pid);

// All blockers as one kBlocked error; nothing when there is none.
[[nodiscard]] Result<void> refuse_blockers(const std::vector<Blocker>& blockers);

}  // namespace gestalt
