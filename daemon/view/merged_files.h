// The nodes' system files made into one machine's: what the single view shows as
// /proc/stat, /proc/meminfo and so on. Pure text; see docs/view.md for who calls it.
//
// All contents but the leader's came over the network: garbage in them is left out, never
// copied, and can neither break the form of a file nor make it unboundedly long.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace gestalt {

// A node's CPUs are [first_cpu, first_cpu + cpus) in the cluster. The number of CPUs in
// its files may be another one: a container shows all of its host's.
struct NodeFiles {
  std::string name;
  std::uint32_t first_cpu = 0;
  std::uint32_t cpus = 0;
  // By name relative to /proc ("net/dev"). Not owned; a node may lack files, or all.
  const std::map<std::string, std::string, std::less<>>* files = nullptr;
};

// Those that merge_file makes. Not among them, hence the leader's own: what only its
// kernel can act on (partitions, swaps, mounts, modules) and what has a column for each of
// its CPUs (interrupts, softirqs).
[[nodiscard]] std::span<const std::string_view> merged_file_names();

// nodes[0] is the leader. Empty if no node has the file. Any other name gives the leader's
// own content.
[[nodiscard]] std::string merge_file(std::string_view name, std::span<const NodeFiles> nodes);

}  // namespace gestalt
