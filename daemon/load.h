// What a node has and how busy it is: the content of its heartbeat.
#pragma once

#include <string>

#include "common/proto/control.pb.h"
#include "common/result.h"
#include "daemon/sources/task_source.h"

namespace gestalt {

// CPUs that this process may use: cpu.max of its cgroup and all above it, and its
// affinity, whichever is less. At least 0.01.
[[nodiscard]] double usable_cpus();

// "max 100000" or "50000 100000" as a number of CPUs; 0: no limit or no sense.
[[nodiscard]] double parse_cpu_max(const std::string& text);

// What is not known is left out.
[[nodiscard]] wire::Heartbeat load_message(double cpus, const Result<LoadSample>& load,
                                           const Result<TaskCounts>& counts);

// key=value lines, for scripts and a new leader.
[[nodiscard]] std::string load_file_text(const std::string& node, const wire::Heartbeat& load);

}  // namespace gestalt
