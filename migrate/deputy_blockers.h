// What speaks against leaving a deputy behind (migrate/deputize.h): ties of a process to those that
// stay which nobody could relay. For migrate/blockers.h.
#pragma once

#include <string>
#include <vector>

#include "migrate/blockers.h"

namespace gestalt {

// Only its standard streams are relayed, and its controlling terminal as one of them. Linear in
// the descriptors of all processes of the node.
[[nodiscard]] std::vector<Blocker> deputy_blockers(const std::string& proc,
                                                   const ProcessTree& tree);

// Members of the unit that are deputies themselves: the processes that they stand for are away.
[[nodiscard]] std::vector<Blocker> own_deputies(const std::string& proc, const ProcessTree& tree);

}  // namespace gestalt
