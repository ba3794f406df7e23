// The mappings of a process that are registered with userfaultfd for missing pages.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"

namespace gestalt {

// From /proc/PID/smaps: start and end of each, in order.
[[nodiscard]] Result<std::vector<std::pair<std::uint64_t, std::uint64_t>>> read_registered_areas(
    pid_t pid);

}  // namespace gestalt
