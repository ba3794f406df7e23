// Where a new job goes: the node with the least load for each CPU. Jobs placed a moment
// ago count as load until a node's heartbeats can show them. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/result.h"
#include "daemon/membership.h"

namespace gestalt {

struct PlacementCandidate {
  std::string name;
  bool usable = false;  // online and not draining
  double cpus = 0;      // 0 or less counts as one
  double load = 0;
  std::uint32_t recent_placements = 0;  // not visible in `load` yet
  std::uint64_t memory_available_bytes = 0;
};

// Lowest (load + recent placements) / cpus; ties by more available memory, then by
// name. kUnavailable when no candidate is usable.
[[nodiscard]] Result<std::string> choose_node(std::span<const PlacementCandidate> candidates);

class Placement {
 public:
  // A placement is forgotten after `visible_after` (two heartbeats).
  explicit Placement(Clock::duration visible_after) : visible_after_(visible_after) {}

  // Chooses among the members, and counts the choice.
  [[nodiscard]] Result<std::string> place(const Membership& membership, Clock::time_point now);
  // Counts a placement that somebody else decided (run --node, a migration).
  void note(const std::string& node, Clock::time_point now);
  [[nodiscard]] std::uint32_t recent(const std::string& node, Clock::time_point now) const;

 private:
  void forget_old(Clock::time_point now);

  Clock::duration visible_after_;
  std::multimap<std::string, Clock::time_point> placements_;
};

}  // namespace gestalt
