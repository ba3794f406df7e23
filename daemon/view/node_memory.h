// One node's memory as sysfs has it below node/nodeM, made from its /proc files.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gestalt {

// "Node 1 MemTotal:       24682416 kB". The first three lines are there in any case.
[[nodiscard]] std::string numa_meminfo(std::size_t node, std::string_view meminfo);
// Where allocations were served, under sysfs's other names. All six, whatever is missing.
[[nodiscard]] std::string numa_statistics(std::string_view vmstat);
// The counters that the kernel keeps for each NUMA node.
[[nodiscard]] std::string numa_vmstat(std::string_view vmstat);

}  // namespace gestalt
