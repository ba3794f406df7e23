#include "daemon/placement.h"

#include <algorithm>
#include <tuple>

namespace gestalt {
namespace {

// Smaller is better.
auto rank(const PlacementCandidate& candidate) {
  double cpus = candidate.cpus > 0 ? candidate.cpus : 1.0;
  double load = std::max(candidate.load, 0.0) + candidate.recent_placements;
  return std::tuple(load / cpus, ~candidate.memory_available_bytes,
                    std::string_view(candidate.name));
}

}  // namespace

Result<std::string> choose_node(std::span<const PlacementCandidate> candidates) {
  const PlacementCandidate* best = nullptr;
  for (const auto& candidate : candidates)
    if (candidate.usable && (best == nullptr || rank(candidate) < rank(*best))) best = &candidate;
  if (best == nullptr)
    return fail(ErrorCode::kUnavailable, "no node is online and takes new jobs",
                "see `gestalt nodes`; add a node or end a drain");
  return best->name;
}

Result<std::string> Placement::place(const Membership& membership, Clock::time_point now) {
  forget_old(now);
  std::vector<PlacementCandidate> candidates;
  for (const auto& [name, member] : membership.members())
    candidates.push_back({.name = name,
                          .usable = member.usable(),
                          .cpus = member.load.cpus,
                          .load = member.load.load,
                          .recent_placements = recent(name, now),
                          .memory_available_bytes = member.load.memory_available_bytes});
  auto chosen = choose_node(candidates);
  if (chosen) note(*chosen, now);
  return chosen;
}

void Placement::note(const std::string& node, Clock::time_point now) {
  forget_old(now);
  placements_.emplace(node, now);
}

std::uint32_t Placement::recent(const std::string& node, Clock::time_point now) const {
  auto [begin, end] = placements_.equal_range(node);
  return static_cast<std::uint32_t>(std::count_if(
      begin, end, [&](const auto& entry) { return now - entry.second < visible_after_; }));
}

void Placement::forget_old(Clock::time_point now) {
  std::erase_if(placements_,
                [&](const auto& entry) { return now - entry.second >= visible_after_; });
}

}  // namespace gestalt
