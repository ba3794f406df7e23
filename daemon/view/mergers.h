// How each file is merged; behind merged_files.h.
#pragma once

#include "daemon/view/merged_files.h"

namespace gestalt {

using Nodes = std::span<const NodeFiles>;

// Empty if the node has no such file.
[[nodiscard]] std::string_view file_of(const NodeFiles& node, std::string_view name);
// The file whose lines and their order the merged one has: the leader's, or the first
// node's that has any.
[[nodiscard]] std::string_view model_file(std::string_view name, Nodes nodes);

// The memory counters' column layout: "MemTotal:       24682416 kB".
void append_memory_line(std::string& out, std::string_view key, std::uint64_t value, bool has_unit);

// Each takes the name of the file, since several files have one form.
[[nodiscard]] std::string merge_stat(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_meminfo(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_vmstat(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_cpuinfo(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_loadavg(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_uptime(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_pressure(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_diskstats(std::string_view name, Nodes nodes);
[[nodiscard]] std::string merge_net_dev(std::string_view name, Nodes nodes);

}  // namespace gestalt
